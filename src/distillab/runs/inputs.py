"""Load the inputs of a run before any weights: recipe, tokenizers, contract, rows, admission."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from distillab.config.methods import Method, described
from distillab.config.run import RunRecipe
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.data.example_table import ExampleTable, content_sha256
from distillab.data.reading import Reader
from distillab.data.sources import find_source
from distillab.data.splits import Splits, load_examples
from distillab.data.store import fingerprint_of
from distillab.errors import ConfigError, TeacherError, TokenizerMismatch
from distillab.evaluation.protocol import HeldOut
from distillab.evaluation.task_files import task_fingerprints
from distillab.evaluation.tasks import require_tasks
from distillab.evaluation.values import captured
from distillab.models.loading import pick_device, weights_sha256
from distillab.models.weights import require_weights
from distillab.pairing.admission import require_admitted
from distillab.pairing.embedded import require_embedded
from distillab.pairing.loading import logits_width
from distillab.records import EncodingCounts, TokenizerContract
from distillab.runs.dates import FINGERPRINT, dated
from distillab.runs.held_out import encode_eval_rows, fitting_rows, held_out_line, same_answers
from distillab.runs.readers import contexts_of, reader_of, teacher_view
from distillab.runs.teacher_view import TeacherView, require_columns, together
from distillab.teachers.spec import teacher_spec

MISMATCH = "logit KD by index between tokens that do not mean the same (--demonstrate-mismatch)"
"""Label of a shown failure: the terms compare tokens whose ids do not mean the same."""


@dataclass(frozen=True, eq=False)
class RunInputs:
    """A recipe and what it resolves to, checked.

    Attributes:
        recipe: with the day of its chat templates.
        splits: the examples of both parts.
        student: its tokenizer and template.
        teacher: how it reads rows; None if the recipe names none.
        train: the training rows with the data set's answers.
        held_out, held_out_examples, held_out_counts: the held-out rows on which every model of the pair is evaluated.
        starts_from: folder of the student that a first stage has left; None: the recipe's student.
        made_in: where a student that is made from its teacher is kept, if a study shares it.
        views: how each of several teachers reads rows, by name; `teacher` then stands for all of them.
        mixed: its teacher is part of a mixture.
    """

    recipe: RunRecipe
    splits: Splits
    student: Reader
    teacher: TeacherView | None
    train: EncodedSplit
    held_out: HeldOut
    held_out_examples: ExampleTable
    held_out_counts: EncodingCounts
    made_in: Path | None = None
    starts_from: Path | None = None
    views: Mapping[str, TeacherView] = field(default_factory=dict)
    mixed: bool = False

    @property
    def each_view(self) -> list[TeacherView]:
        """How each teacher reads rows."""
        return list(self.views.values()) or ([] if self.teacher is None else [self.teacher])

    @cached_property
    def parts(self) -> dict[str, RunInputs]:
        """The inputs of each of several teachers, with its rows alone; of a mixture with all rows. Empty for one."""
        return {name: self._part(name) for name in self.views}

    def alone(self, name: str) -> RunInputs:
        """Return the inputs of one of several teachers on all rows."""
        recipe = self.recipe.of_teacher(name)
        return replace(self, recipe=recipe, teacher=self.views[name], views={}, mixed=bool(self.recipe.teacher_weights))

    def of(self, name: str, split: EncodedSplit) -> EncodedSplit:
        """Return the rows of a split that one of several teachers reads."""
        column = self.recipe.data.teacher_column
        if column is None:
            return split
        return split.at([place for place, example in enumerate(split.examples) if example.beside[column] == name])

    def _part(self, name: str) -> RunInputs:
        part, column = self.alone(name), self.recipe.data.teacher_column
        if column is None:
            return part
        own = [n for n, example in enumerate(self.held_out_examples) if example.beside[column] == name]
        evaluated = sum(n < len(self.eval_rows) for n in own)
        evaluation = part.recipe.evaluation.model_copy(update={"rows": evaluated})
        return replace(
            part,
            recipe=part.recipe.model_copy(update={"evaluation": evaluation}),
            train=self.of(name, self.train),
            held_out=self.held_out.at(own),
            held_out_examples=self.held_out_examples.take(own),
        )

    @cached_property
    def method(self) -> Method:
        """The recipe's method with its replacements."""
        return self.recipe.resolved()

    @cached_property
    def device(self) -> torch.device:
        """The student's."""
        return pick_device(self.recipe.training.device)

    @property
    def made(self) -> Path:
        """The folder of a student that is made from its teacher."""
        return self.made_in or Path(self.recipe.output) / "made"

    @property
    def contract(self) -> TokenizerContract | None:
        """How the two tokenizers relate; None where there is no teacher, or its tokenizer is not known."""
        return None if self.teacher is None or self.teacher.spec.text_only else self.teacher.contract

    @property
    def shared_width(self) -> int:
        """Ids that mean the same to both models; 0 where there is no teacher or the tokens differ."""
        return 0 if self.teacher is None else self.teacher.contract.shared_width

    @property
    def mismatched_vocab(self) -> bool:
        """True where the terms compare tokens by their ids, and the ids do not mean the same."""
        return any(view.mismatched_vocab for view in self.each_view)

    @property
    def template_date(self) -> datetime.date | None:
        """The day that the chat template of any of the models writes; None where none writes one."""
        readers = [self.student, *(view.reader for view in self.each_view)]
        return next((day for reader in readers if (day := reader.encoder.template.date) is not None), None)

    @property
    def eval_rows(self) -> Sequence[EncodedRow]:
        """The held-out rows whose likelihood is measured."""
        return self.held_out.first(self.recipe.evaluation.rows).rows

    @property
    def teacher_eval_rows(self) -> Sequence[EncodedRow]:
        """The same rows as the teacher reads them in the evaluation, by the student's tokenizer."""
        return self.teacher_held_out[: len(self.eval_rows)]

    @cached_property
    def held_out_split(self) -> EncodedSplit:
        """All held-out rows on which models can be evaluated; the first are `eval_rows`, others may have a prompt."""
        return EncodedSplit(self.held_out.rows, self.held_out_examples, self.held_out_counts)

    @cached_property
    def teacher_held_out(self) -> Sequence[EncodedRow]:
        """The rows of `held_out_split` as the teacher reads them, by the student's tokenizer."""
        if self.teacher is None or self.teacher.prompt_column is None:
            return self.held_out.rows
        column, context = self.teacher.prompt_column, self.teacher.context
        return self.teacher.pair.prompted(self.held_out_split, column, context=context).rows

    @property
    def held_out_keys(self) -> set[str]:
        """Keys of the held-out rows on which models can be evaluated."""
        return {example.key for example in self.held_out_examples}

    @property
    def held_out_line(self) -> str:
        """One line: how many held-out rows can be evaluated, why others cannot, and the setting that changes it."""
        return held_out_line(
            self.held_out_counts,
            wanted=self.recipe.evaluation.rows,
            max_tokens=self.recipe.data.max_tokens,
            max_new_tokens=self.recipe.evaluation.max_new_tokens,
        )

    def require_teacher(self) -> TeacherView:
        """Return the teacher.

        Raises:
            TeacherError: the recipe names none.
        """
        if self.teacher is None:
            raise TeacherError("A teacher is needed, and the recipe names none.", fix="add teacher: {path: …}")
        return self.teacher

    def admit(self) -> None:
        """Refuse a method that the pair does not allow, unless the run shows the failure on purpose.

        Raises:
            ConfigError: the method reads signals, and the teacher gives text alone.
            TokenizerMismatch: the method compares tokens by id, and the ids do not mean the same.
        """
        for name, part in self.parts.items():
            try:
                part.admit()
            except TokenizerMismatch as error:
                where = f"teachers: {name}" + (f", {error.where}" if error.where else "")
                raise TokenizerMismatch(error.rule, where=where, facts=error.facts, fix=error.fix) from error
        server = None if self.teacher is None else self.teacher.spec.settings.server
        chat = server is not None and (server.dialect == "openai_chat" or self.require_teacher().spec.text_only)
        if server is not None and chat and self.method.reads_signals:
            raise ConfigError(
                "The method reads the teacher's signals, and a chat server gives text alone.",
                where=server.url,
                facts=[f"method {described(self.recipe.method, self.method)}, access {self.method.access}"],
                fix="use method: seqkd; or a server that scores text, with teacher.path for its tokenizer",
            )
        if self.teacher is not None and self.recipe.shown_failure is None:
            require_admitted(self.teacher.contract, self.recipe.method, self.method)

    def showing_mismatch(self) -> RunInputs:
        """Return the same run, as a shown failure where it compares tokens whose ids do not mean the same."""
        if not self.mismatched_vocab or self.recipe.shown_failure is not None:
            return self
        return self.with_recipe(self.recipe.model_copy(update={"shown_failure": MISMATCH}))

    def fingerprints(self) -> dict[str, str]:
        """Hash what the recipe's paths name: rows, weight files, cache; and the day of its templates."""
        found = {
            "train_rows": content_sha256(self.splits.train),
            "held_out_rows": content_sha256(self.splits.held_out),
            "student": weights_sha256(self.recipe.student.path),
            **task_fingerprints(self.recipe.evaluation.tasks),
        }
        if self.recipe.data.streaming is not None:
            found["train_source"] = fingerprint_of(find_source(self.recipe.data.sources[0]).facts)
        if _beside(self.recipe):
            digest, between = hashlib.sha256(), "["
            for example in chain(self.splits.train, self.splits.held_out):
                digest.update(f"{between}{json.dumps(sorted(example.beside.items()))}".encode())
                between = ", "
            digest.update(b"]")
            found["teacher_columns"] = digest.hexdigest()
        if (day := self.template_date) is not None:
            found[FINGERPRINT] = str(day)
        for name, view in self.views.items():
            found |= {f"{file}_{name}": sha256 for file, sha256 in view.spec.fingerprints.items()}
        return found if self.teacher is None or self.views else found | self.teacher.spec.fingerprints

    def with_recipe(self, recipe: RunRecipe) -> RunInputs:
        """Return the inputs of another recipe on the same rows, student and teacher; nothing is loaded again.

        Raises:
            ValueError: the recipe names another student, another teacher or other data.
        """
        if _loaded_from(recipe) != _loaded_from(self.recipe):
            raise ValueError("the inputs of a recipe with other models or other data must be loaded again")
        tokens, views = recipe.resolved().tokens, {}
        for name, settings in recipe.each_teacher.items():
            view = self.views[name] if name else self.require_teacher()
            views[name] = TeacherView(view.spec.with_settings(settings), view.pair, tokens)
        return replace(self, recipe=recipe, teacher=together(views, recipe.teacher_weights), views=_named(views))

    def with_eval_rows(self, keys: set[str]) -> RunInputs:
        """Return the same with fewer held-out rows: those with these keys.

        Raises:
            DataError: none of them is left.
        """
        if keys == self.held_out_keys:
            return self
        left = [place for place, example in enumerate(self.held_out_examples) if example.key in keys]
        examples = self.held_out_examples.take(left)
        fewer = len(self.held_out_examples) - len(examples)
        reasons = {**self.held_out_counts.left_out_for, "not for all teachers": fewer}
        held_out, counts = encode_eval_rows(self.student, self.splits, examples, reasons)
        return replace(self, held_out_examples=examples, held_out=held_out, held_out_counts=counts)


