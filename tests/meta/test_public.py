"""The public names are these, and all of them resolve."""

from __future__ import annotations

import pytest

import coolfusion
import coolfusion.testing

PUBLIC = """
Backend Boundary Candidate CoolfusionError Decoder DistributionBackend Distributions FusionModel Generation HuggingFaceTokenizer
LoadError LossyTokenizerError MixtureDecoder PromptError Query Recipe Request Reranker Sampling ScoreTable
Scores SegmentDecoder Source SourceError Speculation State Step StopReason Tokenizer UsageError __version__ read_trace
write_trace
""".split()
PUBLIC_TESTING = """
HOSTILE_TEXTS ConformanceError check_backend check_boundary check_reranker check_tokenizer
toy_source toy_tokenizer
""".split()


def test_the_list() -> None:
    assert sorted(coolfusion.__all__) == sorted(PUBLIC)
    assert sorted(coolfusion.testing.__all__) == sorted(PUBLIC_TESTING)
    assert set(PUBLIC) <= set(dir(coolfusion))


@pytest.mark.parametrize("name", PUBLIC)
def test_names_resolve(name: str) -> None:
    assert getattr(coolfusion, name) is not None


@pytest.mark.parametrize("name", PUBLIC_TESTING)
def test_names_for_tests_resolve(name: str) -> None:
    assert getattr(coolfusion.testing, name) is not None


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = coolfusion.nonsense
