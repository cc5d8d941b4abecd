"""Everything about a run that can be known before any weight is loaded: contract, rows, admission."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from distillab.config.models import RunRecipe
from distillab.data.encoding import EncodedSplit
from distillab.data.examples import Example
from distillab.data.reading import Reader, load_reader
from distillab.data.splits import Splits, load_examples
from distillab.data.vocabularies import Vocabularies, vocabularies
from distillab.errors import ConfigError
from distillab.evaluation.protocol import HeldOut
from distillab.evaluation.values import captured
from distillab.models.loading import context_length, load_config, pick_device, weights_sha256
from distillab.models.weights import require_weights
from distillab.pairing.admission import require_admitted
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.embedded import require_embedded
from distillab.pairing.loading import logits_width
from distillab.records import EncodingCounts, TokenizerContract, TokenizerInfo
from distillab.runs.dates import FINGERPRINT, dated, require_same_day
from distillab.runs.held_out import fitting_rows, held_out_line, judged_rows, same_answers
from distillab.runs.teacher_spec import TeacherSpec, find_teacher_spec


@dataclass(frozen=True)
class RunInputs:
    """What a run needs, checked."""

    splits: Splits
    student: Reader
    teacher: Reader | None
    contract: TokenizerContract | None
    train: EncodedSplit
    held_out_examples: tuple[Example, ...]
    held_out: HeldOut
    held_out_counts: EncodingCounts
    place: TeacherSpec | None

    @property
    def shared_width(self) -> int:
        """Ids that mean the same on both sides; 0 where there is no teacher or the tokens differ."""
        return self.contract.shared_width if self.contract is not None else 0

    @property
    def template_date(self) -> datetime.date | None:
        """The day that the chat template of either side writes; None where neither writes one."""
        of_teacher = None if self.teacher is None else self.teacher.encoder.template.date
        return self.student.encoder.template.date or of_teacher

    def compared_width(self, recipe: RunRecipe) -> int:
        """Ids that a recipe's terms compare: those that mean the same on both sides.

        Where none do and the recipe compares by index all the same, to demonstrate it, those of the smaller vocabulary.
        """
        if not mismatched_vocab(recipe, self):
            return self.shared_width
        assert self.contract is not None
        return min(vocab_size(side) for side in (self.contract.teacher, self.contract.student))

    def teacher_split(self, split: EncodedSplit) -> EncodedSplit:
        """The examples of a split as the teacher's tokenizer reads them; the last two splits are kept."""
        for read, theirs in self._read_by_teacher:
            if read is split:
                return theirs
        assert self.teacher is not None
        theirs = self.teacher.encoder.encode_all(split.examples, source=split.counts.source)
        self._read_by_teacher[:] = [*self._read_by_teacher[-1:], (split, theirs)]
        return theirs

    @cached_property
    def vocabularies(self) -> Vocabularies:
        """Both vocabularies side by side, for the terms on two tokenisations."""
        assert self.teacher is not None
        assert self.contract is not None
        return vocabularies(
            self.student,
            self.teacher,
            student_width=vocab_size(self.contract.student),
            teacher_width=vocab_size(self.contract.teacher),
        )

    @cached_property
    def _read_by_teacher(self) -> list[tuple[EncodedSplit, EncodedSplit]]:
        return []  # a run asks for its training rows, or for a teacher's answers to them, in several places

    @property
    def held_out_keys(self) -> set[str]:
        """Keys of the held-out rows that are judged."""
        return {example.key for example in self.held_out_examples}

    def judged_on(self, keys: set[str]) -> RunInputs:
        """The same with fewer held-out rows.

        Raises:
            DataError: none of them is left.
        """
        if keys == self.held_out_keys:
            return self
        examples = tuple(example for example in self.held_out_examples if example.key in keys)
        fewer = len(self.held_out_examples) - len(examples)
        reasons = {**self.held_out_counts.left_out_for, "not for all teachers": fewer}
        held_out, counts = judged_rows(self.student, self.splits, examples, reasons)
        return replace(self, held_out_examples=examples, held_out=held_out, held_out_counts=counts)

    def held_out_line(self, recipe: RunRecipe) -> str:
        """How many of the held-out rows can be judged, why others cannot, and the setting that changes it."""
        return held_out_line(
            self.held_out_counts,
            wanted=recipe.evaluation.rows,
            max_tokens=recipe.data.max_tokens,
            max_new_tokens=recipe.evaluation.max_new_tokens,
        )


def vocab_size(side: TokenizerInfo) -> int:
    """Ids that a tokenizer has and its model has logits for."""
    return min(width for width in (side.tokens, side.logits_width) if width is not None)


