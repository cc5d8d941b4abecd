"""The markers of chat templates: which tokens of a row they make prompt and answer, and is it the right template?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from distillab.doctor.batch.label_offset import PlacedRow
from distillab.doctor.batch.show import token_names
from distillab.doctor.batch.tokens import END_TEXTS, TokenFacts
from distillab.doctor.checks import Checked, Scope, check, from_page
from distillab.records import Finding

NO_PART, PROMPT, ANSWER = 0, 1, 2
_MOST_ROWS, _SOME_ROWS = 0.8, 0.2
# their markers are meant as tokens of their own; those of Llama 2, Mistral and Zephyr are plain text
_CONTROL = ("ChatML", "Llama 3", "Gemma", "DeepSeek")


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
        "ChatML", r"<\|im_start\|> ?(?:user|system|tool)", r"<\|im_start\|> ?assistant", "<|im_start|>", "<|im_end|>"
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


@check("chat template")
def check_template(rows: Sequence[ReadRow], facts: TokenFacts) -> Checked:
    """Look at the markers of the known families of templates."""
    own = facts.template.encode() or None
    yield Scope(f"{len(rows):,} rows; the tokenizer has {'no' if own is None else 'a'} chat template")
    yield _markers(rows, facts, own) or _ends_in_pieces(rows, facts)


def _markers(rows: Sequence[ReadRow], facts: TokenFacts, own: bytes | None) -> Finding | None:
    used = [row for row in rows if row.family is not None and row.family.markers]
    # a row or two may be about templates
    if not rows or len(used) < _MOST_ROWS * len(rows):
        return None
    if own is not None:
        # one of several sources was rendered for another model
        foreign = [row for row in used if row.family and not any(marker in own for marker in row.family.markers)]
        if _SOME_ROWS * len(rows) <= len(foreign) < _MOST_ROWS * len(rows) and foreign[0].family is not None:
            return _foreign(foreign, foreign[0].family, own)
    family = max((f for f in FAMILIES if f.markers), key=lambda f: sum(row.family is f for row in used))
    used = [row for row in used if row.family is family]
    single = {meaning.data for meaning in facts.meanings if meaning.data in family.markers}
    pieces, whole = _cut(used, family)
    if single and pieces and not whole:
        return _in_pieces(used, family, facts, pieces, known=True)
    if own is not None and not any(marker in own for marker in family.markers):
        return _foreign(used, family, own)
    # a template that is given to a tokenizer after its pretraining adds no tokens by itself
    if not single and not whole and family.name in _CONTROL:
        return _in_pieces(used, family, facts, pieces, known=False)
    return None


def _cut(rows: Sequence[ReadRow], family: Family) -> tuple[int, int]:
    """How many markers stand in several tokens, and how many are one token."""
    pieces = whole = 0
    for row in rows:
        for marker in family.markers:
            at = row.text.find(marker)
            while at >= 0:
                tokens = row.tokens_of(at, at + len(marker))
                pieces, whole = pieces + (len(tokens) > 1), whole + (len(tokens) == 1)
                at = row.text.find(marker, at + len(marker))
    return pieces, whole


def _in_pieces(rows: Sequence[ReadRow], family: Family, facts: TokenFacts, pieces: int, *, known: bool) -> Finding:
    row = rows[0]
    match = family.prompt.search(row.text)
    begin, end = match.span() if match else (0, 1)
    tokens = row.placed.ids[row.tokens_of(begin, end)]
    return from_page(
        "markers-in-pieces",
        f"{len(rows):,} rows in the template {family.name}; {pieces:,} markers in several tokens, 0 as one token",
        "the tokenizer has a token for them" if known else "the tokenizer has no token for them",
        case="known" if known else "unknown",
        severity="error" if known and len(rows) >= 2 else "warning",
        example=(f"{row.placed.row.origin}: {'·'.join(token_names(tokens, facts))}",),
    )


def _spelled_end(row: ReadRow, facts: TokenFacts) -> tuple[bytes, NDArray[np.int64]] | None:
    """The end marker by which a row ends, and its tokens, where these are several; true end tokens behind it aside."""
    ids, stop = row.placed.ids, row.placed.stop
    while stop > row.placed.start and int(ids[stop - 1]) in facts.ends:
        stop -= 1
    kept = stop - row.placed.start
    text = row.text[: int(row.ends[kept - 1])].rstrip() if kept else b""
    for marker in END_TEXTS:
        if text.endswith(marker):
            tokens = row.tokens_of(len(text) - len(marker), len(text))
            return (marker, tokens) if len(tokens) > 1 else None
    return None


def _ends_in_pieces(rows: Sequence[ReadRow], facts: TokenFacts) -> Finding | None:
    spelled = [(row, end) for row in rows for end in [_spelled_end(row, facts)] if end is not None]
    # an answer or two may be about such markers
    if len(spelled) < max(2, _MOST_ROWS * len(rows)):
        return None
    row, (marker, tokens) = spelled[0]
    name = marker.decode()
    has = any(m.kind == "special" and m.data == marker for m in facts.meanings)
    own = facts.tokenizer.eos_token
    return from_page(
        "markers-in-pieces",
        f"{len(spelled):,} of {len(rows):,} rows end in {name!r}, in {len(tokens)} tokens",
        f"the tokenizer has {'a' if has else 'no'} token for it; its own end token is {own!r}",
        case="at the end",
        example=(f"{row.placed.row.origin}: {'·'.join(token_names(row.placed.ids[tokens], facts))}",),
    )


def _foreign(rows: Sequence[ReadRow], family: Family, own: bytes) -> Finding:
    row = rows[0]
    names = [other.name for other in FAMILIES if other.markers and any(marker in own for marker in other.markers)]
    return from_page(
        "template-of-another-family",
        f"{len(rows):,} rows in the template {family.name}",
        f"the tokenizer's own: {names[0] if names else own.decode('utf-8', 'replace')[:80]!r}",
        example=(f"{row.placed.row.origin}: {row.text[:160].decode('utf-8', 'replace')!r}",),
    )
