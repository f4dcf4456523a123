"""Folders of models with files that a library would read for ever."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from coolfusion.backends.huggingface.loading import load_tokenizer
from coolfusion.builtin import builtin_paths
from coolfusion.errors import LoadError

NAMES = [
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *("chat_template.jinja", "model.safetensors.index.json", "special_tokens_map.json"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(builtin_paths()[0], folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(LoadError, match=r"named pipe"):
        load_tokenizer(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(LoadError, match=r"device"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_huge_file_in_a_folder_is_not_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(builtin_paths()[0], folder)
    with (folder / name).open("r+b") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(LoadError, match=r"more than 200,000,000 bytes"):
        load_tokenizer(folder)


def test_other_things_beside_a_model_are_nobodys_business(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(builtin_paths()[0], folder)
    os.mkfifo(folder / "of a server")
    (folder / "notes.txt").mkdir()
    (folder / "gone.json").symlink_to("nowhere")
    assert load_tokenizer(folder).encode("a b")
