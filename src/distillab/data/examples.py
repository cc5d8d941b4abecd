"""What a row asks and what it answers, in one form for every file shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from distillab.data.segments import piece_ends
from distillab.data.sources import content_hash

Kind = Literal["pair", "messages", "text"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. An answer that is not learned is read like a prompt."""

    role: Role
    content: str
    learned: bool = True


@dataclass(frozen=True)
class Example:
    """One row, read.

    Attributes:
        key: stable name of the row, `Row.key`.
        origin: the place in the source, for messages.
        kind: pair (one prompt, one answer), messages (a conversation; every assistant turn that is
            learned is an answer), text (language modelling: prompt and answer are both learned, and
            prompt + answer is exactly the text).
        prompt: what is asked; of a conversation its last user turn.
        answer: the answer; of a conversation its last assistant turn.
        instruction: a pair's prompt without its context; empty for other kinds.
        context: the `input` of an instruction row, empty where there is none.
        messages: all turns of a conversation; empty for other kinds.
    """

    key: str
    origin: str
    kind: Kind
    prompt: str
    answer: str
    instruction: str = ""
    context: str = ""
    messages: tuple[Message, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that comes from the data."""
        if self.kind == "messages":
            return tuple(message.content for message in self.messages)
        return (self.prompt, self.answer)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that is learned."""
        if self.kind == "messages":
            return tuple(turn.content for turn in self.messages if turn.role == "assistant" and turn.learned)
        return (self.prompt + self.answer,) if self.kind == "text" else (self.answer,)

    @property
    def content(self) -> str:
        """Hash of what is asked and answered: equal for rows that differ in other columns only."""
        if self.kind == "text":
            return content_hash([self.prompt + self.answer])
        if self.kind == "messages":
            return content_hash([[message.role, message.content] for message in self.messages])
        return content_hash([self.prompt, self.answer])

    def with_last_answer_alone(self) -> Example:
        """The same conversation, of which the last answer is learned and no other."""
        *earlier, last = self.messages
        return replace(self, messages=(*(replace(turn, learned=False) for turn in earlier), last))

    def with_answer(self, text: str) -> Example:
        """The same row with another final answer; key, prompt and earlier turns stay.

        >>> Example("k", "f:1", "pair", "2+2?", "5").with_answer("4").answer
        '4'
        """
        if self.kind == "messages":
            return replace(self, answer=text, messages=(*self.messages[:-1], Message("assistant", text)))
        return replace(self, answer=text)


def pair_example(key: str, origin: str, *, instruction: str, context: str, answer: str) -> Example:
    """An instruction with its context, which follows after an empty line where there is one."""
    prompt = "\n\n".join(part for part in (instruction, context) if part)
    return Example(key, origin, "pair", prompt, answer, instruction=instruction, context=context)


def text_example(key: str, origin: str, *, text: str, prompt_share: float) -> Example:
    """Plain text, whose first `prompt_share` of the words is where generation starts from.

    The cut stands before the space that leads the next word. Where a script has no spaces, and in a text of one word,
    characters are counted instead. A text of one character has an empty prompt.

    >>> example = text_example("k", "f:1", text="one two  three four", prompt_share=0.5)
    >>> example.prompt, example.answer
    ('one two', '  three four')
    """
    ends = piece_ends(text)
    wanted = min(max(1, round(len(ends) * prompt_share)), len(ends) - 1)
    end = ends[wanted - 1] if wanted > 0 else 0
    return Example(key, origin, "text", text[:end], text[end:])


def conversation_example(key: str, origin: str, messages: tuple[Message, ...]) -> Example:
    """A conversation that ends with an assistant turn."""
    return Example(key, origin, "messages", messages[-2].content, messages[-1].content, messages=messages)
