"""Base classes of the terms, and the weighted sum of terms that a run trains on.

There are three kinds. A `TokenTerm` gives one value for each scored token, from the two models' logits there. An
`ActivationTerm` gives one sum, from activations inside the two models. A `HeadTerm` gives one sum too, and applies both
heads itself.

Shape letters: N flattened scored positions (all, or those of one chunk), V student vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from distillab.config.layer_terms import Positions
from distillab.config.term_base import BaseTermConfig, TokenRequirement, Weight
from distillab.divergences.fused import Formula, Probabilities, evaluate
from distillab.errors import TeacherError
from distillab.models.activations import Activations, ActivationSpec
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead
from distillab.models.scoring import scored_count
from distillab.objectives.grouped import Links, summed
from distillab.records import ACCESS_ORDER, AccessLevel
from distillab.teachers.aligned import AlignedTokens
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import (
    NextTokens,
    ScoreRequest,
    SignalRequest,
    TeacherSignal,
    log_probabilities,
    scaled_logits,
)

TeacherScores = NextTokens | AlignedTokens


@dataclass(frozen=True)
class StudentScores:
    """The student's logits at some scored positions, and the tokens that they predict.

    What is read of them has a gradient to the logits.
    """

    logits_NV: Tensor
    targets_N: Tensor
    _logp: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def logp(self, width: int, temperature: float) -> Tensor:
        """Return (N, width) float32 log-probabilities over the first `width` ids; made once for all terms."""
        key = (width, temperature)
        if key not in self._logp:
            self._logp[key] = log_probabilities(self.logits_NV, width, temperature)
        return self._logp[key]

    def logp_at(self, ids_NK: Tensor, width: int, temperature: float) -> Tensor:
        """Return (N, K) of these log-probabilities, those of some ids."""
        return self.logp(width, temperature).gather(1, ids_NK)

    def distance(self, formula: Formula, teacher: Probabilities, temperature: float) -> Tensor:
        """Return (N,) values of a divergence from the teacher's distribution, over as many ids as that has."""
        return evaluate(formula, self.logp(teacher.logits.shape[1], temperature), teacher.logp)

    def log_total(self, width: int, temperature: float) -> Tensor:
        """Return (N,) what the logits of the first `width` ids, divided by the temperature, exceed `logp` by."""
        return scaled_logits(self.logits_NV, width, temperature).logsumexp(dim=-1)

    def logits_at(self, ids_NK: Tensor) -> Tensor:
        """Return (N, K) logits of some ids."""
        return self.logits_NV.gather(1, ids_NK).float()

    def carried(self, links: Links, temperature: float) -> StudentScores:
        """Return the scores of the outcomes of `links`, at that temperature: it is 1 for what is read of them."""
        return StudentScores(summed(scaled_logits(self.logits_NV, links.width, temperature), links), self.targets_N)


class Term:
    """Base of all terms.

    A subclass names its settings, `class CrossEntropy(TokenTerm, config=CrossEntropyConfig)`, and builds itself from
    them: `from_config(settings, context)`. The settings name the class in turn, as `target`.
    """

    name: str
    access: AccessLevel
    tokens: TokenRequirement

    def __init_subclass__(cls, *, config: type[BaseTermConfig] | None = None) -> None:
        super().__init_subclass__()
        if config is not None:
            cls.name, cls.access, cls.tokens = config.model_fields["kind"].default, config.access, config.tokens

    def count(self, batch: TokenBatch) -> int:
        """Return how many units this microbatch adds to the normaliser; known before the forward pass."""
        raise NotImplementedError


class TokenTerm(Term):
    """Base of the terms that give one value for each scored token."""

    score_request: ScoreRequest | None = None  # what it reads of the teacher
    ordinal: bool = False  # whether it reads the teacher's n-th token of an answer at the student's n-th
    continues: bool = False  # whether it reads the teacher's probability of the further tokens of a span

    def count(self, batch: TokenBatch) -> int:
        """Count the scored tokens of the microbatch."""
        return scored_count(batch)

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (N,) nats; their sum over all chunks is the term's value on the microbatch."""
        raise NotImplementedError


