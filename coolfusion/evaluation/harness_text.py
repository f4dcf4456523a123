"""Between lm-eval's strings and this package: contexts, generation settings, windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coolfusion.backends.sampling import Sampling
from coolfusion.backends.source import Source
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.documents import json_text
from coolfusion.errors import PromptError, UsageError
from coolfusion.tokenization.prompts import Message, OwnPrompt

MESSAGES = "\x00messages\x00"  # begins a context that holds chat messages
_WORD_START = re.compile(r"(?<=\s)(?=\S)")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def message_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Chat messages as one string, which ``context_of`` reads back."""
    return MESSAGES + json_text([dict(message) for message in messages], ascii_only=True) + MESSAGES


def context_of(text: str) -> OwnPrompt:
    """The prompt of a context: chat messages, or the text itself.

    Raises ``UsageError`` for text after messages, which no template can render.
    """
    if not text.startswith(MESSAGES):
        return text
    _, body, rest = text.split(MESSAGES, 2)
    if rest:
        raise UsageError(
            f"There is text after the chat messages ({rest!r}). Run this task without chat templates."
        )
    messages: list[Message] = json.loads(body)
    return messages


def request_of(settings: Mapping[str, Any], max_new_tokens: int) -> Request:
    """The request in lm-eval's ``gen_kwargs``; it samples only with ``do_sample`` or a temperature."""
    until = settings.get("until") or []
    given = [settings[name] for name in _LENGTHS if settings.get(name) is not None]
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") is False:
        temperature = 0.0
    elif settings.get("do_sample") and settings.get("temperature") is None:
        temperature = 1.0
    return Request(
        max_new_tokens=int(given[0]) if given else max_new_tokens,
        stop=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        sampling=Sampling(
            temperature, int(settings.get("top_k") or 0), float(settings.get("top_p") or 1.0)
        ),
    )


def is_higher_better(results: Mapping[str, Any], task: str, metric: str) -> bool:
    """Which way a metric goes, by lm-eval's results. Raises ``UsageError`` if the task does not say."""
    sense = results["higher_is_better"][task].get(metric)
    if sense is None:
        raise UsageError(
            f'The task "{task}" does not say whether a higher {metric} is better, so nothing can be called best. '
            "Write higher_is_better beside the metric in its file."
        )
    return bool(sense)


def fitted(prompt: OwnPrompt, sources: Sequence[Source], request: Request) -> OwnPrompt:
    """The prompt, cut on the left at word starts until every source has room to answer.

    Chat messages are not cut. Raises ``PromptError`` if not even the last word leaves room.
    """
    if not isinstance(prompt, str) or _fits(prompt, sources, request):
        return prompt
    starts = [match.start() for match in _WORD_START.finditer(prompt)]
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if _fits(prompt[starts[middle] :], sources, request):
            high = middle
        else:
            low = middle + 1
    if low == len(starts):
        raise PromptError(
            f"A context window has no room for {request.max_new_tokens} new tokens after any of "
            "the context. Lower max_gen_toks."
        )
    return prompt[starts[low] :]


def _fits(text: str, sources: Sequence[Source], request: Request) -> bool:
    if not text:
        return True
    for source in sources:
        limit = source.backend.context_length
        needed = len(source.tokenizer.encode_prompt(text)) + request.max_new_tokens
        if limit is not None and needed > limit:
            return False
    return True


def is_greedy(decoder: SegmentDecoder, context: str, continuation: str) -> bool:
    """Whether the fused greedy response begins with ``continuation``, up to the end of a word.

    Decoding stops as soon as the response differs. Without a context the result is False.
    """
    if not context:
        return False
    limit = max(len(s.tokenizer.encode(continuation)) for s in decoder.sources) + 8
    request = Request(max_new_tokens=limit)
    state = decoder.start(fitted(context_of(context), decoder.sources, request), request)
    while state.stop_reason is None and continuation.startswith(state.text):
        if state.text == continuation:
            return True
        state, _ = decoder.step(state)
    after = state.text[len(continuation) : len(continuation) + 1]
    return state.text.startswith(continuation) and not after.isalnum()


def windows(
    beginning: tuple[int, ...], ids: tuple[int, ...], limit: int | None
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prefix, continuation) pairs that score every id of a text once, each within ``limit``.

    These are lm-eval's rolling windows. All but the last are full of new tokens after one old
    one. The last window has as much context as fits.
    """
    size = len(ids) if limit is None else limit - len(beginning)
    whole = beginning + ids
    for start in range(0, len(ids), max(1, size)):
        end = min(start + size, len(ids))
        context = len(beginning) + start if limit is None else limit - (end - start)
        first = max(0, len(beginning) + start - context)
        yield whole[first : len(beginning) + start], ids[start:end]
