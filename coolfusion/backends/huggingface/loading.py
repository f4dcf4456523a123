"""Loading a model and its tokenizer from a folder or a hub, as a source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers

from coolfusion.backends.huggingface.causal import TransformersBackend
from coolfusion.backends.huggingface.seq2seq import EncoderDecoderBackend
from coolfusion.backends.huggingface.seq2seq_tokenizer import EncoderDecoderTokenizer
from coolfusion.backends.huggingface.templates.rendering import template_of
from coolfusion.backends.source import Source
from coolfusion.documents import check_quick_to_read
from coolfusion.errors import CoolfusionError, LoadError
from coolfusion.tokenization.huggingface import HuggingFaceTokenizer


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
        ends = end_ids_of(model.config, model.generation_config) | tokenizer.end_ids
        tokenizer.end_ids = frozenset(token for token in ends if token is not None)
        if not model.config.is_encoder_decoder:
            return Source(name, tokenizer, TransformersBackend(model))
        backend = EncoderDecoderBackend(model)
        start = start_ids_of(path, model)
        return Source(name, EncoderDecoderTokenizer(tokenizer, backend.sides, start), backend)
    except LoadError:
        raise
    except CoolfusionError as error:
        raise type(error)(f'Source "{name}" ({path}): {error}') from error


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
    end_ids = [loaded.eos_token_id] if loaded.eos_token_id is not None else []
    return HuggingFaceTokenizer(
        backend, end_ids=end_ids, template=template_of(loaded), lossy_ok=lossy_ok
    )


def end_ids_of(*configs: Any) -> frozenset[int]:
    """Every end id that any of the configurations names, alone or in a list."""
    found: set[int] = set()
    for config in configs:
        value = getattr(config, "eos_token_id", None)
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, Iterable):
            found.update(int(token) for token in value)
    return frozenset(found)


def start_ids_of(path: str | Path, model: Any) -> tuple[int, ...]:
    """The first ids of a decoder: its start id, and a forced one (the target language) if any.

    Raises ``LoadError`` if the model names no start id.
    """
    settings = (model.generation_config, model.config)

    def named(name: str) -> int | None:
        values = (getattr(each, name, None) for each in settings)
        return next((value for value in values if value is not None), None)

    start, forced = named("decoder_start_token_id"), named("forced_bos_token_id")
    start = named("bos_token_id") if start is None else start
    if start is None:
        raise LoadError(
            f'The model at "{path}" names no decoder_start_token_id, without which its decoder cannot '
            "begin. Add one to generation_config.json."
        )
    return (start,) if forced is None else (start, forced)


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
