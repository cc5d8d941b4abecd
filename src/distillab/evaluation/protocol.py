"""Evaluate a model: for all models of a study the same held-out rows, the same decoding, the same metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedModel

from distillab.config.evaluation import EvaluationConfig
from distillab.data.columns import Chosen
from distillab.data.encoding import EncodedRow, Encoder
from distillab.data.examples import Example
from distillab.data.reading import Reader
from distillab.data.supervised_text import SupervisedText
from distillab.errors import NumericsError
from distillab.evaluation.likelihood import NO_ROWS, RowScores, SharedTeacher, score_rows, score_teacher
from distillab.evaluation.own_text import own_text_metrics
from distillab.evaluation.summary import NO_SHARED_TEACHER, summarise
from distillab.evaluation.tasks import evaluate_tasks
from distillab.evaluation.text_match import Judged, judge
from distillab.models.generation import (
    Decoding,
    Generated,
    GeneratedText,
    continuation_text,
    generate_batches,
    require_room,
)
from distillab.processes import ONE_PROCESS, Processes
from distillab.progress import Progress
from distillab.records import EvaluationRecord
from distillab.teachers.protocol import Generates, Prompt, Sampling, SignalSource
from distillab.teachers.reasoning import AnswerText, without_reasoning


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out rows as one tokenizer and its template read them; what is asked of them is made once.

    Attributes:
        rows: encoded.
        examples: of each row.
        encoder: of the rows.
    """

    rows: Sequence[EncodedRow]
    examples: Sequence[Example]
    encoder: Encoder
    _first: dict[int, HeldOut] = field(default_factory=dict, repr=False)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer."""
        return self.encoder.stop_ids

    @cached_property
    def prompt_ids(self) -> tuple[tuple[int, ...], ...]:
        """What generation starts from, of each row."""
        return tuple(map(tuple, self.encoder.encode_prompts(self.examples)))

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """The text of each prompt."""
        return tuple(example.prompt for example in self.examples)

    @cached_property
    def answers(self) -> tuple[SupervisedText, ...]:
        """The supervised text of the final answers, with the template's additions."""
        return tuple(self.encoder.supervised_texts(example)[-1] for example in self.examples)

    @cached_property
    def scored_bytes(self) -> tuple[int, ...]:
        """`Encoder.scored_bytes` of each row."""
        return tuple(map(self.encoder.scored_bytes, self.examples))

    @property
    def references(self) -> tuple[str, ...]:
        """The references of generated answers: the answers, without the template's additions."""
        return tuple(answer.text for answer in self.answers)

    def first(self, n: int) -> HeldOut:
        """Return the first n rows."""
        if n not in self._first:
            self._first[n] = self.at(range(min(n, len(self.rows))))
        return self._first[n]

    def at(self, places: Sequence[int]) -> HeldOut:
        """Return the rows at some places, in memory."""
        return HeldOut(tuple(Chosen(self.rows, places)), tuple(Chosen(self.examples, places)), self.encoder)