def load_inputs(recipe: RunRecipe, *, weights: bool = True) -> RunInputs:
    """Load the tokenizers and the rows of a recipe, compare the tokenizers, encode the rows.

    Args:
        weights: False: a folder of a model needs its configuration and tokenizer only.
    Raises:
        TeacherError, ConfigError: a model folder lacks what loading will need; a device does not exist.
        CacheMismatch, CacheCorrupt: the teacher's cache is not usable, or is of another teacher.
        ConfigError: evaluation.value_pattern takes too long on a reference.
        DataError: no row is usable.
    """
    recipe = dated(recipe)
    for device in {recipe.training.device, *(teacher.device for teacher in recipe.each_teacher.values())}:
        pick_device(device)
    if weights and recipe.student.init == "pretrained":
        require_weights(recipe.student.path, role="student")
    specs = {
        name: teacher_spec(teacher, weights=weights).read_by(recipe.student)
        for name, teacher in recipe.each_teacher.items()
    }
    contexts = contexts_of(recipe, list(specs.values()))
    splits = load_examples(recipe.data, beside=_beside(recipe))
    student = reader_of(recipe.student.tokenizer or recipe.student.path, recipe.student.revision, recipe, splits)
    width = logits_width(recipe.student.path, revision=recipe.student.revision)
    require_embedded(student.loaded, width=width, role="student")
    views = {name: teacher_view(spec, recipe, student, splits, student_width=width) for name, spec in specs.items()}
    require_columns(views, splits, recipe.data.teacher_column)
    # a list is not stored
    rows = splits.train if recipe.data.streaming is None else list(splits.train)
    train = student.encoder.encode_all(rows, source=splits.sources[0])
    train = replace(train, counts=train.counts.model_copy(update={"skipped": len(splits.skipped)}))
    readers = [student, *(view.reader for view in views.values())]
    require_tasks(recipe, context=contexts[0], readers=readers)
    answer = recipe.evaluation.max_new_tokens if recipe.evaluation.generate_rows else 0
    fitting, reasons = fitting_rows(splits, readers, [None if c is None else c - answer for c in contexts])
    examples = same_answers(fitting, readers, source=splits.sources[1])
    reasons["template changes answer"] = len(fitting) - len(examples)
    held_out, counts = encode_eval_rows(student, splits, examples, reasons)
    if recipe.evaluation.value_pattern is not None:
        for reference in held_out.first(recipe.evaluation.generate_rows).references:
            captured(reference, recipe.evaluation.value_pattern)  # refuse slow patterns before training
    return RunInputs(
        recipe=recipe,
        splits=splits,
        student=student,
        teacher=together(views, recipe.teacher_weights),
        train=train,
        held_out=held_out,
        held_out_examples=examples,
        held_out_counts=counts,
        views=_named(views),
    )


def _named(views: Mapping[str, TeacherView]) -> dict[str, TeacherView]:
    """Return the teachers if they have names; a single one has none."""
    return {name: view for name, view in views.items() if name}


def _beside(recipe: RunRecipe) -> list[str]:
    """Return the columns that concern the teachers alone."""
    columns = [teacher.prompt_column for teacher in recipe.each_teacher.values()]
    return sorted({column for column in (*columns, recipe.data.teacher_column) if column is not None})


def _loaded_from(recipe: RunRecipe) -> tuple[object, ...]:
    """Return the settings that decide what `load_inputs` reads."""
    found = [
        (name, one.path, one.cache, one.tokenizer, one.revision, one.adapter, one.server)
        for name, one in recipe.each_teacher.items()
    ]
    return recipe.student, recipe.data, found, _beside(recipe)
