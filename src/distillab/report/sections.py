"""Make the sections below the main table: samples, contracts, data counts, answer stores, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from distillab.records import (
    AnswerStoreCounts,
    CacheUse,
    DataOverlap,
    EncodingCounts,
    GenerationSample,
    SideBySide,
    SpanCounts,
    StudyResults,
    TokenizerContract,
    TokenizerInfo,
    Verdict,
)
from distillab.report.differences import Piece, marked
from distillab.report.entries import Entry
from distillab.report.numbers import MISSING, count, duration, percent, size, spread
from distillab.report.safety import LONGEST_SHOWN, shortened, without_blank_runs

SAMPLES_SHOWN = 10

VERDICT_MEANING: dict[Verdict, str] = {
    "identical": "every id means the same bytes: all methods are valid",
    "padded": "identical up to unused rows of the logits: all methods are valid on the shared rows",
    "extended": "one vocabulary contains the other: all methods are valid on the shared ids",
    "different": "ids mean different bytes: only text methods and cross-tokenizer methods are valid",
}


@dataclass(frozen=True)
class Grid:
    """A plain table: the first column names the row, the others are figures or short texts."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnote: str = ""


@dataclass(frozen=True)
class Answer:
    """One model's answer to a sample prompt."""

    name: str
    text: str
    entry: Entry | None
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Sample:
    """One held-out prompt with its reference and all answers."""

    prompt: str
    reference: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class TokenLine:
    """One text as one tokenizer splits it: (token, id) in order."""

    side: str
    name: str
    tokens: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Span:
    """A piece of a text that both tokenizers cut out, with its tokens of teacher and of student."""

    teacher: tuple[tuple[str, str], ...]
    student: tuple[tuple[str, str], ...]

    @property
    def is_same(self) -> bool:
        """Whether both have one token for it."""
        return len(self.teacher) == len(self.student) == 1


@dataclass(frozen=True)
class Example:
    """One text in both tokenizers; `spans` is empty where the record has none, or no place is cut by both."""

    text: str
    lines: tuple[TokenLine, TokenLine]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Contract:
    """One tokenizer contract, ready to print."""

    verdict: Verdict
    meaning: str
    reason: str
    sides: Grid
    facts: tuple[tuple[str, str], ...]
    example: Example
    probes: tuple[Example, ...]
    would_train: tuple[str, ...]
    notes: tuple[str, ...]


def samples(results: StudyResults, found: Sequence[Entry]) -> tuple[Sample, ...]:
    """Return the first ten samples, their answers in the order of the entries; names that are no entry come last."""
    return tuple(_sample(sample, found) for sample in results.samples[:SAMPLES_SHOWN])


def _sample(sample: GenerationSample, found: Sequence[Entry]) -> Sample:
    by_name = {entry.name: entry for entry in found}
    ordered = [name for name in by_name if name in sample.answers]
    ordered += [name for name in sample.answers if name not in by_name]
    reference = _shown(sample.reference)
    shown = {name: _shown(sample.answers[name]) for name in ordered}
    is_whole = {name: len(sample.answers[name]) <= LONGEST_SHOWN for name in ordered}
    answers = tuple(
        Answer(name, text, by_name.get(name), marked(text, reference) if is_whole[name] else (Piece(text),))
        for name, text in shown.items()
    )
    return Sample(_shown(sample.prompt), reference, answers)


def _shown(text: str) -> str:
    return shortened(without_blank_runs(text))


def contract(record: TokenizerContract) -> Contract:
    """Return one tokenizer contract: verdict, both tokenizers, figures, examples."""
    widest = max(record.teacher.tokens, record.student.tokens)
    facts = [
        (
            "ids that mean the same",
            f"{count(record.equal_ids)} of {count(widest)} ({_share(record.equal_ids, widest)})",
        ),
        ("token strings in both", f"{count(record.equal_strings)} ({_share(record.equal_strings, widest)})"),
        ("byte strings that both can write", count(record.equal_bytes)),
        ("shared rows of the logits", count(record.shared_width) if record.shared_width else "none"),
    ]
    if record.extra_tokens:
        facts.append(("tokens of one tokenizer only (first 20)", " ".join(record.extra_tokens)))
    facts += _overlap_facts(record.data)
    loading = [f"{side.name}: {note}" for side in (record.teacher, record.student) for note in side.loading_notes]
    return Contract(
        verdict=record.verdict,
        meaning=VERDICT_MEANING[record.verdict],
        reason=record.reason,
        sides=_sides(record.teacher, record.student),
        facts=tuple(facts),
        example=_example(record.example, record),
        probes=tuple(_example(probe, record) for probe in record.probes_differ),
        would_train=record.would_train,
        notes=(*record.notes, *loading),
    )


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else MISSING


