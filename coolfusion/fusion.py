"""The front door: several models that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

from coolfusion.backends.source import Source
from coolfusion.builtin import builtin_paths
from coolfusion.checks.arguments import checked
from coolfusion.config.file import settled_options
from coolfusion.config.keywords import takes_options
from coolfusion.config.kinds import MIXTURE, SEGMENTS, strategy_named
from coolfusion.config.options import (
    FUSION,
    MODELS,
    RESPONSE,
    SPEED,
    STRATEGY,
    FusionOptions,
    ResponseOptions,
)
from coolfusion.config.plan import one_each, plan_fusion
from coolfusion.decoding.batching import MAX_ROWS, MAX_TOKENS
from coolfusion.decoding.decoder import Decoder
from coolfusion.decoding.mixture.decoder import MixtureDecoder
from coolfusion.decoding.mixture.options import Mixture
from coolfusion.decoding.request import request
from coolfusion.decoding.segments.beam import BeamSearch, Ranked
from coolfusion.decoding.segments.decoder import DEFAULT_SPECULATION, SegmentDecoder
from coolfusion.decoding.segments.recipe import Recipe
from coolfusion.decoding.segments.speculation import Speculation
from coolfusion.errors import UncopyableError, UsageError
from coolfusion.tokenization.prompts import Prompt
from coolfusion.types import Generation, Step

if TYPE_CHECKING:
    from typing_extensions import Unpack

LoadProgress = Callable[[str, int, int], None]


@final
class FusionModel:
    """Sources and a recipe, with the methods people know from ``transformers``.

    ``strategy`` says how they are fused unless a call says otherwise: by "segments" and
    ``recipe``, or as a "mixture" of distributions. A ``mixture`` that is not given has the
    recipe's weights and prior. A prompt is a string, which is continued as it stands, or a list
    of chat messages. Every source reads messages through its own chat template. A mapping from
    source names to prompts gives each its own ("*": all that are not named).
    """

    @checked
    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe | None = None,
        *,
        speculation: Speculation | None = DEFAULT_SPECULATION,
        strategy: str = SEGMENTS,
        mixture: Mixture | None = None,
    ) -> None:
        self.strategy = strategy_named(strategy)
        self.segments = SegmentDecoder(sources, recipe, speculation=speculation)
        self._mixture = mixture
        self.decoder_for(strategy)  # refuses sources that cannot be mixed

    def __reduce__(self) -> NoReturn:
        raise UncopyableError(
            "A FusionModel cannot be pickled or copied, since its sources hold models and caches. "
            "Load one in each process: FusionModel.from_pretrained with the same options, or a fusion.toml."
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, in the order in which ties are broken."""
        return self.segments.sources

    @property
    def decoder(self) -> SegmentDecoder:
        """The decoder of segments. Raises ``UsageError`` for a fusion that is a mixture."""
        if self.strategy != SEGMENTS:
            raise UsageError(f'The strategy is "{self.strategy}", but this needs "{SEGMENTS}".')
        return self.segments

    @cached_property
    def mixture(self) -> MixtureDecoder:
        """The decoder that mixes. Raises ``UsageError`` for sources that cannot be mixed."""
        recipe = self.segments.recipe
        return MixtureDecoder(
            self.sources, self._mixture or Mixture(weights=recipe.weights, prior=recipe.prior)
        )

    @checked
    def decoder_for(self, strategy: str | None = None) -> Decoder[Any]:
        """The decoder of a strategy; None: that of this fusion."""
        chosen = self.strategy if strategy is None else strategy_named(strategy)
        return self.mixture if chosen == MIXTURE else self.segments

    @property
    def has_chat_templates(self) -> bool:
        """Whether every source can be given chat messages."""
        return all(getattr(s.tokenizer, "has_chat_template", True) for s in self.sources)

    @classmethod
    @takes_options(MODELS, FUSION, STRATEGY, SPEED)
    def from_pretrained(
        cls,
        models: str | Path | Sequence[str | Path] | None = None,
        *,
        model_options: dict[str, Any] | None = None,
        progress: LoadProgress | None = None,
        when_opened: Callable[[Sequence[Any]], None] | None = None,
        **options: Unpack[FusionOptions],
    ) -> FusionModel:
        """Load sources from folders, GGUF files or hub ids; with no models named, the built-in ones.

        ``models`` may be a fusion file (``fusion.toml``, or the folder it is in), and so may
        ``config`` beside other models. Options that are given replace what the file says.
        docs/use/options.md says what each does. ``device`` and ``dtype`` hold for all sources or
        are given one each. ``speculation`` and ``drafter`` change no text. ``model_options`` are
        passed on to transformers. ``progress`` is called with (name, how many are loaded, of how
        many). ``when_opened`` is called once, before any weights are read, with sources that have a
        ``name`` and a ``tokenizer``; what it raises ends the loading. Raises ``UsageError`` for what cannot be done as asked.
        """
        if isinstance(models, Sequence) and not models:
            raise UsageError(
                f"models is {models!r}, so that there is no source. Name at least one, or leave it out "
                "for the built-in ones."
            )
        said = settled_options(models, options.get("config"), options)
        paths = list(said.get("models") or builtin_paths())
        plan = plan_fusion(paths, said)
        drafter, speculation = options.get("drafter"), options.get("speculation", True)
        if drafter is not None and not speculation:
            raise UsageError(
                "A drafter only guesses ahead. Switch speculation on, or leave it out."
            )
        devices = one_each(options.get("device"), len(paths), "device")
        dtypes = one_each(options.get("dtype"), len(paths), "dtype")
        from coolfusion.backends.huggingface import open_source

        open_one = partial(open_source, trust_remote_code=options.get("trust_remote_code", False))
        lossy_ok = options.get("lossy_ok", False)
        # All tokenizers come before any weights: what they refuse should not be waited for.
        unloaded = [
            open_one(path, label, lossy_ok=lossy_ok)
            for path, label in zip(paths, plan.names, strict=True)
        ]
        guesser = None if drafter is None else open_one(drafter, "drafter", lossy_ok=True)
        if when_opened is not None:
            when_opened(unloaded)
        sources = []
        for number, each in enumerate(unloaded):
            if progress is not None:
                progress(each.name, number, len(paths))
            where, kind = devices[number], dtypes[number]
            sources.append(each.load(device=where, dtype=kind, model_options=model_options))
        if progress is not None:
            progress("", len(paths), len(paths))
        guessing = Speculation()
        if guesser is not None:
            guessing = Speculation(
                guesser.load(device=devices[0], dtype=dtypes[0], model_options=model_options)
            )
        return cls(
            sources,
            plan.recipe,
            speculation=guessing if speculation else None,
            strategy=plan.strategy,
            mixture=plan.mixture,
        )

    @takes_options(RESPONSE)
    def generate(
        self, prompt: Prompt, *, strategy: str | None = None, **options: Unpack[ResponseOptions]
    ) -> Generation:
        """One response, by the fusion's strategy or another.

        At most ``max_new_tokens``, counted by the source that needs fewest; before the first of the
        texts ``stop``. A ``temperature`` above 0 draws tokens with the noise of ``seed``, from the
        ``top_k`` likeliest (0: all) that have ``top_p`` of the probability together. A draft is cut
        after ``max_segment_tokens`` (None: where its boundary does). A source that fails is left out
        (``on_source_error="drop"``) or raises its ``SourceError`` ("raise"). Raises ``UsageError``
        for values that make no sense, and ``PromptError`` for a prompt that a source cannot take.
        """
        return self.decoder_for(strategy).generate(prompt, request(**options))

    @takes_options(RESPONSE)
    def stream(
        self, prompt: Prompt, *, strategy: str | None = None, **options: Unpack[ResponseOptions]
    ) -> Iterator[Step]:
        """Steps as they are committed; their ``text``s join to the response of ``generate``."""
        return self.decoder_for(strategy).stream(prompt, request(**options))

    @takes_options(RESPONSE)
    def n_best(
        self, prompt: Prompt, width: int = 4, **options: Unpack[ResponseOptions]
    ) -> list[Ranked]:
        """Up to ``width`` distinct responses by beam search, the best first; options as in ``generate``."""
        return BeamSearch(self.decoder, width).generate(prompt, request(**options))

    @takes_options(RESPONSE)
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_rows: int = MAX_ROWS,
        max_batch_tokens: int = MAX_TOKENS,
        strategy: str | None = None,
        **options: Unpack[ResponseOptions],
    ) -> list[Generation]:
        """One response per prompt, each the same as ``generate`` would give.

        At most ``max_rows`` are decoded side by side, fewer where their prompts and
        ``max_new_tokens`` together exceed ``max_batch_tokens``. A prompt that cannot be taken is
        refused before any is decoded. With ``on_source_error="raise"``, rows whose sources fail end.
        When all others are over, ``BatchError`` is raised, which holds their responses.
        """
        return self.decoder_for(strategy).generate_batch(
            prompts, request(**options), max_rows=max_rows, max_tokens=max_batch_tokens
        )
