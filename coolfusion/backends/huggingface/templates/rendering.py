"""The chat template of a loaded tokenizer, rendered by transformers with counted work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import FunctionType
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from coolfusion.backends.huggingface.templates.limits import LimitedTemplate, TemplateLimits
from coolfusion.errors import PromptError
from coolfusion.tokenization.prompts import Message, content_text
from coolfusion.tokenization.typed_text import ChatTemplate


def template_of(loaded: Any) -> ChatTemplate | None:
    """The chat template of a transformers tokenizer; None if it has none.

    It renders what ``loaded.apply_chat_template`` renders. A last message of the assistant is gone
    on with, and any other is answered. Raises ``PromptError`` for messages that the template
    refuses, for a faulty template, and for one that loops or repeats texts without measure.
    """
    if getattr(loaded, "chat_template", None) is None:
        return None

    def render(messages: Sequence[Message]) -> str:
        last = messages[-1]
        goes_on = last["role"] == "assistant" and bool(content_text(last))
        try:
            rendered: str = _apply(loaded)(
                list(messages),
                tokenize=False,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
            )
        except PromptError:
            raise
        except Exception as error:
            reason = f"{error}" or type(error).__name__
            raise PromptError(f"The chat template refuses these messages: {reason}") from error
        return rendered

    return render


def _apply(loaded: Any) -> Callable[..., Any]:
    """``loaded.apply_chat_template`` with the limited sandbox in place of transformers' own.

    A tokenizer with a method of its own is code that was trusted when it was loaded.
    """
    if type(loaded).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return loaded.apply_chat_template
    return _APPLY.__get__(loaded)


@lru_cache(maxsize=64)
def _compiled(source: str) -> LimitedTemplate:
    theirs = chat_template_utils._compile_jinja_template("")
    return TemplateLimits(theirs.environment).template(source)


def _rebound(function: Any, **names: Any) -> Any:
    """The function with other values for some global names, so that no module is changed."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_APPLY = _rebound(
    PreTrainedTokenizerBase.apply_chat_template,
    render_jinja_template=_rebound(
        chat_template_utils.render_jinja_template, _compile_jinja_template=_compiled
    ),
)
