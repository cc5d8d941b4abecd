"""Load how the models of a run read rows: tokenizers, templates, contexts, and how the tokenizers relate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distillab.config.run import RunRecipe
from distillab.data.reading import Reader, load_reader
from distillab.data.splits import Splits
from distillab.errors import ConfigError
from distillab.models.loading import context_length, load_config
from distillab.models.pruning import student_config
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.embedded import require_embedded
from distillab.pairing.loading import logits_width
from distillab.runs.teacher_view import TeacherView, TokenizerPair
from distillab.teachers.spec import TeacherSpec


def reader_of(
    path: str, revision: str | None, recipe: RunRecipe, splits: Splits, *, requires_generation_prompt: bool = True
) -> Reader:
    """Load the tokenizer of a model, with the template and the length of the recipe. Raises as `load_reader`."""
    data = recipe.data
    return load_reader(
        path,
        revision=revision,
        template=data.templates,
        kind=splits.shape.kind,
        max_tokens=data.max_tokens,
        requires_generation_prompt=requires_generation_prompt,
        date=data.date,
    )


def teacher_view(
    spec: TeacherSpec, recipe: RunRecipe, student: Reader, splits: Splits, *, student_width: int | None
) -> TeacherView:
    """Load a teacher's tokenizer and compare it with the student's.

    Args:
        student_width: ids that the student has logits for; None: unknown.
    Raises:
        DataError: the teacher has no embedding for tokens that text can produce.
        CacheMismatch: its cached rows have another date than the run's.
    """
    reader = reader_of(spec.tokenizer, spec.revision, recipe, splits, requires_generation_prompt=False)
    # named as the model: the folder can have any name
    reader = replace(reader, loaded=replace(reader.loaded, name=spec.name))
    width = logits_width(spec.config, revision=spec.revision)
    require_embedded(reader.loaded, width=width, role="teacher")
    contract = compare_tokenizers(
        reader.loaded,
        student.loaded,
        teacher_width=width,
        student_width=student_width,
        texts=[text for example in splits.train[:500] for text in example.texts],
        source=splits.sources[0],
    )
    spec.require_same_day(student.encoder.template.date or reader.encoder.template.date)
    return TeacherView(spec, TokenizerPair(student, reader, contract), recipe.resolved().tokens)


def contexts_of(recipe: RunRecipe, specs: Sequence[TeacherSpec]) -> list[int | None]:
    """Return the context of the student, and of each teacher, in tokens; None where the configuration names none.

    Raises:
        ConfigError: data.max_tokens does not fit into one.
    """
    models = [("student", recipe.student.path, student_config(recipe.student))]
    models += [("teacher", spec.config, load_config(spec.config, revision=spec.revision)) for spec in specs]
    contexts = []
    for role, path, config in models:
        context = context_length(config)
        if context is not None and recipe.data.max_tokens > context:
            raise ConfigError(
                f"data.max_tokens is longer than the {role}'s context.",
                where=path,
                facts=[f"data.max_tokens {recipe.data.max_tokens}", f"context {context}"],
                fix=f"set data.max_tokens to {context} or less",
            )
        contexts.append(context)
    return contexts
