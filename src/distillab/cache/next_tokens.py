"""Encode and decode next-token distributions: the kinds `top_k` (most likely tokens) and `sampled` (draws).

N scored positions of a row (of all rows together after decoding), K kept tokens, M distinct drawn tokens of all
positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from distillab.cache.bits import bits_for, packed_bytes
from distillab.cache.layout import BYTES, WIDEST, Cell, ColumnType, Floats, Ints, KindLayout, Section, cuts
from distillab.cache.streams import Cursor, Stored, packed
from distillab.cache.values import COMPANDED_LOGP, check_logp, companded_codes, float16_logp, float16_nats
from distillab.errors import CacheCorrupt, NumericsError, ShapeError

MASS_SLACK = 1e-3
"""Largest difference from one of a position's masses when they are stored: more than rounding of a float32 softmax."""

_MOST_DRAWS = 2**16
_FLOAT16 = 2


@dataclass(frozen=True, eq=False)
class TopK(Section):
    """ids (N, K), most likely first; logp (N, K), tail_logmass (N,), actual_logp (N,), natural logs."""

    ids: Ints
    logp: Floats
    tail_logmass: Floats
    actual_logp: Floats

    def split(self, lengths: Sequence[int]) -> list[TopK]:
        """See `Section`."""
        return [
            TopK(self.ids[cut], self.logp[cut], self.tail_logmass[cut], self.actual_logp[cut]) for cut in cuts(lengths)
        ]


class TopKLayout(KindLayout):
    """k ids and log-probabilities a position, the log-mass of all others, the log-probability of the actual token."""

    section: ClassVar[type[Section]] = TopK

    kind: Literal["top_k"] = "top_k"
    k: int = Field(ge=1, le=WIDEST)
    id_bits: int = Field(ge=1, le=32)
    values: Literal["companded8", "float16"]
    temperature: float

    def encode(self, section: TopK) -> bytes:
        """Return the record of one row.

        Streams: tail_logmass (N float16), actual_logp (N float16), logp (N·K, one byte or float16 each), ids (N·K
        packed at id_bits); N·K runs through the tokens of the first position, then of the second.

        Raises:
            ShapeError: the arrays do not fit together, or hold another K.
            NumericsError: NaN or +inf, values that do not fall along K, masses that do not sum to one.
            CacheMismatch: an id does not fit.
        """
        _check_top_k(section, self)
        values = companded_codes(section.logp) if self.values == "companded8" else float16_logp(section.logp)
        return b"".join(
            (
                float16_logp(section.tail_logmass).tobytes(),
                float16_logp(section.actual_logp).tobytes(),
                values.tobytes(),
                packed(section.ids.reshape(-1), self.id_bits, "token ids"),
            )
        )

    def decode(self, records: Sequence[Stored], lengths: Sequence[int]) -> TopK:
        """Return the rows one after another.

        Each position's masses are normalised again: log Σ exp(logp) + exp(tail_logmass) is subtracted from all of them.
        Rounded values sum to slightly more or less, and another total mass is a bias: the divergence of two equal
        distributions would not be zero. `actual_logp` is not part of the sum and is returned as stored.

        Args:
            records: one a row.
            lengths: N of each row.
        Raises:
            CacheCorrupt: a record is not of the length of its layout, or its masses are far from one.
        """
        cursor = Cursor(records, self.kind)
        entries = [n * self.k for n in lengths]
        tail_N = cursor.numbers(lengths, "<f2").astype(np.float32)
        actual_N = cursor.numbers(lengths, "<f2").astype(np.float32)
        if self.values == "companded8":
            logp = np.take(COMPANDED_LOGP, cursor.numbers(entries, "u1"))
        else:
            logp = cursor.numbers(entries, "<f2").astype(np.float32)
        ids = cursor.integers(entries, self.id_bits)
        cursor.end()
        logp_NK = logp.reshape(-1, self.k)
        mass_N = _mass(logp_NK, tail_N)
        # rounding moves a position's mass by less than a sixth, see `companded_codes`
        if not ((mass_N > 0.5) & (mass_N < 2)).all():
            raise CacheCorrupt(
                "The stored probabilities of a position do not sum to about one.",
                facts=(f"sums from {mass_N.min():.4g} to {mass_N.max():.4g}",),
                fix="`distillab cache verify` finds what is damaged",
            )
        log_mass_N = np.log(mass_N)
        logp_NK -= log_mass_N[:, None]
        return TopK(ids.reshape(-1, self.k), logp_NK, tail_N - log_mass_N, actual_N)

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """See `RecordLayout`."""
        entries = scored * self.k
        return 2 * _FLOAT16 * scored + entries * BYTES[self.values] + packed_bytes(entries, self.id_bits)

    def described(self) -> str:
        """See `RecordLayout`."""
        return f"k {self.k}, {self.values}, temperature {self.temperature:g}, {self.id_bits} bits an id"

    def columns(self) -> Mapping[str, tuple[ColumnType, int]]:
        """See `KindLayout`."""
        return {
            "top_k_ids": ("int lists", 0),
            "top_k_logp": ("float lists", 0),
            "top_k_tail_logmass": ("floats", 0),
            "actual_logp": ("floats", 0),
        }

    def cells(self, section: TopK) -> Mapping[str, Cell]:
        """Return column -> cell of one row."""
        return {
            "top_k_ids": section.ids,
            "top_k_logp": section.logp,
            "top_k_tail_logmass": section.tail_logmass,
            "actual_logp": section.actual_logp,
        }


