"""The front door: several models that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

from coolfusion.backend import Sampling
from coolfusion.batching import MAX_ROWS, MAX_TOKENS
from coolfusion.beam import BeamSearch, Ranked
from coolfusion.boundaries import Boundary
from coolfusion.builtin import builtin_paths
from coolfusion.decoder import DEFAULT_SPECULATION, Decoder
from coolfusion.ending import EndRule
from coolfusion.errors import UsageError
from coolfusion.fusion_config import FusionConfig
from coolfusion.fusion_file import settled_options
from coolfusion.gates import Budget, Gate
from coolfusion.mixing import MixingRule
from coolfusion.mixture.decoder import MixtureDecoder
from coolfusion.mixture.recipe import Mixture, make_mixture
from coolfusion.notation import weights_named
from coolfusion.recipe import Recipe, Request, make_recipe
from coolfusion.reranking import Reranker
from coolfusion.sources import Source, check_names
from coolfusion.speculation import Speculation
from coolfusion.stepwise import Stepwise
from coolfusion.strategies import MIXTURE, SEGMENTS, check_mixture_options, strategy_named
from coolfusion.tokenizer import Prompt
from coolfusion.types import Generation, Step
from coolfusion.weights import PromptPrior

Progress = Callable[[str, int, int], None]


@final
class FusionModel:
    """Sources and a recipe, with the methods people know from ``transformers``.

    ``strategy`` says how they are fused unless a call says otherwise: by "segments" and
    ``recipe``, or as a "mixture" of distributions. A ``mixture`` that is not given has the
    recipe's weights and prior. A prompt is a string, continued as it stands, or a list of chat messages, which every
    source reads through its own chat template.
    """

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
        self.segments = Decoder(sources, recipe, speculation=speculation)
        self._mixture = mixture
        self.decoder_for(strategy)  # refuses sources that cannot be mixed

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, in the order in which ties are broken."""
        return self.segments.sources

    @property
    def decoder(self) -> Decoder:
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

    def decoder_for(self, strategy: str | None = None) -> Stepwise[Any]:
        """The decoder of a strategy; None: that of this fusion."""
        chosen = self.strategy if strategy is None else strategy_named(strategy)
        return self.mixture if chosen == MIXTURE else self.segments

    @property
    def has_chat_templates(self) -> bool:
        """Whether every source can be given chat messages."""
        return all(getattr(s.tokenizer, "has_chat_template", True) for s in self.sources)

    @classmethod
    def from_pretrained(
        cls,
        models: str | Path | Sequence[str | Path] | None = None,
        *,
        config: str | Path | FusionConfig | None = None,
        names: Sequence[str] | None = None,
        preset: str | None = None,
        reranker: str | Reranker | None = None,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        lead: str | None = None,
        boundary: str | Boundary | None = None,
        end_rule: str | EndRule | None = None,
        gate: str | float | Gate | None = None,
        budget: str | int | Budget | None = None,
        prior: str | PromptPrior | None = None,
        hedge: float | None = None,
        num_samples: int | None = None,
        strategy: str | None = None,
        mixing: str | MixingRule | None = None,
        route: str | None = None,
        speculation: bool = True,
        drafter: str | Path | None = None,
        device: str | Sequence[str] | None = None,
        dtype: str | Sequence[str] | None = None,
        trust_remote_code: bool = False,
        lossy_ok: bool = False,
        model_options: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> FusionModel:
        """Load sources from folders or hub ids; with no models named, the built-in ones.

        ``models`` may be a fusion file (``fusion.toml``, or the folder it is in), which says all
        that follows about the fusion; so does ``config`` beside other models. What is given here
        replaces what the file says. ``names`` label the sources (default: the last part of each
        path). ``preset`` is "default" (if none is given) or "paper"; ``reranker``, ``weights`` (by
        name or in order), ``lead`` and ``boundary`` replace parts of it, and ``end_rule``,
        ``gate``, ``budget``, ``prior``, ``hedge`` and ``num_samples`` are those of
        ``make_recipe``. With the ``strategy`` "mixture" (default: "segments"), of these only
        ``weights`` and ``prior`` mean anything; ``mixing`` names the rule and ``route`` is "auto",
        "tokens" or "bytes". ``device`` and ``dtype`` hold for all sources or are given one each.
        ``speculation`` lets sources guess ahead for one another and ``drafter`` names a further
        model to guess for them; neither changes any text. ``progress`` is called with (name, how
        many are loaded, of how many). Raises ``UsageError`` for what cannot be done as asked.
        """
        settled = settled_options(
            models,
            config,
            names=names,
            preset=preset,
            reranker=reranker,
            weights=weights,
            lead=lead,
            boundary=boundary,
            end_rule=end_rule,
            gate=gate,
            budget=budget,
            prior=prior,
            hedge=hedge,
            num_samples=num_samples,
            strategy=strategy,
            mixing=mixing,
            route=route,
        )
        paths = list(settled.pop("models", None) or builtin_paths())
        plan = check_fusion_options(paths, drafter=drafter, **settled)
        if drafter is not None and not speculation:
            raise UsageError(
                "A drafter only guesses ahead. Switch speculation on, or leave it out."
            )
        devices, dtypes = _each(device, len(paths), "device"), _each(dtype, len(paths), "dtype")
        from coolfusion.backends.huggingface import load_source

        load = partial(
            load_source, trust_remote_code=trust_remote_code, model_options=model_options
        )
        places = list(zip(devices, dtypes, strict=True))
        sources = []
        for number, (path, label) in enumerate(zip(paths, plan.names, strict=True)):
            if progress is not None:
                progress(label, number, len(paths))
            where, kind = places[number]
            sources.append(load(path, label, device=where, dtype=kind, lossy_ok=lossy_ok))
        if progress is not None:
            progress("", len(paths), len(paths))
        guessing = Speculation()
        if drafter is not None:
            where, kind = places[0]
            guessing = Speculation(
                load(drafter, "drafter", device=where, dtype=kind, lossy_ok=True)
            )
        return cls(
            sources,
            plan.recipe,
            speculation=guessing if speculation else None,
            strategy=plan.strategy,
            mixture=plan.mixture,
        )

    def generate(
        self, prompt: Prompt, *, strategy: str | None = None, **settings: Any
    ) -> Generation:
        """One response, by the fusion's strategy or another. ``settings`` are those of ``request``."""
        return self.decoder_for(strategy).generate(prompt, request(**settings))

    def stream(
        self, prompt: Prompt, *, strategy: str | None = None, **settings: Any
    ) -> Iterator[Step]:
        """Steps as they are committed; their ``text``s join to the response."""
        return self.decoder_for(strategy).stream(prompt, request(**settings))

    def n_best(self, prompt: Prompt, width: int = 4, **settings: Any) -> list[Ranked]:
        """Up to ``width`` distinct responses by beam search, the best first."""
        return BeamSearch(self.decoder, width).generate(prompt, request(**settings))

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_rows: int = MAX_ROWS,
        max_batch_tokens: int = MAX_TOKENS,
        strategy: str | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """One response per prompt, each the same as ``generate`` would give.

        At most ``max_rows`` are decoded side by side, fewer where their prompts and
        ``max_new_tokens`` together exceed ``max_batch_tokens``.
        """
        return self.decoder_for(strategy).generate_batch(
            prompts, request(**settings), max_rows=max_rows, max_tokens=max_batch_tokens
        )


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """What options say of a fusion: the sources' names, the strategy, and how each one works."""

    names: list[str]
    strategy: str
    recipe: Recipe
    mixture: Mixture


def check_fusion_options(
    models: Sequence[str | Path] | None,
    names: Sequence[str] | None = None,
    *,
    strategy: str | None = None,
    mixing: str | MixingRule | None = None,
    route: str | None = None,
    drafter: str | Path | None = None,
    **parts: Any,
) -> FusionPlan:
    """All that can be said of a fusion before anything is loaded, checked against each other.

    ``parts`` are keywords of ``check_recipe_options``. Raises ``UsageError`` naming the option that
    is wrong, or that does not go with the strategy.
    """
    chosen = strategy_named(strategy or SEGMENTS)
    if chosen == MIXTURE:
        check_mixture_options({**parts, "drafter": drafter})
    labels, recipe = check_recipe_options(models, names, **parts)
    mixture = make_mixture(mixing, weights=recipe.weights, prior=recipe.prior, route=route)
    return FusionPlan(labels, chosen, recipe, mixture)


def check_recipe_options(
    models: Sequence[str | Path] | None,
    names: Sequence[str] | None = None,
    *,
    weights: Mapping[str, float] | Sequence[float] | None = None,
    lead: str | None = None,
    **parts: Any,
) -> tuple[list[str], Recipe]:
    """The sources' names and the recipe, checked against each other before anything is loaded.

    ``parts`` are keywords of ``make_recipe``.
    """
    paths = list(models or builtin_paths())
    labels = list(names) if names is not None else [Path(str(path)).name for path in paths]
    if len(labels) != len(paths):
        raise UsageError(f"{len(paths)} models were given {len(labels)} names. Give one each.")
    check_names(labels)
    if weights is not None and not isinstance(weights, Mapping):
        weights = dict(zip(labels, _each(weights, len(paths), "weights"), strict=True))
    if isinstance(parts.get("reranker"), str) and lead is None and not weights:
        named_lead, named = weights_named(parts["reranker"])
    else:
        named_lead, named = lead, dict(weights or {})
    for each in [*named, *([named_lead] if named_lead else [])]:
        if each not in labels:
            raise UsageError(f'There is no source "{each}". The sources are {labels}.')
    missing = [label for label in labels if named and label not in named]
    if missing:
        raise UsageError(f'There is no weight for source "{missing[0]}". Give one to each.')
    return labels, make_recipe(weights=weights, lead_source=lead, **parts)


def request(
    *,
    max_new_tokens: int = 256,
    stop: str | Sequence[str] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    max_segment_tokens: int | None = None,
    on_source_error: str = "drop",
) -> Request:
    """A ``Request`` from the keyword arguments that generation methods take."""
    return Request(
        max_new_tokens=max_new_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        sampling=Sampling(temperature, top_k, top_p, seed),
        max_segment_tokens=max_segment_tokens,
        on_source_error=on_source_error,
    )


def _each(value: Any, count: int, what: str) -> list[Any]:
    """One value per source from a single value or a sequence of them."""
    if value is None or isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{what} has {len(value)} entries for {count} models. Give one each.")
    return list(value)
