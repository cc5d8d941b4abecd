"""Write the model card of a finished run from its records: YAML for the hub, then Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from distillab.evaluation.intervals import spread
from distillab.export.finished import FinishedRun
from distillab.export.formulas import formula_of, weight_of
from distillab.export.licence import licence_of
from distillab.paths import is_local
from distillab.records import FEWEST_ROWS, EncodingCounts, run_outlook
from distillab.report.build import render
from distillab.report.columns import Column, columns
from distillab.report.entries import ACCESS_MEANING, Entry, entries
from distillab.report.gaps import difference
from distillab.report.numbers import MISSING, count, duration, fixed, percent, signed
from distillab.report.sections import Grid
from distillab.runs.folder import HELD_OUT, read_held_out

RECIPE = "recipe.json"
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Card:
    """Everything that a card shows, in its order."""

    title: str
    failure: str | None
    lead: str
    outlook: tuple[str, ...]
    use: str
    results: Grid
    compared: tuple[str, ...]
    models: Grid | None
    teachers: tuple[Facts, ...]
    pair: Facts
    data: Facts
    method: str
    terms: Grid
    training: Facts
    reproduce: str
    limits: tuple[str, ...]


def model_card(run: FinishedRun, *, use: str, licence: str | None = None, notes: tuple[str, ...] = ()) -> str:
    """Return the text of a model card.

    Args:
        use: commands or code that run the exported files.
        licence: of the student, as the hub names licences; None: the card states none.
        notes: what the form of the export changes, for the card's limits.
    """
    front = _metadata(run, licence).to_yaml()
    return f"---\n{front}\n---\n\n{render('card.md.j2', _card(run, use, licence, notes))}"


def _metadata(run: FinishedRun, licence: str | None) -> ModelCardData:
    record = run.record
    sources = [str(one["path"]) for one in _sources(record.config)]
    datasets = [path for path in sources if not is_local(path) and ":" not in path]
    held_out = record.held_out_counts
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=held_out.source if held_out.source in datasets else "custom",
            dataset_name=f"{_name(held_out.source)}, held-out rows",
            metric_type=metric.name,
            metric_name=f"{metric.label} ({metric.unit})",
            metric_value=metric.value,
        )
        for metric in record.evaluation.metrics
        if metric.value is not None and metric.level != "record"
    ]
    return ModelCardData(
        model_name=record.name,
        base_model=run.base,
        datasets=datasets or None,
        eval_results=results,
        library_name="peft" if run.has_adapters else "transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=["distillab", "knowledge-distillation"],
    )


def _card(run: FinishedRun, use: str, licence: str | None, notes: tuple[str, ...]) -> Card:
    record = run.record
    teacher = record.teacher.name if record.teacher is not None else None
    by = f"distilled from {teacher} by the method {record.method}" if teacher else f"trained by {record.method}"
    version = record.environment.get("distillab", "")
    return Card(
        title=record.name,
        failure=record.shown_failure,
        lead=f"{_began_as(run)}, {by}, with distillab {version}.",
        outlook=run_outlook(record),
        use=use,
        results=_results(run),
        compared=_compared(run),
        models=_models(run),
        teachers=_teachers(run),
        pair=_pair(run),
        data=_data(run),
        method=run.method.summary if run.method is not None else "terms of the recipe's own",
        terms=_loss_terms(record.config["terms"]),
        training=_training(run),
        reproduce=_reproduce(run),
        limits=(*_limits(run, licence), *notes, *record.notes),
    )


def _began_as(run: FinishedRun) -> str:
    settings = run.settings
    name = _name(str(settings["path"]))
    if settings["init"] == "random":
        return f"A model of the shape of {name} with random weights"
    return f"A part of {name}" if settings["from_teacher"] else name


def _results(run: FinishedRun) -> Grid:
    record = run.record
    shown = columns([record.evaluation])
    interval = _interval(run)
    rows = []
    for column in shown:
        metric = column.metric
        cell = fixed(_scaled(column), column.decimals) + (interval if column.is_primary else "")
        rows.append((f"{metric.label} {column.arrow}".strip(), column.unit, cell, f"{metric.n:,} {metric.sample}"))
    references = record.references
    known = {"every token equally likely": references.uniform_nats, "token frequencies": references.unigram_nats}
    rows += [(f"reference: {name}", "nats/token", fixed(nats), MISSING) for name, nats in known.items()]
    first, last = record.curve[0], record.curve[-1]
    if first.step == 0:
        ends = f"{fixed(first.held_out_nats_per_token)} → {fixed(last.held_out_nats_per_token)}"
        rows.append(("before → after training", "nats/token", ends, "the rows of the learning curve"))
    return Grid("", ("metric", "unit", "value", "measured on"), tuple(rows), "")


def _scaled(column: Column) -> float | None:
    return None if column.metric.value is None else column.metric.value * column.scale


def _interval(run: FinishedRun) -> str:
    """Return the 95 % interval of the held-out loss over the rows, from the run's own figures of each row."""
    lines = [line for line in read_held_out(run.folder / HELD_OUT) if "nats" in line]
    if len(lines) < FEWEST_ROWS:
        return ""
    nats, tokens = (np.array([line[name] for line in lines], dtype=np.float64) for name in ("nats", "tokens"))
    found = spread(nats[None, None], tokens[None])
    half = float(found.half_width(0.05)[0])
    return f" [{fixed(float(found.mean[0]) - half)}, {fixed(float(found.mean[0]) + half)}]"


