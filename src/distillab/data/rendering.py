"""How an example becomes text: which stretches are given, which are learned.

Teacher and student read the same rendered text; each only cuts it into its own tokens.
"""

from __future__ import annotations

import datetime
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from distillab.data.examples import Example, Message
from distillab.data.learned import Learned
from distillab.data.special import Range
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
    """A stretch of the rendered text.

    Attributes:
        text: the characters, exactly as both models read them.
        supervised: whether its tokens are learned.
        ends_answer: an answer ends with this segment; where it does not itself end in a special
            token, encoding appends EOS.
        literal: character ranges that come from the data, in which special tokens are plain text.
        opening: what a template writes behind this segment where it asks for the answer, and not before the answer.
        rewritten: what a template that changes answers made of this one; None: `text` is the data's.
    """

    text: str
    supervised: bool
    ends_answer: bool = False
    literal: tuple[Range, ...] = ()
    opening: str = ""
    rewritten: Learned | None = None

    @property
    def learned(self) -> Learned:
        """The text of a supervised segment, special tokens of the template aside."""
        return self.rewritten or Learned(self.text)


class Template(ABC):
    """A way to render examples of one kind.

    Attributes:
        name: plain, chat, alpaca, turns or custom.
        sha256: hash of the name and the template's own text.
        complete: the rendering holds all special tokens, so that no begin token is added to it.
        end_of_turn: special token with which the rendering closes an answer; None: EOS is appended.
        date: the day that the rendering reads; None where it reads none.
    """

    complete = False
    end_of_turn: str | None = None
    date: datetime.date | None = None

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()

    @abstractmethod
    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """The whole text, cut into segments; the last one ends the final answer.

        Raises:
            DataError: the example cannot be rendered (chat templates only).
        """

    def prompt_segments(self, example: Example) -> tuple[RenderedSegment, ...]:
        """What generation of the final answer starts from: what stands before it, and what opens it."""
        *earlier, last = self.render(example)[:-1]
        return (*earlier, replace(last, text=last.text + last.opening))

    def render_prompt(self, example: Example) -> str:
        """The text that generation starts from; it ends exactly where the answer begins."""
        return "".join(segment.text for segment in self.prompt_segments(example))


class PlainText(Template):
    """Text as it is: all of it is learned."""

    def __init__(self) -> None:
        super().__init__("plain", "{text}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Prompt share and remainder, both supervised."""
        return (_data(example.prompt, supervised=True), _answer(example.answer))


class PlainPair(Template):
    """The prompt, a newline (unless the prompt ends in a space or newline), the answer."""

    def __init__(self) -> None:
        super().__init__("plain", "{prompt}\n{answer}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Prompt and answer."""
        border = "" if example.prompt[-1:].isspace() else "\n"
        return (_data(example.prompt + border), _answer(example.answer))


class Alpaca(Template):
    """The Alpaca wording, with and without an input."""

    def __init__(self) -> None:
        super().__init__("alpaca", _ALPACA + _ALPACA_CONTEXT)

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """Instruction, input where there is one, and answer."""
        wording = _ALPACA_CONTEXT if example.context else _ALPACA
        # Filled by parts: str.format would read braces of the data as fields.
        before, _, behind = wording.partition("{instruction}")
        middle, _, end = behind.partition("{context}")
        prompt = before + example.instruction + middle + (example.context + end if example.context else "")
        return (_data(prompt), _answer(example.answer))


class Turns(Template):
    """`User:` and `Assistant:` on lines of their own; EOS closes every answer."""

    def __init__(self) -> None:
        super().__init__("turns", "System:\n{system}\n\nUser:\n{user}\n\nAssistant:\n{assistant}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """One unsupervised segment before each answer; EOS closes a given answer as it does a learned one.

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
                segments.extend((_data(text), replace(_answer(turn.content), supervised=turn.learned)))
                text = "\n\n"
            else:
                text += f"{turn.content}\n\n"
        return tuple(segments)


class Custom(Template):
    """The user's own text around `{prompt}`. Special tokens that it spells are meant as such."""

    def __init__(self, text: str) -> None:
        super().__init__("custom", text)
        self._fixed = text.split("{prompt}")

    def render(self, example: Example) -> tuple[RenderedSegment, ...]:
        """The filled text and the answer."""
        text, literal = self._fixed[0], []
        for behind in self._fixed[1:]:
            literal.append((len(text), len(text) + len(example.prompt)))
            text += example.prompt + behind
        return (RenderedSegment(text, supervised=False, literal=tuple(literal)), _answer(example.answer))


def _data(text: str, *, supervised: bool = False) -> RenderedSegment:
    return RenderedSegment(text, supervised, literal=((0, len(text)),))


def _answer(text: str) -> RenderedSegment:
    return RenderedSegment(text, supervised=True, ends_answer=True, literal=((0, len(text)),))
