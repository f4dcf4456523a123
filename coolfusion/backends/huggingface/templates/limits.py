"""A sandbox for chat templates that counts their work, so that each of them ends.

A template is a program of whoever made the checkpoint. Jinja's sandbox keeps it from the machine,
but not from loops and texts without measure. Here each turn of a loop, each call and each text
costs units, and a rendering has so many of them. Nothing depends on a clock or on the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, cast

import regex
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import Environment, Template
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from coolfusion.backends.huggingface.templates.meter import (
    CHARS_PER_UNIT,
    MAX_NUMBER,
    SIZED,
    Meter,
)
from coolfusion.errors import PromptError

_MAX_SOURCE = 100_000  # characters; those of great models have 30,000
_NODES_PER_UNIT = 16  # of the body of a loop
# Filters that look at the elements of their first argument, and never inside them.
_SHALLOW = frozenset(
    "select reject selectattr rejectattr map list first last length count items default d "
    "reverse random batch slice".split()
)
# Filters whose work may grow with the square of a text, and who write arguments between its words.
_SQUARE = frozenset("wordwrap urlize striptags xmlattr".split())
_CHARS_PER_UNIT_OF_SQUARE = 4096
# Tests that look inside of values.
_LOOKING = frozenset(
    "eq == equalto ne != in lt < lessthan le <= gt > greaterthan ge >= lower upper filter test".split()
)
_NUMBERS = regex.compile(r"\d+")


class _CountingCode(CodeGenerator):
    """Calls the meter as it is, and everything else through the sandbox."""

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.write(f"environment.{node.node.name}(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")")


class TemplateLimits(ImmutableSandboxedEnvironment):
    """The environment ``theirs`` with everything that is set in it, and with counted work."""

    code_generator_class = _CountingCode
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, theirs: Any) -> None:
        self.__dict__.update(theirs.__dict__)
        self.extensions = {name: each.bind(self) for name, each in theirs.extensions.items()}
        self.filters = {name: self._counted(name, each) for name, each in theirs.filters.items()}
        self.tests = {
            name: self._counted(name, each) if name in _LOOKING else each
            for name, each in theirs.tests.items()
        }
        self.globals = {name: each for name, each in theirs.globals.items() if name != "lipsum"}
        self._meter = Meter()
        self.charge, self.shown = self._meter.charge, self._meter.shown
        self.joined = self._meter.joined
        self.concat = self._concat  # type: ignore[method-assign]

    def template(self, source: str) -> LimitedTemplate:
        """``source``, compiled. Raises ``PromptError`` for one that would take long to compile."""
        if len(source) > _MAX_SOURCE:
            raise PromptError(
                f"The chat template is {len(source):,} characters long, above {_MAX_SOURCE:,}. "
                "Compiling it would take long. Use another template or a raw prompt."
            )
        compiled = self.from_string(source, template_class=LimitedTemplate)
        return cast("LimitedTemplate", compiled)

    def begin(self, messages: Any) -> None:
        """Give this thread the units of one rendering of ``messages``."""
        self._meter.begin(messages)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of a template. Sizes of texts, lists and numbers are checked beforehand."""
        self._meter.charge(1)
        if operator == "+" and isinstance(left, SIZED) and isinstance(right, SIZED):
            self._meter.check_len(len(left) + len(right))
        elif operator == "*" and not (_is_number(left) and _is_number(right)):
            sizes = [len(x) if isinstance(x, SIZED) else x for x in (left, right)]
            if all(isinstance(size, int) for size in sizes):
                self._meter.check_len(max(0, sizes[0]) * max(0, sizes[1]))
        elif operator == "%" and isinstance(left, str | bytes):
            self._check_format(str(left), "%", right)
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length()
            if operator == "*":
                bits += right.bit_length()
            self._meter.check_bits(bits)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: object) -> Any:
        """A call in a template. What a method may make of its text is paid beforehand."""
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        self._meter.charge(1)
        name = getattr(obj, "__name__", "")
        if isinstance(owner, str | bytes):
            if name == "join" and args and not isinstance(args[0], SIZED):
                args = (list(self._paid(args[0])), *args[1:])
            self._meter.shown(owner)
            self._check_arguments(name, str(owner), (*args, *kwargs.values()))
        else:
            self._meter.check_numbers((*args, *kwargs.values()))
            if not isinstance(obj, Macro | LoopContext):  # it may compare, hash or print them
                looked_at = (owner,) if name in ("count", "index") else ()
                for each in (*looked_at, *args, *kwargs.values()):
                    self._meter.shown(each)
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, SIZED):
            self._meter.check_len(len(result))
        return result

    def _generate(
        self, source: nodes.Template, name: Any, filename: Any, defer_init: bool = False
    ) -> str:
        return super()._generate(_Counting().visit(source), name, filename, defer_init)

    def _concat(self, texts: Iterable[str]) -> str:
        parts = []
        size = 0
        for text in texts:
            size += len(text)
            self._meter.check_size(size)
            self._meter.charge(1 + len(text) // CHARS_PER_UNIT)
            parts.append(text)
        return "".join(parts)

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or a test that pays for its input and its result."""

        @wraps(function)
        def counted(*args: Any, **kwargs: object) -> Any:
            self._meter.charge(1)
            given = [each for each in (*args, *kwargs.values()) if not _is_jinja(each)]
            if name == "join" and given and not isinstance(given[0], SIZED):
                at = next(k for k, each in enumerate(args) if each is given[0])
                given[0] = list(self._paid(given[0]))
                args = (*args[:at], given[0], *args[at + 1 :])
            if name in _SHALLOW:
                self._meter.check_numbers(given[1:])
                for each in given[1:]:
                    self._meter.shown(each)
                for each in given[:1]:
                    if isinstance(each, list | tuple | dict | range):
                        self._meter.charge(len(each))
            else:
                for each in given:
                    self._meter.shown(each)
                self._check_arguments(name, given[0] if given else "", tuple(given[1:]))
            result = function(*args, **kwargs)
            if isinstance(result, SIZED):
                self._meter.check_len(len(result))
            return result

        return counted

    def _paid(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._meter.shown(value)
            yield value

    def _check_arguments(self, name: str, value: Any, given: tuple[Any, ...]) -> None:
        """Pay beforehand for what a method or filter may make of a text and its arguments."""
        self._meter.check_numbers(given)
        numbers = [abs(each) for each in given if isinstance(each, int)]
        longest = max(
            [*numbers, *(len(each) for each in given if isinstance(each, str))], default=0
        )
        if name in ("format", "format_map"):
            self._check_format(str(value), "%{", given)
        elif name == "replace" and len(given) > 1:
            found = str(value).count(str(given[0])) if given[0] != "" else len(str(value)) + 1
            self._meter.check_len(len(str(value)) + found * len(str(given[1])))
        elif name == "join":
            parts = value if isinstance(value, SIZED) and name != "" else ()
            separators = [each for each in given if isinstance(each, str)]
            if isinstance(value, str) and given and not isinstance(given[0], str):
                parts, separators = _sized(given[0]), [value]
            self._meter.check_len(
                self._meter.size(parts) + len(parts) * max(map(len, separators), default=0)
            )
        elif name in ("expandtabs", "indent", "translate"):
            count = sum(map(str(value).count, "\t\n\r\v\f\u2028\u2029\x85")) + 2
            count = len(str(value)) if name == "translate" else count
            self._meter.check_len(len(str(value)) + count * max(longest, self._meter.size(given)))
        elif name in _SQUARE:
            size = self._meter.size(value)
            self._meter.charge(size**2 // _CHARS_PER_UNIT_OF_SQUARE)
            self._meter.check_len(size * (1 + longest))
        elif name == "tojson":
            self._meter.check_len(self._meter.size(value) * (1 + longest))
        else:
            self._meter.check_len(longest)

    def _check_format(self, text: str, signs: str, given: Any) -> None:
        self._meter.check_numbers(given if isinstance(given, tuple) else (given,))
        widths = [min(int(number[:9]), MAX_NUMBER + 1) for number in _NUMBERS.findall(text)]
        self._meter.check_numbers(tuple(widths))
        fields = sum(map(text.count, signs))
        numbers = [
            abs(x) for x in (given if isinstance(given, tuple) else ()) if isinstance(x, int)
        ]
        size = self._meter.size(given) + max([*widths, *numbers], default=0)
        self._meter.check_len(len(text) + fields * size)


class LimitedTemplate(Template):
    """A template each rendering of which has so many units."""

    def render(self, *args: Any, **kwargs: object) -> str:
        """The text. Raises ``PromptError`` if it takes too much."""
        cast("TemplateLimits", self.environment).begin(kwargs.get("messages"))
        return super().render(*args, **kwargs)


class _Counting(NodeTransformer):
    """Puts the counting into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        return self._with_tick(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        return self._with_tick(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        return self._with_tick(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", *node.nodes).set_lineno(node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            node.arg = _shown(node.arg)
            return node
        return _call("shown", node).set_lineno(node.lineno)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _shown(node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _shown(node.expr)
        for operand in node.ops:
            operand.expr = _shown(operand.expr)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_shown(each) for each in node.nodes]
        return node

    def _with_tick(self, node: Any) -> Any:
        size = sum(1 for _ in _all_nodes(node))
        self.generic_visit(node)
        tick = _call("charge", nodes.Const(1 + size // _NODES_PER_UNIT))
        node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
        return node


def _all_nodes(node: nodes.Node) -> Iterator[nodes.Node]:
    for child in node.iter_child_nodes():
        yield child
        yield from _all_nodes(child)


def _call(name: str, *arguments: nodes.Expr) -> nodes.Expr:
    """A call of the meter's method with this name, which the environment has, too."""
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _shown(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.TemplateData | nodes.Const):
        return node
    shown = _call("shown", node)
    shown.set_lineno(node.lineno)
    return shown


def _is_jinja(value: Any) -> bool:
    """Whether it is what jinja gives a filter beside its arguments."""
    return isinstance(value, Environment | Context | EvalContext)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _sized(value: Any) -> Any:
    return value if isinstance(value, SIZED) else ()
