"""What is measured of a signal: how much better it fits its own tokens than others.

All effects are in nats per token, against the mean over shuffled pairings.

Shapes: n scored positions of one row, C ids, r rows that reach a place, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.errors import DataError

OFFSETS = (-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8)
_MIN_OVERLAP = 8

# a probability of zero is not infinitely worse than a tiny one, or one position would decide all
LOWEST_LOGP = -30.0
# positions × logits that are held at once: 128 MiB in float32, a thousand positions of a vocabulary of 32,000
MAX_ELEMENTS = 1 << 25
REPETITIONS = 499


@dataclass(frozen=True)
class OtherRows:
    """Is the signal about its own row, or only about any row at that place?

    Attributes:
        tested: whole signals exchanged among rows, compared at the same place of the answer.
        claims: what the gain would be if the teacher's probabilities were right.
        comparable: rows for which another row's signal could be tried at the same positions.
        fits_elsewhere: of these, rows whose tokens another row's signal fits, and their own does not.
        example: (row, the row at which its signal is stored); None if there is none.
    """

    tested: Tested
    claims: float
    comparable: int
    fits_elsewhere: int
    example: tuple[int, int] | None


@dataclass(frozen=True)
class Measures:
    """All statistics of a signal.

    Attributes:
        positions, rows: how many are scored.
        tokens: log-probability of the tokens, signals shuffled within rows; None: no row has two positions.
        claims: nats; the gain if the teacher's probabilities were right. A teacher with the same signal at
            every position claims nothing, and no test can find where its signal belongs.
        names: log-probability of the tokens, vocabulary shuffled among the ids that occur.
        kl: minus KL(teacher ‖ student), signals shuffled within rows; None without an informative student.
        agreement: share of positions where both have the same first choice; likewise.
        at_offset: the gain when the signal is read so many positions later; only where positions remain.
        other_rows: None with fewer than two rows.
    """

    positions: int
    rows: int
    tokens: Tested | None
    claims: float
    names: Tested | None
    kl: Tested | None
    agreement: Tested | None
    at_offset: dict[int, float]
    other_rows: OtherRows | None


def measure_signal(rows: Sequence[SignalRow], *, seed: int) -> Measures:
    """Measure everything that needs no knowledge of a token.

    Args:
        rows: at least one position in all.
        seed: of the shuffles.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = sum(len(row) for row in rows)
    tables = [row.teacher_logp[:, row.ids] for row in rows]
    tokens = permutation_test(tables, generator=generator)
    claims = sum(float(_claims(row.teacher_logp).sum()) for row in rows) / positions
    kinds, kinds_N = torch.unique(torch.cat([row.ids for row in rows]), return_inverse=True)
    names = relabelling_test(torch.cat([row.teacher_logp[:, kinds] for row in rows]), kinds_N, generator=generator)
    return Measures(
        positions=positions,
        rows=len(rows),
        tokens=tokens,
        claims=claims,
        names=names,
        kl=_against_student(rows, _minus_kl, generator),
        agreement=_against_student(rows, _same_choice, generator),
        at_offset=_at_offsets(rows, tables),
        other_rows=_other_rows(rows, claims, generator),
    )


def tokens_test(rows: Sequence[SignalRow], *, seed: int) -> Tested | None:
    """Measure only `Measures.tokens`."""
    generator = torch.Generator().manual_seed(seed)
    return permutation_test([row.teacher_logp[:, row.ids] for row in rows], generator=generator)


def _claims(logp_nC: Tensor) -> Tensor:
    """Return (n,) the gain at each position over the mean position, if tokens were sampled from the signal."""
    prob_nC = logp_nC.exp()
    return ((logp_nC - logp_nC.mean(dim=0)) * prob_nC).sum(dim=1)


def _against_student(
    rows: Sequence[SignalRow], table: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator
) -> Tested | None:
    tables = [table(row.teacher_logp, row.student_logp) for row in rows if row.student_logp is not None]
    return permutation_test(tables, generator=generator) if tables else None


def _minus_kl(teacher_nC: Tensor, student_nC: Tensor) -> Tensor:
    prob_nC = teacher_nC.exp()
    return prob_nC @ student_nC.T - (prob_nC * teacher_nC).sum(dim=1, keepdim=True)


def _same_choice(teacher_nC: Tensor, student_nC: Tensor) -> Tensor:
    return (teacher_nC.argmax(dim=1)[:, None] == student_nC.argmax(dim=1)[None, :]).float()


