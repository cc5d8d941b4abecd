"""Render a tokenizer's chat template within limits, and with a fixed date instead of today's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

from distillab.data.template_limits import LONGEST_SOURCE, LimitedEnvironment, TooMuchWork
from distillab.data.template_slots import OPEN, Inspected, Slots, Trace
from distillab.errors import DataError

_CLOCK = "strftime_now"  # how transformers calls the clock of a template
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_LONGEST_FILLED = 1 << 20  # characters; a longer conversation is rendered within the limits
_MOST_STRUCTURES = 10_000
_MOST_FORMS = 8  # of a structure; they are tried one after the other
_LIMIT_FIX = "use template: turns, or repair the tokenizer's chat_template"


class ChatTemplate:
    """The chat template of a tokenizer, rendered as by `apply_chat_template`, but at midnight of a fixed date.

    Attributes:
        source: its text.
        reads_date: whether it reads the date at all.
    Raises:
        DataError: it cannot be compiled, or is too long.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, date: datetime.date) -> None:
        self.source = tokenizer.get_chat_template()
        self._where = tokenizer.name_or_path
        self._special_tokens = tokenizer.special_tokens_map
        if len(self.source) > LONGEST_SOURCE:
            raise self._error("The chat template is too long.", f"{len(self.source):,} characters", _LIMIT_FIX)
        # transformers' filters, functions and extensions; from an empty template, because compiling folds constants
        self._environment = LimitedEnvironment(_compile_jinja_template("").environment)
        midnight = datetime.datetime.combine(date, datetime.time())
        try:
            tree = self._environment.parse(self.source)
            self.reads_date = any(node.name == _CLOCK for node in tree.find_all(nodes.Name))
            # escaping would change the texts
            self._fills = tree.find(nodes.EvalContextModifier) is None and OPEN not in self.source
            self._slots: dict[tuple[object, ...], list[Slots]] = {}
            self._template = self._environment.from_string(self.source, globals={_CLOCK: midnight.strftime})
        except (TemplateError, RecursionError) as error:
            raise self._error("The chat template cannot be compiled.", str(error), _LIMIT_FIX) from error

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        origin: str,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """Return the text of a conversation.

        Args:
            turns: role, content and optional tool calls.
            add_generation_prompt: end with the start of the next answer.
            origin: of the conversation, for messages.
            tools: the tools of the conversation.
        Raises:
            DataError: the template refuses the conversation, fails on it, or exceeds a limit.
        """
        texts = [turn["content"] for turn in turns]
        plain = not tools and all(len(turn) == 2 for turn in turns) and sum(map(len, texts)) < _LONGEST_FILLED
        structure = (*(turn["role"] for turn in turns), add_generation_prompt)
        forms = self._slots.get(structure, []) if plain else []
        for form in forms:
            if (filled := form.filled(texts)) is not None:
                return filled
        text = self._rendered(turns, add_generation_prompt=add_generation_prompt, origin=origin, tools=tools)
        if plain and self._fills and len(self._slots) < _MOST_STRUCTURES and len(forms) < _MOST_FORMS:
            self._learn(structure, texts, text)
        return text

    def _learn(self, structure: tuple[object, ...], texts: Sequence[str], text: str) -> None:
        """Keep what the template does with the texts, if all of it is recorded."""
        *roles, generation_prompt = structure
        trace = Trace(texts)
        opaque = [{"role": role, "content": one} for role, one in zip(roles, trace.opaque(), strict=True)]
        self._environment.begin(trace)
        try:
            form = Slots(self._template.render(self._variables(opaque, generation_prompt, tools=None)), trace.steps)
        except (Inspected, TemplateError, *_FAILURES):
            self._fills = False
            return
        self._fills = form.filled(texts) == text
        if self._fills:
            self._slots.setdefault(structure, []).append(form)

    def _variables(
        self, turns: Sequence[Mapping[str, Any]], add_generation_prompt: object, *, tools: Sequence[Any] | None
    ) -> dict[str, Any]:
        return {
            "messages": [dict(turn) for turn in turns],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
        }

    def _rendered(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        origin: str,
        tools: Sequence[Any] | None,
    ) -> str:
        roles = f"roles: {', '.join(turn['role'] for turn in turns)}"
        self._environment.begin()
        try:
            return self._template.render(self._variables(turns, add_generation_prompt, tools=tools))
        except TooMuchWork as error:
            rule = "The chat template does more work than any conversation needs, and was stopped."
            raise self._error(rule, str(error), _LIMIT_FIX) from error
        except TemplateError as error:
            raise DataError(
                "The chat template refuses the conversation.",
                where=origin,
                facts=[str(error), roles],
                fix="change the row, or use data.template: turns",
            ) from error
        except _FAILURES as error:
            raise DataError(
                "The chat template fails on the conversation.",
                where=origin,
                facts=[f"{type(error).__name__}: {str(error)[:200]}", roles],
                fix=_LIMIT_FIX,
            ) from error

    def _error(self, rule: str, fact: str, fix: str) -> DataError:
        return DataError(rule, where=f"chat template of {self._where}", facts=[fact], fix=fix)
