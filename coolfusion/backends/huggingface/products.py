"""The twin of a model, whose large products are quick for few positions.

A pass of decoding computes one to eight positions. On a CPU it then costs what it takes to read
the weights. A product with the weight on the left reads them faster than
``torch.nn.functional.linear``. Own method.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch.nn import functional

# Measured with MKL in float32, on weights that lie in no cache (benchmarks/few_positions.py). Half
# precision has routines of its own, which gain nothing. Weights with more inputs than outputs
# gain nothing either.
LARGE = 1 << 18  # numbers in a weight from which on the way of a product matters
HEAD = 1 << 24  # numbers in the weight of a large vocabulary
NARROW = 1024  # inputs up to which one position is quicker as two


def quick(model: Any) -> Any:
    """The twin of a model for passes over few positions; itself if it has nothing to gain.

    The twin shares weights, buffers and hooks with ``model``, which stays as it is. Their logits
    differ by rounding alone.
    """
    if any(_is_compiled(part) for part in model.modules()):
        return model  # what was compiled refers to the parts of the model itself
    return _twin(model, {})


def product(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``inputs`` (..., size) times the transposed ``weight`` (outputs, size), plus ``bias``."""
    if gains(weight, inputs.numel() // weight.shape[1]):
        return from_the_left(inputs, weight, bias)
    return functional.linear(inputs, weight, bias)


def from_the_left(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The same product with the weight on the left, for at least one position."""
    size = weight.shape[1]
    num_positions = inputs.numel() // size
    lines = inputs.reshape(num_positions, size)
    # Subtle: a product with one column takes the routine for vectors, which reads the weight more
    # slowly than that for matrices. So a single position is computed twice.
    columns = lines.t() if num_positions > 1 else lines.repeat(2, 1).t()
    found = torch.mm(weight, columns)[:, :num_positions].t()
    # Subtle: models may view the result in other shapes, which needs it in one piece.
    found = found.contiguous() if bias is None else found.add(bias).contiguous()
    return found.view(*inputs.shape[:-1], len(weight))


def gains(weight: torch.Tensor, num_positions: int) -> bool:
    """Whether ``weight`` is read faster if it stands on the left, for so many positions.

    Sizes decide and never a clock. So texts do not depend on how busy a machine is.
    """
    if not is_large(weight):
        return False
    least, most = (1, 4) if weight.shape[1] <= NARROW else (2, 3)
    return least <= num_positions <= (8 if weight.numel() >= HEAD else most)


def is_large(weight: torch.Tensor) -> bool:
    """Whether the product with a weight gains for any number of positions."""
    return (
        torch.backends.mkl.is_available()
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.is_contiguous()
        and weight.numel() >= LARGE
        and weight.shape[0] >= weight.shape[1]
    )


@final
class QuickLinear(torch.nn.Linear):
    """A linear layer that computes by ``product``. It has the parts of another one."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        return product(input, self.weight, self.bias)


def _twin(
    module: torch.nn.Module, known: dict[torch.nn.Module, torch.nn.Module]
) -> torch.nn.Module:
    """A copy of a module in which large linear layers are quick; itself if there are none."""
    if module in known:
        return known[module]
    known[module] = module  # whoever meets it again while its parts are made gets it as it is
    if "forward" in vars(module) or isinstance(module, torch.jit.ScriptModule):
        return module  # a forward of its own is bound to the module itself
    if _is_plain(module) and is_large(module.weight):
        known[module] = _copied(module, QuickLinear)
        return known[module]
    parts = {
        name: part if part is None else _twin(part, known) for name, part in module._modules.items()
    }
    if any(part is not module._modules[name] for name, part in parts.items()):
        # Parts without large layers are shared, and so is what they remember of a pass.
        known[module] = _copied(module, type(module))
        vars(known[module])["_modules"] = parts
    return known[module]


def _copied(module: torch.nn.Module, kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A module of a ``kind`` with the very parameters, buffers, hooks and parts of another one."""
    copied = object.__new__(kind)
    vars(copied).update(vars(module))
    return copied


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether a module is a linear layer with ordinary weights: not quantized, nor spread."""
    return type(module) is torch.nn.Linear and type(module.weight) is torch.nn.Parameter


def _is_compiled(module: torch.nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
