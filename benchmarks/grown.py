"""The built-in models at the cost of larger ones: grown by neurons that add nothing.

Every feed-forward layer gets more neurons, whose output weights are zero. What a model says
stays what it was, so texts and agreement are those of trained models, while a pass costs
what the larger number of weights costs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from coolfusion.backends.huggingface import TransformersBackend, load_source
from coolfusion.backends.source import Source

# Names of a feed-forward layer's weights: those that make neurons, and the one that reads them.
_GATED = (("gate_proj", "up_proj"), "down_proj")
_PLAIN = (("c_fc",), "c_proj")


def grown(path: Path, num_parameters: int, *, noise: float = 0.0, name: str = "") -> Source:
    """A source with about ``num_parameters`` that answers as the model at ``path`` does.

    ``noise`` is the standard deviation, relative to each weight matrix's own, of noise that
    is added to the trained weights: a little gives a model that mostly agrees.
    """
    plain = load_source(path, name or path.name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    _disturb(model, noise)
    layers = [
        module
        for module in model.modules()
        if hasattr(module, "c_fc" if _is_gpt2(model) else "up_proj")
    ]
    missing = num_parameters - sum(p.numel() for p in model.parameters())
    if missing > 0:
        for layer in layers:
            _widen(layer, missing // len(layers), gpt2=_is_gpt2(model))
    return replace(plain, backend=TransformersBackend(model))


def _is_gpt2(model: Any) -> bool:
    return bool(model.config.model_type == "gpt2")


def _disturb(model: Any, noise: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if noise and parameter.dim() > 1:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std() * drawn)


def _widen(layer: Any, num_weights: int, *, gpt2: bool) -> None:
    """Add neurons with ``num_weights`` weights; GPT-2 keeps its matrices transposed."""
    makers, reader = _PLAIN if gpt2 else _GATED
    generator = torch.Generator().manual_seed(2)
    old = getattr(layer, reader).weight
    size = old.shape[1] if gpt2 else old.shape[0]
    num_more = num_weights // (size * (len(makers) + 1))
    with torch.no_grad():
        for name in makers:
            part = getattr(layer, name)
            shape = (size, num_more) if gpt2 else (num_more, size)
            fresh = 0.02 * torch.randn(shape, generator=generator)
            part.weight = torch.nn.Parameter(torch.cat([part.weight, fresh], dim=1 if gpt2 else 0))
            if getattr(part, "bias", None) is not None:
                part.bias = torch.nn.Parameter(torch.cat([part.bias, torch.zeros(num_more)]))
            if gpt2:
                part.nf = part.weight.shape[1]
        zeros = torch.zeros((num_more, size) if gpt2 else (size, num_more))
        part = getattr(layer, reader)
        part.weight = torch.nn.Parameter(torch.cat([old, zeros], dim=0 if gpt2 else 1))
