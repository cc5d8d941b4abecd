"""One way of training of a recipe, on a few rows, with the models as a run loads them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from distillab.config.cache import CacheConfig
from distillab.config.run import RunRecipe
from distillab.config.terms import CrossEntropyConfig, TermConfig
from distillab.data.encoding import EncodedSplit
from distillab.doctor.clock import Clock
from distillab.models.aligned_positions import teacher_batch
from distillab.models.batch import TokenBatch
from distillab.objectives.term import Objective
from distillab.runs.inputs import RunInputs
from distillab.runs.several import open_teacher
from distillab.runs.stored_signals import stored_signals
from distillab.runs.teacher import RunTeacher
from distillab.runs.training import objective_for
from distillab.runs.training_data import TrainingData, training_data
from distillab.teachers.protocol import SignalSource
from distillab.teachers.signals import TeacherSignal

ROWS = 4
# short ones, of different lengths, so that there is padding
_QUANTILES = (0.02, 0.08, 0.15, 0.25)


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm of a study, or a run, as it would be trained.

    Attributes:
        name: of the arm; of a run its method.
        inputs: of one of its runs.
        source: its teacher, whose weights are loaded once for all arms that have it; None where there is none.
        settings: how the teacher's signal is stored, where it is.
    """

    name: str
    inputs: RunInputs
    source: RunTeacher | None
    settings: CacheConfig = field(default_factory=CacheConfig)

    @property
    def recipe(self) -> RunRecipe:
        """Of one of its runs."""
        return self.inputs.recipe

    def of_each_teacher(self, *, every_row: bool) -> list[Arm]:
        """Return the arm; or for each of its several teachers one that has it alone.

        Args:
            every_row: they read all rows, not only their own.
        """
        names = self.inputs.views
        each = {name: self.inputs.alone(name) if every_row else self.inputs.parts[name] for name in names}
        return [replace(self, inputs=inputs, source=RunTeacher(inputs)) for inputs in each.values()] or [self]


