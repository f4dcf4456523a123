"""Particles as shares of experts: the same numbers as moving whole checkpoints about."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coolfusion.errors import CoolfusionError, LoadError, UsageError
from coolfusion.merging import Adapter, Merge, merge, safetensors_file, stored
from coolfusion.search import Coefficients, Limits, ParticleSwarm, corners, crossover
from coolfusion.swarm import BrokenParticleError, Experts
from coolfusion.swarm.experts import at
from coolfusion.swarm.particle import written
from tests.checkpoints import (
    WIDTH,
    llama_tensors,
    tensors_of,
    write_adapter,
    write_checkpoint,
    write_llama,
)


@pytest.fixture
def experts(tmp_path: Path) -> Experts:
    return Experts(tuple(write_llama(tmp_path / name, seed) for seed, name in enumerate("abc")))


def whole(seed: int) -> np.ndarray:
    """All numbers of an expert in one vector."""
    return np.concatenate([t.double().numpy().ravel() for t in llama_tensors(seed).values()])


def test_moving_shares_is_moving_weights(tmp_path: Path, experts: Experts) -> None:
    """The slow twin: the same search over all weights, with a utility that looks at weights."""
    target = 0.2 * whole(0) + 0.9 * whole(1) - 0.1 * whole(2)

    def utility(weights: np.ndarray) -> float:
        return -float(np.linalg.norm(weights - target))

    settings = {
        "seed": (4, 0),
        "coefficients": Coefficients(repel=0.1),
        "limits": Limits(max_iterations=12, patience=6, restart=2),
    }
    parents = np.stack([whole(seed) for seed in range(3)])
    slow = ParticleSwarm.start(crossover(parents, 6, seed=4, reach=2), **settings)  # type: ignore[arg-type]
    fast = ParticleSwarm.start(crossover(corners(3), 6, seed=4, reach=2), **settings)  # type: ignore[arg-type]
    opened = experts.open()
    while points := fast.ask():
        found = []
        for point, weights in zip(points, slow.ask(), strict=True):
            particle = at(opened, point)
            read = [particle.read(name).numpy().ravel() for name in llama_tensors(0)]
            np.testing.assert_allclose(np.concatenate(read), weights, atol=1e-12)
            found.append(utility(np.concatenate(read)))
        slow = slow.tell([utility(np.array(weights)) for weights in slow.ask()])
        fast = fast.tell(found)
        assert np.array_equal(slow.restarted, fast.restarted)
    assert slow.ended == fast.ended
    assert fast.best is not None
    assert fast.best.utility > max(utility(parent) for parent in parents)


def test_a_written_particle_is_the_merge(tmp_path: Path, experts: Experts) -> None:
    shares = (0.5, 0.75, -0.25)
    wanted = merge(experts.recipe(shares), tmp_path / "wanted")
    with written(at(experts.open(), shares), tmp_path) as folder:
        got = tensors_of(folder)
        assert {file.name for file in folder.iterdir()} == {
            file.name for file in wanted.iterdir() if file.name != "merge.json"
        }
    assert not folder.exists()
    for name, tensor in tensors_of(wanted).items():
        assert torch.equal(got[name], tensor)
    with written(at(experts.open(), (0.0, 1.0, 0.0)), tmp_path) as folder:
        for name, tensor in tensors_of(folder).items():
            assert torch.equal(tensor, llama_tensors(1)[name])


def test_adapters_are_shared_as_what_they_add(tmp_path: Path) -> None:
    """Shares of two adapters: shares of B A, which are not B A of shares of B and A."""
    base = write_llama(tmp_path / "base", 0)
    name = "model.layers.1.self_attn.q_proj"
    factors = []
    for seed, adapter in enumerate("ab", 10):
        torch.manual_seed(seed)
        down, up = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
        factors.append(up @ down)
        write_adapter(
            tmp_path / adapter, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        )
    experts = Experts(tuple(Adapter(tmp_path / adapter, base) for adapter in "ab"))
    assert experts.names == ("a", "b")
    got = at(experts.open(), (0.25, 0.75)).read(name + ".weight")
    wanted = llama_tensors(0)[name + ".weight"] + 2 * (0.25 * factors[0] + 0.75 * factors[1])
    assert torch.allclose(got, wanted.double(), atol=1e-6)


def test_names(tmp_path: Path) -> None:
    assert Experts(("x/a", "y/b")).names == ("a", "b")
    assert Experts(("x/a", "y/a", Merge("linear", ("x", "y")))).names == ("x/a", "y/a", "expert 3")


def test_too_large_a_step_is_a_broken_particle(tmp_path: Path) -> None:
    large = {name: tensor * 0 + 60000 for name, tensor in llama_tensors(0).items()}
    small = llama_tensors(1)
    for folder, tensors in (("a", large), ("b", small)):
        half = {name: tensor.half() for name, tensor in tensors.items()}
        write_checkpoint(tmp_path / folder, half)
    opened = Experts((tmp_path / "a", tmp_path / "b")).open()
    with (
        pytest.raises(BrokenParticleError, match=r"too large for torch\.float16"),
        written(at(opened, (2.0, -1.0)), tmp_path),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_cannot_be_searched_between_is_refused(tmp_path: Path, experts: Experts) -> None:
    with pytest.raises(UsageError, match="was given 1"):
        Experts(experts.models[:1])
    with pytest.raises(UsageError, match='no dtype "int4"'):
        Experts(experts.models, dtype="int4")
    other = write_llama(tmp_path / "other", 1, num_layers=2)
    with pytest.raises(UsageError, match=r'Tensor "model\.layers\.2.*" of ".*a" is missing'):
        Experts((*experts.models, other)).open()
    with pytest.raises(LoadError, match="no folder"):
        Experts((*experts.models, "none")).open()
    with (
        pytest.raises(CoolfusionError, match="Finished evaluations are kept; make room"),
        written(at(experts.open(), (1.0, 0.0, 0.0)), tmp_path / "none"),
    ):
        pass


def test_few_tensors_are_alive_while_a_particle_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tuple(write_llama(tmp_path / str(seed), seed, num_layers=20) for seed in range(3))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    peak = 0
    read = safetensors_file.read_tensor

    def counted(path: Path, name: str) -> torch.Tensor:
        nonlocal peak
        tensor = read(path, name)
        alive.add(tensor)
        peak = max(peak, len(alive))
        return tensor

    monkeypatch.setattr(stored, "read_tensor", counted)
    with written(at(Experts(models).open(), (0.5, 0.25, 0.25)), tmp_path):
        assert 1 <= peak <= len(models) + 1
