"""Build the objective of a run from the settings of its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

from distillab.config.term_base import BaseTermConfig
from distillab.data.vocabularies import Vocabularies
from distillab.errors import ConfigError, TeacherError
from distillab.models.structure import ModelShape
from distillab.objectives.term import Objective, WeightedTerm


@dataclass(frozen=True)
class TermContext:
    """The properties of the two models that a term needs when it is built.

    Attributes:
        shared_width: ids that mean the same for both models; 0 if the method compares none.
        student, teacher: sizes of the models; None if they are not loaded.
        vocabularies: of both tokenizers; None if the method reads one tokenisation.
    """

    shared_width: int
    student: ModelShape | None = None
    teacher: ModelShape | None = None
    vocabularies: Vocabularies | None = None

    def require_shapes(self, kind: str) -> tuple[ModelShape, ModelShape]:
        """Return the sizes of student and teacher.

        Args:
            kind: of the term that needs them.
        Raises:
            TeacherError: there is no teacher model.
        """
        if self.student is None or self.teacher is None:
            raise TeacherError(f"The term {kind} needs a teacher model, and there is none.")
        return self.student, self.teacher

    def require_attention(self, kind: str) -> tuple[ModelShape, ModelShape]:
        """Return the sizes of two models with attention.

        Raises:
            TeacherError: there is no teacher model.
            ConfigError: a model has no attention.
        """
        both = self.require_shapes(kind)
        without = [name for name, shape in zip(("student", "teacher"), both, strict=True) if not shape.heads]
        if without:
            raise ConfigError(
                f"The term {kind} compares attention, and there is none in the {' nor in the '.join(without)}.",
                fix="use a method that reads text or logits, or hidden_states",
            )
        return both

    def require_vocabularies(self, kind: str) -> Vocabularies:
        """Return both vocabularies.

        Raises:
            TeacherError: there are none.
        """
        if self.vocabularies is None:
            raise TeacherError(f"The term {kind} needs the vocabularies of both tokenizers.")
        return self.vocabularies


def build_objective(
    settings: Sequence[BaseTermConfig],
    *,
    shared_width: int,
    student: ModelShape | None = None,
    teacher: ModelShape | None = None,
    vocabularies: Vocabularies | None = None,
) -> Objective:
    """Build the objective of a run.

    Args:
        settings: of the terms; each names its class as `target`.
        shared_width, student, teacher, vocabularies: see `TermContext`.
    Raises:
        ConfigError: a term does not fit the two models.
        TeacherError: a term on activations or on two tokenisations, and no teacher.
    """
    context = TermContext(shared_width, student, teacher, vocabularies)
    terms = [resolve_name(item.target).from_config(item, context) for item in settings]
    kinds = [term.name for term in terms]
    names = [
        kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
    return Objective(
        tuple(WeightedTerm(name, term, item.weight) for name, term, item in zip(names, terms, settings, strict=True))
    )
