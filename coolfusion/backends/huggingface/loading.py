"""Loading a model and its tokenizer from a folder, a GGUF file or a hub, as a source.

That takes two stages: every tokenizer is read and checked before any weights are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import is_accelerate_available, is_gguf_available

from coolfusion.backends.garbage import collection_paused
from coolfusion.backends.huggingface.causal import TransformersBackend
from coolfusion.backends.huggingface.choosing import strategy_of
from coolfusion.backends.huggingface.encoder_decoder.seq2seq import EncoderDecoderBackend
from coolfusion.backends.huggingface.encoder_decoder.seq2seq_tokenizer import (
    EncoderDecoderTokenizer,
)
from coolfusion.backends.huggingface.probing import num_ids
from coolfusion.backends.huggingface.special_ids import end_ids_of, first_named, ids_named
from coolfusion.backends.huggingface.templates.rendering import template_of
from coolfusion.backends.naming import ModelPlace, place_of
from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked
from coolfusion.errors import CoolfusionError, LoadError, SourceError
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer


@dataclass(frozen=True, slots=True)
class UnloadedSource:
    """A source whose tokenizer is read, and whose weights are not yet."""

    path: str | Path
    name: str
    tokenizer: HuggingFaceTokenizer
    trust_remote_code: bool = False

    def load(
        self,
        *,
        device: str | None = None,
        dtype: str | None = None,
        model_options: dict[str, Any] | None = None,
    ) -> Source:
        """The source, with the weights; the keywords are those of ``load_source``.

        Raises ``LoadError`` with the reason.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with _named(self.path, self.name), collection_paused():
            model = _load_model(
                self.path, device, dtype, self.trust_remote_code, model_options or {}
            )
            make = _encoder_decoder if model.config.is_encoder_decoder else _causal
            return make(self.path, self.name, self.tokenizer, model)


@checked
def open_source(
    path: str | Path, name: str, *, trust_remote_code: bool = False, lossy_ok: bool = False
) -> UnloadedSource:
    """A source without its weights, which ``UnloadedSource.load`` reads. Raises ``LoadError``."""
    with _named(path, name):
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code, lossy_ok=lossy_ok)
    return UnloadedSource(path, name, tokenizer, trust_remote_code)


@checked
def load_source(
    path: str | Path,
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    lossy_ok: bool = False,
    model_options: dict[str, Any] | None = None,
) -> Source:
    """A source from the tokenizer and the model that ``transformers`` loads from ``path``.

    ``path`` is a folder, a GGUF file, or either on the hub (``coolfusion.backends.naming``). The
    weights of a GGUF file are dequantised. The model class is ``AutoModelForSeq2SeqLM`` if the
    configuration says ``is_encoder_decoder``, and ``AutoModelForCausalLM`` otherwise.

    ``device`` defaults to the first accelerator, or the CPU without one. ``dtype`` defaults to
    the checkpoint's own on an accelerator and to float32 on a CPU. ``model_options`` go to
    ``from_pretrained`` unchanged (a quantization_config, a device_map). Raises ``LoadError`` with
    the reason.
    """
    unloaded = open_source(path, name, trust_remote_code=trust_remote_code, lossy_ok=lossy_ok)
    return unloaded.load(device=device, dtype=dtype, model_options=model_options)


@contextmanager
def _named(path: str | Path, name: str) -> Iterator[None]:
    """Errors of loading say which source they are of."""
    try:
        yield
    except LoadError as error:
        if str(path) in str(error):
            raise
        raise LoadError(f'Source "{name}" ({path}): {error}') from error
    except SourceError as error:
        raise LoadError(f'Source "{name}" ({path}): {error}') from error
    except CoolfusionError as error:
        raise type(error)(f'Source "{name}" ({path}): {error}') from error


def _causal(path: str | Path, name: str, tokenizer: HuggingFaceTokenizer, model: Any) -> Source:
    """A source that continues texts; warns where it is slow."""
    size = num_ids(model)
    _check_vocabulary(path, tokenizer, size)
    tokenizer.end_ids = end_ids_of(model, size, ("the end ids of the tokenizer", tokenizer.end_ids))
    backend = TransformersBackend(
        model, text_ids=_ordinary(tokenizer), token_ids=tokenizer.ids | tokenizer.end_ids
    )
    _warn_if_slow(name, backend.slow_because)
    return Source(name, tokenizer, backend)


def _encoder_decoder(
    path: str | Path, name: str, tokenizer: HuggingFaceTokenizer, model: Any
) -> Source:
    """A source that reads a text and writes another; warns where it is slow."""
    backend = EncoderDecoderBackend(model, token_ids=tokenizer.ids)
    _warn_if_slow(name, backend.slow_because)
    size = backend.vocab_size
    tokenizer.end_ids = end_ids_of(model, size, ("the end ids of the tokenizer", tokenizer.end_ids))
    start = start_ids_of(path, model, size)
    return Source(name, EncoderDecoderTokenizer(tokenizer, backend.sides, start), backend)


def _warn_if_slow(name: str, because: str | None) -> None:
    """Warn the caller of ``load_source`` of a source that is not cached, at some length or any."""
    if because is not None:
        # Between here and the caller are the kind of source, load, load_source and its check of arguments.
        warnings.warn(f'Source "{name}" is slow: {because}.', stacklevel=6)


def _ordinary(tokenizer: HuggingFaceTokenizer) -> tuple[int, ...]:
    """The ids of a plain text, with what a prompt begins with."""
    return tokenizer.encode_prompt("The old man had 12 boats, and each of them was painted blue.\n")


