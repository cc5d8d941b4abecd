"""What the whole recipe will take of this machine: memory, disk, hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distillab.doctor.checks import from_page
from distillab.doctor.clock import Clock
from distillab.preflight.machine import Machine, Weights, size, this_machine
from distillab.preflight.memory import RunMemory, run_memory
from distillab.preflight.setup import Arm, Setup
from distillab.preflight.timing import StepTime, row_s, step_time, written_s
from distillab.records import CheckResult, Finding
from distillab.runs.answers import prompts_of
from distillab.terminal import plural
from distillab.training.arguments import curve_points

CHECK_ID = "costs"
_UNITS = 6.0


@dataclass(frozen=True)
class Budget:
    """How often the recipe does what.

    Attributes:
        seeds: runs of every arm.
        workers: runs side by side.
        cached: whether teachers read the rows once, for all runs.
        cache_bytes: of their signals, where it is stored and not there yet.
        process_bytes: of this process with its rows, before a model was loaded.
    """

    seeds: int = 1
    workers: int = 1
    cached: bool = False
    cache_bytes: int = 0
    process_bytes: int = 0


@dataclass(frozen=True)
class Costs:
    """The whole recipe, about.

    Attributes:
        memory_bytes: of all runs that go on at the same time.
        run: what the largest of them takes.
        together: how many go on at the same time.
        disk_bytes: of caches, checkpoints and students.
        hours: of all runs, as many side by side as there are workers.
        runs: how many there are.
        measured: whether all steps were measured on rows as the runs have them.
    """

    memory_bytes: int
    run: RunMemory
    together: int
    disk_bytes: int
    hours: float
    runs: int
    measured: bool


def check_costs(setups: Sequence[Setup], weights: Sequence[Weights], budget: Budget, clock: Clock) -> CheckResult:
    """Measure some steps of every objective, and add up.

    Args:
        setups: all objectives of the recipe.
        weights: of the models of each.
        budget: how often each is run.
        clock: what is left of the time.
    """
    if (refusal := clock.refuses(_UNITS)) is not None:
        return CheckResult(check=CHECK_ID, scope="no step", skipped=refusal)
    costs = measured_costs(setups, weights, budget, clock)
    return CheckResult(
        check=CHECK_ID,
        scope=f"{plural(costs.runs, 'run')}: about {size(costs.memory_bytes)} of memory, "
        f"{size(costs.disk_bytes)} of disk, {_duration(costs.hours)}"
        f"; memory of {'a run' if costs.together == 1 else f'each of {costs.together} runs at once'}: {costs.run}"
        + ("" if costs.measured else " (steps extrapolated from short rows by their tokens)"),
        findings=tuple(cost_findings(costs, this_machine(setups[0].recipe))),
    )


def measured_costs(setups: Sequence[Setup], weights: Sequence[Weights], budget: Budget, clock: Clock) -> Costs:
    """Measure the costs of the recipe; the arguments as in `check_costs`."""
    judging_s = _judging_s(setups[0])
    total_s = 0.0
    times: list[StepTime] = []
    recorded: set[tuple[int, str]] = set()
    answered: set[str] = set()
    for setup in setups:
        found = step_time(setup, clock)
        times.append(found)
        training, arms = setup.recipe.training, len(setup.names)
        from_cache = budget.cached and setup.inputs.method.reads_signals and setup.inputs.method.can_be_cached
        step_s = found.step_s - found.teacher_s if from_cache else found.step_s
        total_s += arms * budget.seeds * (training.steps * max(step_s, 0.0) + judging_s)
        key = (id(setup.source), setup.inputs.method.tokens)
        if from_cache and key not in recorded:
            recorded.add(key)
            total_s += found.teacher_s * len(setup.inputs.train.rows) / training.batch_size
    for arm in (arm for setup in setups for arm in setup.arms):
        settings = f"{id(arm.source)} {arm.recipe.teacher_answers.model_dump_json()}"
        if arm.inputs.method.answers == "teacher" and settings not in answered:
            answered.add(settings)
            total_s += sum(map(_answers_s, arm.of_each_teacher(every_row=False)))
    runs = budget.seeds * sum(len(setup.names) for setup in setups)
    together = min(budget.workers, runs)
    largest = max((_memory(setup, weights, budget) for setup in setups), key=lambda one: one.total)
    # the process that starts several runs stays beside them
    memory = largest.total * together + (budget.process_bytes if together > 1 else 0)
    if setups[0].device.type == "cuda":
        memory = max(largest.total, int(torch.cuda.max_memory_allocated(setups[0].device))) * together
    student = max(one.student for one in weights)
    disk = budget.cache_bytes + runs * student + together * max(one.checkpoint for one in weights)
    return Costs(memory, largest, together, disk, total_s / together / 3600, runs, all(one.measured for one in times))


def cost_findings(costs: Costs, machine: Machine) -> list[Finding]:
    """Return findings of the memory and disk space that a machine lacks."""
    found = []
    if costs.memory_bytes > machine.memory_bytes:
        found.append(memory_finding(costs.memory_bytes, machine.memory_bytes))
    if costs.disk_bytes > machine.disk_bytes:
        found.append(
            from_page("disk-too-small", f"needed: about {size(costs.disk_bytes)}", f"free: {size(machine.disk_bytes)}")
        )
    return found


def memory_finding(needed: int, there: int) -> Finding:
    """Return the finding of a device with less memory than the runs take."""
    return from_page("memory-too-small", f"needed: about {size(needed)}", f"available: {size(there)}")


def _judging_s(setup: Setup) -> float:
    """Return the seconds of a run's learning curve and of its evaluation at the end."""
    own = setup.recipe.evaluation
    student = setup.student()
    held_out, points = setup.inputs.held_out, curve_points(setup.recipe.training)
    seconds = row_s(setup, student) * (
        points * min(own.curve_rows, len(held_out.rows)) + min(own.rows, len(held_out.rows))
    )
    prompts = held_out.first(own.generate_rows).prompt_ids
    if prompts:
        each = written_s(student, setup.inputs.student, prompts, batch_size=own.batch_size)
        seconds += each * own.max_new_tokens * math.ceil(len(prompts) / own.batch_size)
    return seconds


def _answers_s(arm: Arm) -> float:
    """Return the seconds of the teacher's answers to all prompts; none if a cache has them."""
    teacher = arm.inputs.teacher
    if arm.source is None or teacher is None or not teacher.spec.settings.has_weights:
        return 0.0
    settings = arm.recipe.teacher_answers
    prompts = [prompt.ids for prompt in prompts_of(arm.inputs)]
    each = written_s(arm.source.model(), teacher.reader, prompts, batch_size=settings.batch_size)
    batches = math.ceil(len(prompts) * settings.answers_per_prompt / settings.batch_size)
    return each * settings.max_new_tokens * batches


def _memory(setup: Setup, weights: Sequence[Weights], budget: Budget) -> RunMemory:
    """Return the memory of a run, which loads no teacher if everything that it uses of the teacher is stored before."""
    largest = max(weights, key=lambda one: one.learning + one.teacher)
    method, process, device = setup.inputs.method, budget.process_bytes, setup.device
    cached = budget.cached and method.trains_from_cache
    return run_memory(setup.inputs, setup.student(), largest, process=process, device=device, cached=cached)


def _duration(hours: float) -> str:
    return f"{hours * 60:,.0f} minutes" if hours < 1.5 else f"{hours:,.1f} hours"
