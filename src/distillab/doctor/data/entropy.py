"""The lowest loss that rows allow, and the lines above it.

A model gives equal contexts equal distributions. Where k rows have the same tokens up to an answer, their summed loss
is lowest when every answer gets the share with which it stands there, and that minimum is Σ −ln(share) nats: no model
of any size goes below it on these rows. It is exact for the rows at hand, and counts only what repeats: a prompt that
stands once adds nothing, however open its question is. So it is a lower bound, never an estimate from above.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy

from distillab.data.encoding import EncodedRow
from distillab.data.reading import Reader
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page
from distillab.doctor.data.subject import EncodedPart
from distillab.doctor.data.words import share
from distillab.evaluation.references import reference_lines

_WORTH_SAYING = 0.02
_MOSTLY_OPEN = 0.5
_ROWS_A_CONTEXT = 20


@check("label entropy")
def check_entropy(train: EncodedPart, held_out: EncodedPart, reader: Reader) -> Checked:
    """State the lowest loss, in nats a scored token, and the unigram and bigram lines beside it.

    Args:
        held_out: of the rows to judge by; of no rows where there are none.
    """
    rows, judged = train.cut, held_out.cut
    yield Scope(train.summary)
    if not rows:
        raise Skipped("no row has an answer with a token")
    lines = reference_lines(rows, judged or rows, vocabulary=len(reader.tokenizer))
    floor = lowest_loss(rows)
    on = "the held-out answers" if judged else "the same answers"
    yield Scope(
        f"{train.summary}, {sum(int(row.answer_mask.sum()) for row in rows):,} scored tokens; nats per token: log V "
        f"{lines.uniform_nats:.2f}, unigram {lines.unigram_nats:.2f} on {on}, "
        f"bigram {_bigram_nats(rows):.2f} on the training answers themselves, lowest loss {floor.nats:.3f}"
    )
    held = lowest_loss(judged) if judged else None
    most = max(floor.nats, held.nats if held is not None else 0.0)
    if most < _WORTH_SAYING:
        return
    texts = train.examples[0].kind == "text"
    open_ = not texts and _says_little(floor, rows)
    why = "texts have the same beginning" if texts else "equal prompts have different answers"
    advice = (
        f"compare held-out losses with it: `distillab doctor run FOLDER --entropy {held.nats:.3f}`"
        if held is not None and held.nats >= _WORTH_SAYING
        else "compare training losses with it; it does not hold for held-out rows whose prompts occur once"
    )
    yield from_page(
        "lowest-loss",
        _line("training rows", floor),
        None if held is None else _line("held-out rows", held),
        f"unigram {lines.unigram_nats:.2f} nats per token on {on}, bigram {_bigram_nats(rows):.2f} on the training "
        "answers themselves, which is too low where they are few",
        case="open prompts" if open_ else "repeated prompts",
        words={"advice": advice, "why": why},
    )


@dataclass(frozen=True)
class Floor:
    """The lowest loss of some rows.

    Attributes:
        nats: a scored token, over all rows.
        nats_repeated: a scored token, over the rows whose context stands more than once; None: there are none.
        repeated, rows: how many have such a context, and how many there are.
        runs: scored stretches of all rows.
        contexts: different contexts of these.
        openness: the loss as a share of what it were if no answer stood twice, 0 to 1.
    """

    nats: float
    nats_repeated: float | None
    repeated: int
    rows: int
    runs: int
    contexts: int
    openness: float


def lowest_loss(rows: Sequence[EncodedRow]) -> Floor:
    """Σ over rows and scored runs [a, b) of ln c(tokens before a) − ln c(tokens before b), a scored token.

    c counts rows with these tokens whose run begins (ends) at the same place.
    """
    begins: Counter[bytes] = Counter()
    ends: Counter[bytes] = Counter()
    runs: list[tuple[int, list[tuple[bytes, bytes]]]] = []
    for row in rows:
        own = [(_digest(row, first), _digest(row, last)) for first, last in _runs(row)]
        runs.append((int(row.answer_mask.sum()), own))
        begins.update(begin for begin, _ in own)
        # a later turn: those that began alike and are still alike at the end
        ends.update(begin + end for begin, end in own)
    total = 0.0
    tokens = repeated = repeated_tokens = 0
    for scored, own in runs:
        tokens += scored
        total += sum(math.log(begins[begin]) - math.log(ends[begin + end]) for begin, end in own)
        if any(begins[begin] > 1 for begin, _ in own):
            repeated += 1
            repeated_tokens += scored
    most = sum(times * math.log(times) for times in begins.values())
    return Floor(
        nats=total / tokens if tokens else 0.0,
        nats_repeated=total / repeated_tokens if repeated_tokens else None,
        repeated=repeated,
        rows=len(rows),
        runs=begins.total(),
        contexts=len(begins),
        openness=total / most if most else 0.0,
    )


def _says_little(floor: Floor, rows: Sequence[EncodedRow]) -> bool:
    """Whether few prompts stand before all the answers, or knowing the prompt saves less than half of the loss."""
    few = floor.runs >= _ROWS_A_CONTEXT * floor.contexts and floor.openness >= _MOSTLY_OPEN
    counts = np.unique(np.concatenate([row.input_ids[row.answer_mask] for row in rows]), return_counts=True)[1]
    return few or floor.nats >= _MOSTLY_OPEN * float(entropy(counts))


def _runs(row: EncodedRow) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row.answer_mask, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def _digest(row: EncodedRow, stop: int) -> bytes:
    return hashlib.blake2b(row.input_ids[:stop].tobytes(), digest_size=16).digest()


def _line(name: str, floor: Floor) -> str:
    text = f"{name}: no model gets below {floor.nats:.3f} nats a scored token"
    if floor.nats_repeated is not None:
        text += f"; {share(floor.repeated, floor.rows)} have a context that occurs more than once, "
        text += f"and among them it is {floor.nats_repeated:.3f}"
    return text


def _bigram_nats(rows: Sequence[EncodedRow]) -> float:
    """Entropy of a scored token given the one before it, by the counts of these rows."""
    before = np.concatenate([row.input_ids[:-1][row.answer_mask[1:]] for row in rows]).astype(np.int64)
    scored = np.concatenate([row.input_ids[1:][row.answer_mask[1:]] for row in rows]).astype(np.int64)
    pairs = np.unique(before << 32 | scored, return_counts=True)[1]
    firsts = np.unique(before, return_counts=True)[1]
    return float(entropy(pairs) - entropy(firsts))
