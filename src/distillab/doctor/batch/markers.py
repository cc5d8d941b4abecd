"""Find the markers of chat templates in a row, and with them the tokens of prompts and of answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.tokens import TokenFacts

NO_PART, PROMPT, ANSWER = 0, 1, 2


@dataclass(frozen=True)
class Family:
    """A family of templates.

    Attributes:
        prompt, answer: the text before a prompt, and before an answer.
        markers: its words that are single tokens where the tokenizer has them.
        converses: it is used for several turns in one row.
    """

    name: str
    prompt: re.Pattern[bytes]
    answer: re.Pattern[bytes]
    markers: tuple[bytes, ...] = ()
    converses: bool = True


def _family(name: str, prompt: str, answer: str, *markers: str, converses: bool = True) -> Family:
    # a SentencePiece tokenizer may put a space behind a special token
    names = tuple(marker.encode() for marker in markers)
    return Family(name, re.compile(prompt.encode()), re.compile(answer.encode()), names, converses)


FAMILIES = (
    _family(
        "ChatML",
        r"<\|im_start\|> ?(?:user|system|tool)",
        r"<\|im_start\|> ?assistant",
        "<|im_start|>",
        "<|im_end|>",
    ),
    _family(
        "Llama 3",
        r"<\|start_header_id\|> ?(?:user|system|tool|ipython)",
        r"<\|start_header_id\|> ?assistant ?<\|end_header_id\|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    _family("Llama 2 and Mistral", r"\[INST\]", r"\[/INST\]", "[INST]", "[/INST]"),
    _family("Gemma", r"<start_of_turn> ?user", r"<start_of_turn> ?model", "<start_of_turn>", "<end_of_turn>"),
    _family(
        "Zephyr and Phi-3", r"<\|(?:user|system)\|>", r"<\|assistant\|>", "<|user|>", "<|assistant|>", "<|system|>"
    ),
    _family("DeepSeek", r"<｜User｜>", r"<｜Assistant｜>", "<｜User｜>", "<｜Assistant｜>"),
    _family("Alpaca", r"### Instruction:", r"### Response:", converses=False),
    _family("Vicuna", r"\bUSER:", r"\bASSISTANT:"),
    _family("turns in words", r"(?:^|\n)(?:User|System|Human): ", r"\n(?:Assistant|AI):"),
)


@dataclass(frozen=True, eq=False)
class ReadRow:
    """The text of a row as bytes, with the place of every token in it.

    Attributes:
        text: of the tokens from `placed.start` to `placed.stop`.
        ends: (T,) where each of them ends in `text`.
    """

    placed: PlacedRow
    text: bytes
    ends: NDArray[np.int64]

    @cached_property
    def family(self) -> Family | None:
        """Return the family whose prompt and answer markers both stand in the row, most of them first."""
        found = [(len(f.prompt.findall(self.text)), f) for f in FAMILIES if f.answer.search(self.text)]
        found = [pair for pair in found if pair[0]]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def family_name(self) -> str:
        """The family in words."""
        return "a" if self.family is None else self.family.name

    @cached_property
    def parts(self) -> NDArray[np.int8]:
        """(L,) for every token of the row: NO_PART, PROMPT or ANSWER.

        A marker belongs to the prompt; blanks behind it, which templates add, to neither.
        """
        parts = np.full(len(self.placed.ids), NO_PART, dtype=np.int8)
        if self.family is None:
            return parts
        borders = self._borders(self.family)
        # what stands before the first marker (a sentence of the template) is prompt too
        place, kind = 0, PROMPT if borders[0][2] == PROMPT else NO_PART
        for end, begin, following in [*borders, (len(self.text), len(self.text), NO_PART)]:
            parts[self.tokens_within(place, end)] = kind
            place, kind = begin, following
        return parts

    @cached_property
    def asking_turns(self) -> list[tuple[str, NDArray[np.int64]]]:
        """(marker, tokens) of every turn that is given to the student, without the marker of an answer behind it."""
        if self.family is None:
            return []
        begins = sorted(match.start() for match in self.family.answer.finditer(self.text))
        borders = [begin for begin, _, _ in self._borders(self.family)]
        found = []
        for match in self.family.prompt.finditer(self.text):
            stop = min([at for at in (*borders, *begins) if at > match.start()], default=len(self.text))
            found.append((match[0].decode("utf-8", "replace"), self.tokens_within(match.start(), stop)))
        return found

    def _borders(self, family: Family) -> list[tuple[int, int, int]]:
        """(where the marker's part ends, where the part behind it begins, which part that is), in order."""
        borders = [(match.start(), match.start(), PROMPT) for match in family.prompt.finditer(self.text)]
        for match in family.answer.finditer(self.text):
            behind = len(self.text) - len(self.text[match.end() :].lstrip())
            borders.append((match.end(), behind, ANSWER))
        return sorted(borders)

    def tokens_within(self, begin: int, end: int) -> NDArray[np.int64]:
        """Tokens of the row that lie in a byte range of the text as a whole."""
        begins = np.concatenate([[0], self.ends[:-1]])
        inside = (begins >= begin) & (self.ends <= end) & (self.ends > begins)
        return np.flatnonzero(inside) + self.placed.start

    def tokens_of(self, begin: int, end: int) -> NDArray[np.int64]:
        """Tokens of the row that touch a byte range of the text."""
        begins = np.concatenate([[0], self.ends[:-1]])
        return np.flatnonzero((begins < end) & (self.ends > begin)) + self.placed.start


def read_row(placed: PlacedRow, facts: TokenFacts) -> ReadRow:
    """Spell the text of a row."""
    data = facts.data(placed.ids[placed.start : placed.stop])
    return ReadRow(placed, b"".join(data), np.cumsum(np.array([len(item) for item in data], dtype=np.int64)))
