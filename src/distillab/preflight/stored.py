"""Does a cache of the teacher's signal give the terms the same values as the teacher itself?

A few rows are recorded into a folder that is removed afterwards, by the code of `distillab cache build`, and read back
by the code of a run. How far the values may differ is what the kind of storage promises
(docs/performance.md, the teacher cache).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillab.config.cache import KindConfig, SampledKind, TextKind
from distillab.config.layer_terms import AttentionMapsConfig
from distillab.doctor.checks import from_page
from distillab.doctor.clock import Clock
from distillab.errors import TeacherError
from distillab.objectives.step import measure
from distillab.preflight.messages import left_out, number, scope
from distillab.preflight.setup import Setup, answerable, by_tokens
from distillab.records import CheckResult, Finding
from distillab.runs.signals import CacheJob, arms_kinds, write_part
from distillab.runs.stored_signals import StoredSignals
from distillab.runs.teacher import RunTeacher
from distillab.teachers.protocol import SignalSource
from distillab.teachers.stored.kinds import STORED

CHECK_ID = "cache"
_UNITS = 4.0
_LEAST = 1e-5  # of a unit of a term: rounding
# relative differences of a term's value that a way of storing may make
_EXACT, _HALF = 2e-3, 2e-2
# a teacher of this format on a row alone, and on the same row among others
_OF_TEACHER = {"float16": 5e-3, "bfloat16": _HALF}
_ERRORS = 6.0  # standard errors of a mean over positions, where tokens were drawn


@dataclass(frozen=True)
class StoredTerm:
    """A term's mean over its units, from the teacher and from a cache of it.

    Attributes:
        error: standard error of the difference; 0 where nothing was drawn.
    """

    live: float
    cached: float
    error: float = 0.0


def check_cache(setups: Sequence[Setup], clock: Clock) -> CheckResult:
    """Record a few rows, read them back, and compare every term.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time.
    """
    groups = by_tokens(setups)
    missed: list[tuple[str, str]] = []
    findings: list[Finding] = []
    names: list[str] = []
    chosen = answerable(groups, clock, units=_UNITS, missed=missed)
    for place, (group, teacher) in enumerate(chosen):
        storable = [term for term in group.terms if not isinstance(term, AttentionMapsConfig)]
        if len(storable) < len(group.terms):
            missed.append(("attention_maps", "attention maps are never stored: they grow with the square of a row"))
        if not storable:
            continue
        setup = group.with_terms(storable)
        kinds = kinds_of(setup)
        names += [kind.kind for kind in kinds]
        try:
            means = stored_terms(setup, teacher, kinds, f"cache-{place}")
        except TeacherError as error:
            findings.append(_does_not_serve(setup, kinds, error))
            continue
        for name, found in means.items():
            findings += cache_findings(name, found, kinds, group)
    if not groups:
        return CheckResult(check=CHECK_ID, scope="0 terms", skipped="no term uses a teacher")
    return CheckResult(
        check=CHECK_ID,
        scope=scope(groups, f"stored as {', '.join(dict.fromkeys(names)) or 'nothing'}"),
        skipped=left_out(missed),
        findings=tuple(findings),
    )


def kinds_of(setup: Setup) -> tuple[KindConfig, ...]:
    """Return the cache kinds that the recipe names, else those that its terms use."""
    named = tuple(kind for kind in setup.settings.kinds or () if not isinstance(kind, TextKind))
    return named or arms_kinds([setup.inputs])


def stored_terms(
    setup: Setup, teacher: SignalSource, kinds: tuple[KindConfig, ...], name: str
) -> dict[str, StoredTerm]:
    """Return name of a term -> its means for the student before training.

    Args:
        kinds: what is stored.
        name: of the folder in the scratch folder.
    Raises:
        TeacherError: the kinds do not serve a term.
    """
    location = setup.scratch / name
    view = setup.inputs.require_teacher()
    rows, source = view.rows(setup.split), "the few rows of the preflight"
    job = CacheJob(location, "train", kinds, rows, source, view, view.train_view)
    settings = setup.settings.model_copy(update={"compression": "none"})
    write_part(job, teacher=teacher, settings=settings)
    reader = RunTeacher(setup.inputs, StoredSignals(train=str(job.folder)))
    cached = reader.for_terms(setup.split)
    assert cached is not None  # the terms read signals
    student = setup.student(dropout=False)
    objective = setup.objective(student)
    cached.require(objective.request, packing=setup.recipe.training.packing)
    counts = {item.name: max(1, item.term.count(setup.batch)) for item in objective.terms}
    factors = dict.fromkeys(objective.names, 1.0)
    drawn = setup.draws or any(isinstance(kind, SampledKind) for kind in kinds)

    def values(source: SignalSource) -> tuple[dict[str, float], dict[str, Tensor]]:
        signal = setup.signal(objective, source)
        measured = measure(student, setup.batch, objective, signal, factors=factors, device=setup.device)
        return {term: float(total) / counts[term] for term, total in measured.sums.items()}, measured.values

    with setup.arithmetic(), torch.no_grad():
        (live, live_at), (again, again_at) = values(setup.teacher or teacher), values(cached)
    errors = {term: _standard_error(live_at[term] - again_at[term]) for term in live_at} if drawn else {}
    return {term: StoredTerm(live[term], again[term], errors.get(term, 0.0)) for term in objective.names}


def cache_findings(name: str, found: StoredTerm, kinds: Sequence[KindConfig], setup: Setup) -> list[Finding]:
    """Return what is wrong with a cache that gives a term this mean."""
    format_ = setup.teacher_format
    promised = max(promised_difference(kinds), _OF_TEACHER.get(format_, 0.0))
    allowed = _LEAST + promised * abs(found.live) + _ERRORS * found.error
    if abs(found.cached - found.live) <= allowed:
        return []
    stored = ", ".join(kind.model_dump_json(exclude_defaults=True) for kind in kinds)
    return [
        from_page(
            "cached-differs-from-live",
            f"term {name} of {setup.name}: from the teacher {number(found.live)}, from the cache "
            f"{number(found.cached)} per unit; the allowed difference is {number(allowed)}",
            f"the teacher's number format: {format_}",
            f"stored as: {', '.join(kind.kind for kind in kinds)} {stored}",
        )
    ]


def promised_difference(kinds: Sequence[KindConfig]) -> float:
    """Return how far, relatively, a term's value can be off by the way in which the signal is stored."""
    return max([_EXACT, *(STORED[kind.kind].relative_error(kind) for kind in kinds)])


def _does_not_serve(setup: Setup, kinds: Sequence[KindConfig], error: TeacherError) -> Finding:
    return from_page(
        "cache-does-not-serve",
        f"arms {setup.name}; cache.kinds: {', '.join(kind.kind for kind in kinds)}",
        *str(error).splitlines(),
    )


def _standard_error(differences_N: Tensor) -> float:
    count = differences_N.numel()
    return float(differences_N.float().std()) / math.sqrt(count) if count > 1 else math.inf