@dataclass(frozen=True, eq=False)
class Sampled(Section):
    """distinct (N,) how many ids each position has; ids (M,) and counts (M,) of all positions, one after another;
    entropy_estimate (N,) −mean log p of the draws."""

    distinct: Ints
    ids: Ints
    counts: Ints
    entropy_estimate: Floats

    def drawn(self) -> Ints:
        """Return (N, draws) an id as often as it was drawn."""
        return np.repeat(self.ids, self.counts).reshape(len(self.distinct), -1)

    def split(self, lengths: Sequence[int]) -> list[Sampled]:
        """See `Section`."""
        starts = np.concatenate(([0], np.cumsum(self.distinct))).tolist()
        rows = []
        for cut in cuts(lengths):
            inside = slice(starts[cut.start], starts[cut.stop])
            rows.append(Sampled(self.distinct[cut], self.ids[inside], self.counts[inside], self.entropy_estimate[cut]))
        return rows


class SampledLayout(KindLayout):
    """The distinct ids drawn at a position, how often each was drawn, and −mean log p of the draws."""

    section: ClassVar[type[Section]] = Sampled

    kind: Literal["sampled"] = "sampled"
    draws: int = Field(ge=1, le=_MOST_DRAWS)
    id_bits: int = Field(ge=1, le=32)
    count_bits: int = Field(ge=1, le=16)
    temperature: float

    def encode(self, section: Sampled) -> bytes:
        """Return the record of one row.

        Streams: entropy_estimate (N float16), distinct - 1 (N packed at count_bits), ids (M packed at id_bits),
        count - 1 of every id but the last of its position (M - N packed at count_bits): a position's last count is
        the rest of its draws.

        Raises:
            ShapeError: the arrays do not fit together, a position's counts do not sum to the draws, or count_bits is
                too few for the draws (`bits_for(draws)` are enough).
            NumericsError: entropy_estimate are not finite.
            CacheMismatch: an id does not fit.
        """
        _check_sampled(section, self)
        last = np.zeros(len(section.counts), np.bool_)
        last[np.cumsum(section.distinct) - 1] = True
        return b"".join(
            (
                float16_nats(section.entropy_estimate).tobytes(),
                packed(section.distinct - 1, self.count_bits, "numbers of distinct tokens"),
                packed(section.ids, self.id_bits, "token ids"),
                packed(section.counts[~last] - 1, self.count_bits, "counts of drawn tokens"),
            )
        )

    def decode(self, records: Sequence[Stored], lengths: Sequence[int]) -> Sampled:
        """Return the rows one after another.

        Args:
            records: one a row.
            lengths: N of each row.
        Raises:
            CacheCorrupt: a record has another length than its layout and its counts state, or too many draws.
        """
        cursor = Cursor(records, self.kind)
        entropy_N = cursor.numbers(lengths, "<f2").astype(np.float32)
        distinct_N = cursor.integers(lengths, self.count_bits) + 1
        rows_N = np.asarray(lengths, np.int64)
        row_starts = np.cumsum(rows_N) - rows_N
        drawn = np.add.reduceat(distinct_N, row_starts).tolist()
        ids_M = cursor.integers(drawn, self.id_bits)
        others = cursor.integers([m - n for m, n in zip(drawn, lengths, strict=True)], self.count_bits) + 1
        cursor.end()
        last = np.cumsum(distinct_N) - 1
        counts_M = np.zeros(len(ids_M), np.int32)
        is_last = np.zeros(len(ids_M), np.bool_)
        is_last[last] = True
        counts_M[~is_last] = others
        counts_M[last] = self.draws - np.add.reduceat(counts_M, last + 1 - distinct_N)
        if counts_M[last].min() < 1:
            raise CacheCorrupt(
                "The stored counts of a position are more than its draws.",
                facts=(f"draws: {self.draws}", f"left for the last token: {counts_M[last].min()}"),
                fix="`distillab cache verify` finds what is damaged",
            )
        return Sampled(distinct_N, ids_M, counts_M, entropy_N)

    def record_bytes(self, *, tokens: int, scored: int, each: float | None = None) -> int:
        """See `RecordLayout`."""
        drawn = scored * self.draws if each is None else round(each * scored)
        of_positions = _FLOAT16 * scored + packed_bytes(scored, self.count_bits)
        return of_positions + packed_bytes(drawn, self.id_bits) + packed_bytes(drawn - scored, self.count_bits)

    def values_each(self, sections: Sequence[Section]) -> float:
        """Return the distinct tokens that are drawn a position: M / N."""
        drawn = [section for section in sections if isinstance(section, Sampled)]
        return sum(len(section.ids) for section in drawn) / sum(len(section.distinct) for section in drawn)

    def described(self) -> str:
        """See `RecordLayout`."""
        return f"{self.draws} draws, temperature {self.temperature:g}, {self.id_bits} bits an id"

    def columns(self) -> Mapping[str, tuple[ColumnType, int]]:
        """See `KindLayout`."""
        return {
            "sampled_ids": ("int lists", 0),
            "sampled_counts": ("int lists", 0),
            "sampled_own_nats": ("floats", 0),
        }

    def cells(self, section: Sampled) -> Mapping[str, Cell]:
        """Return column -> cell of one row."""
        return {
            "sampled_ids": (section.ids, section.distinct),
            "sampled_counts": (section.counts, section.distinct),
            "sampled_own_nats": section.entropy_estimate,
        }


