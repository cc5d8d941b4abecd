"""Rendering through a model's own chat template, so that what is learned and what is given are told apart."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerFast

from distillab.data.chat_template import ChatTemplate
from distillab.data.examples import Example, Message
from distillab.data.learned import Learned, learned
from distillab.data.rendering import RenderedSegment, Template
from distillab.data.special import AddedTokens, Range
from distillab.data.tool_calls import check_calls, template_turn, within
from distillab.errors import DataError

_PROBE = "probe"
_PROBING = "a probe of the chat template"
# Unicode keeps these code points out of text; one of them marks special tokens that the data spells.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Chat(Template):
    """The tokenizer's chat template.

    The conversation is rendered turn by turn, each time up to where the next answer begins
    (`add_generation_prompt`) and then with that answer: what the second adds to the first is learned,
    up to and including the special token that ends the turn. A template whose rendering of a longer
    conversation does not begin with that of a shorter one cannot be split so, and is refused.

    A template may change an answer: drop its reasoning, write an empty one, trim it. What it renders is learned, and
    how that differs from the data's answer stands in the segment (`RenderedSegment.rewritten`).

    Special tokens are the template's alone: where the data spells one, it stays text. The template is
    the whole text: a begin token is there if the template writes it, as with `apply_chat_template`.

    Tool calls and tools are given to the template in the form that it reads. Assistant turns that are not learned are
    part of what is given.

    Args:
        date: the day that a template which writes the date gets.
        requires_generation_prompt: refuse a template whose rendered answer does not start with its generation prompt
            (`<think>`, for example): the student would be trained on other text than it generates. A teacher is not
            trained, so it can do without.
    Raises:
        DataError: the tokenizer's chat template is none, or goes beyond a limit.
    """

    complete = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, date: datetime.date, *, requires_generation_prompt: bool = True
    ) -> None:
        self._template = ChatTemplate(tokenizer, date)
        self.date = date if self._template.reads_date else None
        super().__init__("chat", self._template.source + (f"\n{self.date}" if self.date else ""))
        self._added = AddedTokens(tokenizer)
        self._requires_generation_prompt = requires_generation_prompt
        self._opening, self.end_of_turn = self._find_ends()

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """A given and a learned segment for every answer that is learned.

        Raises:
            DataError: the template refuses the conversation, rewrites earlier turns, begins an answer otherwise
                than it asks for one, or leaves out tools or calls.
        """
        turns = example.messages or (Message("user", example.prompt), Message("assistant", example.answer))
        mark = self._free_mark([*(turn.text for turn in turns), example.tools])
        marked = [template_turn(turn, lambda text: self._protect(text, mark)) for turn in turns]
        tools = within(json.loads(example.tools), lambda text: self._protect(text, mark)) if example.tools else None
        segments: list[RenderedSegment] = []
        done = ""
        for number, turn in enumerate(turns):
            if not turn.is_answer:
                continue
            asked = self._text(marked[:number], ask=True, origin=example.origin, tools=tools)
            if not asked.startswith(done):
                raise _rewrites(done, asked, example.origin)
            answered = self._text(marked[: number + 1], ask=False, origin=example.origin, tools=tools)
            opening = "" if answered.startswith(asked) else self._opening
            if opening and not self._requires_generation_prompt:
                asked = asked.removesuffix(opening)
            if not answered.startswith(asked):
                raise _begins_otherwise(asked, answered, example.origin)
            answer = self._up_to_end(answered[len(asked) :])
            segments.append(replace(_segment(asked[len(done) :], mark), opening=opening))
            segments.append(self._learned_segment(answer, turn, mark))
            done = asked + answer
        if tools or any(turn.tool_calls for turn in turns):
            check_calls(done if mark is None else done.replace(mark, ""), turns, example)
        return tuple(segments)

    def _text(
        self, turns: Sequence[Mapping[str, Any]], *, ask: bool, origin: str, tools: Sequence[Any] | None = None
    ) -> str:
        return self._template.render(turns, ask=ask, origin=origin, tools=tools)

    def _learned_segment(self, text: str, turn: Message, mark: str | None) -> RenderedSegment:
        rendered = text
        for start, end in reversed(self._added.special_strings(text)):
            rendered = rendered[:start] + rendered[end:]
        rendered = rendered if mark is None else rendered.replace(mark, "")
        # How a call is written is the template's, so nothing of it counts as cut or added.
        found = Learned(rendered) if turn.tool_calls else learned(turn.content, rendered)
        return replace(_segment(text, mark), supervised=True, ends_answer=True, rewritten=found)

    def _up_to_end(self, text: str) -> str:
        # Behind the end-of-turn token most templates write a newline, which nobody should learn.
        spans = self._added.special_strings(text)
        return text[: spans[-1][1]] if spans and not text[spans[-1][1] :].strip() else text

    def _find_ends(self) -> tuple[str, str | None]:
        """What the template opens an answer with only where it asks for one, and the special token that ends one."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        asked = self._text(turns[:1], ask=True, origin=_PROBING)
        head, _, tail = self._text(turns, ask=False, origin=_PROBING).rpartition(_PROBE)
        behind = self._up_to_end(tail)
        spans = self._added.special_strings(behind)
        end = behind[slice(*spans[-1])] if spans and spans[-1][1] == len(behind) else None
        return (asked.removeprefix(head) if asked.startswith(head) else ""), end

    def _free_mark(self, texts: Sequence[str]) -> str | None:
        """A character to protect with, or None where the data spells no special token."""
        if not any(self._added.special_strings(text) for text in texts):
            return None
        return next(mark for mark in _MARKS if not any(mark in text for text in texts))

    def _protect(self, text: str, mark: str | None) -> str:
        if mark is None:
            return text
        for start, _ in reversed(self._added.special_strings(text)):
            text = text[: start + 1] + mark + text[start + 1 :]
        return text


def _rewrites(done: str, asked: str, origin: str) -> DataError:
    at = _differ_at(done, asked)
    return DataError(
        "The chat template rewrites earlier turns, so answers cannot be told from prompts.",
        where=f"{origin}, character {at} of the rendering",
        facts=[f"shorter: …{_around(done, at)}", f"longer:  …{_around(asked, at)}"],
        fix="learn the last answer of a conversation alone (data.learned_answers: last), or use template: turns",
    )


def _begins_otherwise(asked: str, answered: str, origin: str) -> DataError:
    """A template that asks with `<think>` and then writes the answer without one, say."""
    at = _differ_at(asked, answered)
    return DataError(
        "The chat template begins the answer otherwise than it asks for one, so what is learned would not go on from "
        "what is asked.",
        where=f"{origin}, character {at} of the rendering",
        facts=[f"it asks with: …{_around(asked, at)}", f"the answer:   …{_around(answered, at)}"],
        fix="write the template yourself, with {prompt}, or use template: turns; where the template keeps "
        f"{asked[at:]!r}, begin every answer by it",
    )


def _differ_at(shorter: str, longer: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 30) : at + 30])


def _segment(text: str, mark: str | None) -> RenderedSegment:
    literal: list[Range] = []
    if mark is not None:
        first, *others = text.split(mark)
        text = first
        for part in others:
            literal.append((len(text) - 1, len(text) + 1))
            text += part
    return RenderedSegment(text, supervised=False, literal=tuple(literal))
