"""The `Example`: one row as prompt and answer, conversation or plain text, independent of the shape of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from distillab.data.segments import piece_ends
from distillab.data.sources import content_hash

Kind = Literal["pair", "messages", "text"]
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: system, user, assistant or tool.
        content: its text; can be empty beside tool calls.
        supervised: for an assistant turn: whether it is trained on; otherwise it is part of the prompt.
        tool_calls: for an assistant turn: JSON list of calls, as chat templates read them; or empty.
        name: for a tool turn: the tool's name, if the row has it.
        call_id: for a tool turn: the call that it answers, if the row has it.
    """

    role: Role
    content: str
    supervised: bool = True
    tool_calls: str = ""
    name: str = ""
    call_id: str = ""

    @property
    def is_answer(self) -> bool:
        """Return whether this turn is trained on."""
        return self.role == "assistant" and self.supervised

    @property
    def text(self) -> str:
        """Return all text of the turn."""
        return self.content + self.tool_calls

    @property
    def parts(self) -> list[str]:
        """Return the role and all text."""
        extra = [self.tool_calls, self.name, self.call_id]
        return [self.role, self.content, *(extra if any(extra) else ())]


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        key: stable name of the row, `Row.key`.
        origin: file and line, for messages.
        kind: pair (one prompt, one answer), messages (a conversation; every assistant turn with `supervised` is an
            answer), text (language modelling: prompt and answer are both trained on, and prompt + answer is the text).
        prompt: the prompt; for a conversation its last user turn.
        answer: the answer; for a conversation its last assistant turn.
        instruction: a pair's prompt without its context; empty for other kinds.
        context: the `input` of an instruction row, or empty.
        messages: all turns of a conversation; empty for other kinds.
        tools: for a conversation: JSON list of its tools, or empty.
        template: the template of its source, if that has one of its own; or empty.
        beside: further columns of the row by their names, which concern the teacher alone.
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
    template: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all text of the row."""
        if self.kind == "messages":
            return tuple(message.text for message in self.messages)
        return (self.prompt, self.answer)

    @property
    def answers(self) -> tuple[str, ...]:
        """Return every answer that is trained on."""
        if self.kind == "messages":
            return tuple(message.text for message in self.messages if message.is_answer)
        return (self.prompt + self.answer,) if self.kind == "text" else (self.answer,)

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """Return (role, text) of the turns before the last answer; () where they hold calls, or it is no conversation.

        >>> Example("k", "f:1", "pair", "2+2?", "4").asked
        (('user', '2+2?'),)
        """
        turns = (Message("user", self.prompt),) if self.kind == "pair" else self.messages[:-1]
        calls = self.tools or any(turn.tool_calls or turn.role == "tool" for turn in turns)
        return () if calls else tuple((turn.role, turn.content) for turn in turns)

    @cached_property
    def content(self) -> str:
        """Return the hash of prompt and answer, equal for rows that differ in other columns only."""
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
        """Return the conversation with only its last answer trained on."""
        *earlier, last = self.messages
        return replace(self, messages=(*(replace(turn, supervised=False) for turn in earlier), last))

    def with_prompt(self, text: str) -> Example:
        """Return the row with another prompt; context, answer, system turn and earlier turns stay.

        >>> Example("k", "f:1", "pair", "2+2?", "4").with_prompt("2+2? It is even.").prompt
        '2+2? It is even.'
        """
        if self.kind == "messages":
            last = max(number for number, turn in enumerate(self.messages) if turn.role == "user")
            asked = replace(self.messages[last], content=text)
            return replace(self, prompt=text, messages=(*self.messages[:last], asked, *self.messages[last + 1 :]))
        made = pair_example(self.key, self.origin, instruction=text, context=self.context, answer=self.answer)
        return replace(made, template=self.template, beside=self.beside)

    def with_answer(self, text: str) -> Example:
        """Return the row with another final answer; key, prompt and earlier turns stay.

        >>> Example("k", "f:1", "pair", "2+2?", "5").with_answer("4").answer
        '4'
        """
        if self.kind == "messages":
            return replace(self, answer=text, messages=(*self.messages[:-1], Message("assistant", text)))
        return replace(self, answer=text)


def pair_example(key: str, origin: str, *, instruction: str, context: str, answer: str) -> Example:
    """Make an example from an instruction and its context, separated by an empty line."""
    prompt = "\n\n".join(part for part in (instruction, context) if part)
    return Example(key, origin, "pair", prompt, answer, instruction=instruction, context=context)


def text_example(key: str, origin: str, *, text: str, prompt_share: float) -> Example:
    """Make an example from plain text; the first `prompt_share` of the words is the prompt for generation.

    The cut is before the space of the next word. In scripts without spaces, and in a text of one word, characters are
    counted instead. A text of one character has an empty prompt.

    >>> example = text_example("k", "f:1", text="one two  three four", prompt_share=0.5)
    >>> example.prompt, example.answer
    ('one two', '  three four')
    """
    ends = piece_ends(text)
    wanted = min(max(1, round(len(ends) * prompt_share)), len(ends) - 1)
    end = ends[wanted - 1] if wanted > 0 else 0
    return Example(key, origin, "text", text[:end], text[end:])


def conversation_example(key: str, origin: str, messages: tuple[Message, ...], *, tools: str = "") -> Example:
    """Make an example from a conversation that ends with an assistant turn."""
    prompt = next((turn.content for turn in reversed(messages) if turn.role == "user"), "")
    return Example(key, origin, "messages", prompt, messages[-1].content, messages=messages, tools=tools)
