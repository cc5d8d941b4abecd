"""Rendering through a model's own chat template, so that what is learned and what is given are told apart."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from distillab.data.chat_template import ChatTemplate
from distillab.data.examples import Example, Message
from distillab.data.rendering import RenderedSegment, Template
from distillab.data.special import AddedTokens, Range
from distillab.errors import DataError

# Unicode keeps these code points out of text; one of them marks special tokens that the data spells.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Chat(Template):
    """The tokenizer's chat template.

    The conversation is rendered turn by turn, each time up to where the next answer begins
    (`add_generation_prompt`) and then with that answer: what the second adds to the first is learned,
    up to and including the special token that ends the turn. A template whose rendering of a longer
    conversation does not begin with that of a shorter one cannot be split so, and is refused.

    Special tokens are the template's alone: where the data spells one, it stays text. The template is
    the whole text: a begin token is there if the template writes it, as with `apply_chat_template`.

    Args:
        date: what a template that asks for the day is told.
    Raises:
        DataError: the tokenizer's chat template is none, or goes beyond a limit.
    """

    complete = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast, date: datetime.date) -> None:
        self._template = ChatTemplate(tokenizer, date)
        self.date = date if self._template.reads_date else None
        super().__init__("chat", self._template.source + (f"\n{self.date}" if self.date else ""))
        self._added = AddedTokens(tokenizer)
        self.end_of_turn = self._find_end_of_turn()

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """A given and a learned segment for every answer.

        Raises:
            DataError: the template refuses the conversation, or rewrites earlier turns.
        """
        turns = example.messages or (Message("user", example.prompt), Message("assistant", example.answer))
        mark = self._free_mark(turns)
        marked = [{"role": turn.role, "content": self._protect(turn.content, mark)} for turn in turns]
        segments: list[RenderedSegment] = []
        done = ""
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            asked = self._text(marked[:number], ask=True, origin=example.origin)
            given = self._added_part(done, asked, example.origin)
            answered = self._text(marked[: number + 1], ask=False, origin=example.origin)
            learned = self._up_to_end(self._added_part(asked, answered, example.origin))
            segments.append(_segment(given, mark, supervised=False))
            segments.append(_segment(learned, mark, supervised=True))
            done = asked + learned
        return tuple(segments)

    def _text(self, turns: Sequence[dict[str, str]], *, ask: bool, origin: str) -> str:
        return self._template.render(turns, ask=ask, origin=origin)

    def _added_part(self, shorter: str, longer: str, origin: str) -> str:
        if longer.startswith(shorter):
            return longer[len(shorter) :]
        at = next((n for n, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))
        raise DataError(
            "The chat template rewrites earlier turns, so answers cannot be told from prompts.",
            where=f"{origin}, character {at} of the rendering",
            facts=[
                f"shorter: …{shorter[max(0, at - 30) : at + 30]!r}",
                f"longer:  …{longer[max(0, at - 30) : at + 30]!r}",
            ],
            fix="split the conversation into one row an answer, or use template: turns",
        )

    def _up_to_end(self, text: str) -> str:
        # Behind the end-of-turn token most templates write a newline, which nobody should learn.
        spans = self._added.special_strings(text)
        return text[: spans[-1][1]] if spans and not text[spans[-1][1] :].strip() else text

    def _find_end_of_turn(self) -> str | None:
        probe = Example("probe", "a probe of the chat template", "pair", "a", "b")
        learned = self.render(probe)[-1].text
        spans = self._added.special_strings(learned)
        return learned[slice(*spans[-1])] if spans and spans[-1][1] == len(learned) else None

    def _free_mark(self, turns: Sequence[Message]) -> str | None:
        """A character to protect with, or None where the data spells no special token."""
        if not any(self._added.special_strings(turn.content) for turn in turns):
            return None
        return next(mark for mark in _MARKS if not any(mark in turn.content for turn in turns))

    def _protect(self, text: str, mark: str | None) -> str:
        if mark is None:
            return text
        for start, _ in reversed(self._added.special_strings(text)):
            text = text[: start + 1] + mark + text[start + 1 :]
        return text


def _segment(text: str, mark: str | None, *, supervised: bool) -> RenderedSegment:
    literal: list[Range] = []
    if mark is not None:
        first, *others = text.split(mark)
        text = first
        for part in others:
            literal.append((len(text) - 1, len(text) + 1))
            text += part
    return RenderedSegment(text, supervised, ends_answer=supervised, literal=tuple(literal))
