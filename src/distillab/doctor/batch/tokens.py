"""The facts of a tokenizer: which ids end an answer, which pad, and where the text of a row lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from distillab.data.encoding import begin_ids
from distillab.doctor.batch.rows import Told
from distillab.errors import DataError
from distillab.pairing.token_bytes import TokenMeaning, role_ids, token_meanings

# tokens that end a text or a turn, in the families that are met; EOS is always one
END_TEXTS = tuple(
    "</s> <|endoftext|> <|end_of_text|> <|im_end|> <|eot_id|> <|eom_id|> <end_of_turn> <eos> <|end|> <|return|> "
    "<|end_of_turn|> <|eot|> <|END_OF_TURN_TOKEN|> <｜end▁of▁sentence｜>".encode().split()
)
_ENCODERS = (b"<extra_id_0>", b"<mask>", b"[MASK]", b"<mask_1>")
_FEWEST_WORDS = 3
_NOTHING = TokenMeaning("unused", b"")


@dataclass(frozen=True, eq=False)
class TokenFacts:
    """A tokenizer, as the checks need it.

    Attributes:
        meanings: of every id.
        begins: ids that the tokenizer puts before a text by itself.
        ends: ids that end an answer.
        pad: the tokenizer's padding id, or the one that the caller named; None: not known.
        for_encoders: it has tokens by which encoders and encoder-decoders are taught.
        padding: ids of which a run at the edge of a row is padding.
        told: what the caller says of the batches.
    """

    tokenizer: PreTrainedTokenizerFast
    meanings: Sequence[TokenMeaning]
    begins: tuple[int, ...]
    ends: frozenset[int]
    bos: int | None
    eos: int | None
    unk: int | None
    for_encoders: bool
    pad: int | None
    padding: frozenset[int]
    told: Told

    @property
    def template(self) -> str:
        """The source of the tokenizer's chat templates; "" where it has none."""
        source = self.tokenizer.chat_template
        if isinstance(source, dict):  # several templates, each with a name
            source = "\n".join(map(str, source.values()))
        return source if isinstance(source, str) else ""

    def meaning(self, token: int) -> TokenMeaning:
        """The meaning of any integer; of one that is no id: unused, no bytes."""
        return self.meanings[token] if 0 <= token < len(self.meanings) else _NOTHING

    def scored(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of the labels that are scored."""
        return np.flatnonzero(labels != self.told.ignore_index)

    def data(self, ids: NDArray[np.int64]) -> list[bytes]:
        """The bytes of each token; of special tokens those of their name."""
        return [self.meaning(int(token)).data for token in ids]

    def text(self, ids: NDArray[np.int64]) -> str:
        """The text of some tokens, special ones by their names."""
        return b"".join(self.data(ids)).decode("utf-8", "replace")

    def name(self, token: int) -> str:
        """Return a token for a reader: its text and its id."""
        meaning = self.meaning(token)
        text = "no token" if meaning.kind == "unused" else repr(meaning.data.decode("utf-8", "backslashreplace"))
        return f"{token} ({text})"


def token_facts(tokenizer: PreTrainedTokenizerFast, pad_id: int | None) -> TokenFacts:
    """Read a tokenizer.

    Raises:
        DataError: a tokenizer written in Python.
    """
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise DataError(
            "A tokenizer of the tokenizers library (a fast one) is needed.", facts=[f"got: {type(tokenizer).__name__}"]
        )
    roles = role_ids(tokenizer)
    meanings = token_meanings(tokenizer)
    ends = {number for number, m in enumerate(meanings) if m.kind == "special" and m.data in END_TEXTS}
    if "eos" in roles:
        ends.add(roles["eos"])
    pad = roles.get("pad") if pad_id is None else pad_id
    return TokenFacts(
        tokenizer=tokenizer,
        meanings=meanings,
        begins=tuple(begin_ids(tokenizer)),
        ends=frozenset(ends),
        bos=roles.get("bos"),
        eos=roles.get("eos"),
        unk=roles.get("unk"),
        for_encoders="mask" in roles or any(m.data in _ENCODERS for m in meanings if m.kind == "special"),
        pad=pad,
        # tokenizers without a padding token are padded with one of these
        padding=frozenset(token for token in (pad, roles.get("unk"), *ends) if token is not None),
        told=Told(),
    )


def text_range(ids: NDArray[np.int64], attention: NDArray[np.int64] | None, facts: TokenFacts) -> tuple[int, int]:
    """Half-open range of a row's text: what the attention mask shows, less runs of padding at its edges.

    Padding is the padding token, and a run of one end or unknown token at an edge; where that token ends an answer,
    the first of a run behind the text is the answer's end and stays. What the mask hides at an edge and is no padding
    (different words) is text all the same.
    """
    start, stop = 0, len(ids)
    if attention is not None:
        shown = np.flatnonzero(attention)
        if not len(shown):
            return 0, 0
        if not _says_something(ids[: shown[0]], facts):
            start = int(shown[0])
        if not _says_something(ids[shown[-1] + 1 :], facts):
            stop = int(shown[-1]) + 1
    edge = int(ids[stop - 1]) if stop > start else -1
    run = _run(ids[start:stop][::-1])
    if edge == facts.pad and edge not in facts.ends:
        stop -= run
    elif run >= 2 and edge in facts.padding:
        stop -= run - 1 if edge in facts.ends else run
    if stop <= start:
        return start, start
    edge, run = int(ids[start]), _run(ids[start:stop])
    if run == stop - start:
        return start, stop
    if edge == facts.pad and edge not in facts.ends and edge != facts.bos:
        start += run
    elif run >= 2 and edge in facts.padding:
        # a padding token that also begins a text: the last of the run may be that beginning
        start += run - 1 if edge == facts.bos and edge in facts.begins else run
    return start, stop


def _says_something(ids: NDArray[np.int64], facts: TokenFacts) -> bool:
    """Whether a stretch holds words; rows are padded with one token, and that may be an ordinary one."""
    different = [int(token) for token in np.unique(ids) if int(token) != facts.pad]
    return sum(facts.meaning(token).kind in ("text", "byte") for token in different) >= _FEWEST_WORDS


def _run(ids: NDArray[np.int64]) -> int:
    """Length of the run of equal ids at the beginning."""
    other = np.flatnonzero(ids != ids[:1])
    return int(other[0]) if len(other) else len(ids)
