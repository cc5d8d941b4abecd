"""A Jinja sandbox for chat templates that limits their loops, output and memory.

A template is a program that comes with a tokenizer. It is compiled as by transformers, with the same filters, functions
and extensions, in a sandbox that counts every loop iteration and every character produced. Operations that can produce
too much in one step (`'x' * 10**11`, `'%1000000000d' % 1`) are checked before they run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce, wraps
from operator import add
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from distillab.data.template_slots import TESTS, Inspected, Opaque, OpaqueLength, OpaqueText, Trace, marked

LONGEST = 1 << 24  # characters of one text, items of one list
MOST_WORK = 1 << 26  # characters made by one rendering; a turn of a loop and an item written out count as more
LONGEST_S = 20.0  # of processor time
LONGEST_SOURCE = 1 << 20
_BETWEEN_LOOKS = 1 << 13  # of the work, between two looks at the clock
_TURN = 512
_ITEM = 32
_MOST_BITS = 1 << 16  # of a whole number
# These filters read a container without writing out its content.
_READ_ONLY = {"attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last", "length"}
_READ_ONLY |= {"list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select", "selectattr"}
_READ_ONLY |= {"slice", "sort", "sum", "unique"}
_WIDE_FORMAT = re.compile(r"[%:.][^%{}a-zA-Z]*?(\d{5,}|\*)|:[^{}]*\{")


class TooMuchWork(SecurityError):
    """A template exceeds a limit."""


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which a rendering has a budget.

    Args:
        like: the environment whose filters, functions and settings it takes over.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, like: Environment) -> None:
        super().__init__(
            trim_blocks=like.trim_blocks,
            lstrip_blocks=like.lstrip_blocks,
            extensions=[type(extension) for extension in like.extensions.values()],
            finalize=self._printed,
        )
        self.globals.update(like.globals)
        del self.globals["lipsum"]  # filler text of any length
        self.filters = {name: self._counted(name, function) for name, function in like.filters.items()}
        tests: dict[str, Any] = dict(like.tests)
        self.tests = {name: _answered(name, test) for name, test in tests.items()}
        self.concat = self._together  # type: ignore[method-assign, assignment]
        self.begin()

    def begin(self, trace: Trace | None = None) -> None:
        """Give the next rendering a new budget.

        Args:
            trace: of the opaque texts that it gets: what it writes with them in it is opaque too.
        """
        self._trace = trace
        self._left = self._look_at = MOST_WORK
        self._deadline: float | None = None

    def spend(self, work: int) -> None:
        """Count work.

        Raises:
            TooMuchWork: it is more than is left.
        """
        self._left -= work
        if self._left < 0:
            raise TooMuchWork(f"more than {MOST_WORK:,} characters made, or {MOST_WORK // _TURN:,} turns of loops")
        if self._left < self._look_at - _BETWEEN_LOOKS:  # reading the clock takes longer than most operations
            self._look_at, now = self._left, time.thread_time()
            self._deadline = self._deadline or now + LONGEST_S
            if now > self._deadline:
                raise TooMuchWork(f"more than {LONGEST_S:.0f} seconds")

    def turn(self) -> None:
        """Count one turn of a loop, or one call of a macro."""
        self.spend(_TURN)

    def joined(self, parts: list[Any]) -> str | OpaqueText:
        """Return `a ~ b`."""
        if any(isinstance(part, OpaqueText) for part in parts):
            return reduce(add, (part if isinstance(part, OpaqueText) else str(self._printed(part)) for part in parts))
        return self._together(str(self._printed(part)) for part in parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Run an operation whose result can be large, after checking its size."""
        if operator == "%" and isinstance(left, str):
            self._require_narrow(left, right)
            self.spend(len(left) + self._weight(right))
        elif operator == "+":
            self._require_size(_length(left) + _length(right))
        elif operator == "*":
            self._require_size(max(_length(left) * _count(right), _length(right) * _count(left)))
            self._require_bits(_bits(left) + _bits(right))
        elif operator == "**":
            self._require_bits(_bits(left) * _count(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Run a call; methods of texts and numbers, which can produce much from little, are checked first."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, BuiltinMethodType) and isinstance(owner, str | bytes | int):
            args = __self._require_modest(__obj.__name__, owner, args, kwargs)
            return __self._spent(super().call(__context, __obj, *args, **kwargs))
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `'…'.format` with a check of the field widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            self._require_narrow(value.__self__, (*args, *kwargs.values()))
            self.spend(len(value.__self__) + self._weight([args, kwargs]))
            return self._spent(wrapped(*args, **kwargs))

        return bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        changed = _Counting().visit(tree)
        assert isinstance(changed, nodes.Template)
        return changed

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # keeps the mark by which jinja passes its context first
        def counted(*args: Any, **kwargs: Any) -> Any:
            place = 1 if hasattr(function, "jinja_pass_arg") else 0
            before, value, others = args[:place], args[place : place + 1], args[place + 1 :]
            if value and not isinstance(value[0], str | Mapping | list | tuple) and name in ("join", "list"):
                value = (list(value[0]) if isinstance(value[0], Iterable) else value[0],)
            if any(isinstance(each, Opaque) for each in (*value, *others, *kwargs.values())):
                # `default` asks a text only whether it is empty
                given = (*value, *others, *kwargs.values())
                return function(*value, *others, **kwargs) if name in ("default", "d") else _filtered(name, *given)
            if name not in _READ_ONLY:
                self.spend(self._weight([*value, *others, *kwargs.values()]))
            if name == "join" and value:
                between = others[0] if others else kwargs.get("d", "")
                self._require_size(self._weight(value[0]) + _length(value[0]) * _length(between))
            elif name == "format" and value:
                self._require_narrow(str(value[0]), (*others, *kwargs.values()))
            elif name == "replace" and value:
                self._require_modest("replace", str(value[0]), others, kwargs)
            elif name not in ("default", "d", "int", "float", "sum"):
                self._require_counts((*others, *kwargs.values()))
            return self._spent(function(*before, *value, *others, **kwargs))

        return counted

    def _printed(self, value: Any) -> Any:
        """Count a value that a template writes, before it becomes text."""
        if isinstance(value, OpaqueText):
            return marked(value)
        if not isinstance(value, str):
            self.spend(self._weight(value))
        return value

    def _together(self, parts: Iterable[str]) -> str | OpaqueText:
        kept, size = [], 0
        # what a block or a filter of one has made is not printed
        for part in map(self._printed, parts):
            size += len(part)
            self._require_size(size, spend=len(part))
            kept.append(part)
        text = "".join(kept)
        return text if self._trace is None else self._trace.written(text)

    def _require_modest(self, name: str, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Refuse a method call whose result would be too large; return the arguments with iterators as lists."""
        if name == "join" and args and not isinstance(args[0], str):
            args = (list(args[0]), *args[1:])
            self._require_size(self._weight(args[0]) + len(args[0]) * len(owner))
        elif name == "replace" and isinstance(owner, str):
            old, new = (*args, *kwargs.values(), "", "")[:2]
            times = owner.count(old) if isinstance(old, str) else 0
            self._require_size(len(owner) + times * _length(new))
        elif name == "translate" and args and isinstance(args[0], Mapping):
            self._require_size(len(owner) * max(map(_length, args[0].values()), default=1))
        elif name == "expandtabs":
            self._require_size(len(owner) * max(map(_count, (*args, *kwargs.values())), default=8))
        else:
            self._require_counts((*args, *kwargs.values()))
        return args

    def _require_narrow(self, form: str, values: Any) -> None:
        """Refuse a format with very wide fields."""
        if _WIDE_FORMAT.search(form):
            raise TooMuchWork(f"a format with a field of unbounded width: {form[:80]!r}")

    def _require_counts(self, values: Iterable[Any]) -> None:
        self._require_size(max(map(_count, values), default=0))

    def _require_size(self, size: int, spend: int = 1) -> None:
        if size > LONGEST:
            raise TooMuchWork(f"a text or list of {size:,} characters or items, where {LONGEST:,} is the limit")
        self.spend(spend)

    def _require_bits(self, bits: int) -> None:
        if bits > _MOST_BITS:
            raise TooMuchWork(f"a number of {bits:,} bits, where {_MOST_BITS:,} is the limit")

    def _spent(self, made: Any) -> Any:
        self.spend(_length(made) + 1)
        return made

    def _weight(self, value: Any) -> int:
        """Return the characters of a value written out in full; counting stops at the remaining budget."""
        weight, stack = 0, [value]
        while stack and weight <= self._left:
            item = stack.pop()
            if isinstance(item, Mapping):
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, list | tuple):
                stack.extend(item)
            weight += _ITEM + (len(item) if isinstance(item, str) else 0)
        return weight


class _Counting(NodeTransformer):
    """Insert counters into every loop and macro, and replace `~` by a checked join."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._with_turn(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_turn(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return _call("joined", [parts], node.lineno)

    def _with_turn(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("turn", [], node.lineno), lineno=node.lineno))
        return node


def _answered(name: str, test: Callable[..., Any]) -> Callable[..., bool]:
    @wraps(test)  # keeps the mark by which jinja passes its environment first
    def answered(*args: Any) -> bool:
        if not any(isinstance(value, Opaque) for value in args):
            return bool(test(*args))
        if len(args) > 1 or name not in TESTS or not isinstance(args[0], OpaqueText):
            raise Inspected
        return TESTS[name]

    return answered


def _filtered(name: str, value: Any, *others: Any) -> Any:
    if others or not isinstance(value, OpaqueText) or name not in ("count", "length", "string", "trim"):
        raise Inspected
    return value if name == "string" else value.strip() if name == "trim" else OpaqueLength(value)


def _call(name: str, args: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), args, [], None, None, lineno=line)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | Mapping) else 0


def _count(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0
