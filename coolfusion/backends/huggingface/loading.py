"""Loading a model and its tokenizer from a folder or a hub, as a source."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

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
from coolfusion.backends.source import Source
from coolfusion.checks.arguments import checked
from coolfusion.documents import check_quick_to_read
from coolfusion.errors import CoolfusionError, LoadError, SourceError
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer


@checked
@collection_paused()
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

    The model class is ``AutoModelForSeq2SeqLM`` if the configuration says ``is_encoder_decoder``,
    and ``AutoModelForCausalLM`` otherwise.

    ``device`` defaults to the first accelerator, or the CPU without one. ``dtype`` defaults to
    the checkpoint's own on an accelerator and to float32 on a CPU. ``model_options`` go to
    ``from_pretrained`` unchanged (a quantization_config, a device_map). Raises ``LoadError`` with
    the reason.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code, lossy_ok=lossy_ok)
        model = _load_model(path, device, dtype, trust_remote_code, model_options or {})
        if model.config.is_encoder_decoder:
            return _encoder_decoder(path, name, tokenizer, model)
        return _causal(path, name, tokenizer, model)
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
        # Between here and the caller are the kind of source, load_source and its check of arguments.
        warnings.warn(f'Source "{name}" is slow: {because}.', stacklevel=5)


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
    _check_folder(path)
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise LoadError(_explain(path, "tokenizer", error)) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise LoadError(
            f'The tokenizer of "{path}" is a {type(loaded).__name__}, which the tokenizers library does not '
            "back, so its text cannot be cut exactly. Convert it to a fast tokenizer and save that "
            "(tokenizer.json) into the folder."
        )
    end_ids = ids_named(loaded.eos_token_id, len(loaded), f'eos_token of the tokenizer of "{path}"')
    if type(loaded).__module__.startswith("transformers."):
        # What the backend was made of, 200 MB of Gemma 3. Nothing reads it again.
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
        config = transformers.AutoConfig.from_pretrained(
            str(path), trust_remote_code=trust_remote_code
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
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path), trust_remote_code=trust_remote_code
        )
        kind = (
            transformers.AutoModelForSeq2SeqLM
            if getattr(config, "is_encoder_decoder", False)
            else transformers.AutoModelForCausalLM
        )
        model, info = kind.from_pretrained(
            str(path),
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise LoadError(_explain(path, "model", error)) from error
    if info["missing_keys"]:
        raise LoadError(
            f'The checkpoint at "{path}" lacks {len(info["missing_keys"])} tensors, '
            f"{sorted(info['missing_keys'])[0]} among them; they would be random. Check that it is complete."
        )
    if "device_map" not in options and "quantization_config" not in options:
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise LoadError(
                f'The model at "{path}" cannot be put on device "{device}": {error}'
            ) from error
    return model.eval()


def _check_folder(path: str | Path) -> None:
    folder = Path(path)
    looks_local = (
        folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1
    )
    if looks_local and not folder.exists():
        raise LoadError(
            f'There is no folder "{path}". Give a folder with a model in it, or a hub id like "org/name".'
        )
    if folder.exists() and not folder.is_dir():
        raise LoadError(f'"{path}" is a file. Give the folder that holds the model.')
    if (
        folder.is_dir()
        and not (folder / "config.json").exists()
        and not any(folder.glob("tokenizer*"))
    ):
        raise LoadError(f'The folder "{path}" holds no model: there is no config.json in it.')
    if folder.is_dir():
        check_quick_to_read(folder)


def _explain(path: str | Path, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f'Cannot load the {what} of "{path}": {reason} Check that the folder or hub id is right and complete.'