def _at_offsets(rows: Sequence[SignalRow], tables: Sequence[Tensor]) -> dict[int, float]:
    found = {}
    for offset in OFFSETS:
        gained = []
        for row, table in zip(rows, tables, strict=True):
            # signal s is `offset` positions behind token t
            pairs = row.places[:, None] == row.places[None, :] + offset
            gained.append((table - table.mean(dim=0))[pairs])
        values = torch.cat(gained)
        if len(values):
            found[offset] = float(values.double().mean())
    return found


def _other_rows(rows: Sequence[SignalRow], claims: float, generator: torch.Generator) -> OtherRows | None:
    if len(rows) < 2:
        return None
    ranks = [torch.arange(len(row)) for row in rows]
    gain_RR, _ = _row_gains(rows, ranks)
    positions = sum(len(row) for row in rows)
    claimed = sum(float(_claims(logp_rC).sum()) for _, logp_rC, _ in _by_place(rows, ranks)) / positions
    tested = permutation_test([gain_RR], generator=generator)
    assert tested is not None
    each = len(rows) / positions
    # the table holds sums over rows; an effect is reported for each position
    tested = Tested(tested.mean * each, tested.shuffled * each, tested.spread * each, tested.p, positions)
    # a signal of another row was computed at that row's positions; a cache, though, may have put it at this row's
    searched = [_elsewhere(rows, [row.places for row in rows], claims), _elsewhere(rows, ranks, claimed)]
    comparable, hits = max(searched, key=lambda found: len(found[1]))
    return OtherRows(
        tested=tested,
        claims=claimed,
        comparable=comparable,
        fits_elsewhere=len(hits),
        example=hits[0] if hits else None,
    )


def _elsewhere(rows: Sequence[SignalRow], places: Sequence[Tensor], claims: float) -> tuple[int, list[tuple[int, int]]]:
    """Return how many rows could be tried, and those whose tokens one other row's signal fits, with that row."""
    fit_RR, shared_RR = _row_gains(rows, places)
    fit_RR = fit_RR / shared_RR.clamp(min=1)
    fit_RR[shared_RR < _MIN_OVERLAP] = float("-inf")
    own_R = fit_RR.diagonal().clone()
    best_2R, signal_2R = fit_RR.fill_diagonal_(float("-inf")).topk(min(2, len(rows)), dim=0)
    # among many rows the best fits well by chance, but then the second does nearly as well
    stands_out_R = best_2R[0] - best_2R[-1] > 0.3 * claims if len(rows) > 2 else torch.ones(len(rows), dtype=torch.bool)
    elsewhere_R = (best_2R[0] > 0.5 * claims) & (own_R < 0.25 * claims) & stands_out_R
    hits = [(row, int(signal_2R[0, row])) for row in elsewhere_R.nonzero()[:, 0].tolist()]
    return int(best_2R[0].isfinite().sum()), hits