@dataclass(frozen=True)
class Written:
    """Greedy answers to the first prompts.

    Attributes:
        answers: their texts, without what the template puts around them.
        ids: of each, with the token that ended it.
        judged: their metrics, and the score of each.
    """

    answers: tuple[str, ...] = ()
    ids: tuple[tuple[int, ...], ...] = ()
    judged: Judged = field(default_factory=lambda: Judged((), {}))


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation with its scores and generated answers, row by row.

    Attributes:
        own: of `own_text_metrics`.
        task_scores: metric of a task -> its value at each document, where it is their mean.
    """

    record: EvaluationRecord
    scores: RowScores
    scored_bytes: tuple[int, ...]
    written: Written
    own: tuple[dict[str, float], ...] = ()
    task_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def answers(self) -> tuple[str, ...]:
        """The texts of the greedy answers."""
        return self.written.answers


def evaluate(
    model: PreTrainedModel,
    held_out: HeldOut,
    settings: EvaluationConfig,
    *,
    reader: Reader,
    shared: SharedTeacher | None,
    label: str,
    unshared: str = NO_SHARED_TEACHER,
    processes: Processes = ONE_PROCESS,
) -> EvaluationResult:
    """Score `settings.rows` rows, and answer the prompts of `settings.generate_rows` rows greedily.

    Args:
        shared: the teacher to compare distributions with, if the tokenizer contract allows it.
        label: whose evaluation this is, for the progress line.
        unshared: why there is no such teacher, if there is none.
        processes: that all make this call; each does a part of the work, and has the result of all.
    """
    scored = held_out.first(settings.rows)
    prompted = held_out.first(settings.generate_rows)
    total = len(scored.rows) + len(prompted.rows)
    with Progress(f"evaluating {label}", total=total, unit="rows") as progress:
        scores = score_rows(
            model,
            scored.rows,
            collator=reader.collator(),
            batch_size=settings.batch_size,
            stop_ids=scored.stop_ids,
            shared=shared,
            after_batch=progress.advance,
            processes=processes,
        )
        written = _generate(model, prompted, settings, reader, progress, processes)
    record = summarise(scores, scored_bytes=sum(scored.scored_bytes), unshared=unshared)
    metrics, own = own_text_metrics(
        model,
        prompted.prompt_ids,
        written.ids,
        settings,
        reader=reader,
        shared=shared,
        unshared=unshared,
        processes=processes,
    )
    # the harness works alone; only the record of the first process is kept
    tasks = settings.tasks if processes.number == 0 else ()
    scored_on, done, task_scores = evaluate_tasks(model, reader.tokenizer, tasks, batch_size=settings.batch_size)
    figures = (*record.metrics, *metrics, *written.judged.metrics, *scored_on)
    record = record.model_copy(update={"metrics": figures, "tasks": done})
    return EvaluationResult(record, scores, scored.scored_bytes, written, own, task_scores)


@dataclass(frozen=True)
class AbsentWeights:
    """What can be read of a model whose weights are not here: of a server, or of a cache.

    Attributes:
        scores: gives its next tokens on the held-out rows; a text: why it cannot.
        writes: answers prompts; None: it cannot.
        width: ids of its distribution.
    """

    scores: SignalSource | str
    writes: Generates | None
    width: int


def evaluate_absent(
    model: AbsentWeights,
    held_out: HeldOut,
    settings: EvaluationConfig,
    *,
    examples: Sequence[Example],
    reader: Reader,
    label: str,
) -> EvaluationResult:
    """Evaluate as `evaluate`, as far as it can be read; what cannot has no value, and the reason.

    Args:
        examples: of the held-out rows, for a model that reads conversations.
    """
    scored = held_out.first(settings.rows)
    prompted = held_out.first(settings.generate_rows if model.writes is not None else 0)
    scores: RowScores | None = None
    with Progress(f"evaluating {label}", total=len(scored.rows) + len(prompted.rows), unit="rows") as progress:
        if not isinstance(model.scores, str):
            scores = score_teacher(
                model.scores,
                scored.rows,
                width=model.width,
                collator=reader.collator(),
                batch_size=settings.batch_size,
                stop_ids=scored.stop_ids,
                after_batch=progress.advance,
            )
        outputs: list[Generated | GeneratedText] = []
        if model.writes is not None and prompted.rows:
            sampling = Sampling(Decoding(settings.max_new_tokens), tuple(reader.encoder.stop_ids), seed=0)
            each = zip(prompted.rows, prompted.prompt_ids, examples, strict=False)
            prompts = [Prompt(row.key, ids, example.asked) for row, ids, example in each]
            for output in model.writes.answers(prompts, sampling):
                outputs.append(output)
                progress.advance(1)
    written = _judged(outputs, prompted, settings, reader) if outputs else Written()
    if scores is None:
        scored = scored.first(0)
    record = summarise(scores, scored_bytes=sum(scored.scored_bytes), unscored=str(model.scores))
    record = record.model_copy(update={"metrics": (*record.metrics, *written.judged.metrics)})
    return EvaluationResult(record, scores or NO_ROWS, scored.scored_bytes, written)


def require_finite_figures(record: EvaluationRecord, *, where: str) -> None:
    """Check that every figure of a model is finite, before it is saved.

    Raises:
        NumericsError: one is NaN or infinite.
    """
    figures = [(metric.name, metric.value) for metric in record.metrics if metric.value is not None]
    bad = [f"{name}: {value}" for name, value in figures if not math.isfinite(value)]
    if bad:
        raise NumericsError(
            "A held-out figure is not finite, so the model was not saved.",
            where=where,
            facts=bad,
            fix="lower training.learning_rate, or use float32, with another output; a model that was not trained here "
            "is damaged, or too large for its dtype",
        )


def _generate(
    model: PreTrainedModel,
    prompted: HeldOut,
    settings: EvaluationConfig,
    reader: Reader,
    progress: Progress,
    processes: Processes,
) -> Written:
    if not prompted.rows:
        return Written()
    require_room(model, prompted.prompt_ids, settings.max_new_tokens, setting="evaluation.max_new_tokens")
    outputs: list[Generated] = []
    for batch in generate_batches(
        model,
        prompted.prompt_ids,
        decoding=Decoding(settings.max_new_tokens),
        stop_ids=reader.encoder.stop_ids,
        batch_size=settings.batch_size,
        processes=processes,
    ):
        outputs.extend(batch)
        progress.advance(len(batch))
    return _judged(outputs, prompted, settings, reader)


def _judged(
    outputs: Sequence[Generated | GeneratedText], prompted: HeldOut, settings: EvaluationConfig, reader: Reader
) -> Written:
    reads = AnswerText(reader.tokenizer, settings)
    texts, each_ids, stopped = [], [], []
    for prompt, output in zip(prompted.prompt_ids, outputs, strict=True):
        if isinstance(output, GeneratedText):
            texts.append(reads.read_text(reads.whole(output)).answer)
            each_ids.append(tuple(reader.tokenizer.encode(texts[-1], add_special_tokens=False)))
            stopped.append(output.finish == "stop")
        else:
            strips = settings.reasoning == "strip"
            text = reads.read(prompt, output.ids).answer if strips else None
            texts.append(continuation_text(reader.tokenizer, prompt, output.ids) if text is None else text)
            each_ids.append(output.ids)
            stopped.append(output.stopped)
    # the reference is compared without the template's additions too
    references = prompted.references
    if settings.reasoning == "strip":
        references = tuple(without_reasoning(text, settings.reasoning_markers)[0] for text in references)
    answers = tuple(wanted.inside(text) for wanted, text in zip(prompted.answers, texts, strict=True))
    judged = judge(
        answers,
        references,
        stopped=stopped,
        lengths=[len(ids) for ids in each_ids],
        value_pattern=settings.value_pattern,
        value_kind=settings.value_kind,
        without_reasoning=settings.reasoning == "strip",
    )
    written = zip(each_ids, outputs, strict=True)
    ids = tuple(known if isinstance(output, GeneratedText) else output.scored_ids for known, output in written)
    return Written(answers, ids, judged)
