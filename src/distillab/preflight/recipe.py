"""Check a recipe before it runs: its pair, its data, and its runs on a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedModel

from distillab.config.cache import CacheConfig
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.doctor.clock import LIMIT_S, Clock
from distillab.doctor.data.audit import run_data_checks
from distillab.doctor.data.subject import DataSubject
from distillab.doctor.pair.audit import CHECKS as PAIR_CHECKS
from distillab.doctor.pair.audit import run_pair_checks
from distillab.doctor.pair.subject import PairSubject
from distillab.models.loading import model_name
from distillab.pairing.admission import pair_check
from distillab.preflight.arms import CHECKS as ARM_CHECKS
from distillab.preflight.arms import run_arm_checks
from distillab.preflight.costs import Budget, memory_finding
from distillab.preflight.machine import Weights, size, this_machine, weights_of
from distillab.preflight.memory import resident_bytes
from distillab.preflight.messages import left_out
from distillab.preflight.setup import Arm
from distillab.progress import Progress
from distillab.records import CheckResult, Investigation
from distillab.runs.inputs import load_inputs
from distillab.runs.parallel import require_processes
from distillab.runs.several import open_teacher
from distillab.runs.signals import bytes_before_loading
from distillab.runs.student import load_student
from distillab.runs.teacher import RunTeacher
from distillab.study.plan import StudyPlan
from distillab.teachers.stored.location import Part
from distillab.terminal import plural

CHECK_ID = "arms"
# speed of the checks of texts, a careful guess; the most rows that are encoded
_CHARACTERS_A_SECOND, _MOST_ROWS = 3e5, 10_000
_BYTES_A_SECOND = 200e6  # speed of loading weights, a careful guess
_LOADING_SHARE = 3.0  # loading can take a third of the time
_PARTS: tuple[Part, ...] = ("train", "held_out")


@dataclass(frozen=True, eq=False)
class _Recipe:
    """The common part of a run recipe and a study recipe."""

    subject: str
    arms: tuple[Arm, ...]  # that are tried
    every: tuple[Arm, ...]  # all arms
    missed: tuple[tuple[str, str], ...]
    budget: Budget


def audit_recipe(
    recipe: RunRecipe | StudyRecipe, *, demonstrate_mismatch: bool = False, limit_s: float = LIMIT_S
) -> Investigation:
    """Check a recipe before it runs. Files are written only to a temporary folder.

    Args:
        recipe: of a run or of a study; each different arm of a study is tested once.
        demonstrate_mismatch: arms that compare unrelated tokens are shown failures.
        limit_s: seconds for all checks; checks that would take longer are skipped and listed.
    Raises:
        DistillabError: an error from before a run begins: missing weights, unreadable rows, terms that do not fit.
    """
    if isinstance(recipe, StudyRecipe):
        study = StudyPlan(recipe)
        return audit_study(study.showing_mismatches() if demonstrate_mismatch else study, limit_s=limit_s)
    clock = Clock(limit_s)
    inputs = load_inputs(recipe)
    if demonstrate_mismatch:
        inputs = inputs.showing_mismatch()
    source = None if inputs.teacher is None else open_teacher(inputs)
    arm = Arm(recipe.method, inputs, source, recipe.cache or CacheConfig())
    return _check(_sorted_out(recipe.name, (arm,), Budget(process_bytes=resident_bytes())), clock)


def audit_study(study: StudyPlan, *, limit_s: float = LIMIT_S) -> Investigation:
    """Check a study before it runs, with its loaded tokenizers and rows.

    Raises:
        DistillabError: see `audit_recipe`.
    """
    clock = Clock(limit_s)
    recipe = study.recipe
    sources: dict[str, RunTeacher] = {}
    arms = []
    for arm in recipe.arms:
        inputs = study.inputs(arm)
        source = sources.setdefault(repr(recipe.teachers_of(arm)), open_teacher(inputs))
        arms.append(Arm(arm.name, inputs, source, recipe.cache))
    cached = recipe.teacher_signals == "cached"
    budget = Budget(len(recipe.seeds), recipe.workers, cached, _cache_bytes(study) if cached else 0, resident_bytes())
    return _check(_sorted_out(recipe.title, tuple(arms), budget), clock)


def _sorted_out(title: str, arms: tuple[Arm, ...], budget: Budget) -> _Recipe:
    """Return the recipe with the arms that are tested, and the reasons for the others."""
    missed, tried = [], []
    for arm in arms:
        if arm.recipe.shown_failure is not None:
            missed.append((arm.name, f"a shown failure: {arm.recipe.shown_failure}"))
        elif arm.inputs.mismatched_vocab:
            missed.append((arm.name, "compares unrelated tokens, and is refused"))
        elif arm.inputs.method.reads_signals and any(one.server for one in arm.recipe.each_teacher.values()):
            missed.append((arm.name, "its teacher is behind a server, which only the run asks"))
        else:
            tried.append(arm)
    settings = arms[0].recipe.student
    student = ("" if settings.from_teacher is None else "made from ") + model_name(settings.path)
    teachers = dict.fromkeys(arm.inputs.teacher.spec.name for arm in arms if arm.inputs.teacher is not None)
    subject = f"{title}: student {student}" + (f", teacher {', '.join(teachers)}" if teachers else "")
    # a refused arm counts for the checks of the pair
    every = tuple(arm for arm in arms if arm.recipe.shown_failure is None)
    return _Recipe(subject, tuple(tried), every or arms, tuple(missed), budget)


def _check(recipe: _Recipe, clock: Clock) -> Investigation:
    """Run first the checks without a model, then those of the arms, then those with the weights of the pair."""
    for arm in recipe.every:
        require_processes(arm.recipe)
    first = recipe.every[0]
    teachers = _of_each_teacher(recipe.every)
    total = 1 + ARM_CHECKS + sum(PAIR_CHECKS for _ in teachers)
    with Progress("checking the recipe", total=total, unit="checks") as clock.progress:
        chosen, load = _chosen(recipe, clock)
        checks = [chosen, *_rows(first, clock)]
        original = load_student(first.inputs) if load else None
        pairs = [_pair(arm, recipe, original, clock, load=load) for arm in teachers]
        # the first check of each pair needs only the tokenizers
        checks += [one for pair in pairs for one in islice(pair, 1)]
        if original is not None and recipe.arms:
            tried = [_weights(arm) for arm in recipe.arms]
            checks += run_arm_checks(recipe.arms, original, weights=tried, budget=recipe.budget, clock=clock)
        checks += [one for pair in pairs for one in pair]
    contract = first.inputs.contract
    return Investigation(
        subject=recipe.subject,
        checks=tuple(checks),
        pairing=None if contract is None else pair_check(contract),
    )


def _chosen(recipe: _Recipe, clock: Clock) -> tuple[CheckResult, bool]:
    """Decide from the configurations which arms are tested and whether the models are loaded."""
    weights = [_weights(arm) for arm in recipe.every]
    most = max((one.learning + one.teacher for one in weights), default=0)
    if recipe.every[0].inputs.device.type == "cpu":
        most += recipe.budget.process_bytes
    machine = this_machine(recipe.every[0].recipe)
    loaded = sum(one.student for one in weights[:1]) + sum(_teacher_bytes(recipe.every, weights).values())
    refusal, findings = None, []
    if most > machine.memory_bytes:
        refusal = (
            f"the process, the models and AdamW need {size(most)}, and the device has {size(machine.memory_bytes)}"
        )
        findings.append(memory_finding(most, machine.memory_bytes))
    elif (late := clock.refuses_s(_LOADING_SHARE * loaded / _BYTES_A_SECOND)) is not None:
        refusal = f"loading weights of {size(loaded)}: {late}"
    chosen = CheckResult(
        check=CHECK_ID,
        scope=f"{plural(len(recipe.arms), 'arm')}; process, weights, gradients and AdamW of a run: {size(most)}",
        skipped=left_out([*recipe.missed, *([("the models", refusal)] if refusal else [])]),
        findings=tuple(findings),
    )
    return chosen, refusal is None


def _rows(arm: Arm, clock: Clock) -> tuple[CheckResult, ...]:
    clock.begin("rows")
    splits = arm.inputs.splits
    texts = [text for example in splits.train[:_MOST_ROWS] for text in example.texts if text]
    refusal = clock.refuses_s(sum(map(len, texts)) / _CHARACTERS_A_SECOND)
    if refusal is not None:
        return (CheckResult(check="rows", scope=plural(len(splits.train), "row"), skipped=refusal),)
    return run_data_checks(DataSubject(splits.train, splits.held_out, arm.inputs.student))


def _pair(
    arm: Arm, recipe: _Recipe, original: PreTrainedModel | None, clock: Clock, *, load: bool
) -> Iterator[CheckResult]:
    inputs = arm.inputs
    if inputs.teacher is None or arm.source is None or inputs.teacher.spec.text_only:
        return
    contract = inputs.teacher.contract
    with_weights = load and inputs.teacher.spec.settings.has_weights
    shared = [other for other in recipe.every if other.source is arm.source] or recipe.every
    subject = PairSubject(
        contract=contract,
        teacher=inputs.teacher.reader,
        student=inputs.student,
        teacher_model=arm.source.model() if with_weights else None,
        student_model=original,
        student_is_random=arm.recipe.student.init == "random",
        examples=inputs.train.examples,
        compares_by_index=any(other.inputs.method.tokens == "shared" for other in shared),
    )
    several = len(_of_each_teacher(recipe.every)) > 1
    name = f"teacher {contract.teacher.name}: " if several else ""
    for one in run_pair_checks(subject, clock):
        findings = tuple(
            found.model_copy(update={"evidence": (name + found.evidence[0], *found.evidence[1:])})
            for found in one.findings
        )
        yield one.model_copy(update={"scope": name + one.scope, "findings": findings})


def _of_each_teacher(arms: Sequence[Arm]) -> list[Arm]:
    different = {id(arm.source): arm for arm in reversed(arms)}.values()
    return [one for arm in reversed(different) for one in arm.of_each_teacher(every_row=True)]


def _weights(arm: Arm) -> Weights:
    return weights_of(arm.inputs, teacher=True)


def _teacher_bytes(arms: Sequence[Arm], weights: Sequence[Weights]) -> dict[int, int]:
    return {id(arm.source): one.teacher for arm, one in zip(arms, weights, strict=True)}


def _cache_bytes(study: StudyPlan) -> int:
    """Return the size of the teacher signals of a study, without those on its answers, which do not exist yet."""
    caches, found = study.caches, 0
    for part in _PARTS:
        for arm in caches.missing(part, study.recipe.arms):
            found += bytes_before_loading(caches.job(arm, part))
    return found
