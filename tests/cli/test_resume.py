"""What a command says of the settings that a resumed run must share."""

from __future__ import annotations

from coolfusion import __version__
from coolfusion.cli import parser
from coolfusion.cli.resume import brief_settings, resume_settings, with_defaults
from coolfusion.config.options import resume_settings as table_settings


def test_they_are_those_of_the_table_and_the_commands_own() -> None:
    line = ["generate", "-m", "a", "--names", "x", "--device", "cpu", "--weights", "x=2"]
    given = table_settings({"models": ["a"], "names": ["x"], "weights": {"x": 2.0}})
    settings = resume_settings(parser().parse_args([*line, "--system", "Be brief.", "--quiet"]))
    assert settings == {**given, "raw": False, "system": "Be brief."}
    assert resume_settings(parser().parse_args(line), "names").keys() == settings.keys() - {
        "names",
        "system",
    }


def test_brief_ones_are_unlike_the_defaults() -> None:
    plain = brief_settings(parser().parse_args(["generate", "--reranker", "mean_nll"]))
    assert plain == {"version": __version__, "raw": False, "reranker": "mean_nll"}


def test_brief_ones_can_be_made_whole() -> None:
    arguments = parser().parse_args(["generate", "--top-k", "3"])
    assert with_defaults(brief_settings(arguments)) == {
        "version": __version__,
        **resume_settings(arguments),
    }
