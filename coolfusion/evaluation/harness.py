"""A fusion as a model of EleutherAI's lm-evaluation-harness (``pip install coolfusion[harness]``).

    python -m coolfusion.evaluation.harness run --model coolfusion \\
        --model_args "models=path/a;path/b,preset=default" --tasks ...

is ``lm_eval`` with the model registered. Releases that discover the entry-point group
``lm_eval.models`` need no registration; 0.4.13 does. In Python, the import of this module
registers the model. ``lm_eval.simple_evaluate(model=CoolfusionLM(decoder=...))`` needs no name.

``CoolfusionLM`` defines the three kinds of requests for several models.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, final

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from coolfusion.backends.base import Query
from coolfusion.backends.source import Source
from coolfusion.decoding.checked_backend import CheckedBackend
from coolfusion.decoding.request import Request
from coolfusion.decoding.segments.decoder import SegmentDecoder
from coolfusion.errors import SourceError, UsageError
from coolfusion.evaluation.harness_options import Argument, fusion_options, shows_options
from coolfusion.evaluation.harness_text import (
    context_of,
    fitted,
    is_greedy,
    message_text,
    request_of,
    windows,
)
from coolfusion.evaluation.likelihood import combination_named, log_likelihoods, source_weights
from coolfusion.fusion import FusionModel
from coolfusion.types import Floats


@final
@register_model("coolfusion")
class CoolfusionLM(LM):
    """Several models as one model of lm-eval.

    ``generate_until`` is the fused response, cut before the first of ``until``. A context that
    leaves a source no room for ``max_gen_toks`` tokens loses words on its left. lm-eval does the
    same with its own models.

    ``loglikelihood`` combines the sources. ``L[k]`` is the log-likelihood (nats) of the
    continuation's canonical encoding under source ``k``, after its encoding of the context. The
    result depends on ``combination``:

    - "mean": ``sum_k w[k] * L[k]``, the log of a product of experts that is not normalised. It is
      never above "mixture".
    - "mixture": ``log sum_k w[k] * exp(L[k])``, the log of a probability.

    Spaces at the end of a context belong to the continuation. The flag beside the number says
    whether the fused greedy response begins with the continuation.

    ``loglikelihood_rolling`` is the same combination for a whole text. Each source encodes it as
    a text of its own, in windows as long as its context. It starts from the control tokens that
    the encoding begins with, or from its end token if there are none. A continuation of an empty
    context is scored in the same way. So lm-eval's perplexities per word, byte or bit are those
    of all sources together, whatever their tokenizers.

    Every source has its own chat template. With ``--apply_chat_template`` the messages pass
    through lm-eval as text, and every source renders them.
    """

    @shows_options
    def __init__(
        self,
        models: str | None = None,
        *,
        decoder: SegmentDecoder | None = None,
        combination: str = "mean",
        max_gen_toks: int = 256,
        batch_size: int | str = 32,
        max_batch_size: int | None = None,
        **options: Argument,
    ) -> None:
        """Load ``models``, or use an existing ``decoder``.

        ``models`` are paths or ids separated by ``;`` (None: the built-in ones). ``options`` are
        those of docs/use/options.md that the harness takes; lists and weights are separated by ``;``
        as well. Raises ``UsageError`` for wrong options and models that cannot be loaded.
        """
        super().__init__()
        # lm-eval says cuda:0 where nothing was said; None finds it, or a CPU.
        where = None if options.get("device") == "cuda:0" else options.get("device")
        given = fusion_options({**options, "models": models, "device": where})
        if decoder is None:
            decoder = FusionModel.from_pretrained(**given).decoder
        self.decoder = decoder
        self.num_forwarded: Counter[str] = Counter()
        self.seconds = 0.0
        self._combine = combination_named(combination)
        self._weights = source_weights(
            [source.name for source in decoder.sources], decoder.recipe.weights
        )
        self._max_new_tokens = max_gen_toks
        self._batch_size = int(batch_size) if str(batch_size).isdigit() else max_batch_size or 32

    @property
    def tokenizer_name(self) -> str:
        """A name that keeps lm-eval's caches of requests apart."""
        return "+".join(source.name for source in self.decoder.sources)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """A label only: every source has a template of its own."""
        return "each source's own" if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as text that the other methods turn back into messages.

        Raises ``UsageError`` for a history that ends with the beginning of an answer.
        """
        if not add_generation_prompt:
            raise UsageError(
                "This task begins the model's answer for it (gen_prefix), which chat templates of "
                "several models cannot do alike. Run it without --apply_chat_template."
            )
        return message_text(chat_history)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Fused responses, in the order of ``requests``."""
        texts: dict[int, str] = {}
        groups: dict[Request, list[int]] = {}
        for index, each in enumerate(requests):
            request = request_of(each.args[1], self._max_new_tokens)
            groups.setdefault(request, []).append(index)
        for request, members in groups.items():
            prompts = [
                fitted(context_of(requests[index].args[0]), self.decoder.sources, request)
                for index in members
            ]
            finished = self.decoder.generate_each(prompts, request, max_rows=self._batch_size)
            for position, generation in finished:
                index = members[position]
                texts[index] = generation.text
                stats = generation.stats
                self.seconds += stats.seconds
                for name, spent in stats.usage.items():
                    self.num_forwarded[name] += spent.num_forwarded
                self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])
        return [texts[index] for index in range(len(requests))]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(nats, whether the fused greedy response begins with it) for each continuation."""
        begun = time.perf_counter()
        answers = []
        for each in requests:
            context, continuation = each.args
            bare = context.rstrip(" ")
            text = context[len(bare) :] + continuation
            values = [self._scored(source, bare, text) for source in self.decoder.sources]
            answer = (self._combined(values), is_greedy(self.decoder, bare, text))
            answers.append(answer)
            self.cache_hook.add_partial("loglikelihood", each.args, answer)
        self.seconds += time.perf_counter() - begun
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood (nats) of each whole text."""
        begun = time.perf_counter()
        answers = []
        for each in requests:
            (text,) = each.args
            values = [self._rolled(source, text) for source in self.decoder.sources]
            answers.append(self._combined(values))
            self.cache_hook.add_partial("loglikelihood_rolling", each.args, answers[-1])
        self.seconds += time.perf_counter() - begun
        return answers

    def _combined(self, values: Sequence[float]) -> float:
        table: Floats = np.array([values], dtype=np.float64)
        return float(self._combine(table, self._weights)[0])

    def _scored(self, source: Source, context: str, text: str) -> float:
        """Log-likelihood (nats) of ``text`` after ``context`` under one source."""
        if not context:
            return self._rolled(source, text)
        request = Request(max_new_tokens=max(1, len(source.tokenizer.encode(text))))
        prompt = fitted(context_of(context), [source], request)
        (scores,) = log_likelihoods(source, [source.tokenizer.encode_prompt(prompt)], [[text]])
        if isinstance(scores, SourceError):
            raise scores
        self.num_forwarded[source.name] += scores.usage.num_forwarded
        return scores.log_likelihoods[0]

    def _rolled(self, source: Source, text: str) -> float:
        if not text:
            return 0.0
        ids = source.tokenizer.encode_prompt(text)
        control = tuple(takewhile(lambda token: source.tokenizer.piece(token) is None, ids))
        beginning = control or (min(source.tokenizer.end_ids),)
        parts = windows(beginning, ids[len(control) :], source.backend.context_length)
        queries = [Query(prefix, continuation) for prefix, continuation in parts]
        scores = []
        for each in CheckedBackend(source.backend).score(queries):
            if isinstance(each, SourceError):
                raise each
            scores.append(each)
        self.num_forwarded[source.name] += sum(each.num_forwarded for each in scores)
        return sum(sum(each.log_probs) for each in scores)


def main() -> None:
    """``lm_eval`` with this model registered; its arguments are lm-eval's own."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