def _mass(logp_NK: Floats, tail_N: Floats) -> Floats:
    mass_N: Floats = np.exp(logp_NK).sum(axis=1) + np.exp(tail_N)
    return mass_N


def _check_top_k(row: TopK, layout: TopKLayout) -> None:
    positions = row.tail_logmass.shape[0]
    wanted = (positions, layout.k)
    if not (row.ids.shape == row.logp.shape == wanted and row.actual_logp.shape == row.tail_logmass.shape):
        raise ShapeError(
            "A row's top_k arrays do not fit together or to the cache's k.",
            facts=(
                f"ids {row.ids.shape}, logp {row.logp.shape}, tail_logmass {row.tail_logmass.shape}, "
                f"actual_logp {row.actual_logp.shape}",
                f"wanted: (N, {layout.k}) twice and (N,) twice",
            ),
        )
    for name, logp in (("logp", row.logp), ("tail_logmass", row.tail_logmass), ("actual_logp", row.actual_logp)):
        check_logp(name, logp)
    if (row.logp[:, 1:] > row.logp[:, :-1]).any():
        raise NumericsError(
            "The kept log-probabilities of a position must fall: the most likely token is first.",
            facts=(f"rise by up to {np.nanmax(np.diff(row.logp, axis=1)):.4g} nats",),
            fix="sort ids and logp together before they are stored",
        )
    mass_N = _mass(row.logp, row.tail_logmass)
    if (np.abs(mass_N - 1) > MASS_SLACK).any():
        worst = int(np.argmax(np.abs(mass_N - 1)))
        raise NumericsError(
            "The kept probabilities of a position and the mass of all others must sum to one.",
            facts=(f"they sum to {mass_N[worst]:.6g} at scored position {worst} of the row",),
            fix="store true log-probabilities, not renormalised ones, and the tail of the same distribution",
        )


def _check_sampled(row: Sampled, layout: SampledLayout) -> None:
    positions, drawn = row.distinct.shape[0], int(row.distinct.sum())
    sound = (
        row.entropy_estimate.shape == (positions,)
        and row.ids.shape == row.counts.shape == (drawn,)
        and positions > 0
        and row.distinct.min() >= 1
        and row.counts.min() >= 1
        and layout.count_bits >= bits_for(layout.draws)
        and (_draws(row) == layout.draws).all()
    )
    if not sound:
        raise ShapeError(
            "A row's drawn tokens do not fit together or to the cache's draws.",
            facts=(
                f"distinct {row.distinct.shape} that sum to {drawn}, ids {row.ids.shape}, counts {row.counts.shape}, "
                f"entropy_estimate {row.entropy_estimate.shape}",
                f"wanted: counts of at least 1 that sum to {layout.draws} at each position",
                f"count_bits {layout.count_bits}, {layout.draws} draws need {bits_for(layout.draws)}",
            ),
        )
    check_logp("-entropy_estimate", -row.entropy_estimate)
    if not np.isfinite(row.entropy_estimate).all():
        raise NumericsError(
            "A drawn token has no probability: −mean log p of the draws is infinite.",
            facts=(f"at scored position {int(np.argmax(~np.isfinite(row.entropy_estimate)))} of the row",),
            fix="draw from the same log-probabilities that entropy_estimate is computed from",
        )


def _draws(row: Sampled) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = np.add.reduceat(row.counts.astype(np.int64), np.cumsum(row.distinct) - row.distinct)
    return total