def _check_vocabulary(path: str | Path, tokenizer: HuggingFaceTokenizer, size: int) -> None:
    """Raise ``LoadError`` if a text may have tokens that the model knows nothing of."""
    foreign = [token for token in tokenizer.ids if token >= size and tokenizer.piece(token)]
    if foreign:
        raise LoadError(
            f'The tokenizer of "{path}" has {len(foreign)} tokens of text that the model has no row '
            f"for, such as {tokenizer.piece(min(foreign))!r} with the id {min(foreign)} (the model "
            f"knows {size} ids). They do not belong together. Use the tokenizer that the model was "
            "trained with."
        )


@collection_paused()
def load_tokenizer(
    path: str | Path, *, trust_remote_code: bool = False, lossy_ok: bool = False
) -> HuggingFaceTokenizer:
    """The tokenizer alone, as ``coolfusion inspect`` needs it. Raises ``LoadError``."""
    place = _readable(path)
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            place.root, trust_remote_code=trust_remote_code, **place.options
        )
    except Exception as error:
        raise LoadError(_explain(path, "tokenizer", error, place)) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise LoadError(
            f'The tokenizer of "{path}" is a {type(loaded).__name__}, which the tokenizers library does not '
            "back, so its text cannot be cut exactly. Convert it to a fast tokenizer and save that "
            "(tokenizer.json) into the folder."
        )
    end_ids = ids_named(loaded.eos_token_id, len(loaded), f'eos_token of the tokenizer of "{path}"')
    if type(loaded).__module__.startswith("transformers."):
        # What the backend was made of: every token and merge once more. Nothing reads it again.
        for name in ("_vocab", "_merges"):
            vars(loaded).pop(name, None)
    return HuggingFaceTokenizer(
        backend, end_ids=end_ids, template=template_of(loaded), lossy_ok=lossy_ok
    )


def start_ids_of(path: str | Path, model: Any, size: int) -> tuple[int, ...]:
    """The first ids of a decoder: its start id, and a forced one (the target language) if any.

    ``size`` is how many ids the decoder has. Raises ``LoadError`` if the model names no start id.
    """
    start = first_named(model, size, "decoder_start_token_id")
    forced = first_named(model, size, "forced_bos_token_id")
    start = first_named(model, size, "bos_token_id") if start is None else start
    if start is None:
        raise LoadError(
            f'The model at "{path}" names no decoder_start_token_id that it has, without which its '
            "decoder cannot begin. Add one to generation_config.json."
        )
    return (start,) if forced is None else (start, forced)


def strategy_at(path: str | Path, *, trust_remote_code: bool = False) -> str | None:
    """How the model of a folder or hub id is run, from its configuration; None: unknown."""
    try:
        place = _readable(path)
        config = transformers.AutoConfig.from_pretrained(
            place.root, trust_remote_code=trust_remote_code, **place.options
        )
    except Exception:
        return None
    if getattr(config, "is_encoder_decoder", False):
        return None
    make = partial(
        transformers.AutoModelForCausalLM.from_config, trust_remote_code=trust_remote_code
    )
    return strategy_of(make, config)


def _load_model(
    path: str | Path,
    device: str,
    dtype: str | None,
    trust_remote_code: bool,
    options: dict[str, Any],
) -> Any:
    if dtype is None:
        dtype = "float32" if device == "cpu" else "auto"
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise LoadError(f'There is no dtype "{dtype}". Use auto, float32, bfloat16 or float16.')
    place = _readable(path)
    if place.gguf_file is not None:
        # Packed weights need kernels that few machines have; who has them says so in the options.
        options = {"quantization_config": transformers.GgufConfig(dequantize=True), **options}
    try:
        config = transformers.AutoConfig.from_pretrained(
            place.root, trust_remote_code=trust_remote_code, **place.options
        )
        kind = (
            transformers.AutoModelForSeq2SeqLM
            if getattr(config, "is_encoder_decoder", False)
            else transformers.AutoModelForCausalLM
        )
        model, info = kind.from_pretrained(
            place.root,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **place.options,
            **options,
        )
    except Exception as error:
        raise LoadError(_explain(path, "model", error, place)) from error
    if info["missing_keys"]:
        raise LoadError(
            f'The checkpoint at "{path}" lacks {len(info["missing_keys"])} tensors, '
            f"{sorted(info['missing_keys'])[0]} among them; they would be random. Check that it is complete."
        )
    is_plain = getattr(
        options.get("quantization_config"), "dequantize", "quantization_config" not in options
    )
    if "device_map" not in options and is_plain:
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise LoadError(
                f'The model at "{path}" cannot be put on device "{device}": {error}'
            ) from error
    return model.eval()


def _readable(path: str | Path) -> ModelPlace:
    """Where the model is. Raises ``LoadError`` where nothing can read it."""
    place = place_of(path)
    if place.gguf_file is not None and not (is_gguf_available() and is_accelerate_available()):
        raise LoadError(
            f'"{path}" is a GGUF file, which transformers reads with the packages gguf and accelerate only. '
            "Install them with pip install 'coolfusion[gguf]'."
        )
    return place


def _explain(path: str | Path, what: str, error: Exception, place: ModelPlace) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if place.gguf_file is not None:
        advice = "The file may be cut short, or of an architecture that transformers does not read from GGUF. Fetch it again, or use the model's transformers folder."
    else:
        advice = "Check that the folder or hub id is right and complete."
    return f'Cannot load the {what} of "{path}": {reason} {advice}'