def _compared(run: FinishedRun) -> tuple[str, ...]:
    """Return the arm's differences from SFT, with what it has recovered of the gap to the teacher."""
    arm = run.arm
    if arm is None:
        return ()
    seeds = f"arm {arm.name}, {count(len(arm.seeds))} seeds" if len(arm.seeds) > 1 else f"arm {arm.name}, one seed"
    found = []
    for one in arm.comparisons:
        text = f"{seeds}, against SFT: {difference(one)}"
        if one.recovered is not None:
            low, high = (signed(100 * end, 0) for end in (one.recovered.low, one.recovered.high))
            text += f"; {signed(100 * one.recovered.share, 0)} % of the gap to the teacher recovered [{low}, {high}]"
        elif one.undefined is not None:
            text += f"; no share of the gap: {one.undefined}"
        found.append(text)
    return tuple(found)


def _models(run: FinishedRun) -> Grid | None:
    """Return the models of the study: baselines, SFT and this run's arm, each the mean over its seeds."""
    if run.study is None or run.arm is None:
        return None
    wanted = {run.arm.name, "sft"}
    shown = [one for one in entries(run.study) if one.kind in ("undistilled", "teacher") or one.name in wanted]
    found = columns([run.record.evaluation])
    headings = ("model", *(f"{column.metric.label} ({column.unit})" for column in found))
    return Grid("", headings, tuple((one.marked_name, *(_mean(one, column) for column in found)) for one in shown), "")


def _mean(entry: Entry, column: Column) -> str:
    found = column.spread(entry.evaluations)
    if found is None:
        return MISSING
    text = fixed(found.mean, column.decimals)
    return text if found.sd is None else f"{text} ± {fixed(found.sd, column.decimals)}"


def _teachers(run: FinishedRun) -> tuple[Facts, ...]:
    record, config = run.record, run.record.config
    each = [one for one in (config["teacher"], *(config.get("teachers") or {}).values()) if one is not None]
    if record.teacher is None or not each:
        return ()
    made = record.teacher
    facts = []
    for one in each:
        path, alone = str(one["path"] or ""), len(each) == 1
        licence = licence_of(path, revision=one["revision"]) if path and ":" not in path else None
        known = {
            "name": made.name if alone else _name(path),
            "licence": licence or "not stated by its files",
            "sha256 of its weights": made.weights_sha256 if alone else record.fingerprints.get("teacher", ""),
            "parameters": count(made.parameters) if alone else "",
            "type of its weights": made.quantization or made.dtype if alone else "",
            "sha256 of its adapters": made.adapter_sha256 or "" if alone else "",
        }
        facts.append(tuple((name, value) for name, value in known.items() if value))
    return tuple(facts)


def _pair(run: FinishedRun) -> Facts:
    contract = run.record.contract
    if contract is None:
        return ()
    tokens = f"teacher {contract.teacher.family}, {count(contract.teacher.tokens)} tokens; "
    tokens += f"student {contract.student.family}, {count(contract.student.tokens)} tokens"
    notes = (("note", note) for note in contract.notes)
    return (("verdict", f"{contract.verdict}: {contract.reason}"), ("tokenizers", tokens), *notes)


