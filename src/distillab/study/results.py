"""Assemble the results of a study from the records of its runs; no model is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from distillab.config.study import ArmConfig, StudyRecipe
from distillab.records import (
    AnswerStoreCounts,
    ArmResult,
    Baseline,
    CacheUse,
    Comparison,
    EncodingCounts,
    GenerationSample,
    Investigation,
    ReferenceLines,
    RunRecord,
    SpanCounts,
    StudyResults,
    TeacherCost,
    TokenizerContract,
    total_cost,
)
from distillab.runs.environment import environment
from distillab.runs.folder import read_held_out
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher import TRAINING
from distillab.study.baselines import UNDISTILLED, teacher_stem
from distillab.study.comparisons import Judged, against_fixed_data, comparisons, with_adjusted
from distillab.study.own_text import OWN_TEXT, with_own_rows
from distillab.study.token_view import first_answer_view
from distillab.study.verdict import headline, verdict
from distillab.teachers.spec import teacher_name
from distillab.terminal import plural

_SAMPLES = 10
_Counts = TypeVar("_Counts", EncodingCounts, AnswerStoreCounts, SpanCounts)


def assemble(
    recipe: StudyRecipe,
    inputs: RunInputs,
    *,
    baselines: Sequence[Baseline],
    records: Sequence[RunRecord],
    contracts: Sequence[TokenizerContract],
    caches: Sequence[CacheUse],
    references: ReferenceLines,
    reproduce: str,
    investigation: Investigation | None = None,
) -> StudyResults:
    """Assemble the results of a study from its finished runs; those of the recipe that are not there are pending.

    Two arms are compared over the seeds that both have.

    Args:
        investigation: what the doctor found before the first run; None: it was skipped.
    """
    folder = Path(recipe.output)
    by_arm = {arm.name: [record for record in records if record.arm == arm.name] for arm in recipe.arms}
    pending = {name: missing for name, runs in by_arm.items() if (missing := _missing_seeds(recipe, runs))}
    recipe = recipe.model_copy(update={"arms": tuple(arm for arm in recipe.arms if by_arm[arm.name])})
    made = {use.path: use for use in caches}
    teachers = {point.name: _teacher(folder, point) for point in baselines if point.role == "teacher"}
    lines = _first_lines(folder, baselines, by_arm)
    other_tokens = {contract.teacher.name for contract in contracts if contract.verdict == "different"}
    of_sft = frozenset(run.seed for run in by_arm["sft"])

    @cache
    def judged(name: str, seeds: frozenset[int]) -> Judged:
        return _judged(folder, [run for run in by_arm[name] if run.seed in seeds])

    def both(name: str, other: str) -> tuple[Judged, Judged] | None:
        """Return two arms by the seeds that both have; None where there is none."""
        seeds = frozenset.intersection(*(frozenset(run.seed for run in by_arm[one]) for one in (name, other)))
        return (judged(name, seeds), judged(other, seeds)) if seeds else None

    def compared(arm: ArmConfig) -> tuple[Comparison, ...]:
        names = [teacher_name(teacher) for teacher in recipe.teachers_of(arm).values()]
        goal = teachers[names[0]] if len(names) == 1 else "the arm has several teachers"
        pair = None if arm.name == "sft" else both(arm.name, "sft")
        return () if pair is None else comparisons(*pair, goal)

    def twin(arm: ArmConfig) -> dict[str, object]:
        other = recipe.twin_of(arm)
        pair = None if other is None else both(arm.name, other.name)
        if other is None or pair is None:
            return {}
        return {"twin": other.name, "against_twin": against_fixed_data(*pair)}

    arms = with_adjusted(
        [_arm(by_arm[arm.name], made, compared(arm)).model_copy(update=twin(arm)) for arm in recipe.arms]
    )
    return StudyResults(
        title=recipe.title,
        question="Given this teacher and this student, what does each level of access to the teacher buy?",
        headline=headline(arms),
        verdict=verdict(arms),
        budget=_budget(recipe),
        references=references,
        baselines=tuple(
            point.model_copy(update={"comparisons": comparisons(teachers[point.name], judged("sft", of_sft))})
            if point.role == "teacher"
            else point
            for point in baselines
        ),
        arms=arms,
        samples=_samples(recipe, inputs, lines),
        token_view=first_answer_view(inputs, {name: each for name, each in lines.items() if name not in other_tokens}),
        contracts=tuple(contracts),
        train_counts=_distinct([record.train_counts for record in records]),
        held_out_counts=inputs.held_out_counts,
        spans=_distinct([record.spans for record in records if record.spans is not None]),
        answer_stores=_distinct([record.answers for record in records if record.answers is not None]),
        caches=tuple(caches),
        investigation=investigation,
        reproduce=reproduce,
        environment=environment(),
        pending=pending,
        wall_s=sum(record.cost.wall_s for record in records),
        shared_s=_shared_s(records, made),
    )


def _missing_seeds(recipe: StudyRecipe, runs: Sequence[RunRecord]) -> tuple[int, ...]:
    return tuple(seed for seed in recipe.seeds if seed not in [run.seed for run in runs])


def _shared_s(records: Sequence[RunRecord], made: Mapping[str, CacheUse], *, training: bool = False) -> float | None:
    """Return the seconds to make what runs read of their teachers, each once; None if one was made elsewhere.

    Args:
        made: the caches as they were made, by their path.
        training: without what only the evaluation reads.
    """
    seconds: dict[str, float | None] = {}
    for record in records:
        if record.answers is not None:
            seconds[record.answers.path] = record.cost.answers_s
        if record.teacher_correction is not None and record.teacher is not None and record.access != "none":
            seconds[f"the correction of {record.teacher.name}"] = record.teacher_correction.wall_s
        uses = [use for use in record.caches if use.source == TRAINING or not training]
        seconds.update((use.path, made.get(use.path, use).teacher_s) for use in uses)
    known = [value for value in seconds.values() if value is not None]
    return sum(known) if len(known) == len(seconds) else None


def _teacher_cost(runs: Sequence[RunRecord], made: Mapping[str, CacheUse]) -> TeacherCost:
    """Return what the runs of an arm took from their teacher for training; what they share is counted once."""
    stores = {run.answers.path: run.answers for run in runs if run.answers is not None}
    uses = {use.path: made.get(use.path, use) for run in runs for use in run.caches if use.source == TRAINING}
    online = sum(run.cost.teacher_tokens - (run.answers.teacher_tokens if run.answers else 0) for run in runs)
    written = sum(store.generated_tokens for store in stores.values())
    stored = [use.stored_bytes for use in uses.values()]
    return TeacherCost(
        read_tokens=online
        + sum(use.tokens for use in uses.values())
        + sum(store.teacher_tokens for store in stores.values())
        - written,
        generated_tokens=written,
        seconds=_shared_s(runs, made, training=True),
        stored_bytes=None if None in stored else sum(size for size in stored if size is not None),
        served=total_cost(
            [
                *(store.served for store in stores.values()),
                *(use.served for use in uses.values()),
                *(run.cost.served for run in runs),
            ]
        ),
    )


def _judged(folder: Path, runs: Sequence[RunRecord]) -> Judged:
    lines = [with_own_rows(folder / OWN_TEXT, run, _held_out_lines(folder, run.arm, run.seed)) for run in runs]
    return Judged([run.evaluation for run in runs], lines, judged_by=runs[0].teacher)


def _teacher(folder: Path, point: Baseline) -> Judged:
    return Judged([point.evaluation], [read_held_out(folder / "baselines" / f"{teacher_stem(point.name)}.jsonl")])


def _arm(runs: Sequence[RunRecord], made: Mapping[str, CacheUse], compared: tuple[Comparison, ...]) -> ArmResult:
    first = runs[0]
    return ArmResult(
        name=first.arm,
        method=first.method,
        access=first.access,
        teacher=first.teacher.name if first.teacher is not None and first.access != "none" else None,
        across_tokenizers=_across(first),
        shown_failure=first.shown_failure,
        seeds=tuple(run.seed for run in runs),
        evaluations=tuple(run.evaluation for run in runs),
        curves=tuple(run.curve for run in runs),
        costs=tuple(run.cost for run in runs),
        comparisons=compared,
        teacher_cost=_teacher_cost(runs, made),
        rollouts=tuple(run.rollout for run in runs if run.rollout is not None),
    )


def _across(run: RunRecord) -> bool:
    return run.access != "none" and run.contract is not None and run.contract.verdict == "different"


def _held_out_lines(folder: Path, arm: str, seed: int) -> list[dict[str, Any]]:
    return read_held_out(folder / "runs" / arm / f"seed{seed}" / "held_out.jsonl")


def _first_lines(
    folder: Path, baselines: Sequence[Baseline], by_arm: Mapping[str, Sequence[RunRecord]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the held-out lines of every model; of an arm those of its first finished seed."""
    stems = {
        point.name: UNDISTILLED if point.role == "undistilled student" else teacher_stem(point.name)
        for point in baselines
    }
    lines = {name: read_held_out(folder / "baselines" / f"{stem}.jsonl") for name, stem in stems.items()}
    return lines | {name: _held_out_lines(folder, name, runs[0].seed) for name, runs in by_arm.items() if runs}


