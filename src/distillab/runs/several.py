"""The teachers of one run that has several: each as `RunTeacher` opens it, composed to one source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from transformers import PreTrainedModel

from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError, TeacherError
from distillab.evaluation.likelihood import SharedTeacher
from distillab.records import AnswerStoreCounts, ServedCost, ServerProbe, total_cost
from distillab.runs.inputs import RunInputs
from distillab.runs.stored_signals import NOTHING_STORED, StoredSignals
from distillab.runs.teacher import RunTeacher
from distillab.teachers.composed import composed_provenance
from distillab.teachers.mixed import MixedTeacher
from distillab.teachers.protocol import NO_LAYERS, Generates, SignalSource
from distillab.teachers.routed import RoutedTeacher
from distillab.teachers.routes import Routes
from distillab.teachers.served.journal import ANSWERS


def open_teacher(inputs: RunInputs, stored: StoredSignals = NOTHING_STORED, *, file: str = ANSWERS) -> RunTeacher:
    """Return the teacher of a run, or its teachers together; nothing is loaded yet. The arguments: see `RunTeacher`."""
    return SeveralTeachers(inputs, stored, file=file) if inputs.parts else RunTeacher(inputs, stored, file=file)


class SeveralTeachers(RunTeacher):
    """The teachers of one run, routed by a column of the rows or mixed by weights."""

    def __init__(self, inputs: RunInputs, stored: StoredSignals = NOTHING_STORED, *, file: str = ANSWERS) -> None:
        super().__init__(inputs, stored, file=file)
        self._parts = {
            name: RunTeacher(
                part, stored.parts.get(name, NOTHING_STORED), served_in=self._server.folder / name, file=file
            )
            for name, part in inputs.parts.items()
        }

    def source(self) -> SignalSource:
        """Return all teachers, for the training rows."""
        return self.live(self._inputs.train)

    def live(self, split: EncodedSplit) -> SignalSource:
        """Return all teachers themselves, for some of the rows. Raises as `RunTeacher.live`."""
        found = {name: part.live(self._inputs.of(name, split)) for name, part in self._parts.items()}
        return self._composed(found, split)

    def generator(self, answers_folder: Path) -> Generates:
        """Raise: each teacher writes the answers to its own rows, see `training_rows`."""
        raise self._no_model()

    @property
    def probes(self) -> list[ServerProbe]:
        """What was found of the servers of all teachers."""
        return [probe for part in self._parts.values() for probe in part.probes]

    @property
    def served_cost(self) -> ServedCost | None:
        """What signals took of all teachers that are behind servers."""
        return total_cost(part.served_cost for part in self._parts.values())

    def model(self) -> PreTrainedModel:
        """Raise: there is no one model."""
        raise self._no_model()

    @property
    def trains_from_cache(self) -> bool:
        """Whether every teacher's signals on the training rows are stored."""
        return all(part.trains_from_cache for part in self._parts.values())

    @property
    def cached_answers(self) -> str | None:
        """None: every teacher has a store of its own."""
        return None

    def training_rows(self, answers_folder: Path) -> tuple[EncodedSplit, AnswerStoreCounts | None]:
        """Return the rows that the run trains on: with answers of teachers, each row's by its own.

        Args:
            answers_folder: where they are kept, a folder a teacher; or what `stored` names for each.
        Raises:
            As `RunTeacher.training_rows`.
        """
        if self._inputs.method.answers == "dataset":
            return self._inputs.train, None
        found = {name: part.training_rows(self._store(name, answers_folder)) for name, part in self._parts.items()}
        self._collect()
        place = {example.key: number for number, example in enumerate(self._inputs.train.examples)}
        examples = [example for split, _ in found.values() for example in split.examples]
        examples.sort(key=lambda example: place[example.key.rpartition("/")[0]])
        split = self._inputs.student.encoder.encode_all(examples, source=f"the teachers' answers in {answers_folder}")
        return split, _summed([counts for _, counts in found.values() if counts is not None], str(answers_folder))

    def answers_seconds(self, answers_folder: Path) -> float | None:
        """Return the seconds that the answers of all teachers took; None if those of one are not counted."""
        each = [part.answers_seconds(self._store(name, answers_folder)) for name, part in self._parts.items()]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None

    def for_terms(self, split: EncodedSplit) -> SignalSource | None:
        """Return the source of the terms' signals at the training rows; None if they read none.

        Raises:
            ConfigError: the terms read layers, and those of the teachers have different sizes.
            CacheMismatch, CacheCorrupt: see `RunTeacher.for_terms`.
        """
        found = {name: part.for_terms(self._inputs.of(name, split)) for name, part in self._parts.items()}
        self._collect()
        sources = {name: source for name, source in found.items() if source is not None}
        if not sources:
            return None
        composed = self._composed(sources, split)
        if self._inputs.method.access == "internals" and composed.identity.shape == NO_LAYERS:
            raise ConfigError(
                "The terms compare layers, and the layers of the teachers have different sizes.",
                facts=[f"{name}: {source.identity.shape}" for name, source in sources.items()],
                fix="use terms on logits, or teachers of one size",
            )
        return composed

    def for_evaluation(self) -> SharedTeacher | None:
        """Return the source for held-out rows: each row's teacher, or the mixture; None as of one teacher."""
        found = {name: part.for_evaluation() for name, part in self._parts.items()}
        self._collect()
        shared = {name: one for name, one in found.items() if one is not None}
        if len(shared) < len(found):
            self.unshared = next(part.unshared for name, part in self._parts.items() if name not in shared)
            return None
        return SharedTeacher(
            self._composed({name: one.teacher for name, one in shared.items()}, self._inputs.held_out_split),
            self._inputs.shared_width,
            reads_any_text=all(one.reads_any_text for one in shared.values()),
        )

    def _store(self, name: str, answers_folder: Path) -> Path:
        return self._stored.answers.get(name, answers_folder / name)

    def _composed(self, sources: dict[str, SignalSource], split: EncodedSplit) -> SignalSource:
        weights = self._inputs.recipe.teacher_weights
        if weights:
            return MixedTeacher(sources, weights)
        column = str(self._inputs.recipe.data.teacher_column)
        routes: Routes[str] = Routes()
        names = [example.beside[column] for example in split.examples]
        routes.add(split.rows, names)
        seen: Counter[str] = Counter()
        places = {}
        for index, name in enumerate(names):
            places[index] = seen[name]
            seen[name] += 1
        return RoutedTeacher(sources, routes, self._inputs.student.collator(), places)

    def _collect(self) -> None:
        """Take over what the parts have recorded for the run's record."""
        parts = self._parts
        self.uses = [use for part in parts.values() for use in part.uses]
        self.notes = list(dict.fromkeys(f"{name}: {note}" for name, part in parts.items() for note in part.notes))
        known = {name: part.provenance for name, part in parts.items() if part.provenance is not None}
        if len(known) == len(parts):
            weights = self._inputs.recipe.teacher_weights
            self.provenance = composed_provenance({name: (weights.get(name), one) for name, one in known.items()})

    def _no_model(self) -> TeacherError:
        return TeacherError("The run has several teachers, and this needs one.", facts=[", ".join(self._parts)])


def _summed(counts: list[AnswerStoreCounts], path: str) -> AnswerStoreCounts:
    """Return the counts of several stores together."""
    first = counts[0]
    names = [name for name, value in first if isinstance(value, int)]
    total = {name: sum(getattr(one, name) for one in counts) for name in names}
    return first.model_copy(update={**total, "path": path, "served": total_cost(one.served for one in counts)})
