"""Output of the commands `train`, `compare` and `demo`. Nothing heavy is imported at the top."""

from __future__ import annotations

import logging
import os
import statistics
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillab.terminal import echo, plural

_LINE, _HEADING = 100, 10

if TYPE_CHECKING:
    from distillab.records import EvaluationRecord, Interval, RunRecord, StudyResults
    from distillab.report.columns import Column


def quiet_libraries() -> None:
    """Silence progress bars and notices of the libraries. Call it before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers shows one for GGUF files, terminal or not
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT reads it
    # transformers imports three of them where they are installed; lm_eval warns of the model that it is given
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes", "lm_eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def show_run(record: RunRecord) -> None:
    """Print the figures of a finished run, with the reference losses."""
    from distillab.records import run_outlook, total_cost

    lines = record.references
    first = record.curve[0].held_out_nats_per_token
    for sentence in run_outlook(record):
        echo(sentence)
    if record.shown_failure:
        echo(f"NOT A RESULT. This run shows a failure on purpose: {record.shown_failure}")
    echo(f"{record.name} ({record.method}, access: {record.access}, seed {record.seed})")
    for line in _figures(record.evaluation):
        echo(textwrap.fill(f"  {line}", _LINE, subsequent_indent="    "))
    echo(
        f"  for comparison, nats/token: untrained {first:.3f} (on the curve's rows), "
        f"unigram {lines.unigram_nats:.3f}, log V {lines.uniform_nats:.3f}"
    )
    cost, store = record.cost, record.answers
    written = "" if store is None else f" ({store.generated_tokens} of them generated)"
    echo(
        f"  cost: {plural(cost.steps, 'step')}, {cost.supervised_tokens} supervised of {cost.student_tokens} tokens, "
        f"{cost.teacher_tokens} teacher tokens{written}, {cost.wall_s:.1f} s, peak "
        f"{cost.peak_rss_bytes / 2**20:.0f} MiB"
    )
    served = total_cost([cost.served, None if store is None else store.served, *(use.served for use in record.caches)])
    if served is not None:
        money = "" if served.money is None else f", {served.money:.4g} by the recipe's prices"
        echo(
            f"  of the teacher behind a server: {plural(served.requests, 'request')}, {served.prompt_tokens} tokens "
            f"read ({served.cached_tokens} of them before), {served.completion_tokens} generated, "
            f"{served.seconds:.1f} s{money}"
        )
    if store is not None and (lost := store.dropped_filtered + store.dropped_refused):
        echo(f"  the teacher's answers: {lost} of {store.generated} are dropped: its server filtered or refused them")
    counts = record.train_counts
    echo(
        f"  rows: {counts.kept} of {counts.rows} used; dropped {counts.dropped_empty_answer} empty, "
        f"{counts.dropped_no_room} too long; {counts.truncated} truncated"
        + (f"; {counts.prompts} different prompts" if 0 < counts.prompts < counts.kept else "")
    )
    if counts.characters_lost:
        echo(
            f"  the tokenizer has no token for {counts.characters_lost} characters of {counts.rows_with_lost_text} "
            "rows; they are not trained on"
        )
    if store is not None and store.with_reasoning:
        echo(
            f"  the teacher's answers: {store.with_reasoning} of {store.generated} have reasoning "
            f"(teacher_answers.reasoning: {store.reasoning}); {store.dropped_unfinished_reasoning} whose reasoning has "
            "no end are dropped"
        )
    if counts.rows_cut_by_template or counts.rows_added_to_by_template:
        echo(
            f"  the chat template drops {counts.characters_cut_by_template} characters of the answers of "
            f"{counts.rows_cut_by_template} rows, and adds {counts.characters_added_by_template} to those of "
            f"{counts.rows_added_to_by_template}"
        )
    for use in record.caches:
        echo(f"  {use.source}: the teacher's {', '.join(use.kinds)} from {use.path}")
    for note in record.notes:
        echo(f"  {note}")
    output = record.config["output"]
    echo(f"  student: {output}/student   record: {output}/run.json")


def report_so_far(folder: Path) -> Callable[[StudyResults], None]:
    """Return what writes the report of a study while it runs, and prints once where it is."""
    shown = False

    def write(results: StudyResults) -> None:
        from distillab.report.build import write_report
        from distillab.report.page import pending_line

        nonlocal shown
        _, html = write_report(results, folder)
        if not shown and results.pending:
            echo(f"The first comparison is in {html}, which is written again as runs finish. {pending_line(results)}")
        shown = True

    return write


def show_study(results: StudyResults, folder: Path) -> None:
    """Print a finished study and write its report."""
    from distillab.records import study_outlook, teachers_not_better
    from distillab.report.build import write_report
    from distillab.report.columns import columns
    from distillab.report.entries import entries

    markdown, html = write_report(results, folder)
    for sentence in study_outlook(results):
        echo(textwrap.fill(sentence, _LINE))
    models: list[tuple[str, tuple[EvaluationRecord, ...], Interval | None]]
    models = [(point.name, (point.evaluation,), None) for point in results.baselines]
    models += [(arm.name, arm.evaluations, arm.against_sft) for arm in results.arms]
    shown = columns((evaluation for _, evaluations, _ in models for evaluation in evaluations), summary=True)
    rows = _headings(shown)
    rows += [[name, *_cells(evaluations, difference, shown)] for name, evaluations, difference in models]
    others = {entry.name for entry in entries(results) if not entry.comparable}
    for row in (row for row in rows if row[0] in others):
        row[1] += " †"
    marks = {arm.name: "  a shown failure, no result" for arm in results.arms if arm.shown_failure}
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    echo(results.title)
    for sentence in (results.headline, *teachers_not_better(results), results.verdict):
        echo(textwrap.fill(sentence, _LINE))
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        echo("  ".join([row[0].ljust(widths[0]), *cells]) + marks.get(row[0], ""))
    lines = results.references
    echo(
        f"References, nats/token: log V {lines.uniform_nats:.3f} (every token equally likely), unigram "
        f"{lines.unigram_nats:.3f} (token frequencies alone). n: held-out rows × seeds."
        + (" †: in other tokens." if others else "")
    )
    echo(f"Report: {html}\n        {markdown}")


def _headings(shown: Sequence[Column]) -> list[list[str]]:
    """Return the lines of the table's heading; the primary metric has its unit."""
    labels = [
        ["held-out", "nats/token"] if column.is_primary else textwrap.wrap(column.metric.label, _HEADING)
        for column in shown
    ]
    labels = [["model"], *labels[:1], ["against SFT [95 %]"], ["n"], *labels[1:]]
    lines = max(map(len, labels))
    return [list(line) for line in zip(*([""] * (lines - len(label)) + label for label in labels), strict=True)]