@dataclass(frozen=True, eq=False)
class Setup:
    """What the arms of one objective have in common, on a few rows.

    Attributes:
        arms: that train in this way.
        inputs: of the first of them. Its answers are the data set's, because the teacher has given none yet.
        split: the few rows.
        original: the student before training, never changed.
        scratch: a folder that is removed at the end.
    """

    arms: tuple[Arm, ...]
    inputs: RunInputs
    split: EncodedSplit
    original: PreTrainedModel
    scratch: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arms."""
        return tuple(arm.name for arm in self.arms)

    @property
    def name(self) -> str:
        """The arms, for messages."""
        return ", ".join(self.names)

    @property
    def recipe(self) -> RunRecipe:
        """Of the first of the arms."""
        return self.inputs.recipe

    @property
    def source(self) -> RunTeacher | None:
        """The teacher of the arms; None where there is none."""
        return self.arms[0].source

    @property
    def settings(self) -> CacheConfig:
        """How the teacher's signal is stored."""
        return self.arms[0].settings

    @property
    def device(self) -> torch.device:
        """The student's."""
        return self.inputs.device

    @property
    def terms(self) -> tuple[TermConfig, ...]:
        """The settings of the terms."""
        return self.inputs.method.terms

    @property
    def draws(self) -> bool:
        """Whether a term samples from a live teacher."""
        each = self.recipe.each_teacher.values()
        stored = bool(each) and not any(teacher.has_weights for teacher in each)
        return not stored and any(getattr(term, "samples", None) is not None for term in self.terms)

    @cached_property
    def teacher(self) -> SignalSource | None:
        """Who gives the terms their signals; None where they read none.

        Raises:
            TeacherError, CacheMismatch, CacheCorrupt: see `RunTeacher.for_terms`.
        """
        if self.source is None or not self.inputs.method.reads_signals:
            return None
        if all(teacher.has_weights for teacher in self.recipe.each_teacher.values()):
            return self.source.live(self.inputs.train)
        every_row = self.inputs.views or self.inputs.require_teacher().prompt_column is not None
        stored = open_teacher(self.inputs, stored_signals(self.inputs))
        return stored.for_terms(self.inputs.train if every_row else self.split)

    @property
    def teacher_model(self) -> PreTrainedModel | None:
        """The weights of the one teacher whose signals the terms read; None where there are none, or several."""
        settings = self.recipe.teacher
        live = settings is not None and settings.has_weights and self.inputs.method.reads_signals
        return self.source.model() if live and self.source is not None else None

    @property
    def teacher_format(self) -> str:
        """The number format of a live teacher, of several the coarsest; float32 without one."""
        if self.inputs.views and self.teacher is not None:
            formats = self.teacher.identity.provenance.dtype.split(", ")
            return max(formats, key=lambda name: torch.finfo(getattr(torch, name)).eps)
        return "float32" if self.teacher_model is None else str(self.teacher_model.dtype).removeprefix("torch.")

    @cached_property
    def data(self) -> TrainingData:
        """The few rows as the trainer takes them."""
        return training_data(self.inputs, self.split)

    @cached_property
    def batch(self) -> TokenBatch:
        """All of the few rows."""
        rows = self.data.rows
        return self.data.collator([rows[place] for place in range(len(self.data.lengths))])

    def student(self, *, dropout: bool = True) -> PreTrainedModel:
        """Return a copy of the student before training.

        Args:
            dropout: False: without, so that two passes give the same.
        """
        student = copy.deepcopy(self.original)
        if not dropout:
            _without_dropout(student)
        # where loading leaves it in a run: what terms draw for their projectors is the same each time
        torch.manual_seed(self.recipe.seed)
        return student

    def objective(self, student: PreTrainedModel) -> Objective:
        """Return the objective of a run for this student.

        Raises:
            ConfigError: see `objective_for`.
        """
        return objective_for(self.inputs, student, self.teacher, self.data.transport)

    def signal(self, objective: Objective, teacher: SignalSource | None = None) -> TeacherSignal:
        """Return the signal of the teacher, or of another one, on the few rows."""
        source = teacher or self.teacher
        if source is None or not objective.reads_teacher:
            return TeacherSignal()
        return source.signal(teacher_batch(self.batch), objective.request)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Return the precision in which the trainer calculates."""
        kind = self.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.recipe.training.precision == "bfloat16"):
            yield

    def with_terms(self, terms: Sequence[TermConfig]) -> Setup:
        """Return the same setup with other terms."""
        recipe = self.recipe.model_copy(update={"terms": tuple(terms)})
        return replace(self, inputs=self.inputs.with_recipe(recipe))


def few_rows(inputs: RunInputs) -> EncodedSplit:
    """Return a few of the shorter training rows, of different lengths."""
    split = inputs.train
    order = sorted(range(len(split.rows)), key=lambda place: (len(split.rows[place]), place))
    places = list(dict.fromkeys(order[int(share * (len(order) - 1))] for share in _QUANTILES))[:ROWS]
    return EncodedSplit(
        [split.rows[place] for place in places], [split.examples[place] for place in places], split.counts
    )


def setups_of(arms: Sequence[Arm], original: PreTrainedModel, *, scratch: Path) -> list[Setup]:
    """Return one setup for all arms that train alike: the same terms, weights and teacher, if the terms use one.

    Args:
        arms: of one student and one data set.
        original: the student before training.
        scratch: an empty folder.
    """
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        method = arm.inputs.method
        terms = " ".join(f"{term.kind} {term.model_dump_json()}" for term in method.terms)
        teacher = f"{id(arm.source)}" if method.reads_signals else ""
        groups.setdefault(f"{terms} {teacher}", []).append(arm)
    found = []
    for place, group in enumerate(groups.values()):
        recipe = group[0].recipe.model_copy(update={"answers": "dataset"})
        inputs = group[0].inputs.with_recipe(recipe)
        found.append(Setup(tuple(group), inputs, few_rows(inputs), original, scratch / str(place)))
    return found


def by_tokens(setups: Sequence[Setup]) -> list[Setup]:
    """Return one setup for each teacher and way of reading it, with every term that any arm has, each once.

    A question about a single term needs no objective of its own.
    """
    groups: dict[tuple[int, bool], list[Setup]] = {}
    for setup in setups:
        if setup.source is not None and setup.inputs.method.reads_signals:
            groups.setdefault((id(setup.source), setup.inputs.method.tokens == "aligned"), []).append(setup)
    found = []
    for group in groups.values():
        terms: dict[str, TermConfig] = {}
        for term in (term for setup in group for term in setup.terms):
            weightless = term.model_copy(update={"weight": 1.0})
            if not isinstance(weightless, CrossEntropyConfig):
                terms.setdefault(f"{weightless.kind} {weightless.model_dump_json()}", weightless)
        arms = tuple(arm for setup in group for arm in setup.arms)
        found.append(replace(group[0], arms=arms).with_terms(tuple(terms.values())))
    return found


def answerable(
    groups: Sequence[Setup], clock: Clock, *, units: float, missed: list[tuple[str, str]]
) -> Iterator[tuple[Setup, SignalSource]]:
    """Yield the setups whose teacher's weights are there, with the teacher itself, as long as there is time.

    It reads the rows that it is given, also where it has prompts of its own.

    Args:
        groups: of `by_tokens`.
        units: steps that one of them takes.
        missed: takes the name of each that is left out, and why.
    """
    for group in groups:
        if group.source is None or group.teacher_model is None:
            several = "the arm has several teachers, and this check is of one"
            stored = "the recipe names only a cache, and this check needs the teacher's weights"
            missed.append((group.name, several if group.inputs.views else stored))
        elif (refusal := clock.refuses(units)) is not None:
            missed.append((group.name, refusal))
        else:
            yield group, group.source.source()


def _without_dropout(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            # attention implementations are given their rate as a number
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
