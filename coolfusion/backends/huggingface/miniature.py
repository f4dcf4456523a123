"""A small model of the same architecture, on which a way to compute can be tried at little cost.

Whether keys and values may be kept depends on the code of a model and on its configuration, not
on its weights. A window of 4,096 tokens is dear to fill with a real model. So every width, length
and number of layers is reduced, in order. What a window or a chunk does then shows within a few
dozen tokens.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

MAX_VOCAB = 128
MAX_LIMIT = 256  # positions, where a configuration has a limit
FIRST_LENGTH, NEXT_LENGTH = 16, 8  # tokens that the shortest window keeps, and each one more
ATTEMPTS = ((8, 1), (8, 2), (16, 1), (32, 1))  # dimensions of a head, repeats of layers
MAX_PARAMETERS = 30_000_000
_SHARPNESS = 2.0  # standard deviation of random weights, in units of the usual one

_LIMIT = re.compile(
    r"max_(position|source_pos|target_pos|seq)|^n_(positions|ctx)$|max_(sequence_)?length"
    r"|context_length|^max_seq_len$"
)
_LENGTH = re.compile(
    r"window(?!_(layer|pattern))|chunk|block_size|original_max|_distance|local_attention"
    r"|mem_len|_topk$|floor|extent|stride|segment_len|span|(?<!prompt)_length$|original_seq"
)
_NO_LENGTH = re.compile(
    r"pattern|layers|moe|expert|group|router|mask|num_chunks|lm_head|feed|kernel"
)
_LAYERS = re.compile(
    r"^(n|num)_(hidden_)?layers?$|^(encoder|decoder)_layers$|^num_(encoder|decoder)_layers$"
    r"|^num_blocks$|^num_layers_per_stack$"
)
_PERIOD = re.compile(
    r"period|pattern$|every_n|interval|layer_group|first_k_dense|num_dense_layers|offset"
    r"|sparse_step|_layer_step|layer_start_index"
)
_EXPERTS = re.compile(r"(num|n|moe)_?(routed|local|num|zero)?_?experts?$|zero_expert_num")
_WIDTH = re.compile(
    r"(^|_)(size|dim|width|rank|ffn|embd|inner|dff|channels|d_model|d_state|d_ssm|d_head|headdim"
    r"|head_dim|proj|ff|rel)(_|$)|^d_|lru|hidden|intermediate"
)
_NO_WIDTH = re.compile(
    r"vocab|kernel|(^|_)num_|^n_(?!embd|inner)|patch|image|group_size|batch|factor|act|dropout|std"
)
_CHOICES = re.compile(r"^(n_group|topk_group|moe_topk|moe_k|num_expert_group)$")
_HEAD_COUNT = re.compile(r"(^|_)heads?$|_num_(key|value)_heads$")
_OF_HEAD = re.compile(
    r"head_?(dim|size)|dim_head|d_head|kv_channels|rotary|lora|rank|_state|^v_dim"
)
MAX_PARTS = 4
MAX_KINDS = 8
_HEADS = (
    "num_attention_heads",
    "n_head",
    "num_heads",
    "n_heads",
    "attention_heads",
    "decoder_attention_heads",
    "num_decoder_attention_heads",
)
_HIDDEN = ("hidden_size", "d_model", "n_embd", "emb_dim")


@dataclass(frozen=True, slots=True)
class Shrinking:
    """How a configuration is reduced.

    A head keeps 1 / ``factor`` of its width, and of ``num_parts`` heads one is left. ``lengths``
    says what each length becomes.
    """

    factor: int
    num_parts: int
    lengths: Mapping[int, int]
    num_layers: int


def boundaries(config: Any) -> dict[int, str]:
    """Lengths in tokens at which attention may change, by what names them in a configuration.

    They are found by their names: windows, chunks, blocks, distances, earlier limits of positions.
    Those that no text can reach are left out.
    """
    text = _text(config)
    limits = [v for n, v in text.items() if _LIMIT.search(n) and isinstance(v, int) and v > 0]
    most = min(limits, default=1 << 30)
    found = {}
    for name, value in _items(text):
        if _is_length(name, value) and value < most:
            found[value] = name
    return dict(sorted(found.items()))


def marks_around(lengths: Iterable[int], limit: int | None) -> tuple[int, ...]:
    """Lengths around which passes are tried: past every boundary, and past it a second time."""
    most = (limit or 1 << 30) - 6
    wanted = {8, *(n for b in lengths for n in (b + 1, 2 * b + 2))}
    return tuple(sorted(each for each in wanted if 8 <= each <= most)) or (max(4, most),)


def miniature(kind: Callable[..., Any], config: Any, device: torch.device) -> Any | None:
    """A small random model of a class and a configuration, on a device; None if none can be made.

    It is in evaluation mode and in single precision. The random state of torch stays as it is.
    """
    for target, repeats in ATTEMPTS:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                small = _made(kind, small_config(config, target, repeats)).to(device)
            with torch.inference_mode():
                ids = torch.tensor([[3, 4, 5, 6, 7, 8]], device=device)
                logits = small(input_ids=ids, use_cache=False).logits
            if bool(torch.isfinite(logits).all()):
                return small
        except Exception:
            continue
    return None


def small_config(config: Any, target: int = 8, repeats: int = 1) -> Any:
    """A copy of a configuration with small numbers in it.

    Heads have about ``target`` dimensions. Each kind of layer is there, ``repeats`` times if the
    kinds alternate.
    """
    text = _text(config)
    lengths = boundaries(config)
    ranks = {value: FIRST_LENGTH + NEXT_LENGTH * i for i, value in enumerate(lengths)}
    plan = Shrinking(_factor(text, target), _num_parts(text), ranks, _num_layers(text, repeats))
    values = _shrunk(copy.deepcopy(config.to_dict()), plan)
    for name in ("architectures", "dtype", "torch_dtype", "quantization_config", "auto_map"):
        values.pop(name, None)
    small = type(config).from_dict(values)
    implementation = getattr(config, "_attn_implementation", None)
    if implementation in ("eager", "sdpa"):
        small._attn_implementation = implementation
    return small


def _made(kind: Callable[..., Any], config: Any) -> Any:
    with torch.device("meta"):
        size = sum(weights.numel() for weights in kind(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"a miniature of {size} parameters is none")
    small = kind(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in small.parameters():
            # Usual initial weights are so small that attention is flat and hides mistakes.
            if weights.dim() > 1 and weights.is_floating_point():
                deviation = _SHARPNESS / math.sqrt(weights.shape[-1])
                weights.copy_(torch.randn(weights.shape, generator=generator) * deviation)
    return small


def _text(config: Any) -> dict[str, Any]:
    """The settings of the decoder of text."""
    return config.get_text_config(decoder=True).to_dict()


def _items(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of a configuration, nested ones included."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _items(value)
        else:
            yield str(name), value


def _is_length(name: str, value: Any) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 1
    return is_number and bool(_LENGTH.search(name)) and not _NO_LENGTH.search(name)


def _factor(text: Mapping[str, Any], target: int) -> int:
    """What divides the size of a head and leaves about ``target`` of it."""
    sizes = [
        text.get(name)
        for name in ("head_dim", "dim_head", "d_head", "attention_head_size", "kv_channels")
    ]
    size = next((each for each in sizes if isinstance(each, int)), None)
    if size is None:
        heads, width = (_first(text, names) for names in (_HEADS, _HIDDEN))
        size = width // heads
    return max([f for f in range(1, size + 1) if size % f == 0 and size // f >= target], default=1)


def _first(text: Mapping[str, Any], names: tuple[str, ...]) -> int:
    values = (text.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 1)


def _num_parts(text: Mapping[str, Any]) -> int:
    """Of how many heads one is left: what divides all their numbers."""
    numbers = [
        value
        for name, value in _items(text)
        if _HEAD_COUNT.search(name) and isinstance(value, int) and value > 1
    ]
    return math.gcd(MAX_PARTS, *numbers) if numbers else 1


def _num_layers(text: Mapping[str, Any], repeats: int) -> int:
    """How many first layers have one of each kind."""
    count = max([v for n, v in _items(text) if _LAYERS.search(n) and isinstance(v, int)], default=2)
    periods = [v for n, v in _items(text) if _PERIOD.search(n) and isinstance(v, int) and v < count]
    needed = max([2, *(period + 1 for period in periods)])
    for name, value in text.items():
        if not isinstance(value, (list, tuple)):
            continue
        kinds = [str(each) for each in value]
        if name.endswith("types") and len(kinds) < count:
            needed = max(needed, len(kinds))  # a pattern that is repeated
        if len(kinds) == count:
            firsts = [kinds.index(kind) + 1 for kind in set(kinds)]
            if len(firsts) <= MAX_KINDS:  # otherwise it numbers the layers
                needed = max([needed, *firsts])
    if text.get("num_kv_shared_layers"):
        repeats = max(2, repeats)
    return min(needed * repeats, count)


def _shrunk(values: dict[str, Any], plan: Shrinking) -> dict[str, Any]:
    count = max(
        [v for n, v in values.items() if _LAYERS.search(str(n)) and isinstance(v, int)], default=-1
    )
    return {key: _smaller(str(key), value, count, plan) for key, value in values.items()}


def _smaller(name: str, value: Any, count: int, plan: Shrinking) -> Any:
    """A setting of the small configuration; ``count`` is how many layers the large one has."""
    if name == "per_layer_config" and isinstance(value, dict):
        return {n: _shrunk(v, plan) for n, v in value.items() if int(n) < plan.num_layers}
    if isinstance(value, dict):
        return _shrunk(value, plan)
    if isinstance(value, (list, tuple)):
        if len(value) == count and count > plan.num_layers:
            kept = list(value[: plan.num_layers])
            return [_smaller(name, each, count, plan) for each in kept]
        if name in ("long_factor", "short_factor"):
            return list(value[: max(1, len(value) // plan.factor)])
        if "section" in name:
            return [max(1, each // plan.factor) for each in value]
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value <= 1:
        return value
    return _smaller_number(name, value, plan)


def _smaller_number(name: str, value: int, plan: Shrinking) -> int:
    if name.endswith(("token_id", "_index", "_token", "lang_id")):
        return value if value < MAX_VOCAB else 3
    if "vocab_size" in name:
        return min(value, MAX_VOCAB)
    if value in plan.lengths and _is_length(name, value):
        return min(value, plan.lengths[value])
    if _LIMIT.search(name):
        return min(value, MAX_LIMIT)
    if _LAYERS.search(name):
        return min(value, plan.num_layers)
    if name == "num_kv_shared_layers":
        return min(value, plan.num_layers // 2)
    if _EXPERTS.search(name):
        return min(value, 8)
    if "per_tok" in name or _CHOICES.search(name):
        return min(value, 2)
    if _HEAD_COUNT.search(name):
        return value // plan.num_parts if value % plan.num_parts == 0 else value
    if _WIDTH.search(name) and not _NO_WIDTH.search(name):
        is_of_head = bool(_OF_HEAD.search(name))
        return _narrower(value, plan.factor * (1 if is_of_head else plan.num_parts))
    return value


def _narrower(value: int, factor: int) -> int:
    if value % factor == 0:
        return max(1, value // factor)
    return max(8, round(value / factor / 8) * 8)
