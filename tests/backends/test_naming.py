"""Names of models: what they stand for, and why some stand for none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from coolfusion import FusionModel
from coolfusion.backends import huggingface
from coolfusion.backends.huggingface import loading
from coolfusion.backends.naming import ModelPlace, is_gguf, label_of, place_of
from coolfusion.builtin import builtin_paths
from coolfusion.config.file import FusionConfig, read_fusion_file, write_fusion_file
from coolfusion.errors import LoadError, UsageError
from coolfusion.merging.stored import folder_of


def header(version: int = 3, num_tensors: int = 7, magic: bytes = b"GGUF") -> bytes:
    return struct.pack("<4sIQQ", magic, version, num_tensors, 3) + b"\0" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Small-Q4_K_M.gguf"
    path.write_bytes(header())
    return path


def snapshot(cache: Path, name: str) -> Path:
    folder = cache / "snapshots" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_file_and_a_folder_with_one_are_the_same_place(file: Path) -> None:
    expected = ModelPlace(str(file.parent), file.name)
    assert place_of(file) == place_of(str(file)) == place_of(file.parent) == expected
    assert expected.options == {"gguf_file": file.name}
    # A folder that transformers reads is read as before, whatever else stands in it.
    (file.parent / "config.json").write_text("{}")
    assert place_of(file.parent) == ModelPlace(str(file.parent))
    assert place_of(file) == expected


def test_names_of_the_hub() -> None:
    assert place_of("org/name") == ModelPlace("org/name")
    assert place_of("org/name:a-Q8_0.gguf") == ModelPlace("org/name", "a-Q8_0.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs", "is no GGUF file: it begins with b'vers'"),
        (b"", "is no GGUF file"),
        (header()[:10], "breaks off"),
        (header(version=1), "version 1 of the GGUF format"),
        (header(version=0x03000000), "little-endian"),
        (header(num_tensors=0), "a vocabulary and no weights"),
    ],
)
def test_files_that_hold_no_model_are_refused(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    for name in (file, file.parent):
        with pytest.raises(LoadError, match=message):
            place_of(name)


def test_several_files_in_a_folder_are_named(file: Path) -> None:
    (file.parent / "other.gguf").write_bytes(header())
    with pytest.raises(LoadError, match=r"holds 2 GGUF files: Small-Q4_K_M.gguf, other.gguf"):
        place_of(file.parent)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.gguf", 'There is no file "nowhere.gguf"'),
        ("org/name/a.gguf", "org/name:a.gguf"),
        ("/nowhere/at/all", "There is no folder"),
        ("org/name:Q4_K_M", "names no file"),
        ("org/name:a-00001-of-00003.gguf", "one part of a split model"),
        ("x" * 5000 + ".gguf", "There is no file"),
    ],
)
def test_names_that_lead_nowhere_are_refused(name: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        place_of(name)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "big-00002-of-00003.gguf"
    part.write_bytes(header())
    with pytest.raises(LoadError, match="llama-gguf-split --merge"):
        place_of(part)


def test_the_folder_of_a_model_in_the_cache_is_what_main_refers_to(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--tiny-model"
    one = snapshot(cache, "1111")
    assert place_of(cache) == place_of(one) == ModelPlace(str(one))  # the only one
    two = snapshot(cache, "2222")
    with pytest.raises(LoadError, match=r"\(1111, 2222\)"):
        place_of(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("2222")
    assert place_of(cache) == ModelPlace(str(two))
    assert label_of(cache) == label_of(two) == "tiny-model"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a/b/sums", "sums"),
        ("org/name", "name"),
        ("a/Small-Q4_K_M.gguf", "Small-Q4_K_M"),
        ("org/name:Small.GGUF", "Small"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert label_of(name) == label


def test_a_fusion_file_finds_files_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "fusion.toml").write_text(f'models = ["{file.name}", "org/name"]')
    read = read_fusion_file(file.parent / "fusion.toml")
    assert read.models == (str(file), "org/name")
    monkeypatch.chdir(file.parent)
    write_fusion_file("fusion.toml", FusionConfig(models=(file.name,)))
    assert str(file) in Path("fusion.toml").read_text()


def test_merging_refuses_gguf(file: Path) -> None:
    assert is_gguf(file)
    with pytest.raises(LoadError, match="cannot be merged"):
        folder_of(file)


def test_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "is_gguf_available", lambda: False)
    with pytest.raises(LoadError, match=r"pip install 'coolfusion\[gguf\]'"):
        huggingface.load_source(file, "x")


def test_no_weights_are_read_where_a_tokenizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(LoadError, match="holds no model"):
        FusionModel.from_pretrained([builtin_paths()[0], tmp_path])

    def refuse(sources: object) -> None:
        raise UsageError("not these")

    with pytest.raises(UsageError, match="not these"):
        FusionModel.from_pretrained(when_opened=refuse)