def _data(run: FinishedRun) -> Facts:
    record = run.record
    facts = []
    for name, key, counts in (
        ("training rows", "train_rows", record.train_counts),
        ("held-out rows", "held_out_rows", record.held_out_counts),
    ):
        facts.append((name, f"{_name(counts.source)}: {_counts(counts)}"))
        if key in record.fingerprints:
            facts.append((f"sha256 of the {name}", record.fingerprints[key]))
    if (answers := record.answers) is not None:
        facts.append(("answers of the teacher", f"{count(answers.generated)} generated, {count(answers.kept)} kept"))
    return (*facts, ("template", str(record.config["data"]["template"])))


def _counts(counts: EncodingCounts) -> str:
    text = f"{count(counts.kept)} of {count(counts.rows)} kept, {count(counts.supervised_tokens)} supervised tokens"
    more = {
        "cut at the longest length": counts.truncated,
        "empty answers dropped": counts.dropped_empty_answer,
        "too long to keep": counts.dropped_no_room,
        "not evaluated": counts.left_out,
    }
    return "; ".join((text, *(f"{count(number)} {what}" for what, number in more.items() if number)))


def _loss_terms(terms: list[dict[str, Any]]) -> Grid:
    rows = tuple((str(one["kind"]), weight_of(one), formula_of(one)) for one in terms)
    return Grid("", ("term", "weight", "formula"), rows, "")


def _training(run: FinishedRun) -> Facts:
    record, settings, cost = run.record, run.record.config["training"], run.record.cost
    budget = f"{count(cost.steps)} steps of {settings['batch_size']} sequences"
    if settings["budget"] is not None:
        limits = {name: value for name, value in settings["budget"].items() if value is not None}
        budget += f"; budget {', '.join(f'{name}: {value}' for name, value in limits.items())}"
    written = "dataset" if record.answers is None else "teacher"
    own = f"; {count(cost.written_tokens)} tokens written by the student itself" if cost.written_tokens else ""
    facts = {
        "budget": budget,
        "answers": f"of the {written}{own}",
        "what is read of the teacher": f"{ACCESS_MEANING[record.access]} ({record.teacher_signals})",
        "tokens": f"{count(cost.supervised_tokens)} supervised of {count(cost.student_tokens)} read by the student; "
        f"{count(cost.teacher_tokens)} read or written by the teacher",
        "optimizer": f"AdamW, learning rate {settings['learning_rate']:g}, {settings['schedule']}, "
        f"{settings['warmup_steps']} warmup steps, {settings['precision']}",
        "seed": str(record.seed),
        "time": f"{duration(cost.wall_s)} on {record.environment.get('gpu', 'none').replace('none', 'CPU')}",
    }
    if cost.budget_spent is not None:
        facts["budget spent"] = percent(cost.budget_spent)
    return tuple(facts.items())


def _reproduce(run: FinishedRun) -> str:
    # without "+cpu", which the public index does not have
    versions = {name: version.partition("+")[0] for name, version in run.record.environment.items()}
    pinned = " ".join(
        f"{name}=={versions[name]}" for name in ("distillab", "torch", "transformers") if name in versions
    )
    return f"pip install {pinned}\ndistillab train {RECIPE}"


def _limits(run: FinishedRun, licence: str | None) -> tuple[str, ...]:
    record = run.record
    found = [
        f"Evaluated on {count(record.evaluation.n('held-out rows'))} held-out rows of one source, with one seed of "
        "training; on other text nothing was measured, nor whether its answers are safe, true or fair."
    ]
    if run.study is None:
        found.append("This run is in no finished study, so it is compared with no other method.")
    if record.teacher is not None:
        found.append("The student learned from its teacher: the teacher's licence and its faults can bind it too.")
    if licence is None:
        found.append("Whoever made this student has stated no licence for it.")
    return tuple(found)


def _sources(config: dict[str, Any]) -> list[dict[str, Any]]:
    train, held_out = config["data"]["train"], config["data"]["held_out"]
    sources = [*(train if isinstance(train, list) else [train]), held_out]
    return [one for one in sources if one and one.get("path")]


def _name(path: str) -> str:
    """Return a hub id whole, and the last part alone of a path, which would show a machine's folders."""
    return PurePosixPath(path.rstrip("/")).name if is_local(path) or "://" in path else path