def _sides(teacher: TokenizerInfo, student: TokenizerInfo) -> Grid:
    def column(side: TokenizerInfo) -> tuple[str, ...]:
        return (
            side.name,
            side.family,
            count(side.tokens),
            "unknown: no config.json" if side.logits_width is None else count(side.logits_width),
            ", ".join(f"{role} {token_id}" for role, token_id in side.roles.items()) or "none",
            side.fingerprint[:16],
            "none" if side.chat_template_sha256 is None else side.chat_template_sha256[:16],
        )

    labels = ("name", "family", "tokens", "logits width", "special ids", "fingerprint", "chat template")
    rows = tuple(zip(labels, column(teacher), column(student), strict=True))
    return Grid(f"The tokenizers of {teacher.name} and {student.name}", ("", "teacher", "student"), rows)


def _overlap_facts(data: DataOverlap) -> list[tuple[str, str]]:
    of_data = f"on {data.source}, {count(data.rows)} rows"
    return [
        (f"teacher tokens / student tokens {of_data}", f"{count(data.teacher_tokens)} / {count(data.student_tokens)}"),
        (
            "token borders that the other has too, teacher / student",
            f"{percent(data.teacher_boundaries_shared)} / {percent(data.student_boundaries_shared)}",
        ),
        (
            "tokens with the same bytes at the same place, teacher / student",
            f"{percent(data.teacher_tokens_identical)} / {percent(data.student_tokens_identical)}",
        ),
        ("positions at which a loss by index would compare the same id", percent(data.equal_ids_by_position)),
        ("rows whose normalised bytes differ", count(data.rows_not_comparable)),
    ]


def _example(record: SideBySide, pair: TokenizerContract) -> Example:
    def line(side: str, name: str, tokens: Sequence[str], ids: Sequence[int]) -> TokenLine:
        return TokenLine(side, name, tuple(zip_longest(tokens, map(str, ids), fillvalue=MISSING)))

    teacher = line("teacher", pair.teacher.name, record.teacher_tokens, record.teacher_ids)
    student = line("student", pair.student.name, record.student_tokens, record.student_ids)
    ends = record.spans
    whole = (len(teacher.tokens), len(student.tokens))
    starts = ((0, 0), *ends, *([whole] if ends and ends[-1] != whole else []))
    spans = [Span(teacher.tokens[a:c], student.tokens[b:d]) for (a, b), (c, d) in pairwise(starts)]
    return Example(shortened(record.text), (teacher, student), tuple(spans))


def data_counts(train: Sequence[EncodingCounts], held_out: EncodingCounts) -> Grid:
    """Return what happened to the rows of every split."""

    def row(split: str, counts: EncodingCounts) -> tuple[str, ...]:
        return (
            f"{split}: {counts.source}",
            *(count(n) for n in (counts.rows, counts.skipped, counts.kept)),
            count(counts.prompts) if counts.prompts else MISSING,
            *(count(n) for n in (counts.dropped_empty_answer, counts.dropped_no_room)),
            *(count(n) for n in (counts.truncated, counts.left_out, counts.special_in_text, counts.characters_lost)),
            f"{count(counts.characters_cut_by_template)} / {count(counts.characters_added_by_template)}",
            *(count(n) for n in (counts.tokens, counts.supervised_tokens)),
            percent(counts.prompt_share) if counts.tokens else MISSING,
        )

    headings = (
        *("split", "rows", "unreadable, skipped", "kept", "prompts", "dropped: empty answer", "dropped: no room"),
        *("answers cut (EOS lost)", "not evaluated"),
        *(
            "special token in text",
            "characters without a token",
            "characters of answers: cut / added by the template",
            "tokens",
            "supervised tokens",
            "share of the prompt",
        ),
    )
    return Grid("Rows and tokens", headings, (*(row("train", counts) for counts in train), row("held out", held_out)))


