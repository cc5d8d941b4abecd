"""What the commands print, beside progress. Nothing heavy is imported at the top."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillab.records import EvaluationRecord, RunRecord, StudyResults


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
    lines = record.references
    first = record.curve[0].held_out_nats_per_token
    if record.demonstrates:
        print(f"NOT A RESULT. This run demonstrates: {record.demonstrates}")
    print(f"{record.name} ({record.method}, access: {record.access}, seed {record.seed})")
    print(f"  held-out: {_figures(record.evaluation)}")
    print(
        f"  to judge it by, nats a token: untrained {first:.3f} (on the curve's rows), "
        f"unigram {lines.unigram_nats:.3f}, log V {lines.uniform_nats:.3f}"
    )
    cost = record.cost
    print(
        f"  cost: {cost.steps} steps, {cost.supervised_tokens} supervised of {cost.student_tokens} tokens, "
        f"{cost.teacher_tokens} teacher tokens, {cost.wall_s:.1f} s, peak {cost.peak_rss_bytes / 2**20:.0f} MiB"
    )
    counts = record.train_counts
    print(
        f"  rows: {counts.kept} of {counts.rows} used; dropped {counts.dropped_empty_answer} empty, "
        f"{counts.dropped_no_room} without room; {counts.truncated} truncated"
    )
    output = record.config["output"]
    print(f"  student: {output}/student   record: {output}/run.json")


def show_study(results: StudyResults, folder: Path) -> None:
    """Print a finished study and write its report."""
    from distillab.report.build import write_report

    markdown, html = write_report(results, folder)
    print(results.title)
    print(results.verdict)
    for point in results.end_points:
        print(f"  {point.name:28} {_figures(point.evaluation)}")
    for arm in results.arms:
        mark = "  NOT A RESULT" if arm.demonstrates else ""
        print(f"  {arm.name:28} {_means(arm.evaluations)}{mark}")
    lines = results.references
    print(f"  to judge by, nats a token: unigram {lines.unigram_nats:.3f}, log V {lines.uniform_nats:.3f}")
    print(f"Report: {html}\n        {markdown}")


def _figures(evaluation: EvaluationRecord) -> str:
    return _means((evaluation,))


def _means(evaluations: tuple[EvaluationRecord, ...]) -> str:
    """Means over seeds, as one line."""
    n = len(evaluations)
    likelihoods = [evaluation.likelihood for evaluation in evaluations]
    parts = [
        f"{sum(item.nats_per_token for item in likelihoods) / n:.3f} nats/token",
        f"{sum(item.bits_per_byte for item in likelihoods) / n:.3f} bits/byte",
        f"accuracy {sum(item.token_accuracy for item in likelihoods) / n:.3f}",
    ]
    divergences = [item.kl_from_teacher_nats for item in likelihoods if item.kl_from_teacher_nats is not None]
    if divergences:
        parts.append(f"KL from teacher {sum(divergences) / n:.3f}")
    generations = [evaluation.generation for evaluation in evaluations if evaluation.generation is not None]
    values = [item.value_match for item in generations if item.value_match is not None]
    if values:
        parts.append(f"value match {sum(values) / n:.3f}")
    if generations:
        parts.append(f"ROUGE-L {sum(item.rouge_l for item in generations) / n:.3f}")
        parts.append(f"ends by EOS {sum(item.stopped_by_eos for item in generations) / n:.2f}")
    rows = likelihoods[0].n
    return ", ".join(parts) + f" (n={rows}{f', {n} seeds' if n > 1 else ''})"
