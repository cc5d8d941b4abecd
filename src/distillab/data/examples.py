"""What a row asks and what it answers, in one form for every file shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from distillab.data.segments import piece_ends
from distillab.data.sources import content_hash

Kind = Literal["pair", "messages", "text"]
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. An answer that is not learned is read like a prompt.

    Attributes:
        role: whose turn it is.
        content: its text; may be empty beside tool calls.
        learned: of an assistant turn: whether it is learned or only given.
        tool_calls: of an assistant turn: JSON list of calls, as chat templates read them; empty where there is none.
        name: of a tool turn: the tool's name, where the row has it.
        call_id: of a tool turn: the call that it answers, where the row has it.
    """

    role: Role
    content: str
    learned: bool = True
    tool_calls: str = ""
    name: str = ""
    call_id: str = ""

    @property
    def is_answer(self) -> bool:
        """Whether this turn is learned."""
        return self.role == "assistant" and self.learned

    @property
    def text(self) -> str:
        """All text of the turn that comes from the data."""
        return self.content + self.tool_calls

    @property
    def parts(self) -> list[str]:
        """Its role and all of its text; whether it is learned is another matter."""
        extra = [self.tool_calls, self.name, self.call_id]
        return [self.role, self.content, *(extra if any(extra) else ())]


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
        tools: of a conversation: JSON list of the tools that it may call; empty where there is none.
    """

    key: str
    origin: str
    kind: Kind
    prompt: str
    answer: str
    instruction: str = ""
    context: str = ""
    messages: tuple[Message, ...] = ()
    tools: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that comes from the data."""
        if self.kind == "messages":
            return tuple(message.text for message in self.messages)
        return (self.prompt, self.answer)

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that is learned."""
        if self.kind == "messages":
            return tuple(message.text for message in self.messages if message.is_answer)
        return (self.prompt + self.answer,) if self.kind == "text" else (self.answer,)

    @cached_property
    def content(self) -> str:
        """Hash of what is asked and answered: equal for rows that differ in other columns only."""
        if self.kind == "text":
            return content_hash([self.prompt + self.answer])
        if self.kind == "messages":
            return content_hash([*(message.parts for message in self.messages), *([self.tools] if self.tools else ())])
        return content_hash([self.prompt, self.answer])

    @cached_property
    def prompt_hash(self) -> str:
        """Return the hash of the prompt, equal for rows with one prompt. For plain text it covers the whole text."""
        if self.kind == "text":
            return self.content
        if self.kind == "messages":
            turns = [message.parts for message in self.messages[:-1]]
            return content_hash([*turns, *([self.tools] if self.tools else ())])
        return content_hash([self.prompt])

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


def conversation_example(key: str, origin: str, messages: tuple[Message, ...], *, tools: str = "") -> Example:
    """A conversation that ends with an assistant turn."""
    prompt = next((turn.content for turn in reversed(messages) if turn.role == "user"), "")
    return Example(key, origin, "messages", prompt, messages[-1].content, messages=messages, tools=tools)
