"""Project next-token distributions of the teacher's vocabulary onto the student's.

Letters: N positions, W teacher ids, V student ids, E entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from distillab.errors import DataError, ShapeError, TokenizerMismatch
from distillab.files import write_bytes

FORMAT = "distillab vocabulary projection 1"
How = Literal["exact", "pieces", "role", "unmapped", "unused"]
HOWS: tuple[How, ...] = ("exact", "pieces", "role", "unmapped", "unused")


class Mapped(NamedTuple):
    """One student id that a teacher id is mapped to, with its share of the probability, and the rule."""

    student_id: int
    weight: float
    how: How


class Projected(NamedTuple):
    """Args:
    logp: (N, V) float32, natural-log probabilities in the student's vocabulary; -inf where nothing maps to the id.
        Together with `unmapped_logmass` they have the mass of the teacher's.
    unmapped_logmass: (N,) float32, log of the teacher's mass on ids that are unmapped.
    """

    logp: Tensor
    unmapped_logmass: Tensor


class Coverage(NamedTuple):
    """Shares of the teacher's ids, or of probability mass, by how they are mapped; they sum to one.

    Args:
        exact: the student has a token of the same bytes.
        pieces: the mass goes to the first of the student's pieces.
        role: special tokens of the same content or role.
        unmapped: the student has nothing.
    """

    exact: float
    pieces: float
    role: float
    unmapped: float


class VocabularyProjection:
    """A sparse (W, V) matrix, rows of weights that sum to one or are empty (compressed by rows).

    Args:
        row_ends: (W + 1,) int64; entries of teacher id w are at row_ends[w]:row_ends[w + 1].
        student_ids: (E,) int64.
        weights: (E,) float32, > 0.
        how: (W,) uint8, place in `HOWS`.
        student_width: V.
        teacher_fingerprint: sha256 of the teacher's tokenizer. student_fingerprint: the student's.
    Raises:
        ShapeError: the arrays are no such matrix.
    """

    def __init__(
        self,
        *,
        row_ends: NDArray[np.int64],
        student_ids: NDArray[np.int64],
        weights: NDArray[np.float32],
        how: NDArray[np.uint8],
        student_width: int,
        teacher_fingerprint: str,
        student_fingerprint: str,
    ) -> None:
        self.row_ends, self.student_ids, self.weights, self.how = row_ends, student_ids, weights, how
        self.student_width = student_width
        self.teacher_fingerprint, self.student_fingerprint = teacher_fingerprint, student_fingerprint
        self._require_matrix()
        self._on: dict[torch.device, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    @property
    def teacher_width(self) -> int:
        """W."""
        return len(self.how)

    def project(self, teacher_logp: Tensor) -> Projected:
        """Return the distribution of the student's next token, at a place where tokens of both rows end.

            p'(v) = Σ_w p(w) weight(w, v), summed in log space

        Args:
            teacher_logp: (N, W) natural-log probabilities, any float dtype.
        Raises:
            ShapeError: not W columns.
        """
        if teacher_logp.ndim != 2 or teacher_logp.shape[1] != self.teacher_width:
            raise ShapeError(
                "The projection has a row for every column of the teacher's logits.",
                facts=[f"logits: {tuple(teacher_logp.shape)}", f"projection: {self.teacher_width} teacher ids"],
                fix="build it with teacher_width = the width of the teacher's logits",
            )
        sources, targets, log_weights, unmapped = self._tensors(teacher_logp.device)
        logp_NW = teacher_logp.float()
        terms_NE = logp_NW[:, sources] + log_weights
        top_NV = terms_NE.new_full((len(terms_NE), self.student_width), -torch.inf)
        top_NV.scatter_reduce_(1, targets.expand_as(terms_NE), terms_NE.detach(), "amax")
        # Where no term is finite the sum is 0 and its log -inf; the shift must not make that a NaN.
        top_NV = top_NV.masked_fill(top_NV.isinf(), 0.0)
        # Thousands of teacher ids can map to one student id (all words with one first letter): float32 is too coarse.
        shares_NE = (terms_NE - top_NV[:, targets]).exp().double()
        sums_NV = torch.zeros_like(top_NV, dtype=torch.float64).index_add(1, targets, shares_NE)
        return Projected(sums_NV.log().float() + top_NV, torch.logsumexp(logp_NW[:, unmapped], dim=1))

    def describe(self, teacher_id: int) -> list[Mapped]:
        """Return the student ids of a teacher id; empty if it is unmapped.

        Raises:
            ShapeError: there is no such id.
        """
        if not 0 <= teacher_id < self.teacher_width:
            raise ShapeError("There is no such teacher id.", facts=[f"{teacher_id} of {self.teacher_width}"])
        entries = slice(self.row_ends[teacher_id], self.row_ends[teacher_id + 1])
        how = HOWS[self.how[teacher_id]]
        pairs = zip(self.student_ids[entries].tolist(), self.weights[entries].tolist(), strict=True)
        return [Mapped(id_, weight, how) for id_, weight in pairs]

    def coverage_by_rows(self) -> Coverage:
        """Return shares of the teacher's ids that are in use; each id counts once."""
        return self.coverage_by_mass((self.how != HOWS.index("unused")).astype(np.int64))

    def coverage_by_mass(self, counts: Sequence[float] | NDArray[np.int64] | NDArray[np.float64]) -> Coverage:
        """Return shares of probability mass.

        Args:
            counts: (W,) how often the teacher's tokens occur in a data set, or summed probabilities.
        Raises:
            ShapeError: not W counts.
            DataError: a negative count, or none at all.
        """
        weighed = np.asarray(counts, dtype=np.float64)
        if weighed.shape != (self.teacher_width,):
            raise ShapeError("One count a teacher id.", facts=[f"{weighed.shape}, not ({self.teacher_width},)"])
        if (weighed < 0).any() or not weighed.sum() > 0:
            raise DataError("Counts are not negative, and one is above zero.", facts=[f"sum: {weighed.sum()}"])
        shares = (np.bincount(self.how, weights=weighed, minlength=len(HOWS)) / weighed.sum()).tolist()
        return Coverage(shares[0], shares[1], shares[2], shares[3] + shares[4])

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically."""
        metadata = {
            "format": FORMAT,
            "student_width": str(self.student_width),
            "teacher_fingerprint": self.teacher_fingerprint,
            "student_fingerprint": self.student_fingerprint,
        }
        tensors = {name: getattr(self, name) for name in ("row_ends", "student_ids", "weights", "how")}
        write_bytes(Path(path), save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, *, teacher_fingerprint: str, student_fingerprint: str) -> VocabularyProjection:
        """Read what `save` wrote.

        Args:
            teacher_fingerprint: of the tokenizer at hand, `pairing.contract.fingerprint`.
            student_fingerprint: the same of the student.
        Raises:
            DataError: no file, or a damaged one.
            TokenizerMismatch: it was made for other tokenizers.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise DataError("The file is no projection.", where=str(path), facts=[str(error)]) from error
        if metadata.get("format") != FORMAT:
            raise DataError(
                "The file is no projection of this format.",
                where=str(path),
                facts=[f"format: {metadata.get('format')!r}, not {FORMAT!r}"],
                fix="build it again",
            )
        for side, expected in (("teacher", teacher_fingerprint), ("student", student_fingerprint)):
            if (stored := metadata[f"{side}_fingerprint"]) != expected:
                raise TokenizerMismatch(
                    f"The projection was made for another {side} tokenizer.",
                    where=str(path),
                    facts=[f"file:    {stored}", f"at hand: {expected}"],
                    fix="build it again for this pair",
                )
        try:
            return cls(
                **tensors,
                student_width=int(metadata["student_width"]),
                teacher_fingerprint=teacher_fingerprint,
                student_fingerprint=student_fingerprint,
            )
        except (TypeError, ShapeError) as error:
            raise DataError(
                "The file is damaged.", where=str(path), facts=[str(error)], fix="build it again"
            ) from error

    def _require_matrix(self) -> None:
        ends, ids, weights = self.row_ends, self.student_ids, self.weights
        sound = (
            len(ends) == len(self.how) + 1
            and ends[0] == 0
            and ends[-1] == len(ids) == len(weights)
            and bool((np.diff(ends) >= 0).all())
            and bool(((ids >= 0) & (ids < self.student_width)).all())
            and bool((weights > 0).all())
            and bool((self.how < len(HOWS)).all())
        )
        if not sound:
            raise ShapeError(
                "Rows, entries and weights make a sparse matrix.",
                facts=[f"{len(self.how)} teacher ids, {len(ends)} row ends, {len(ids)} ids, {len(weights)} weights"],
            )

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return teacher id, student id and log weight of every entry, and the teacher ids without entries."""
        if device not in self._on:
            sizes = np.diff(self.row_ends)
            arrays = (
                np.repeat(np.arange(self.teacher_width), sizes),
                self.student_ids,
                np.log(self.weights),
                np.flatnonzero(sizes == 0),
            )
            sources, targets, log_weights, unmapped = (torch.tensor(array, device=device) for array in arrays)
            self._on[device] = (sources, targets, log_weights, unmapped)
        return self._on[device]