def _row_gains(rows: Sequence[SignalRow], places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the gain of row s's signal on row t's tokens, where both reach a place.

    Returns:
        (R, R) sums over places, each against the mean of all signals there; and (R, R) places in common.
    """
    size = len(rows)
    gain_RR = torch.zeros(size, size, dtype=torch.float64)
    shared_RR = torch.zeros(size, size, dtype=torch.float64)
    for here, logp_rC, ids_r in _by_place(rows, places):
        table_rr = logp_rC[:, ids_r].double()
        gain_RR[here[:, None], here[None, :]] += table_rr - table_rr.mean(dim=0)
        shared_RR[here[:, None], here[None, :]] += 1
    return gain_RR, shared_RR


def _by_place(rows: Sequence[SignalRow], places: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for every place that two rows or more reach: (r,) which rows, (r, C) their signals, (r,) their tokens."""
    index = [{int(place): number for number, place in enumerate(own)} for own in places]
    for place in sorted({place for known in index for place in known}):
        here = [number for number, known in enumerate(index) if place in known]
        if len(here) > 1:
            logp_rC = torch.stack([rows[number].teacher_logp[index[number][place]] for number in here])
            ids_r = torch.stack([rows[number].ids[index[number][place]] for number in here])
            yield torch.tensor(here), logp_rC, ids_r


@dataclass(frozen=True, eq=False)
class SignalRow:
    """The scored positions of one row.

    Attributes:
        places: (n,) position in the row of the token that is predicted.
        ids: (n,) that token.
        teacher_logp: (n, C) float32 over the ids for which both models have logits, each at least LOWEST_LOGP.
        student_logp: (n, C) likewise; None without the student's logits.
    """

    places: Tensor
    ids: Tensor
    teacher_logp: Tensor
    student_logp: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


def signal_row(places: Tensor, ids: Tensor, teacher_logits: Tensor, student_logits: Tensor | None) -> SignalRow:
    """Return a row of scored positions from raw logits (n, W) and (n, V); compared are the first min(W, V) of both.

    Raises:
        DataError: a value is NaN or +inf, or a position has no finite one.
    """
    width = teacher_logits.shape[1]
    if student_logits is not None:
        width = min(width, student_logits.shape[1])
    return SignalRow(
        places=places.cpu(),
        ids=ids.long().cpu(),
        teacher_logp=_logp(teacher_logits[:, :width], "teacher"),
        student_logp=None if student_logits is None else _logp(student_logits[:, :width], "student"),
    )


def _logp(logits: Tensor, whose: str) -> Tensor:
    logits = logits.detach().float().cpu()
    if logits.isnan().any() or (logits == float("inf")).any() or (logits == float("-inf")).all(dim=1).any():
        raise DataError(
            f"The {whose}'s logits must be finite.",
            facts=[f"{int((~logits.isfinite()).sum()):,} of {logits.numel():,} values are NaN or infinite"],
            fix="find out at which layer they begin; float16 overflows at 65,504",
        )
    return logits.log_softmax(dim=1).clamp_(min=LOWEST_LOGP)


@dataclass(frozen=True)
class Tested:
    """One statistic, as it was given and against shuffled signals.

    Attributes:
        mean: of the pairing as it was given, for each position.
        shuffled: the mean over all pairings within blocks, exactly.
        spread: standard deviation of the mean under shuffling.
        p: (1 + shuffles that do at least as well) / (1 + shuffles).
        positions: how many.
    """

    mean: float
    shuffled: float
    spread: float
    p: float
    positions: int

    @property
    def gain(self) -> float:
        """The effect: how much better than shuffled, in the unit of the statistic."""
        return self.mean - self.shuffled


def permutation_test(
    blocks: Sequence[Tensor], *, generator: torch.Generator, repetitions: int = REPETITIONS
) -> Tested | None:
    """Shuffle the signals within every block.

    Args:
        blocks: (n, n) float tables, each at least 1 × 1; NaN nowhere.
        generator: decides the shuffles.
    Returns:
        the test; None where no block has two entries, so that nothing can be shuffled.
    """
    blocks = [block.double() for block in blocks if len(block) > 1]
    if not blocks:
        return None
    total = sum(len(block) for block in blocks)
    observed = sum(float(block.diagonal().sum()) for block in blocks)
    expected = sum(float(block.sum()) / len(block) for block in blocks)
    sums = torch.zeros(repetitions, dtype=torch.float64)
    for block in blocks:
        shuffled_Rn = torch.rand(repetitions, len(block), generator=generator).argsort(dim=1)
        sums += block[shuffled_Rn, torch.arange(len(block))].sum(dim=1)
    return Tested(
        mean=observed / total,
        shuffled=expected / total,
        spread=float(sums.std()) / total,
        p=_p(observed, sums),
        positions=total,
    )


def relabelling_test(
    logp_NU: Tensor, kinds_N: Tensor, *, generator: torch.Generator, repetitions: int = REPETITIONS
) -> Tested | None:
    """Shuffle the vocabulary: give every kind of token the name of another one.

    Args:
        logp_NU: (N, U) the log-probability of each of the U ids that occur, under each signal.
        kinds_N: (N,) which of the U ids is there.
    Returns:
        the test; None where fewer than two ids occur.
    """
    ids = logp_NU.shape[1]
    if ids < 2:
        return None
    # the score of id v at all positions of id u
    table_UU = torch.zeros(ids, ids, dtype=torch.float64).index_add_(0, kinds_N, logp_NU.double())
    observed = float(table_UU.diagonal().sum())
    names_RU = torch.rand(repetitions, ids, generator=generator).argsort(dim=1)
    sums = table_UU[torch.arange(ids), names_RU].sum(dim=1)
    total = len(kinds_N)
    return Tested(
        mean=observed / total,
        shuffled=float(table_UU.sum()) / ids / total,
        spread=float(sums.std()) / total,
        p=_p(observed, sums),
        positions=total,
    )


def _p(observed: float, sums: Tensor) -> float:
    # equal pairings are summed in another order and differ in the last digits
    slack = 1e-9 * max(1.0, abs(observed)) if math.isfinite(observed) else 0.0
    return (1 + int((sums >= observed - slack).sum())) / (1 + len(sums))
