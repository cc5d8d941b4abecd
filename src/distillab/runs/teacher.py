"""Open the teacher of a run: its cache if there is one, else its weights, loaded when first needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.errors import CacheMismatch, TeacherError
from distillab.evaluation.likelihood import SharedTeacher
from distillab.evaluation.protocol import AbsentWeights
from distillab.evaluation.summary import NO_SHARED_TEACHER
from distillab.processes import Processes
from distillab.records import AnswerStoreCounts, CacheUse, ServedCost, ServerProbe, TeacherProvenance
from distillab.runs.answers import make_answers, read_answers, seconds_of
from distillab.runs.inputs import RunInputs
from distillab.runs.stored_signals import NOTHING_STORED, StoredSignals
from distillab.runs.teacher_server import TeacherServer
from distillab.runs.teacher_view import TokenView
from distillab.teachers.local import LocalTeacher, load_local
from distillab.teachers.prompted import PromptedTeacher
from distillab.teachers.protocol import Generates, SignalSource
from distillab.teachers.routes import Routes
from distillab.teachers.served.journal import ANSWERS, FOLDER
from distillab.teachers.served.teacher import ServedTeacher
from distillab.teachers.signals import SignalRequest, Top
from distillab.teachers.stored.answers import store_is_complete
from distillab.teachers.stored.location import Part, part_of
from distillab.teachers.stored.teacher import CachedTeacher, load_cached

TRAINING = "the training rows"  # their names in a run's record


class RunTeacher:
    """The teacher of one run. Its weights are loaded at most once, and only when something needs them.

    Args:
        inputs: of the run.
        stored: where cached signals are; default: none.
        served_in: where the answers of its server are kept; default: in the run's folder.
        file: in there, into which this process writes, where several ask for one teacher.

    Attributes:
        provenance: of the teacher that was read; None before.
        uses: the caches that were read. notes: for the run's record.
        unshared: why its distributions are not compared with the student's, where they are not.
    """

    def __init__(
        self,
        inputs: RunInputs,
        stored: StoredSignals = NOTHING_STORED,
        *,
        served_in: Path | None = None,
        file: str = ANSWERS,
    ) -> None:
        self._inputs, self._stored = inputs, stored
        self._server = TeacherServer(inputs, served_in or Path(inputs.recipe.output) / FOLDER, file)
        self._local: LocalTeacher | None = None
        self._opened: dict[str, CachedTeacher] = {}
        self.provenance: TeacherProvenance | None = None
        self.uses: list[CacheUse] = []
        self.notes: list[str] = []
        self.unshared = NO_SHARED_TEACHER

    def source(self) -> SignalSource:
        """Return the teacher itself, opened once.

        Raises:
            TeacherError: the recipe names no weights, or they cannot be loaded.
        """
        view = self._inputs.require_teacher()
        return self._loaded() if view.spec.settings.server is None else self._asked(view.train_view)

    def _asked(self, read: TokenView) -> ServedTeacher:
        source = self._server.scoring(read)
        self.provenance = source.identity.provenance
        return source

    def absent(self, rows: Sequence[EncodedRow]) -> AbsentWeights:
        """Return what can be read of a teacher whose weights are not here, from its server or its cache.

        Args:
            rows: held-out rows in its own tokens.
        Raises:
            ServerError: the server cannot be used.
        """
        view = self._inputs.require_teacher()
        own, why = view.own_view, "the cache does not hold the held-out rows"
        if view.spec.settings.server is not None:
            scores, writes = self._server.gives(own)
            return AbsentWeights(
                self._asked(own) if scores else "its server gives text alone",
                self.generator(self._server.folder) if writes else None,
                own.width,
            )
        parts: tuple[Part, ...] = ("held_out", "train")
        for part in (part for part in parts if part in view.spec.parts):
            width = view.spec.parts[part].width
            try:
                cached = load_cached(
                    part_of(view.spec.settings.source, part),
                    device=self._inputs.device,
                    tokenizer_fingerprint=own.fingerprint,
                    template_sha256=own.reader.encoder.template.sha256,
                    width=width,
                )
                cached.require(SignalRequest(scores=frozenset({Top(1, width)})), packing=False)
                cached.require_rows(rows, what="the held-out rows")
            except (CacheMismatch, TeacherError) as error:
                why = f"{error.rule} ({part} of the cache)"
            else:
                return AbsentWeights(cached, None, width)
        return AbsentWeights(why, None, own.width)

    def generator(self, answers_folder: Path) -> Generates:
        """Return the teacher as a source of answers; those of a server are stored in the folder. Raises as `source`."""
        view = self._inputs.require_teacher()
        if view.spec.settings.server is None:
            return self._loaded()
        writer = self._server.writer(answers_folder / FOLDER)
        self.provenance = writer.identity.provenance
        return writer

    @property
    def probes(self) -> list[ServerProbe]:
        """What was found of its server."""
        return self._server.probes

    @property
    def served_cost(self) -> ServedCost | None:
        """What signals took that training read from a server, over all starts; None if it read none."""
        return self._server.scoring_cost

    @property
    def paid(self) -> ServedCost | None:
        """What all took that a server was asked for into the folder of this teacher; None if it was not asked."""
        return self._server.paid

    def model(self) -> PreTrainedModel:
        """Return the teacher's weights. Raises as `source`."""
        return self._loaded().model

    def _loaded(self) -> LocalTeacher:
        """Load the teacher in this process.

        Raises:
            TeacherError: the recipe names no weights, or they cannot be loaded.
        """
        if self._local is None:
            view = self._inputs.require_teacher()
            if (server := view.spec.settings.server) is not None:
                raise TeacherError(
                    "The teacher's weights are needed, and they are behind a server.",
                    where=f"teacher.server: {server.url}",
                    facts=[f"the server gives the {server.k} most likely tokens of given text, and nothing else"],
                    fix="leave teacher.server out where the weights are needed",
                )
            self._local = load_local(
                view.spec.settings,
                student_device=self._inputs.device,
                template_sha256=view.reader.encoder.template.sha256,
            )
            self.provenance = self._local.identity.provenance
        return self._local

    @property
    def cached_answers(self) -> str | None:
        """Where the answers of the recipe's own cache are; None: they are kept beside the run."""
        return self._stored.text

    @property
    def trains_from_cache(self) -> bool:
        """Whether the terms' signals on the training rows are stored."""
        return self._stored.train is not None

    def answers_seconds(self, answers_folder: Path) -> float | None:
        """Return the seconds that the teacher's answers took; None if they are not counted, or in the recipe's cache.

        Args:
            answers_folder: as for `training_rows`.
        """
        return seconds_of(answers_folder) if self.cached_answers is None else None

    def training_rows(self, answers_folder: Path) -> tuple[EncodedSplit, AnswerStoreCounts | None]:
        """Return the rows that the run trains on; missing answers of the teacher are generated now.

        A store that is complete is read without the teacher's weights, and asks no server.

        Args:
            answers_folder: where the teacher's answers are kept, unless the recipe's own cache holds them.
        Returns:
            The rows, and the counts of the answers if they are the teacher's.
        Raises:
            As `make_answers` and `read_answers`.
        """
        if self._inputs.method.answers == "dataset":
            return self._inputs.train, None
        self.write_answers(answers_folder)
        self._server.include(answers_folder / FOLDER)
        answers = read_answers(self._inputs, self.cached_answers or str(answers_folder))
        self.provenance = answers.teacher
        self.notes += answers.notes
        return answers.split, answers.counts

    def write_answers(self, folder: Path, *, worker: int = 0, workers: int = 1) -> None:
        """Generate the missing answers of the teacher, or a share of them, unless the recipe's own cache holds them.

        Every process of the run makes a part; of a server the first process asks for all, because its limits (requests
        at once, costs) are counted in one process.

        Args:
            worker, workers: the processes of this run make one of so many shares.
        Raises:
            As `make_answers`.
        """
        if self.cached_answers is not None:
            return
        processes = Processes.current()
        served = self._inputs.require_teacher().spec.settings.server is not None
        complete = store_is_complete(folder)
        processes.wait()  # before the first writes
        if not complete and not (served and processes.number):
            if self._inputs.method.reads_signals and not self.trains_from_cache:
                self.source()  # a server that does not give them is refused before its answers are paid for
            if not served:
                worker, workers = worker * processes.count + processes.number, workers * processes.count
            make_answers(self._inputs, self.generator(folder), folder, worker=worker, workers=workers)
        processes.wait()

    def for_terms(self, split: EncodedSplit) -> SignalSource | None:
        """Return the source of the terms' signals at the training rows; None if they read none.

        Raises:
            CacheMismatch, CacheCorrupt: the cache does not hold these rows, has another identity, or is damaged.
        """
        if not self._inputs.method.reads_signals:
            return None
        view = self._inputs.require_teacher()
        if self._stored.train is None:
            source = self.live(split)
            self._server.expect(view.rows(split), note=self.notes.append)
            return source
        source = self._cached(self._stored.train, view.rows(split), view=view.train_view, source=TRAINING)
        return source if view.prompt_column is None else self._prompted(source, split.rows, view.rows(split))

    def live(self, split: EncodedSplit) -> SignalSource:
        """Return the teacher itself, for some of the rows; whether the terms read it makes no difference.

        Raises:
            TeacherError: the recipe names no weights, or they cannot be loaded.
        """
        view = self._inputs.require_teacher()
        source = self.source()
        return source if view.prompt_column is None else self._prompted(source, split.rows, view.rows(split))

    def for_evaluation(self) -> SharedTeacher | None:
        """Return the source for held-out rows; None if ids differ in meaning, or there is none: see `unshared`."""
        view, width = self._inputs.teacher, self._inputs.shared_width
        if view is None or width == 0:
            return None
        rows, read = self._inputs.held_out.rows, self._inputs.teacher_held_out
        if self._stored.held_out is not None:
            stored, evaluated = self._stored.held_out, self._inputs.teacher_eval_rows
            cached = self._cached(stored, evaluated, view=view.eval_view, source="the held-out rows")
            return SharedTeacher(self._prompted(cached, rows, read), width, reads_any_text=False)
        if view.spec.settings.has_weights:
            return SharedTeacher(self._prompted(self.source(), rows, read), width)
        self.unshared = "the teacher is behind a server, which gives no whole distributions"
        if view.spec.settings.server is None:
            self.unshared = "the cache does not hold the held-out rows as kind full, and no weights are named"
        self.notes.append(f"KL from the teacher and agreement with it were not measured: {self.unshared}")
        return None

    def _prompted(self, source: SignalSource, rows: Sequence[EncodedRow], read: Sequence[EncodedRow]) -> SignalSource:
        """Return the source for the student's rows, of which it reads others where it has prompts of its own."""
        if self._inputs.require_teacher().prompt_column is None:
            return source
        routes: Routes[EncodedRow] = Routes()
        routes.add(rows, read)
        return PromptedTeacher(source, routes, self._inputs.student.collator())

    def _cached(self, location: str, rows: Sequence[EncodedRow], *, view: TokenView, source: str) -> CachedTeacher:
        if location not in self._opened:
            self._opened[location] = load_cached(
                location,
                device=self._inputs.device,
                tokenizer_fingerprint=view.fingerprint,
                template_sha256=view.reader.encoder.template.sha256,
                width=view.width,
            )
        teacher = self._opened[location]
        teacher.require_rows(rows, what=source)
        self.provenance = teacher.identity.provenance
        self.uses.append(_use(location, teacher, rows, source))
        return teacher


def _use(location: str, teacher: CachedTeacher, rows: Sequence[EncodedRow], source: str) -> CacheUse:
    identity = teacher.reader.identity
    return CacheUse(
        path=location,
        fingerprint=identity.fingerprint,
        teacher=identity.teacher.name,
        source=source,
        kinds=tuple(layout.kind for layout in identity.layouts),
        rows=len(rows),
        tokens=sum(len(row) for row in rows),
        scored_tokens=sum(int(row.answer_mask.sum()) for row in rows),
    )
