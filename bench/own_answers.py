"""The student writes the answers that it learns on: a whole step of the real trainer, and the writing alone.

Every answer has as many tokens as the second half of a row, unless it ends before, which random weights hardly do. The
fixed-data step beside them is `reverse_kl` of `distillab_steps.py`, on as many tokens.
"""

from __future__ import annotations

import torch

from bench.distillab_steps import TERMS, provenance, split_of, take_steps
from bench.measure import Probe, repeat
from bench.pair import student_of, teacher_of, token_ids
from bench.settings import SEED, Run
from distillab.config.on_policy import StudentAnswersConfig
from distillab.config.training import TrainingConfig
from distillab.data.collation import Collator
from distillab.models.rollout import sample_answers
from distillab.teachers import LocalTeacher
from distillab.training.rollout import Rollout

_STOP = 2


def on_policy(run: Run, probe: Probe) -> None:
    """Steps of `DistillationTrainer` on reverse KL, where the student writes every answer."""
    size = run.shape
    own = StudentAnswersConfig(fraction=1.0, max_new_tokens=size.row_length // 2, repetition_guard=False)

    def rollout(settings: TrainingConfig) -> Rollout:
        collator = Collator(0, settings.padding_side)
        rows = split_of(size).rows
        return Rollout(own, rows, collator, (_STOP,), size.vocabulary, settings.steps, settings.batch_size, SEED)

    take_steps(
        run,
        probe,
        student=student_of(size, run.device),
        teacher=LocalTeacher(teacher_of(size, run.device), provenance()),
        terms=TERMS["reverse_kl"],
        rollout=rollout,
    )


def own_sampler(run: Run, probe: Probe) -> None:
    """The answers of a step by `sample_answers`."""
    size, student = run.shape, student_of(run.shape, run.device)
    prompts = token_ids(size)[:, : size.row_length // 2].tolist()
    generator = torch.Generator().manual_seed(SEED)

    def step() -> None:
        uniform = torch.rand(size.rows, size.row_length // 2, generator=generator, dtype=torch.float64)
        answers = sample_answers(
            student, prompts, stop_ids=(_STOP,), width=size.vocabulary, temperature=1.0, uniform_BT=uniform
        )
        probe.facts["tokens"] = sum(len(one.answer.scored_ids) for one in answers)

    repeat(step, probe)


def generate(run: Run, probe: Probe) -> None:
    """The answers of a step by `generate` of transformers, sampled from the whole distribution."""
    size, student = run.shape, student_of(run.shape, run.device).eval()
    prompts = token_ids(size)[:, : size.row_length // 2].to(run.device)
    torch.manual_seed(SEED)

    def step() -> None:
        with torch.no_grad():
            ids = student.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=size.row_length // 2,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
            )
        # ids after an end are padding, and no other id is 0
        probe.facts["tokens"] = int((ids[:, prompts.shape[1] :] != 0).sum())

    repeat(step, probe)
