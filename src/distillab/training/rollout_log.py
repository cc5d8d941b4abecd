"""Figures of what the student writes during training, of one optimizer step over all processes.

`nats` is the first term that compares next tokens, where the student wrote (`nats_stored` where it did not), and by
the place of the token in its answer. The figures of whole distributions are means over at most 32 written positions a
step and process, evenly spaced, because they cost a further product with both heads.

Shapes: N scored positions, P inspected ones, V shared vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from distillab.divergences import total_variation
from distillab.errors import TeacherError
from distillab.models.batch import TokenBatch
from distillab.models.scoring import at_scored_tokens
from distillab.objectives.step import Measured
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.signals import NextTokens

_BORDERS = (0, 32, 128)
_BUCKETS = ("0_32", "32_128", "128_on")
_INSPECTED = 32
_TOP = 16
_BY_PLACE = ("nats", "student_entropy", "teacher_entropy")
_WEIGHTS = ("stale_weight", "stale_weight_squared")
_OF_DISTRIBUTIONS = (
    "student_entropy",
    "teacher_entropy",
    "accept",
    "top16_overlap",
    "top16_mass_student",
    "top16_mass_teacher",
)


class RolloutLog:
    """Figures of one step; `begin` after the answers are written, `add` for every microbatch, then `figures`.

    Args:
        width: ids that both models share.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._facts: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._share_of_positions = _INSPECTED
        self.rows = self.repetitive = 0
        self.generated = (0, 0)  # tokens read and written to write the answers; of these, written

    def begin(
        self,
        *,
        longest: int,
        lengths: Sequence[int],
        counts: Sequence[int],
        generate_s: float,
        age: int | None,
        share: float,
        microbatches: int,
    ) -> None:
        """Begin a step.

        Args:
            longest: most new tokens.
            lengths: tokens of each answer, of all processes.
            counts: answers, cut ones, repetitive ones, empty ones, those that end within a character, tokens of
                their prompts, different ones on each process, different ones of the data set; of all processes.
            generate_s: seconds that they took.
            age: optimizer steps since they were written; None where none is used twice.
            share: of the step's rows.
            microbatches: of this process.
        """
        self.rows, cut, self.repetitive, empty, partial, prompts, distinct, distinct_stored = counts
        new, prompts = (0, 0) if age else (sum(lengths), prompts)
        self.generated = (prompts + new, new)
        ordered = torch.tensor(lengths or [0], dtype=torch.float64)
        self._facts = {
            "fraction": share,
            "max_new_tokens": longest,
            "tokens": new,
            "prompt_tokens": prompts,
            "tokens_per_s": new / max(generate_s, 1e-9),
            "length_mean": float(ordered.mean()),
            "length_p10": float(ordered.quantile(0.1)),
            "length_p90": float(ordered.quantile(0.9)),
            "truncated": cut / max(1, self.rows),
            "repetitive": self.repetitive / max(1, self.rows),
            "empty": empty / max(1, self.rows),
            "partial": partial / max(1, self.rows),
            "distinct": distinct / max(1, self.rows),
            "distinct_stored": distinct_stored / max(1, self.rows),
            "generate_s": generate_s,
            "teacher_s": 0.0,
        }
        if age is not None:
            self._facts["stale_max_age"] = age
        by_place = (f"{name}_{bucket}" for name in _BY_PLACE for bucket in _BUCKETS)
        names = ("nats", "nats_stored", "in_spans", "sampler_gap", *_WEIGHTS, *by_place, *_OF_DISTRIBUTIONS)
        self._sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
        self._counts = {name: torch.zeros((), dtype=torch.float64) for name in names}
        self._share_of_positions = max(1, _INSPECTED // microbatches)

    @contextmanager
    def teacher_time(self, device: torch.device) -> Iterator[None]:
        """Add the time of a forward pass of the teacher; its head is applied later, together with the student's."""
        since = _time(device)
        yield
        self._facts["teacher_s"] += _time(device) - since

    @torch.no_grad()
    def add(self, batch: TokenBatch, measured: Measured) -> None:
        """Add a microbatch, after its forward pass."""
        own_BL = batch["written"]
        own_N = at_scored_tokens(own_BL, batch).cpu()
        place_N = at_scored_tokens(own_BL.long().cumsum(dim=1) - 1, batch).cpu()
        bucket_N = torch.bucketize(place_N, torch.tensor(_BORDERS), right=True) - 1
        if measured.drawn is not None:
            gap_N = measured.drawn.now_N - measured.drawn.then_N
            known_N = ~gap_N.isnan()
            if measured.drawn.weighs:
                weight_N = measured.drawn.weight_N[known_N]
                self._add_up("stale_weight", weight_N)
                self._add_up("stale_weight_squared", weight_N**2)
            else:
                self._add_up("sampler_gap", gap_N[known_N].abs())
        if measured.values:
            nats_N = next(iter(measured.values.values())).double().cpu()
            counted_N = torch.ones_like(own_N)
            if measured.drawn is not None and measured.drawn.share_N is not None:
                share_N = measured.drawn.share_N.cpu()
                counted_N, nats_N = share_N > 0, nats_N / share_N
            self._add_up("nats", nats_N[own_N & counted_N], bucket_N[own_N & counted_N])
            self._add_up("nats_stored", nats_N[~own_N & counted_N])
        if "alignment" in batch:
            alignment = batch["alignment"]
            self._add_up("in_spans", alignment.student.inside(alignment.shared_S).cpu()[own_N])
        written = own_N.nonzero()[:, 0]
        if measured.teacher is not None and len(written):
            every = -(-len(written) // self._share_of_positions)
            self._compare(measured, batch, written[::every], bucket_N)

    def figures(self, over_processes: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """Return the figures of the step, over all processes; those of nothing are left out."""
        both = torch.stack([torch.stack([self._sums[name], self._counts[name]]) for name in self._sums])
        totals = dict(zip(self._sums, over_processes(both.to(device)).tolist(), strict=True))
        means = {name: total / count for name, (total, count) in totals.items() if count}
        weight, squared = (means.pop(name, 0.0) for name in _WEIGHTS)
        return self._facts | means | ({"stale_ess": weight**2 / squared} if squared else {})

    def _compare(self, measured: Measured, batch: TokenBatch, here_P: Tensor, bucket_N: Tensor) -> None:
        student, teacher = measured.scores(here_P.to(measured.hidden_ND.device), batch)
        assert teacher is not None
        q_PV = student.logp(self._width, 1.0)
        found = {"student_entropy": _entropy(q_PV)}
        if not isinstance(teacher, AlignedTokens):  # else the teacher's distribution is over other tokens
            found |= self._compared(q_PV, teacher)
        for name, values in found.items():
            self._add_up(name, values.cpu(), bucket_N[here_P] if name in _BY_PLACE else None)

    def _compared(self, q_PV: Tensor, teacher: NextTokens) -> dict[str, Tensor]:
        """Return figures of each position; not those that need more than the teacher gives (`NextTokens`)."""
        found = {}
        with suppress(TeacherError):
            k = min(_TOP, self._width)
            top_q, top_p = q_PV.topk(k, dim=1).indices, teacher.top(k, self._width, 1.0)
            found["top16_overlap"] = (top_q[:, :, None] == top_p.ids[:, None, :]).any(dim=2).double().mean(dim=1)
            found["top16_mass_student"] = q_PV.gather(1, top_p.ids).exp().sum(dim=1)
            found["top16_mass_teacher"] = top_p.logp.exp().sum(dim=1)
        with suppress(TeacherError):
            p_PV = teacher.logp(self._width, 1.0)
            found["teacher_entropy"] = _entropy(p_PV)
            found["accept"] = 1.0 - total_variation(student_logp=q_PV, teacher_logp=p_PV)
        return found

    def _add_up(self, name: str, values: Tensor, bucket: Tensor | None = None) -> None:
        self._sums[name] += values.double().sum()
        self._counts[name] += values.numel()
        if bucket is not None:
            for number, place in enumerate(_BUCKETS):
                self._add_up(f"{name}_{place}", values[bucket == number])


def _time(device: torch.device) -> float:
    """Return the time when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _entropy(logp_PV: Tensor) -> Tensor:
    return -(logp_PV.exp() * logp_PV.clamp(min=-1e4)).sum(dim=1)
