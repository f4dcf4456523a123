"""Encoder-decoder checkpoints as sources: loading, prompts, and fusing them with a decoder."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from coolfusion import FusionModel, Query, Request, SegmentDecoder, Source, StopReason
from coolfusion.backends.huggingface import EncoderDecoderBackend, load_source
from coolfusion.decoding.answers.rerank import rerank_answers
from coolfusion.decoding.segments.recipe import make_recipe
from coolfusion.errors import LoadError, LossyTokenizerError, PromptError, UsageError
from coolfusion.testing import check_tokenizer, toy_source
from coolfusion.tokenization.prompts import Prompt
from tests.encoder_decoders import PAIRS, make_model, reading_tokenizer, trained_folder

ENGLISH = [f"{source} means: {target}" for source, target in PAIRS]
REQUEST = Request(max_new_tokens=24)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("mt") / "mt")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def mt(folder: Path) -> Source:
    return load_source(folder, "mt")


@pytest.fixture(scope="session")
def llm() -> Source:
    return toy_source("llm", ENGLISH, order=6)


def change(folder: Path, file: str, **values: object) -> None:
    path = folder / file
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**held, **values}))


def prompts_of(source: str) -> Prompt:
    return {"mt": source, "llm": f"{source} means:"}


def test_the_configuration_says_what_kind_it_is(mt: Source) -> None:
    assert isinstance(mt.backend, EncoderDecoderBackend)
    check_tokenizer(mt.tokenizer)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_alone_it_says_what_its_own_generate_says(
    mt: Source, folder: Path, source: str, target: str
) -> None:
    ours = SegmentDecoder([mt]).generate(source, REQUEST)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = model.generate(**tokenizer([source], return_tensors="pt"), max_new_tokens=24)[0]
    assert ours.text.strip() == tokenizer.decode(ids, skip_special_tokens=True).strip() == target


def test_the_same_model_twice_says_the_same(mt: Source) -> None:
    twin = Source("twin", mt.tokenizer, mt.backend)
    for source, _ in PAIRS:
        alone = SegmentDecoder([mt]).generate(source, REQUEST)
        assert SegmentDecoder([mt, twin]).generate(source, REQUEST).text == alone.text


def test_it_is_fused_with_a_decoder(mt: Source, llm: Source) -> None:
    decoder = SegmentDecoder([mt, llm])
    for source, target in PAIRS:
        generation = decoder.generate(prompts_of(source), REQUEST)
        assert generation.text == f" {target}"
        assert not generation.warnings


@pytest.mark.parametrize(
    "recipe", [make_recipe(), make_recipe("paper"), make_recipe(prior="prompt")]
)
def test_batches_and_guesses_change_nothing(mt: Source, llm: Source, recipe: object) -> None:
    prompts = [prompts_of(source) for source, _ in PAIRS]
    prompts.append(prompts_of("der kind isst schläft"))
    together = SegmentDecoder([mt, llm], recipe).generate_batch(prompts, REQUEST)
    alone = [
        SegmentDecoder([mt, llm], recipe, speculation=None).generate(p, REQUEST) for p in prompts
    ]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.stop_reason for each in together] == [each.stop_reason for each in alone]


def test_whole_answers_are_reranked(mt: Source, llm: Source) -> None:
    rankings = rerank_answers(SegmentDecoder([mt, llm]), [prompts_of(s) for s, _ in PAIRS], REQUEST)
    assert [ranking.text.strip() for ranking in rankings] == [target for _, target in PAIRS]
    assert not any(ranking.dropped for ranking in rankings)


def test_a_prefix_has_encoder_ids_then_the_start(mt: Source, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prefix = mt.tokenizer.encode_prompt("der hund isst")
    read, start = mt.backend.sides.split(prefix)
    assert list(read) == tokenizer("der hund isst").input_ids
    assert read[-1] in mt.tokenizer.end_ids
    assert start == (0,)
    assert all(mt.tokenizer.piece(token) is None for token in prefix[: len(read)])


def test_the_start_is_followed_by_what_is_forced(copied: Path) -> None:
    change(copied, "generation_config.json", decoder_start_token_id=3, forced_bos_token_id=7)
    source = load_source(copied, "mt")
    assert source.tokenizer.encode_prompt("der hund")[-2:] == (3, 7)


def test_a_model_without_a_start_is_refused(copied: Path) -> None:
    for file in ("generation_config.json", "config.json"):
        change(copied, file, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(LoadError, match="decoder_start_token_id"):
        load_source(copied, "mt")


def test_special_tokens_in_a_sentence_stay_text(mt: Source) -> None:
    plain, typed = (mt.tokenizer.encode_prompt(text) for text in ("der hund", "der <end> hund"))
    end = min(mt.tokenizer.end_ids)
    sides = mt.backend.sides
    assert sides.split(plain)[0].count(end) == sides.split(typed)[0].count(end) == 1


def test_bad_prompts(mt: Source, llm: Source) -> None:
    with pytest.raises(PromptError, match="prompt of its own"):
        SegmentDecoder([mt]).generate([{"role": "user", "content": "der hund"}])
    with pytest.raises(PromptError, match="empty"):
        SegmentDecoder([mt]).generate("")
    with pytest.raises(PromptError, match="lone surrogate"):
        SegmentDecoder([mt]).generate("der \ud800 hund")


def test_both_sides_are_as_long_as_they_are(tmp_path: Path) -> None:
    tokenizer = reading_tokenizer([text for pair in PAIRS for text in pair], "characters")
    model = make_model("bart", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    only = tokenizer.convert_tokens_to_ids("a")
    model.generation_config.bad_words_ids = [[i] for i in range(len(tokenizer)) if i != only]
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "short")
    source = load_source(tmp_path / "short", "short")
    with pytest.raises(PromptError, match="encoder that takes 64"):
        source.tokenizer.encode_prompt("der hund isst die katze " * 30)
    generation = SegmentDecoder([source]).generate("der hund", Request(max_new_tokens=100))
    assert generation.stop_reason is StopReason.CONTEXT_LENGTH
    assert generation.text == "a" * 63


def test_slow_tokenizers_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        backend_tokenizer = None

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(LoadError, match="Convert it to a fast tokenizer"):
        load_source(copied, "mt")


def test_a_lossy_decoder_side_is_refused(copied: Path) -> None:
    path = copied / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    path.write_text(json.dumps(spec))
    with pytest.raises(LossyTokenizerError, match="capital letters"):
        load_source(copied, "mt")
    assert load_source(copied, "mt", lossy_ok=True).tokenizer.losses


def test_from_pretrained(folder: Path) -> None:
    fusion = FusionModel.from_pretrained([folder], names=["mt"])
    source, target = PAIRS[0]
    assert fusion.generate({"mt": source}).text.strip() == target
    assert fusion.generate({"*": source}).text.strip() == target
    assert [step.text for step in fusion.stream({"mt": source})]
    assert fusion.n_best({"mt": source}, 2)[0].generation.text.strip() == target
    assert fusion.generate_batch([{"mt": source}, source])[0].text.strip() == target
    with pytest.raises(UsageError, match="no such source"):
        fusion.generate({"mt": source, "llm": source})


def test_half_precision_loads_and_scores(folder: Path) -> None:
    source = load_source(folder, "mt", dtype="bfloat16")
    (scores,) = source.backend.score([Query(source.tokenizer.encode_prompt("der hund"), (5,))])
    assert scores.log_probs[0] < 0
    assert source.backend._model.dtype == torch.bfloat16


def test_what_the_encoder_reads_has_no_perplexity(mt: Source, llm: Source) -> None:
    from coolfusion.decoding.answer_cache import AnswerCache
    from coolfusion.decoding.scheduler import run
    from coolfusion.decoding.source_view import SourceView
    from coolfusion.decoding.source_weights import read_prompt

    view = SourceView(0, mt, mt.tokenizer.encode_prompt("der hund isst"))
    reading = run(read_prompt(view), [AnswerCache(mt.backend)])
    assert math.isnan(reading.bits_per_byte)
    assert reading.usage.num_forwarded == 0
    decoder = SegmentDecoder([mt, llm], make_recipe(prior="prompt"))
    state, _ = decoder.step(decoder.start(prompts_of("der hund isst"), REQUEST))
    assert state.active == (0, 1)
    assert state.log_weights == pytest.approx([math.log(0.5)] * 2)


def test_it_is_mixed_with_a_decoder(mt: Source, llm: Source) -> None:
    from coolfusion.decoding.mixture.decoder import MixtureDecoder

    decoder = MixtureDecoder([mt, llm])
    for source, target in PAIRS:
        assert decoder.generate(prompts_of(source), REQUEST).text == f" {target}"
