"""Chat templates render what transformers renders, and end soon whatever they do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from coolfusion.backends.huggingface.templates import meter
from coolfusion.backends.huggingface.templates.rendering import template_of
from coolfusion.errors import PromptError
from coolfusion.testing.toys import toy_tokenizer
from tests.strategies import texts
from tests.tokenization.chat_templates import TEMPLATES

TURN = {"role": "user", "content": "Tom has 3 apples"}
# What templates use beside what the ten families do.
MORE = {
    "tools": "{% for m in messages %}{{ m.role }}{% if m.tool_calls %}{{ m.tool_calls | tojson(indent=2) }}"
    "{% endif %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | dictsort }}{% endfor %}{% endfor %}",
    "macro": "{% macro turn(m, mark='#') -%}{{ mark ~ m.role ~ loop }}: {{ caller() }}{% endmacro %}"
    "{% for m in messages %}{% call turn(m) %}{{ m.content }}{% endcall %}{{ turn.name }}{% endfor %}",
    "slices": "{% for m in messages[::-1] %}{{ m.content[1:-1] }}{{ loop.revindex }}{{ m.content[:3] | upper }}{% endfor %}",
    "control": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m }}{{ loop.previtem }}{% endfor %}",
    "filters": "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content | trim | title | replace('o', '0') }}"
    "{{ m | items | list }}{{ [m.content] | join(', ') }}{{ '%s-%5d' | format(m.role, 3) }}{% endfor %}"
    "{{ messages | map(attribute='role') | unique | list | length }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "sets": "{% set all %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ all | length }}{{ all.split(' ') }}",
    "sums": "{{ 2 ** 10 + 7 // 2 % 3 * 4 - 1 / 2 }}{{ 'ab' * 3 }}{{ [1] + [2] * 2 }}{{ '%05.1f' % 2.55 }}{{ -3 | abs }}",
    "tests": "{% for m in messages %}{{ m.content is string }}{{ m.content is iterable }}{{ m.x is defined }}"
    "{{ 'T' in m.content }}{{ m.content == 'x' }}{{ 1 < 2 <= 2 }}{{ m.content.startswith('T') }}{% endfor %}",
    "variables": "{{ bos_token }}{{ eos_token }}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ none_such }}",
    "recursive": "{% for x in [[1, [2]], [3]] recursive %}{{ x if x is number else loop(x) }}{% else %}-{% endfor %}",
    "namespace": "{% set ns = namespace(a=1, b='') %}{% for m in messages %}{% set ns.b = ns.b ~ m.role ~ ns.a %}{% endfor %}{{ ns.b }}",
    "cycle": "{% set c = cycler('a', 'b') %}{% for m in messages %}{{ c.next() }}{{ loop.cycle(1, 2) }}{% endfor %}{{ dict(a=1) }}",
    "fields": "{% for m in messages %}{{ '{:>5}|{}'.format(m.role, 3) }}{{ m.content.strip().splitlines() | first }}{% endfor %}",
}


@lru_cache
def loaded(template: str) -> PreTrainedTokenizerFast:
    raw = toy_tokenizer(["Tom has 3 apples"])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="<end>")
    made.chat_template = template
    return made


def rendered(template: str, messages: Sequence[Any]) -> str:
    render = template_of(loaded(template))
    assert render is not None
    return render(messages)


@pytest.mark.parametrize("name", [*TEMPLATES, *MORE])
@given(contents=st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=10)
def test_the_text_is_that_of_transformers(name: str, contents: list[str]) -> None:
    source = MORE[name] if name in MORE else TEMPLATES[name][0]
    roles = ["user", "assistant", "user"]
    messages: list[dict[str, Any]] = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    call = {
        "type": "function",
        "function": {"name": "f", "arguments": {"b": [1.5, None], "a": "é"}},
    }
    messages[0]["tool_calls"] = [call]
    goes_on = len(messages) == 2
    options = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on}
    try:
        want = loaded(source).apply_chat_template(messages, tokenize=False, **options)
    except Exception:
        want = None
    if want is not None:
        assert rendered(source, messages) == want
        return
    assert goes_on  # templates that change the last message cannot go on with it
    with pytest.raises(PromptError, match="refuses these messages"):
        rendered(source, messages)


NEST = "{% set ns = namespace(x=['a'], y=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
BIG = "{% set x = 'x ' * 999999 %}{% for i in range(99999) %}"
TUPLES = "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"
KEYS = "{% set x = [{'a': 'x' * 999999}] * 9999 %}"
BOMBS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "silent loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{% set a = f(n - 1) %}{% set b = f(n - 1) %}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "endless loop": "{% for m in [[1]] recursive %}{{ loop([m]) }}{% endfor %}",
    "a text often": BIG + "{{ x }}{% endfor %}",
    "set": "{% set y %}" + BIG + "{{ x }}{% endfor %}{% endset %}",
    "slices": BIG + "{% set y = x[1:] %}{% endfor %}",
    "filter": BIG + "{% set y = x | upper %}{% endfor %}",
    "filter block": BIG + "{% filter upper %}{{ x }}{% endfilter %}{% endfor %}",
    "method": BIG + "{% set y = x.split() %}{% endfor %}",
    "search": BIG + "{% if 'y' in x %}{% endif %}{% endfor %}",
    "maps": "{% for i in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
    "sorts": "{% for i in range(99999) %}{% set y = range(99999) | sort %}{% endfor %}",
    "slice": "{% for x in [1] | slice(999999) %}{% for y in [1] | slice(999999) %}{% endfor %}{% endfor %}",
    "times": "{{ 'x' * 10 ** 10 }}",
    "times twice": "{{ ('x' * 99999) * 99999 }}",
    "list": "{{ ([0] * 10 ** 9) | length }}",
    "doubling": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "joining": "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) > 1 }}",
    "squares": "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "center": "{{ 'x' | center(10 ** 9) }}",
    "center method": "{{ 'x'.center(10 ** 9) }}",
    "folded": "{{ 'x' | center(1000000000) | length }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "star": "{{ '%*d' % (10 ** 9, 1) }}",
    "braces": "{{ '{:1000000000}'.format(1) }}",
    "nested braces": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "format map": "{{ ('%(a)s' * 100000) % {'a': 'x' * 1000000} }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "replace method": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "join method": "{{ ('x' * 99999).join(range(99999) | map('string')) }}",
    "join of one": "{{ ''.join(([{'a': 'x' * 999999}] * 99999) | map(attribute='a')) }}",
    "indent": "{{ ('\n' * 99999) | indent(99999) }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(99999) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'x' * 99999}) }}",
    "json": "{{ [1] | tojson(indent=10 ** 9) }}",
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "round": "{{ 1.5 | round(10 ** 8, 'ceil') }}",
    "range": "{{ range(10 ** 12) | length }}",
    "lorem": "{{ lipsum(n=100000) }}",
    "nested list": NEST + "{{ ns.x }}",
    "nested equality": NEST + "{{ ns.x == ns.y }}",
    "nested json": NEST + "{{ ns.x | tojson }}",
    "nested namespace": NEST + "{{ ns }}",
    "nested values": NEST + "{{ {'a': ns.x}.values() }}",
    "nested percent": NEST + "{{ '%s' % (ns.x,) }}",
    "nested tilde": NEST + "{{ 'x' ~ ns.x }}",
    "nested test": NEST + "{{ ns.x is eq(ns.y) }}",
    "nested count": NEST + "{{ [ns.x].count(ns.y) }}",
    "nested change": NEST + "{% for x in [ns.x, ns.y] %}{{ loop.changed(x) }}{% endfor %}",
    "nested error": NEST + "{{ raise_exception(ns.x) }}",
    "nested case": NEST + "{{ ns.x is lower }}",
    "nested name": NEST + "{{ messages[0] | attr(ns.x) }}",
    "hash": TUPLES + "{% set x = {ns.x: 1} %}",
    "hash of an item": TUPLES + "{{ {}[ns.x] }}",
    "hash of an argument": TUPLES + "{{ {}.get(ns.x) }}",
    "hash of an attribute": TUPLES + "{{ [{}] | map(attribute=ns.x) | list }}",
    "hash of a name": TUPLES + "{{ ns.x is filter }}",
    "group": KEYS + "{{ x | groupby('a') | length }}",
    "sorted values": KEYS + "{% for i in range(999) %}{% set y = x[0] | dictsort(by='value') %}{% endfor %}",
    "wrap": "{{ ('x' * 999999) | wordwrap(1) | length }}",
    "wrap with": "{{ ('x ' * 9999) | wordwrap(1, true, 'y' * 9999) | length }}",
    "links": "{{ ('a.com ' * 9999) | urlize(target='x' * 9999) | length }}",
    "source": "{% if x %}" * 50_000,
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_without_measure_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MAX_UNITS", 50_000)
    with pytest.raises(PromptError, match="chat template"):
        rendered(BOMBS[name], [TURN])


def test_the_bound_holds_in_a_thread_and_is_anew_for_each_rendering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "MAX_UNITS", 50_000)
    errors = []

    def work() -> None:
        try:
            rendered(BOMBS["silent loops"], [TURN])
        except PromptError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "50,000 steps" in errors[0]
    counting = "{% for i in range(4000) %}{% endfor %}{{ messages[0].content }}"
    assert {rendered(counting, [TURN]) for _ in range(15)} == {TURN["content"]}


def test_long_chats_are_within_the_bound() -> None:
    turns = [TURN | {"content": "Tom " * 10}, {"role": "assistant", "content": "3"}] * 1000
    for source, _ in TEMPLATES.values():
        assert "Tom" in rendered(source, [*turns, TURN])
    assert "Tom" in rendered(TEMPLATES["llama3"][0], [{"role": "user", "content": "Tom " * 10**6}])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{% for %}", "Expected an expression"),
        ("{{ a.b.c }}", "'a' is undefined"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safe|unsafe"),
        ("{% include 'x' %}", "loader"),
        ("{{ 1 / 0 }}", "division"),
        ({"a": "x", "b": "y"}, "multiple chat templates"),
    ],
)
def test_faults_of_a_template_are_told(template: Any, reason: str) -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=toy_tokenizer(["Tom has"]))
    made.chat_template = template
    render = template_of(made)
    assert render is not None
    with pytest.raises(PromptError, match=reason):
        render([TURN])  # type: ignore[list-item]


def test_of_several_templates_the_default_is_used() -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=toy_tokenizer(["Tom has"]))
    made.chat_template = {"default": "({{ messages[0].content }})", "tool_use": "x"}
    render = template_of(made)
    assert render is not None
    assert render([TURN]) == "(Tom has 3 apples)"  # type: ignore[list-item]


def test_a_tokenizer_with_a_method_of_its_own_uses_it() -> None:
    class Own(PreTrainedTokenizerFast):
        def apply_chat_template(self, conversation: Any, **options: Any) -> str:
            return f"own {conversation[0]['content']} {options['add_generation_prompt']}"

    made = Own(tokenizer_object=toy_tokenizer(["Tom has"]))
    made.chat_template = "x"
    render = template_of(made)
    assert render is not None
    assert render([TURN]) == "own Tom has 3 apples True"  # type: ignore[list-item]
