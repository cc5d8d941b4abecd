"""Render an example as text, split into prompt segments and supervised segments.

Teacher and student read the same rendered text, each with its own tokenizer.
"""

from __future__ import annotations

import datetime
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

from distillab.data.examples import Example, Message
from distillab.data.special import Range
from distillab.data.supervised_text import SupervisedText
from distillab.data.tool_calls import require_no_calls

# Stanford Alpaca (Taori et al. 2023), with the newline after "### Response:" that MiniLLM's data has.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
_ALPACA_CONTEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:\n"
)
_TURN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class RenderedSegment:
    """A segment of the rendered text.

    Attributes:
        text: the characters, exactly as both models read them.
        supervised: whether its tokens are trained on.
        ends_answer: an answer ends with this segment; if it does not end in a special token, EOS is appended.
        literal: character ranges from the data, in which special tokens are plain text.
        opening: text that the generation prompt adds after this segment, but a rendered answer does not start with.
        rewritten: how a template changed the answer; None: `text` is from the data.
    """

    text: str
    supervised: bool
    ends_answer: bool = False
    literal: tuple[Range, ...] = ()
    opening: str = ""
    rewritten: SupervisedText | None = None

    @property
    def supervised_text(self) -> SupervisedText:
        """Return the text of a supervised segment without special tokens of the template."""
        return self.rewritten or SupervisedText(self.text)


class Template(ABC):
    """Base class of the templates.

    Attributes:
        name: plain, chat, alpaca, turns or custom.
        sha256: hash of the name and the template's text.
        complete: the rendering holds all special tokens, so no begin token is added.
        end_of_turn: special token that ends a rendered answer; None: EOS is appended.
        date: the date that the template writes; None if it writes none.
        keeps_text: prompts and answers are written as they are, and nothing is written between the two that only
            generation starts from.
    """

    complete = False
    end_of_turn: str | None = None
    date: datetime.date | None = None
    keeps_text = True

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()

    @property
    def ends(self) -> tuple[str, ...]:
        """Return the special tokens that can end a rendered answer."""
        return () if self.end_of_turn is None else (self.end_of_turn,)

    @property
    def identity(self) -> tuple[str | bool, ...]:
        """Return all that decides how an example is rendered, besides the tokenizer."""
        return (self.sha256,)

    def of(self, example: Example) -> Template:
        """Return the template that renders an example."""
        return self

    @abstractmethod
    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return the whole text in segments; the last one ends the final answer.

        Raises:
            DataError: the example cannot be rendered (chat templates only).
        """

    def prompt_segments(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return the segments before the final answer, with the generation prompt."""
        *earlier, last = self.render(example)[:-1]
        return (*earlier, replace(last, text=last.text + last.opening))

    def render_prompt(self, example: Example) -> str:
        """Return the text that generation starts from; it ends exactly where the answer begins."""
        return "".join(segment.text for segment in self.prompt_segments(example))


class PlainText(Template):
    """Plain text, all of it supervised."""

    def __init__(self) -> None:
        super().__init__("plain", "{text}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return prompt share and remainder, both supervised."""
        return (_data(example.prompt, supervised=True), _answer(example.answer))


class PlainPair(Template):
    """The prompt, a newline (unless the prompt ends in a space or newline), the answer."""

    def __init__(self) -> None:
        super().__init__("plain", "{prompt}\n{answer}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return prompt and answer."""
        border = "" if example.prompt[-1:].isspace() else "\n"
        return (_data(example.prompt + border), _answer(example.answer))


class Alpaca(Template):
    """The Alpaca template, with and without an input."""

    def __init__(self) -> None:
        super().__init__("alpaca", _ALPACA + _ALPACA_CONTEXT)

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return instruction, input if there is one, and answer."""
        form = _ALPACA_CONTEXT if example.context else _ALPACA
        # not str.format, which would read braces of the data as fields
        before, _, behind = form.partition("{instruction}")
        middle, _, end = behind.partition("{context}")
        prompt = before + example.instruction + middle + (example.context + end if example.context else "")
        return (_data(prompt), _answer(example.answer))


class Turns(Template):
    """`User:` and `Assistant:` on separate lines; EOS ends every answer."""

    def __init__(self) -> None:
        super().__init__("turns", "System:\n{system}\n\nUser:\n{user}\n\nAssistant:\n{assistant}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return a prompt segment before each answer; EOS ends every answer, supervised or not.

        Raises:
            DataError: the conversation has tools.
        """
        require_no_calls(example, self.name)
        turns = example.messages or (Message("user", example.prompt), Message("assistant", example.answer))
        segments: list[RenderedSegment] = []
        text = ""
        for turn in turns:
            text += f"{_TURN_NAMES[turn.role]}:\n"
            if turn.role == "assistant":
                segments.extend((_data(text), replace(_answer(turn.content), supervised=turn.supervised)))
                text = "\n\n"
            else:
                text += f"{turn.content}\n\n"
        return tuple(segments)


class Custom(Template):
    """The user's own text around `{prompt}`. Special tokens spelled in it are encoded as special tokens."""

    def __init__(self, text: str) -> None:
        super().__init__("custom", text)
        self._fixed = text.split("{prompt}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Return the filled text and the answer."""
        text, literal = self._fixed[0], []
        for behind in self._fixed[1:]:
            literal.append((len(text), len(text) + len(example.prompt)))
            text += example.prompt + behind
        return (RenderedSegment(text, supervised=False, literal=tuple(literal)), _answer(example.answer))


class BySource(Template):
    """A template for each source of the rows.

    Args:
        templates: by `Example.template`.
    """

    def __init__(self, templates: Mapping[str, Template]) -> None:
        names = " + ".join(dict.fromkeys(template.name for template in templates.values()))
        super().__init__(names, "\n".join(f"{name!r} {one.sha256}" for name, one in templates.items()))
        self._templates = templates
        self.complete = all(one.complete for one in templates.values())
        self.keeps_text = all(one.keeps_text for one in templates.values())
        self.date = next((one.date for one in templates.values() if one.date is not None), None)

    @property
    def identity(self) -> tuple[str | bool, ...]:
        """Return those of all."""
        return (self.sha256, *(fact for one in self._templates.values() for fact in one.identity))

    @property
    def ends(self) -> tuple[str, ...]:
        """Return those of all."""
        return tuple(dict.fromkeys(end for one in self._templates.values() for end in one.ends))

    def of(self, example: Example) -> Template:
        """Return the template of the example's source."""
        return self._templates[example.template]

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Render by the template of the example's source."""
        return self.of(example).render(example)


def _data(text: str, *, supervised: bool = False) -> RenderedSegment:
    return RenderedSegment(text, supervised, literal=((0, len(text)),))


def _answer(text: str) -> RenderedSegment:
    return RenderedSegment(text, supervised=True, ends_answer=True, literal=((0, len(text)),))