def load_inputs(recipe: RunRecipe) -> RunInputs:
    """Load the tokenizers and the rows of a recipe, judge the pair, encode.

    Raises:
        TeacherError, ConfigError: a model folder lacks what loading will need; a device is not there.
        CacheMismatch, CacheCorrupt: the teacher's cache is not usable, or is of another teacher.
        ConfigError: evaluation.value_pattern takes too long on a reference.
        DataError: no row is usable.
    """
    recipe = dated(recipe)
    for device in {recipe.training.device, "auto" if recipe.teacher is None else recipe.teacher.device}:
        pick_device(device)
    if recipe.student.init == "pretrained":
        require_weights(recipe.student.path, role="student")
    place = None if recipe.teacher is None else find_teacher_spec(recipe.teacher)
    contexts = _contexts(recipe, place)
    splits = load_examples(recipe.data)
    student = _reader(recipe.student.tokenizer or recipe.student.path, recipe.student.revision, recipe, splits)
    width = logits_width(recipe.student.path, revision=recipe.student.revision)
    require_embedded(student.loaded, width=width, role="student")
    teacher = contract = None
    if place is not None:
        teacher = _teacher_reader(place, recipe, splits)
        width = logits_width(place.config, revision=place.revision)
        require_embedded(teacher.loaded, width=width, role="teacher")
        contract = _judge(recipe, student, teacher, place, splits)
        require_same_day(place, student.encoder.template.date or teacher.encoder.template.date)
    train = student.encoder.encode_all(splits.train, source=splits.sources[0])
    train = replace(train, counts=train.counts.model_copy(update={"skipped": len(splits.skipped)}))
    readers = [student] if teacher is None else [student, teacher]
    answer = recipe.evaluation.max_new_tokens if recipe.evaluation.generate_rows else 0
    fitting, reasons = fitting_rows(splits, readers, [None if c is None else c - answer for c in contexts])
    examples = same_answers(fitting, readers, source=splits.sources[1])
    reasons["template changes answer"] = len(fitting) - len(examples)
    held_out, counts = judged_rows(student, splits, examples, reasons)
    if recipe.evaluation.value_pattern is not None:
        for reference in held_out.references[: recipe.evaluation.generate_rows]:
            captured(reference, recipe.evaluation.value_pattern)  # a pattern that never ends is refused before training
    return RunInputs(
        splits=splits,
        student=student,
        teacher=teacher,
        contract=contract,
        train=train,
        held_out_examples=examples,
        held_out=held_out,
        held_out_counts=counts,
        place=place,
    )


def mismatched_vocab(recipe: RunRecipe, inputs: RunInputs) -> bool:
    """True where the recipe compares tokens by their ids, and the ids do not mean the same."""
    different = inputs.contract is not None and inputs.contract.verdict == "different"
    return different and recipe.resolved().tokens == "shared"


def admit(recipe: RunRecipe, inputs: RunInputs, *, demonstrate_mismatch: bool) -> bool:
    """Refuse a method that the pair does not allow.

    Returns:
        True where the run goes on only because it demonstrates a mismatch.
    Raises:
        TokenizerMismatch: the method compares tokens by id, and the ids do not mean the same.
    """
    method = recipe.resolved()
    if inputs.contract is None:
        return False
    require_admitted(inputs.contract, recipe.method, method, demonstrate_mismatch=demonstrate_mismatch)
    return mismatched_vocab(recipe, inputs)


def fingerprints(recipe: RunRecipe, inputs: RunInputs) -> dict[str, str]:
    """What stands behind a recipe: sha256 of the rows of both splits, the weight files, the cache; a template's day."""
    found = {
        "train_rows": _content_sha256(inputs.splits.train),
        "held_out_rows": _content_sha256(inputs.splits.held_out),
        "student": weights_sha256(recipe.student.path),
    }
    if (day := inputs.template_date) is not None:
        found[FINGERPRINT] = str(day)
    return found if inputs.place is None else found | inputs.place.fingerprints


def _content_sha256(examples: Sequence[Example]) -> str:
    return hashlib.sha256("\n".join(example.content for example in examples).encode()).hexdigest()


def _reader(
    path: str, revision: str | None, recipe: RunRecipe, splits: Splits, *, requires_generation_prompt: bool = True
) -> Reader:
    data = recipe.data
    return load_reader(
        path,
        revision=revision,
        template=data.template,
        kind=splits.shape.kind,
        max_tokens=data.max_tokens,
        requires_generation_prompt=requires_generation_prompt,
        date=data.date,
    )


def _teacher_reader(place: TeacherSpec, recipe: RunRecipe, splits: Splits) -> Reader:
    reader = _reader(place.tokenizer, place.revision, recipe, splits, requires_generation_prompt=False)
    # by the model's name: its folder may be called student, or tokenizer, whosoever it is
    return replace(reader, loaded=replace(reader.loaded, name=place.name))


def _judge(
    recipe: RunRecipe, student: Reader, teacher: Reader, place: TeacherSpec, splits: Splits
) -> TokenizerContract:
    texts = [text for example in splits.train[:500] for text in example.texts]
    return compare_tokenizers(
        teacher.loaded,
        student.loaded,
        teacher_width=logits_width(place.config, revision=place.revision),
        student_width=logits_width(recipe.student.path, revision=recipe.student.revision),
        texts=texts,
        source=splits.sources[0],
    )


def _contexts(recipe: RunRecipe, place: TeacherSpec | None) -> list[int | None]:
    """Context of the student, and of the teacher where there is one; data.max_tokens must fit into both."""
    models = [("student", recipe.student.path, recipe.student.revision)]
    if place is not None:
        models.append(("teacher", place.config, place.revision))
    contexts = []
    for role, path, revision in models:
        context = context_length(load_config(path, revision=revision))
        if context is not None and recipe.data.max_tokens > context:
            raise ConfigError(
                f"data.max_tokens is longer than the {role}'s context.",
                where=path,
                facts=[f"data.max_tokens {recipe.data.max_tokens}", f"context {context}"],
                fix=f"set data.max_tokens to {context} or less",
            )
        contexts.append(context)
    return contexts
