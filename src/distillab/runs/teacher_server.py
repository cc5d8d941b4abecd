"""The server of a run's teacher: opened once for signals, and for answers; what both cost is counted together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from distillab.config.served import ServerConfig
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.records import ServedCost, ServerProbe, total_cost
from distillab.runs.first_rows import FirstRows
from distillab.runs.inputs import RunInputs
from distillab.runs.teacher_view import TokenView
from distillab.teachers.protocol import announce
from distillab.teachers.served.cost import Account, served_cost
from distillab.teachers.served.journal import FOLDER, paid_in
from distillab.teachers.served.opening import open_served, open_writer
from distillab.teachers.served.probing import answering_dialect, folders_of, probed_once, scoring_dialect
from distillab.teachers.served.teacher import ServedTeacher
from distillab.teachers.served.writing import ServedWriter


class TeacherServer:
    """The server that a recipe names for its teacher, if it names one. Nothing is asked before it is needed.

    Args:
        inputs: of the run.
        folder: where its answers for signals are kept.
        file: in there, into which this process writes.

    Attributes:
        probes: what was found of it, for each purpose.
    """

    def __init__(self, inputs: RunInputs, folder: Path, file: str) -> None:
        self._inputs, self.folder, self._file = inputs, folder, file
        self._scoring: ServedTeacher | None = None
        self.probes: list[ServerProbe] = []

    @property
    def _settings(self) -> ServerConfig:
        server = self._inputs.require_teacher().spec.settings.server
        if server is None:
            raise ConfigError("The recipe names no server.", where="teacher.server")
        return server

    @cached_property
    def _account(self) -> Account:
        """Of all that was asked of it for the run or the study, whose folder has `folder` below FOLDER."""
        account = Account(self._settings)
        kept = next((path for path in (self.folder, *self.folder.parents) if path.name == FOLDER), self.folder)
        for folder in folders_of(self._settings, kept.parent):
            account.include(folder)
        return account

    def gives(self, own: TokenView) -> tuple[bool, bool]:
        """Return whether it scores text, and whether it writes answers.

        Args:
            own: the teacher's own tokens.
        Raises:
            ServerError: it cannot be used.
        """
        server = self._settings
        tokens = None if self._inputs.require_teacher().spec.text_only else own.reader.loaded
        found = probed_once(server, self.folder, tokens, fingerprint=own.fingerprint, width=own.width)
        scores = tokens is not None and scoring_dialect(found.dialect, server.model, tokens) is not None
        return scores, answering_dialect(found.dialect, server, own.reader.loaded) is not None

    def scoring(self, read: TokenView) -> ServedTeacher:
        """Return it as a source of signals, opened once. Raises as `open_served`."""
        view = self._inputs.require_teacher()
        if self._scoring is None:
            self._scoring = open_served(
                view.spec.settings,
                self.folder,
                tokens=read.reader.loaded,
                fingerprint=read.fingerprint,
                width=read.width,
                template_sha256=view.reader.encoder.template.sha256,
                device=self._inputs.device,
                account=self._account,
                file=self._file,
            )
            self.probes += [self._scoring.probe] if self._scoring.probe is not None else []
        return self._scoring

    def writer(self, folder: Path) -> ServedWriter:
        """Return it as a source of answers, which are stored in the folder. Raises as `open_writer`."""
        view = self._inputs.require_teacher()
        writer = open_writer(
            view.spec.settings,
            folder,
            tokens=view.reader.loaded,
            fingerprint=view.contract.teacher.fingerprint,
            template_sha256=view.reader.encoder.template.sha256,
            account=self._account,
            file=self._file,
        )
        self.probes += [writer.probe] if writer.probe is not None else []
        return writer

    def include(self, folder: Path) -> None:
        """Count what the answers in a folder took, if there is a server."""
        if self._inputs.require_teacher().spec.settings.server is not None:
            self._account.include(folder)

    def expect(self, rows: Sequence[EncodedRow], *, note: Callable[[str], object]) -> None:
        """Print what the signals of training will take, and judge the first rows; nothing, if it gives no signals.

        Args:
            rows: that it reads, of which the student writes a share anew in every step, if it writes any.
            note: called with what the run's record should have.
        """
        if self._scoring is None:
            return
        training, own = self._inputs.recipe.training, self._inputs.method.own
        drawn = training.steps * training.batch_size
        vocabulary = len(self._inputs.require_teacher().train_view.reader.tokenizer)
        where = self._scoring.identity.engine["server"]
        self._scoring.on_scored = first = FirstRows(rows, vocabulary=vocabulary, where=where, note=note)
        sizes = [(len(row), int(row.answer_mask.sum())) for row in rows[:drawn]]
        if own is not None:
            written = own.rows_of(training.batch_size)
            self._scoring.keeps, self._scoring.remembered = first.has, written
            prompts = itertools.cycle([row.prompt_length for row in rows])
            sizes = [] if written == training.batch_size else sizes
            for step in range(1, training.steps + 1, own.reuse):
                longest = own.horizon(step, training.steps)
                sizes += [(next(prompts) + longest, longest) for _ in range(written)]
        announce(self._scoring, sizes)

    @property
    def scoring_cost(self) -> ServedCost | None:
        """What signals took, over all starts; None if it was not opened for them."""
        return None if self._scoring is None else self._scoring.cost

    @property
    def paid(self) -> ServedCost | None:
        """What all took that is in its folder; None if nothing is."""
        server = self._inputs.require_teacher().spec.settings.server
        prices = None if server is None else server.prices
        return total_cost(served_cost(paid_in(folder), prices) for folder in (self.folder, self.folder / FOLDER))
