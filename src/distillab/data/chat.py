"""Render conversations with a tokenizer's chat template, split into prompt and trained segments."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from distillab.data.chat_template import ChatTemplate
from distillab.data.examples import Example, Message
from distillab.data.rendering import RenderedSegment, Template
from distillab.data.special import AddedTokens, Range
from distillab.data.supervised_text import SupervisedText, supervised_text
from distillab.data.tool_calls import check_calls, template_turn, within
from distillab.errors import DataError

_PROBE = "probe"
_PROBING = "a probe of the chat template"
# Noncharacters of Unicode; one of them marks special tokens that are spelled in the data.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Chat(Template):
    """The tokenizer's chat template.

    The conversation is rendered turn by turn: up to the generation prompt of the next answer, then with that answer.
    The difference of the two is trained on, up to and including the end-of-turn token. A template whose rendering of a
    longer conversation does not start with that of a shorter one cannot be split this way and is refused.

    A template can change an answer: drop its reasoning, write an empty one, trim it. The rendered text is trained on,
    and `RenderedSegment.rewritten` holds how it differs from the data.

    Special tokens come from the template only: spelled in the data, they stay text. The template is the whole text: a
    begin token is there only if the template writes it, as with `apply_chat_template`.

    Tool calls and tools are passed to the template in the form that it reads. Assistant turns that are not trained on
    are part of the prompt.

    Args:
        date: the day that a template which writes the date gets.
        requires_generation_prompt: refuse a template whose rendered answer does not start with its generation prompt
            (`<think>`, for example): the student would be trained on other text than it generates. A teacher is not
            trained, so it can do without.
    Raises:
        DataError: the tokenizer's chat template is invalid, or exceeds a limit.
    """

    complete, keeps_text = True, False

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, date: datetime.date, *, requires_generation_prompt: bool = True
    ) -> None:
        self._template = ChatTemplate(tokenizer, date)
        self.date = date if self._template.reads_date else None
        super().__init__("chat", self._template.source + (f"\n{self.date}" if self.date else ""))
        self._added = AddedTokens(tokenizer)
        self._requires_generation_prompt = requires_generation_prompt
        self._opening, self.end_of_turn = self._find_ends()

    @property
    def identity(self) -> tuple[str | bool, ...]:
        """Return all that decides how an example is rendered, besides the tokenizer."""
        return (self.sha256, self._requires_generation_prompt)

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return a prompt segment and a trained segment for every answer that is trained on.

        Raises:
            DataError: the template refuses the conversation, rewrites earlier turns, starts an answer with other text
                than its generation prompt, or leaves out tools or calls.
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
            prompt = self._text(marked[:number], generation_prompt=True, origin=example.origin, tools=tools)
            if not prompt.startswith(done):
                raise _rewrites(done, prompt, example.origin)
            whole = self._text(marked[: number + 1], generation_prompt=False, origin=example.origin, tools=tools)
            opening = "" if whole.startswith(prompt) else self._opening
            if opening and not self._requires_generation_prompt:
                prompt = prompt.removesuffix(opening)
            if not whole.startswith(prompt):
                raise _other_generation_prompt(prompt, whole, example.origin)
            answer = self._up_to_end(whole[len(prompt) :])
            text, literal = _unmarked(prompt[len(done) :], mark)
            segments.append(RenderedSegment(text, supervised=False, literal=literal, opening=opening))
            segments.append(self._learned_segment(answer, turn, mark))
            done = prompt + answer
        if tools or any(turn.tool_calls for turn in turns):
            check_calls(done if mark is None else done.replace(mark, ""), turns, example)
        return tuple(segments)

    def _text(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool,
        origin: str,
        tools: Sequence[Any] | None = None,
    ) -> str:
        return self._template.render(turns, add_generation_prompt=generation_prompt, origin=origin, tools=tools)

    def _learned_segment(self, text: str, turn: Message, mark: str | None) -> RenderedSegment:
        rendered = text
        for start, end in reversed(self._added.special_strings(text)):
            rendered = rendered[:start] + rendered[end:]
        rendered = rendered if mark is None else rendered.replace(mark, "")
        # The template decides how a call is written, so nothing of it counts as removed or added.
        found = SupervisedText(rendered) if turn.tool_calls else supervised_text(turn.content, rendered)
        text, literal = _unmarked(text, mark)
        return RenderedSegment(text, supervised=True, ends_answer=True, literal=literal, rewritten=found)

    def _up_to_end(self, text: str) -> str:
        # Most templates write a newline after the end-of-turn token, which is not trained on.
        spans = self._added.special_strings(text)
        return text[: spans[-1][1]] if spans and not text[spans[-1][1] :].strip() else text

    def _find_ends(self) -> tuple[str, str | None]:
        """Return the text that only the generation prompt opens an answer with, and the end-of-turn token."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
        prompt = self._text(turns[:1], generation_prompt=True, origin=_PROBING)
        head, _, tail = self._text(turns, generation_prompt=False, origin=_PROBING).rpartition(_PROBE)
        behind = self._up_to_end(tail)
        spans = self._added.special_strings(behind)
        end = behind[slice(*spans[-1])] if spans and spans[-1][1] == len(behind) else None
        return (prompt.removeprefix(head) if prompt.startswith(head) else ""), end

    def _free_mark(self, texts: Sequence[str]) -> str | None:
        """Return a character to protect with, or None if no special token is spelled in the data."""
        if not any(self._added.special_strings(text) for text in texts):
            return None
        return next(mark for mark in _MARKS if not any(mark in text for text in texts))

    def _protect(self, text: str, mark: str | None) -> str:
        if mark is None:
            return text
        for start, _ in reversed(self._added.special_strings(text)):
            text = text[: start + 1] + mark + text[start + 1 :]
        return text


def _rewrites(done: str, prompt: str, origin: str) -> DataError:
    at = _differ_at(done, prompt)
    return DataError(
        "The chat template rewrites earlier turns, so prompts and answers cannot be separated.",
        where=f"{origin}, character {at} of the rendering",
        facts=[f"shorter: …{_around(done, at)}", f"longer:  …{_around(prompt, at)}"],
        fix="train on the last answer only (data.supervised_answers: last), or use template: turns",
    )


def _other_generation_prompt(prompt: str, whole: str, origin: str) -> DataError:
    """Return the error for a template with `<think>`, for example, in its generation prompt but not in the answer."""
    at = _differ_at(prompt, whole)
    return DataError(
        "The chat template starts answers with other text than its generation prompt, so the student would be trained "
        "on other text than it generates.",
        where=f"{origin}, character {at} of the rendering",
        facts=[f"generation prompt: …{_around(prompt, at)}", f"answer:            …{_around(whole, at)}"],
        fix="write your own template with {prompt}, or use template: turns; or, if the template keeps "
        f"{prompt[at:]!r}, start every answer with it",
    )


def _differ_at(shorter: str, longer: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 30) : at + 30])


def _unmarked(text: str, mark: str | None) -> tuple[str, tuple[Range, ...]]:
    """Return a text without marks, and the ranges in which special tokens are spelled by the data."""
    literal: list[Range] = []
    if mark is not None:
        first, *others = text.split(mark)
        text = first
        for part in others:
            literal.append((len(text) - 1, len(text) + 1))
            text += part
    return text, tuple(literal)
