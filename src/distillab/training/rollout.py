"""Let the student answer a share of the rows of every optimizer step itself, before the step is trained.

All answers of a step are written at once and sorted by length into the step's microbatches. They are forgotten after
it or, with `reuse`, after the steps that have the same rows; a checkpoint is saved only where nothing is kept. The
rows and the random numbers of a step follow from the seed and its number alone: a resumed run writes the same answers,
and so do other numbers of processes and other microbatches, except for rounding.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor

from distillab.config.on_policy import StudentAnswersConfig
from distillab.data.collation import IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.data.paired import PairedRow
from distillab.data.written import WrittenPairs
from distillab.errors import DataError
from distillab.models.batch import TokenBatch
from distillab.models.rollout import Sampled
from distillab.models.scoring import at_scored_tokens
from distillab.objectives.drawn import Drawn
from distillab.objectives.step import Measured
from distillab.training.rollout_log import RolloutLog
from distillab.training.samplers import LocalSampler, Sampler, require_small_gap

_GUARDED_STEPS = 16
_GUARD_ABOVE = 0.2
_GUARDED_FRACTION = 0.25
_EXAMPLES = 3
_Written = dict[int, tuple[list[int], Sampled]]  # place in the step -> prompt and answer
_LAST_TOKENS, _GROUP, _REPEATED = 64, 4, 0.5


@dataclass
class Rollout:
    """What the student writes during a run.

    Args:
        settings: of the recipe.
        rows: the training rows, by the index that a batch names.
        collator: rows -> batch.
        stop_ids: ids that end an answer.
        width: ids that the student may write; those that mean the same to the teacher.
        steps, batch_size, seed: of the run.
        pairs: aligns the answers with the teacher's tokens, where these are others.
        sampler: who writes; None: this process.
        checks_sampler: whether the run stops if the sampler's probabilities are not the student's. They are not
            where the student has dropout, or is rounded to bfloat16.
        repeating: (repetitive, all) answers of each of the last steps, for the guard; a checkpoint keeps it.
    """

    settings: StudentAnswersConfig
    rows: Sequence[EncodedRow]
    collator: Callable[[Sequence[Any]], TokenBatch]
    stop_ids: tuple[int, ...]
    width: int
    steps: int
    batch_size: int
    seed: int
    pairs: WrittenPairs | None = None
    sampler: Sampler | None = None
    checks_sampler: bool = True
    repeating: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_GUARDED_STEPS))
    log: RolloutLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = RolloutLog(self.width)
        self._age, self._share = 0, 0.0
        self._kept: tuple[int, _Written] = (0, {})
        self._sampler = self.sampler or LocalSampler(self.stop_ids, self.width, self.settings.sampling.temperature)
        bare = next((row for row in self.rows if row.prompt_length == 0), None)
        if bare is not None:
            raise DataError(
                "A row has no token before its answer, so the student has nothing to continue.",
                where=f"row with key {bare.key}",
                fix="use rows with prompts, or a tokenizer that adds a begin token",
            )

    @property
    def guarded(self) -> bool:
        """Whether too many of the last answers repeat themselves, so that fewer are written."""
        repetitive, written = (
            (sum(column) for column in zip(*self.repeating, strict=True)) if self.repeating else (0, 0)
        )
        return self.settings.repetition_guard and repetitive > _GUARD_ABOVE * written

    def places(self, step: int) -> set[int]:
        """Return which of the rows of a step, counted over all processes, the student answers."""
        wanted = self.settings.rows_of(self.batch_size)
        if self.guarded:
            wanted = min(wanted, max(1, round(_GUARDED_FRACTION * self.batch_size)))
        return set(torch.randperm(self.batch_size, generator=self._generator(step, "rows"))[:wanted].tolist())

    def rewritten(
        self,
        model: torch.nn.Module,
        batches: Sequence[TokenBatch],
        *,
        step: int,
        position: float,
        process: tuple[int, int],
        device: torch.device,
        over_processes: Callable[[Tensor], Tensor],
        joined: Callable[[Tensor], Tensor],
    ) -> list[TokenBatch]:
        """Return the microbatches of a step with the student's answers, as many as before, longest rows first.

        With `reuse` n, the answers of n steps are those of the first of them, which has the same rows.

        Args:
            model: the student, not wrapped.
            step: from 1.
            position: of the step in the run's schedules, from 1 to `steps`.
            process: number of this process, and how many there are; microbatches are dealt out in turn.
            device: of the returned batches.
            over_processes, joined: sum a tensor over all processes; concatenate one.
        """
        since = time.perf_counter()
        size, (number, processes) = len(batches[0]["rows"]), process
        self._age = (step - 1) % self.settings.reuse
        local = [
            ((turn * processes + number) * size + place, index)
            for turn, batch in enumerate(batches)
            for place, index in enumerate(batch["rows"].amax(dim=1).tolist())
        ]
        if self._age == 0:
            self._kept = self._write(model, local, step, position)
        longest, written = self._kept
        answers = [sampled for _, sampled in written.values()]
        items = [
            (
                IndexedRow(
                    index, _own_row(self.rows[index], *written[place]) if place in written else self.rows[index]
                ),
                place,
            )
            for place, index in local
        ]
        items.sort(key=lambda item: -len(item[0].row))
        generate_s = time.perf_counter() - since
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        read = [self._read([item for item, _ in part], [place in written for _, place in part]) for part in parts]
        lengths = torch.tensor([len(one.answer.scored_ids) for one in answers], device=device)
        prompts = 0 if self._age else sum(len(prompt) for prompt, _ in written.values())
        kept_rows = [self.rows[index] for place, index in local if place in written]
        partial = sum(each for _, each in read)
        counts = torch.tensor([*_counts(answers), partial, prompts, *_distinct(answers, kept_rows)], device=device)
        self.log.begin(
            longest=longest,
            lengths=joined(lengths).tolist(),
            counts=over_processes(counts).tolist(),
            generate_s=generate_s,
            age=self._age if self.settings.reuse > 1 else None,
            share=self._share,
            microbatches=len(batches),
        )
        if self._age == 0:
            self.repeating.append((self.log.repetitive, self.log.rows))
        kept = [[written.get(place) for _, place in part] for part in parts]
        made = [self._batch(rows, drawn, device) for (rows, _), drawn in zip(read, kept, strict=True)]
        if self.settings.shares:
            self._share_out(made, kept, over_processes)
        return made

    def drawn(self, batch: TokenBatch) -> Drawn:
        """Return which of a microbatch's tokens the student wrote."""
        then_N = at_scored_tokens(batch["drawn_logp"], batch)
        share_N = at_scored_tokens(batch["share"], batch) if "share" in batch else None
        return Drawn.of(then_N, self._sampler.width, weighs=self._age > 0, share_N=share_N)

    def examples(self, model: torch.nn.Module) -> list[tuple[list[int], Sampled]]:
        """Return the prompts of the first three rows with the student's answers, drawn with the same numbers always."""
        prompts = [row.input_ids[: row.prompt_length].tolist() for row in self.rows[:_EXAMPLES]]
        numbers = torch.rand(
            len(prompts), self.settings.longest, generator=self._generator(0, "examples"), dtype=torch.float64
        )
        return list(zip(prompts, self._answers(model, prompts, numbers), strict=True))

    def observe(self, batch: TokenBatch, measured: Measured) -> None:
        """Take the figures of a microbatch, after its forward pass."""
        self.log.add(batch, measured)

    def finished(self, step: int, over_processes: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """Return the figures of a step over all processes, before the optimizer uses its gradients.

        Raises:
            NumericsError: the sampler's probabilities are not the student's.
        """
        figures = self.log.figures(over_processes, device)
        if self.checks_sampler and "sampler_gap" in figures:
            require_small_gap(figures["sampler_gap"], self._sampler, step=step)
        return figures

    def state(self) -> list[list[int]]:
        """Return what a checkpoint keeps: all else follows from the seed and the step."""
        return [list(one) for one in self.repeating]

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        """Take over the state of a checkpoint."""
        self.repeating.clear()
        self.repeating.extend((one[0], one[1]) for one in state)

    def _write(
        self, model: torch.nn.Module, local: Sequence[tuple[int, int]], step: int, position: float
    ) -> tuple[int, _Written]:
        """Return the most new tokens of an answer, and place -> (prompt, answer) of the rows that are written.

        Args:
            local: place and index of each row of this process.
        """
        chosen, longest = self.places(step), self.settings.horizon(position, self.steps)
        self._share = len(chosen) / self.batch_size
        writing = [(place, index) for place, index in local if place in chosen]
        # one number for each token of each row of the step, whichever process has the row
        uniform = torch.rand(self.batch_size, longest, generator=self._generator(step, "tokens"), dtype=torch.float64)
        prompts = [self.rows[index].input_ids[: self.rows[index].prompt_length].tolist() for _, index in writing]
        answers = self._answers(model, prompts, uniform[[place for place, _ in writing]])
        return longest, {
            place: (prompt, answer) for (place, _), prompt, answer in zip(writing, prompts, answers, strict=True)
        }

    def _answers(self, model: torch.nn.Module, prompts: list[list[int]], uniform_BT: Tensor) -> list[Sampled]:
        return self._sampler.sample(model, prompts, uniform_BT) if prompts else []

    def _read(self, rows: list[IndexedRow], own: list[bool]) -> tuple[Sequence[IndexedRow | PairedRow], int]:
        """Return rows as the collator takes them, and how many end within a character."""
        return (rows, 0) if self.pairs is None else self.pairs.of(rows, own)

    def _batch(
        self,
        rows: Sequence[IndexedRow | PairedRow],
        written: Sequence[tuple[list[int], Sampled] | None],
        device: torch.device,
    ) -> TokenBatch:
        batch = self.collator(rows)
        batch["drawn_logp"] = drawn_BL = torch.full(batch["input_ids"].shape, torch.nan)
        for row, own in enumerate(written):
            if own is not None:
                prompt, sampled = own
                answer = batch["attention_mask"][row].nonzero()[len(prompt) :, 0]
                drawn_BL[row, answer] = torch.tensor(sampled.logp[: len(answer)])
        batch["written"] = batch["answer_mask"] & ~drawn_BL.isnan()
        moved: TokenBatch = send_to_device(batch, device)
        return moved

    def _share_out(
        self,
        batches: Sequence[TokenBatch],
        written: Sequence[Sequence[tuple[list[int], Sampled] | None]],
        over_processes: Callable[[Tensor], Tensor],
    ) -> None:
        """Give each token of a step its factor in the loss, so that it is divided by the count of all as before."""
        shares = []
        for batch, drawn in zip(batches, written, strict=True):
            tokens_B = batch["answer_mask"].sum(dim=1)
            cut_B = torch.tensor([own is not None and not own[1].answer.stopped for own in drawn]).to(tokens_B.device)
            share_B = torch.ones_like(tokens_B, dtype=torch.float64)
            if self.settings.weight_by == "sequence":
                share_B /= tokens_B.clamp(min=1)
            if self.settings.truncated == "drop":
                share_B[cut_B] = 0.0
            shares.append((share_B, tokens_B))
        sums = [torch.stack([tokens_B.sum(), (share_B * tokens_B).sum()]) for share_B, tokens_B in shares]
        tokens, shared = over_processes(torch.stack(sums).sum(dim=0)).tolist()
        for batch, (share_B, _) in zip(batches, shares, strict=True):
            factor_B = share_B * tokens / shared if shared else share_B
            batch["share"] = factor_B.float()[:, None].expand_as(batch["input_ids"])

    def _generator(self, step: int, use: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed} {step} {use}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _own_row(row: EncodedRow, prompt: Sequence[int], sampled: Sampled) -> EncodedRow:
    """Return a row with the student's answer: scored wherever the student wrote, with EOS where it wrote one."""
    ids = [*prompt, *sampled.answer.scored_ids]
    return EncodedRow(
        key=row.key,
        input_ids=np.array(ids, dtype=np.int32),
        answer_mask=np.arange(len(ids)) >= len(prompt),
        prompt_length=len(prompt),
        truncated=not sampled.answer.stopped,
    )


def _counts(answers: Sequence[Sampled]) -> list[int]:
    """Return how many answers there are, were cut, repeat themselves, and are empty."""
    written = [one.answer for one in answers]
    return [
        len(written),
        sum(not one.stopped for one in written),
        sum(repeated_share(one.ids) > _REPEATED for one in written),
        sum(not one.ids for one in written),
    ]


def _distinct(answers: Sequence[Sampled], rows: Sequence[EncodedRow]) -> list[int]:
    """Return how many different answers there are, and how many of the data set's answers to the same prompts."""
    stored = {row.input_ids[row.prompt_length :].tobytes() for row in rows}
    return [len({tuple(one.answer.scored_ids) for one in answers}), len(stored)]


def repeated_share(ids: Sequence[int]) -> float:
    """Return the share of groups of four tokens, among the last 64 tokens, that occur there before; 0 below eight.

    >>> repeated_share([5, 6] * 32) > 0.9, repeated_share(range(64))
    (True, 0.0)
    """
    last = list(ids)[-_LAST_TOKENS:]
    if len(last) < 2 * _GROUP:
        return 0.0
    groups = [tuple(last[at : at + _GROUP]) for at in range(len(last) - _GROUP + 1)]
    return 1 - len(set(groups)) / len(groups)
