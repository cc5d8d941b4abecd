"""What the commands print, beside progress. Nothing heavy is imported at the top."""

from __future__ import annotations

import os
import statistics
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillab.terminal import echo, plural

_LINE = 110

if TYPE_CHECKING:
    from distillab.records import EvaluationRecord, Interval, RunRecord, StudyResults


def quiet_libraries() -> None:
    """Keep the libraries' own progress bars and notices out of our output. Call before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    from transformers.utils import logging

    logging.disable_progress_bar()


def show_run(record: RunRecord) -> None:
    """Print a finished run: its figures, beside the lines that they can be judged by."""
    from distillab.records import run_outlook

    lines = record.references
    first = record.curve[0].held_out_nats_per_token
    for sentence in run_outlook(record):
        echo(sentence)
    if record.demonstrates:
        echo(f"NOT A RESULT. This run demonstrates: {record.demonstrates}")
    echo(f"{record.name} ({record.method}, access: {record.access}, seed {record.seed})")
    echo(f"  held-out: {_figures(record.evaluation)}")
    echo(
        f"  to judge it by, nats a token: untrained {first:.3f} (on the curve's rows), "
        f"unigram {lines.unigram_nats:.3f}, log V {lines.uniform_nats:.3f}"
    )
    cost = record.cost
    echo(
        f"  cost: {plural(cost.steps, 'step')}, {cost.supervised_tokens} supervised of {cost.student_tokens} tokens, "
        f"{cost.teacher_tokens} teacher tokens, {cost.wall_s:.1f} s, peak {cost.peak_rss_bytes / 2**20:.0f} MiB"
    )
    counts = record.train_counts
    echo(
        f"  rows: {counts.kept} of {counts.rows} used; dropped {counts.dropped_empty_answer} empty, "
        f"{counts.dropped_no_room} without room; {counts.truncated} truncated"
        + (f"; they answer {counts.prompts} prompts" if 0 < counts.prompts < counts.kept else "")
    )
    if counts.characters_lost:
        echo(
            f"  the tokenizer has no token for {counts.characters_lost} characters of {counts.rows_with_lost_text} "
            "rows; they are not learned"
        )
    if record.answers is not None and record.answers.with_reasoning:
        store = record.answers
        echo(
            f"  the teacher's answers: {store.with_reasoning} of {store.generated} hold reasoning "
            f"(teacher_answers.reasoning: {store.reasoning}); of {store.dropped_unfinished_reasoning} it has no end, "
            "and these are dropped"
        )
    if counts.rows_cut_by_template or counts.rows_added_to_by_template:
        echo(
            f"  the chat template drops {counts.characters_cut_by_template} characters of the answers of "
            f"{counts.rows_cut_by_template} rows, and writes {counts.characters_added_by_template} into those of "
            f"{counts.rows_added_to_by_template}"
        )
    for use in record.caches:
        echo(f"  {use.source}: the teacher's {', '.join(use.kinds)} from {use.path}")
    for note in record.notes:
        echo(f"  {note}")
    output = record.config["output"]
    echo(f"  student: {output}/student   record: {output}/run.json")


def show_study(results: StudyResults, folder: Path) -> None:
    """Print a finished study and write its report."""
    from distillab.records import study_outlook
    from distillab.report.build import write_report

    markdown, html = write_report(results, folder)
    for sentence in study_outlook(results):
        echo(textwrap.fill(sentence, _LINE))
    rows = [["model", "nats/token", "against SFT [95 %]", "n", "bits/byte", "KL", "value", "ROUGE-L", "by EOS"]]
    for point in results.baselines:
        rows.append([point.name, *_cells((point.evaluation,), None)])
    for arm in results.arms:
        rows.append([arm.name, *_cells(arm.evaluations, arm.against_sft)])
    marks = {arm.name: "  a shown failure, no result" for arm in results.arms if arm.demonstrates}
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    echo(results.title)
    echo(textwrap.fill(results.verdict, _LINE))
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        echo("  ".join([row[0].ljust(widths[0]), *cells]) + marks.get(row[0], ""))
    lines = results.references
    echo(
        f"To judge nats/token by: log V {lines.uniform_nats:.3f} knows nothing; unigram {lines.unigram_nats:.3f} knows "
        "how often tokens occur. n: held-out rows × seeds."
    )
    echo(f"Report: {html}\n        {markdown}")


def _cells(evaluations: tuple[EvaluationRecord, ...], difference: Interval | None) -> list[str]:
    """One row of the table: means over seeds, with the standard deviation of what is compared."""
    likelihoods = [evaluation.likelihood for evaluation in evaluations]
    generations = [evaluation.generation for evaluation in evaluations if evaluation.generation is not None]
    rows = sorted({likelihood.n for likelihood in likelihoods})
    seeds = f" × {len(evaluations)}" if difference is not None else ""
    return [
        _mean([item.nats_per_token for item in likelihoods], spread=True),
        _difference(difference),
        f"{'–'.join(map(str, rows))}{seeds}",
        _mean([item.bits_per_byte for item in likelihoods]),
        _mean([item.kl_from_teacher_nats for item in likelihoods]),
        _mean([item.value_match for item in generations]),
        _mean([item.rouge_l for item in generations]),
        _mean([item.stopped_by_eos for item in generations]),
    ]


def _difference(difference: Interval | None) -> str:
    if difference is None:
        return ""
    if difference.low is None or difference.high is None:
        return f"{difference.mean:+.3f} [too few rows]"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _mean(values: Sequence[float | None], *, spread: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "–"
    text = f"{statistics.fmean(known):.3f}"
    return f"{text} ± {statistics.stdev(known):.3f}" if spread and len(known) > 1 else text


def _figures(evaluation: EvaluationRecord) -> str:
    """One model's figures as a line."""
    likelihood, generation = evaluation.likelihood, evaluation.generation
    parts = [
        f"{likelihood.nats_per_token:.3f} nats/token",
        f"{likelihood.bits_per_byte:.3f} bits/byte",
        f"token accuracy {likelihood.token_accuracy:.3f}",
    ]
    if likelihood.kl_from_teacher_nats is not None:
        parts.append(f"KL from teacher {likelihood.kl_from_teacher_nats:.3f}")
    if generation is not None and generation.value_match is not None:
        parts.append(f"value match {generation.value_match:.3f}")
    if generation is not None:
        parts.append(f"ROUGE-L {generation.rouge_l:.3f}")
        parts.append(f"ends by EOS {generation.stopped_by_eos:.2f}")
    return ", ".join(parts) + f" (n={likelihood.n})"