def spans(found: Sequence[SpanCounts]) -> Grid:
    """Return how two tokenisations of the same rows align."""
    headings = (
        *("training rows, and teacher", "rows", "teacher had no room", "answer tokens, student / teacher"),
        *("in shared spans, student / teacher", "spans", "of them one token of both", "half scored, not used"),
    )
    rows = tuple(
        (
            record.source,
            count(record.rows),
            count(record.teacher_lacks),
            f"{count(record.student_tokens)} / {count(record.teacher_tokens)}",
            f"{_share(record.student_in_spans, record.student_tokens)}"
            f" / {_share(record.teacher_in_spans, record.teacher_tokens)}",
            count(record.spans),
            _share(record.one_to_one, record.spans),
            count(record.straddling),
        )
        for record in found
    )
    footnote = (
        "A span is the smallest piece of text that both tokenisations cut out; terms compare the two models there."
    )
    return Grid("How the two tokenisations align", headings, rows, footnote)


def answer_stores(stores: Sequence[AnswerStoreCounts]) -> Grid:
    """Return what became of the answers that teachers wrote."""
    headings = (
        *("store", "prompts", "skipped: no room", "generated", "kept"),
        *("dropped: empty", "dropped: cut off", "dropped: duplicate", "dropped: only reasoning"),
        *("dropped: by a server", "with reasoning"),
    )
    rows = tuple(
        (
            store.path,
            *(count(n) for n in (store.prompts, store.not_asked, store.generated, store.kept)),
            *(count(n) for n in (store.dropped_empty, store.dropped_cut_off, store.dropped_duplicate)),
            count(store.dropped_unfinished_reasoning),
            count(store.dropped_filtered + store.dropped_refused),
            f"{count(store.with_reasoning)} ({'kept' if store.reasoning == 'keep' else 'removed'})"
            if store.with_reasoning
            else count(0),
        )
        for store in stores
    )
    return Grid("Answers written by teachers", headings, rows)


def caches(found: Sequence[CacheUse]) -> Grid:
    """Return cached teacher signals, which all runs read."""
    headings = (
        *("cache", "teacher", "rows of", "kinds", "rows", "teacher tokens", "scored tokens"),
        *("size", "time to make"),
    )
    rows = tuple(
        (
            use.path,
            use.teacher,
            use.source,
            ", ".join(use.kinds),
            *(count(n) for n in (use.rows, use.tokens, use.scored_tokens)),
            MISSING if use.stored_bytes is None else size(use.stored_bytes),
            MISSING if use.teacher_s is None else duration(use.teacher_s),
        )
        for use in found
    )
    footnote = "Each teacher read its rows once. A run that reads a cache has no teacher tokens of its own."
    return Grid("Cached teacher signals, read by all runs", headings, rows, footnote)


def costs(found: Sequence[Entry]) -> Grid:
    """Return what one run of each arm used, as the mean over its seeds, and what was made once for all of them."""
    rows: list[tuple[str, ...]] = []
    for entry in found:
        if not entry.costs:
            continue
        wall = spread([cost.wall_s for cost in entry.costs])
        assert wall is not None  # there is at least one cost
        rows.append(
            (
                entry.marked_name,
                str(len(entry.costs)),
                _mean([cost.steps for cost in entry.costs]),
                _mean([cost.supervised_tokens for cost in entry.costs]),
                _mean([cost.student_tokens for cost in entry.costs]),
                _mean([cost.written_tokens for cost in entry.costs]),
                _mean([cost.teacher_tokens for cost in entry.costs]),
                duration(wall.mean),
                MISSING if entry.shared_s is None else duration(entry.shared_s),
                MISSING if entry.shared_s is None else duration(wall.mean * wall.n + entry.shared_s),
                size(max(cost.peak_rss_bytes for cost in entry.costs)),
            )
        )
    headings = (
        "arm",
        "runs",
        "steps",
        "supervised tokens",
        "student tokens",
        "written by the student",
        "teacher tokens",
        "wall time",
        "teacher, once for all",
        "arm in all",
        "peak RSS",
    )
    footnote = (
        f"{_budgets(found)}Mean of one run over the seeds; peak memory: the highest of them. Teacher, once for all: "
        "the time to write the answers and to store the signals that the arm’s runs train on; arms that share them "
        "have it each. Arm in all: that and all its runs."
    )
    return Grid("What one run used", headings, tuple(rows), footnote)


def _budgets(found: Sequence[Entry]) -> str:
    """Return what share of its budget each arm has used; "" where the budget is a number of steps."""
    shares = {
        entry.name: [cost.budget_spent for cost in entry.costs if cost.budget_spent is not None] for entry in found
    }
    known = [f"{name} {percent(sum(each) / len(each))}" for name, each in shares.items() if each]
    return f"Used of the budget, up to the step that reached it: {', '.join(known)}. " if known else ""


def _mean(values: Sequence[int]) -> str:
    return count(sum(values) / len(values))