def _samples(
    recipe: StudyRecipe, inputs: RunInputs, lines: Mapping[str, Sequence[dict[str, Any]]]
) -> tuple[GenerationSample, ...]:
    """Return the first ten generated answers of every model."""
    answers = {name: _answers(each) for name, each in lines.items()}
    held_out = inputs.held_out.first(min(_SAMPLES, recipe.evaluation.generate_rows))
    return tuple(
        GenerationSample(
            prompt=prompt,
            reference=reference,
            answers={name: given[index] for name, given in answers.items() if given},
        )
        for index, (prompt, reference) in enumerate(zip(held_out.prompts, held_out.references, strict=True))
    )


def _answers(lines: Sequence[dict[str, object]]) -> list[str]:
    return [str(line["answer"]) for line in lines if "answer" in line]


def _budget(recipe: StudyRecipe) -> str:
    training = recipe.training
    steps = f"{plural(training.steps, 'optimizer step')} of {plural(training.batch_size, 'sequence')}"
    what = {
        "steps": steps,
        "tokens": f"as many tokens, of student and teacher, as SFT reads in {steps}",
        "flops": f"as many floating-point operations, of student and teacher, as SFT takes in {steps}",
    }[recipe.budget]
    rate = f"learning rate {training.learning_rate:g} ({training.schedule})"
    return f"{what}, {rate}, the same for every arm; {plural(len(recipe.seeds), 'seed')}"


def _distinct(records: Sequence[_Counts]) -> tuple[_Counts, ...]:
    seen: dict[str, _Counts] = {}
    for record in records:
        seen.setdefault(record.model_dump_json(), record)
    return tuple(seen.values())