def _cells(
    evaluations: tuple[EvaluationRecord, ...], difference: Interval | None, shown: Sequence[Column]
) -> list[str]:
    """Return one row of the table: means over seeds, with the standard deviation of the primary metric."""
    rows = sorted({evaluation.n("held-out rows") for evaluation in evaluations})
    seeds = f" × {len(evaluations)}" if difference is not None else ""
    values = [[evaluation.value(column.metric.name) for evaluation in evaluations] for column in shown]
    means = [_mean(of_seeds, spread=column.is_primary) for column, of_seeds in zip(shown, values, strict=True)]
    return [*means[:1], _difference(difference), f"{'–'.join(map(str, rows))}{seeds}", *means[1:]]


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


def _figures(evaluation: EvaluationRecord) -> list[str]:
    """Return one model's figures, a line for each family; shares as fractions."""
    from distillab.records import FAMILIES

    lines = []
    for family, name in FAMILIES.items():
        found = [metric for metric in evaluation.metrics if metric.family == family and metric.level != "record"]
        parts = [
            f"{metric.label} {metric.value:.3f}" + (f" {metric.unit}" if "/" in metric.unit else "")
            for metric in found
            if metric.value is not None
        ]
        for reason in dict.fromkeys(metric.missing for metric in found if metric.missing is not None):
            labels = ", ".join(metric.label for metric in found if metric.missing == reason)
            parts.append(f"{labels}: not measured, {reason}")
        if found:
            sizes = "/".join(map(str, dict.fromkeys(metric.n for metric in found)))
            lines.append(f"{name}: {'; '.join(parts)} (n={sizes})")
    return lines