class SpanTerm(TokenTerm):
    """Base of the terms whose values depend on several positions together.

    The head is applied twice: first `score` gives each position's C numbers without gradients, and `reduce_spans`
    computes the values from them and, differentiated, the slope of each number; then the gradient is computed chunk by
    chunk as for every other term.
    """

    adds_position_values: bool = False  # whether it reads the teacher position by position too, in `position_values`

    def score(self, student: StudentScores) -> Tensor:
        """Return (n, C) float32 numbers of some positions, each from its own logits, with gradients to them."""
        raise NotImplementedError

    def reduce_spans(self, observed_NC: Tensor, batch: TokenBatch, signal: TeacherSignal) -> Tensor:
        """Compute (N,) the term's values from all positions' numbers, differentiable. Any position can hold a value."""
        raise NotImplementedError

    def scored_at(self, batch: TokenBatch) -> Tensor | None:
        """Return (N,) bool, the positions whose numbers `reduce_spans` needs; None: all. It can get others too."""
        return None

    def position_values(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Return (n,) values of single positions, beside `reduce_spans`; called if the term `adds_position_values`."""
        raise NotImplementedError

    def per_position(self, student: StudentScores, signal: TeacherScores | None) -> Tensor:
        """Raise: a position has no value by itself."""
        raise TypeError(f"{self.name} has no value at a single position")


class StateTerm(Term):
    """Base of the terms that read activations.

    Attributes:
        positions: where the teacher's hidden states are read.
        student_activations, teacher_activations: what is recorded of either model.
        projector: trained beside the student, and not part of it; None if nothing is projected.
        projector_learning_rate: None for the student's.
    """

    positions: Positions
    student_activations: ActivationSpec
    teacher_activations: ActivationSpec
    projector: torch.nn.Module | None = None
    projector_learning_rate: float | None = None


class ActivationTerm(StateTerm):
    """Base of the terms that read activations alone."""

    def initialise(self, student: Activations, teacher: Activations, batch: TokenBatch) -> None:
        """Initialise from one batch; called once, before training. By default nothing is done."""

    def total(self, student: Activations, teacher: Activations, batch: TokenBatch) -> Tensor:
        """Return () the sum over the microbatch's units, in the term's unit."""
        raise NotImplementedError


@dataclass(frozen=True)
class ModelOutputs:
    """One of the two models, as a `HeadTerm` reads it.

    Attributes:
        hidden_ND: (N, D) last hidden states, as the head reads them, at the scored positions of the model's own tokens.
        head: the model's.
        activations: the recorded states, at all positions.
    """

    hidden_ND: Tensor
    head: OutputHead
    activations: Activations


class HeadTerm(StateTerm):
    """Base of the terms that apply the heads to states which they compute themselves.

    `total` is called within the student's forward, in place of its head, where the head's weights are available even if
    they are sharded or offloaded.
    """

    score_request: ScoreRequest  # a whole distribution: a teacher gives it as hidden states and head

    def initialise(self, student: ModelOutputs, teacher: ModelOutputs, batch: TokenBatch) -> None:
        """Initialise from one batch; called once, before training."""
        raise NotImplementedError

    def total(self, student: ModelOutputs, teacher: ModelOutputs, batch: TokenBatch) -> Tensor:
        """Return () the sum over the microbatch, in the term's unit, with gradients to all that learns."""
        raise NotImplementedError


@runtime_checkable
class RemembersSteps(Protocol):
    """A term that keeps something from one optimizer step to the next."""

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """End an optimizer step; called after its last microbatch, before the optimizer.

        Args:
            gather: (n, …) of each process -> those of all processes, one after another; n may differ.
        """
        ...


@dataclass(frozen=True)
class WeightedTerm:
    """A term and its factor in the sum. `name` is the term's, numbered if the term occurs more than once."""

    name: str
    term: Term
    weight: Weight


@dataclass(frozen=True)
class Objective:
    """Σ weight · (sum of the term / its count over the whole optimizer step)."""

    terms: tuple[WeightedTerm, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in their order."""
        return tuple(weighted.name for weighted in self.terms)

    @property
    def token_terms(self) -> dict[str, TokenTerm]:
        """The terms that read logits, by name."""
        return {item.name: item.term for item in self.terms if isinstance(item.term, TokenTerm)}

    @property
    def activation_terms(self) -> dict[str, ActivationTerm]:
        """The terms that read activations alone, by name."""
        return {item.name: item.term for item in self.terms if isinstance(item.term, ActivationTerm)}

    @property
    def head_terms(self) -> dict[str, HeadTerm]:
        """The terms that read activations and apply the heads themselves, by name."""
        return {item.name: item.term for item in self.terms if isinstance(item.term, HeadTerm)}

    @property
    def state_terms(self) -> dict[str, StateTerm]:
        """The terms that read activations, by name: those that may have a projector."""
        return {item.name: item.term for item in self.terms if isinstance(item.term, StateTerm)}

    @property
    def remembering_terms(self) -> list[RemembersSteps]:
        """The terms that are called at the end of a step."""
        return [item.term for item in self.terms if isinstance(item.term, RemembersSteps)]

    @property
    def student_activations(self) -> ActivationSpec:
        """The activations that are recorded of the student."""
        return _union([term.student_activations for term in self.state_terms.values()])

    @property
    def request(self) -> SignalRequest:
        """The signals that the terms read of the teacher; empty if they read none."""
        scores = frozenset(term.score_request for term in self.token_terms.values() if term.score_request is not None)
        scores |= frozenset(term.score_request for term in self.head_terms.values())
        terms = list(self.state_terms.values())
        hidden_at = frozenset(term.positions for term in terms if term.teacher_activations.hidden)
        return SignalRequest(scores, _union([term.teacher_activations for term in terms]), hidden_at)

    @property
    def reads_teacher(self) -> bool:
        """True where any term reads the teacher."""
        return bool(self.request)

    def require(self, teacher: SignalSource | None) -> None:
        """Check, when the run is built, that the teacher can give what the terms need.

        Raises:
            TeacherError: there is no teacher, or its access level is too low.
        """
        for weighted in self.terms:
            term = weighted.term
            if term.access == "none":
                continue
            if teacher is None:
                raise TeacherError(f"The term {weighted.name} needs a teacher, and there is none.")
            given = teacher.identity.access
            if ACCESS_ORDER.index(given) < ACCESS_ORDER.index(term.access):
                raise TeacherError(
                    f"The teacher cannot give what the term {weighted.name} needs.",
                    facts=[f"needed: {term.access}", f"given: {given}"],
                )


def _union(parts: Sequence[ActivationSpec]) -> ActivationSpec:
    return reduce(or_, parts, ActivationSpec())
