"""Is every term zero where the student is the teacher, and worse where the teacher's signal is shifted by one?

The teacher takes the student's place, in the recipe's own terms, on the recipe's rows. A recipe can break this by its
settings alone: the one most likely token, made to sum to one, has the same value for all models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillab.config.terms import ContrastiveConfig, DualSpaceConfig, TermConfig
from distillab.doctor.clock import Clock
from distillab.doctor.page import from_page
from distillab.doctor.selftest.messages import left_out, number, scope
from distillab.doctor.selftest.setup import Setup, answerable, by_tokens
from distillab.models.activations import Activations
from distillab.models.aligned_positions import teacher_batch
from distillab.models.projections import QKV
from distillab.objectives.build import build_objective
from distillab.objectives.step import measure
from distillab.records import CheckResult, Finding
from distillab.runs.teacher_view import TeacherView, TokenizerPair
from distillab.runs.training_data import training_data
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import HeadInputs, TeacherSignal
from distillab.terminal import plural

CHECK_ID = "selftest-terms"
_UNITS = 3.0
_ROUNDING = 1e-5  # of a unit of a term
_PART = 0.01  # of the term's value for a teacher that is one position off
_BLIND = 1e-9
_SEED = 0x5E1F  # of what is drawn from the teacher
_NO_ZERO = "it learns how the two models' states are compared, so it is not zero where they are equal"


@dataclass(frozen=True)
class TeacherAsStudent:
    """A term's mean over its units where the student is the teacher: as it is, and with the signal one position off."""

    equal: float
    shifted: float


def check_terms(setups: Sequence[Setup], clock: Clock) -> CheckResult:
    """Compare the teacher with itself by every term of the recipe.

    Args:
        setups: all objectives of the recipe.
        clock: what is left of the time.
    """
    groups = by_tokens(setups)
    missed: list[tuple[str, str]] = []
    findings: list[Finding] = []
    terms = 0
    for group, teacher in answerable(groups, clock, units=_UNITS, missed=missed):
        zero = []
        for term in group.terms:
            if learns_to_compare(term):
                missed.append((term.kind, _NO_ZERO))
            else:
                zero.append(own_layers(term))
        if not zero:
            continue
        means = teacher_as_student(group.with_terms(zero), teacher)
        terms += len(means)
        for name, found in means.items():
            findings += term_findings(name, found, group)
    if not groups:
        return CheckResult(check=CHECK_ID, scope="0 terms", skipped="no term uses a teacher")
    return CheckResult(
        check=CHECK_ID,
        scope=scope(groups, plural(terms, "term")),
        skipped=left_out(missed),
        findings=tuple(findings),
    )


def learns_to_compare(term: TermConfig) -> bool:
    """Return whether a term has learned parts between the two models' states, so that equal states are not zero."""
    return isinstance(term, ContrastiveConfig | DualSpaceConfig) or getattr(term, "projector", None) == "linear"


def own_layers(term: TermConfig) -> TermConfig:
    """Return the term with every layer of the teacher mapped to itself."""
    layers = getattr(term, "layers", None)
    if layers is None or isinstance(layers, str):
        return term
    return term.model_copy(update={"layers": tuple((layer, layer) for _, layer in layers)})


def teacher_as_student(setup: Setup, teacher: SignalSource) -> dict[str, TeacherAsStudent]:
    """Return name of a term -> its means if the student is the teacher."""
    model = setup.teacher_model
    assert model is not None  # the setup is one of `answerable`
    view, inputs, split = setup.inputs.require_teacher(), setup.inputs, setup.split
    if view.own_tokens:
        split = view.pair.encoded_for_teacher(split)
        view = _teacher_tokens_alone(view)
        inputs = replace(inputs, student=view.reader, teacher=view)
    data = training_data(inputs, split)
    batch = data.collator([data.rows[place] for place in range(len(data.lengths))])
    objective = build_objective(
        setup.terms,
        shared_width=view.compared_width,
        student=teacher.identity.shape,
        teacher=teacher.identity.shape,
        vocabularies=view.vocabularies,
    )
    teacher.require(objective.request, packing=setup.recipe.training.packing)
    counts = {item.name: max(1, item.term.count(batch)) for item in objective.terms}
    factors = dict.fromkeys(objective.names, 1.0)

    def explanation(signal: TeacherSignal) -> dict[str, float]:
        # draws are the same in both, so that only the shift differs
        torch.manual_seed(_SEED)
        device = next(model.parameters()).device
        measured = measure(model, batch, objective, signal, factors=factors, device=device)
        return {name: float(total) / counts[name] for name, total in measured.sums.items()}

    with setup.arithmetic(), torch.no_grad():
        signal = teacher.signal(teacher_batch(batch), objective.request)
        equal, off = explanation(signal), explanation(shifted(signal))
    return {name: TeacherAsStudent(equal[name], off[name]) for name in objective.names}


def shifted(signal: TeacherSignal) -> TeacherSignal:
    """Return a teacher's signal shifted by one position."""
    scores, activations = signal.scores, signal.activations
    if isinstance(scores, HeadInputs):
        scores = HeadInputs(scores.hidden_ND.roll(1, 0), scores.head)
    if activations is not None:
        activations = Activations(
            hidden={layer: _rolled(states) for layer, states in activations.hidden.items()},
            projections={
                block: QKV(_rolled(found.query), _rolled(found.key), _rolled(found.value))
                for block, found in activations.projections.items()
            },
            maps={block: states.roll(1, 2) for block, states in activations.maps.items()},
        )
    return replace(signal, scores=scores, activations=activations)


def term_findings(name: str, found: TeacherAsStudent, setup: Setup) -> list[Finding]:
    """Return what is wrong with a term that gives these means."""
    evidence = (
        f"term {name} of {setup.name}",
        f"student = teacher: {number(found.equal)}; the teacher one position off: {number(found.shifted)} (per unit)",
    )
    if found.shifted < _BLIND:
        return [from_page("term-blind-to-teacher", evidence=evidence, words={"name": name})]
    if found.equal > _ROUNDING + _PART * found.shifted:
        return [from_page("term-not-zero-at-teacher", evidence=evidence)]
    return []


def _rolled(states_BLD: Tensor) -> Tensor:
    return states_BLD.roll(1, 1)


def _teacher_tokens_alone(view: TeacherView) -> TeacherView:
    """Return the same setup with the teacher's tokenizer for both models."""
    contract = view.contract.model_copy(update={"student": view.contract.teacher})
    return replace(view, pair=TokenizerPair(view.reader, view.reader, contract))
