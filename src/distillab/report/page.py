"""Convert the results of a study to the plain values that the HTML and Markdown templates print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distillab.records import AccessLevel, StudyResults, study_outlook, teachers_not_better
from distillab.report import sections
from distillab.report.columns import columns, glossary
from distillab.report.drawing import legend_marker
from distillab.report.entries import ACCESS_MEANING, Entry, entries, of_kind
from distillab.report.figure_arms import figure_arms
from distillab.report.figure_cost import figure_cost
from distillab.report.figure_curves import Panel, closer_panel, held_out_panel, held_out_series, training_panel
from distillab.report.figure_gap import GapFigure, figure_gap
from distillab.report.gaps import gaps, teacher_costs
from distillab.report.investigation_page import Doctor, doctor_of
from distillab.report.numbers import MISSING, count, count_range, duration, fixed
from distillab.report.on_policy import OnPolicy, on_policy
from distillab.report.table import Table, main_table
from distillab.report.token_probs import TokenProbs, token_probs

_SUMMARY_COLUMNS = 6  # with the model and the difference from SFT, eight


@dataclass(frozen=True)
class Legend:
    """One name of the curves' legend."""

    name: str
    mark: Markup
    failure: bool


@dataclass(frozen=True)
class Page:
    """Everything that a report shows, in its order."""

    title: str
    pending: str
    outlook: tuple[str, ...]
    question: str
    headline: str
    details: str
    gap_figure: GapFigure | None
    weak_teachers: tuple[str, ...]
    verdict: str
    facts: tuple[tuple[str, str], ...]
    failures: tuple[Entry, ...]
    summary_table: Table
    table: Table
    gaps: sections.Grid | None
    references: tuple[tuple[str, str, str], ...]
    access_meaning: dict[AccessLevel, str]
    arms_figure: tuple[Markup, ...]
    not_drawn: tuple[str, ...]
    panels: tuple[Panel, ...]
    curves_not_drawn: tuple[str, ...]
    legend: tuple[Legend, ...]
    curve_table: sections.Grid | None
    cost_figure: tuple[Markup, ...]
    token_probs: TokenProbs | None
    on_policy: OnPolicy | None
    samples: tuple[sections.Sample, ...]
    samples_in_all: int
    contracts: tuple[sections.Contract, ...]
    doctor: Doctor | None
    data: sections.Grid
    spans: sections.Grid | None
    stores: sections.Grid | None
    caches: sections.Grid | None
    costs: sections.Grid
    teacher_costs: sections.Grid | None
    budget: str
    reproduce: str
    environment: dict[str, str]
    times: str
    glossary: tuple[tuple[str, str], ...]


def page_of(results: StudyResults) -> Page:
    """Return the page of a study.

    Raises:
        DataError: the parts of the results contradict each other (see `entries`).
    """
    found = entries(results)
    trained = of_kind(found, "arm", "failure")
    evaluations = [evaluation for entry in found for evaluation in entry.evaluations]
    shown = columns(evaluations)
    panels = (held_out_panel(found, results.references), training_panel(found), closer_panel(found))
    return Page(
        title=results.title,
        pending=pending_line(results),
        outlook=study_outlook(results),
        question=results.question,
        headline=("So far: " if results.pending else "") + plain_headline(found),
        details=results.headline,
        gap_figure=figure_gap(found),
        weak_teachers=teachers_not_better(results),
        verdict=results.verdict,
        facts=_facts(results, found),
        failures=of_kind(found, "failure"),
        summary_table=main_table(found, columns(evaluations, summary=True)[:_SUMMARY_COLUMNS], counts=False),
        table=main_table(found, shown),
        gaps=gaps(found),
        references=_references(results, found),
        access_meaning=ACCESS_MEANING,
        arms_figure=figure_arms(found, results.references),
        not_drawn=_not_drawn(found),
        panels=tuple(panel for panel in panels if panel is not None),
        curves_not_drawn=_curves_not_drawn(found),
        legend=tuple(Legend(e.name, legend_marker(e.marker, e.colour), e.is_failure) for e in trained),
        curve_table=_curve_table(found),
        cost_figure=figure_cost(found),
        token_probs=token_probs(results, found),
        on_policy=on_policy(results),
        samples=sections.samples(results, found),
        samples_in_all=len(results.samples),
        contracts=tuple(sections.contract(record) for record in results.contracts),
        doctor=None if results.investigation is None else doctor_of(results.investigation),
        data=sections.data_counts(results.train_counts, results.held_out_counts),
        spans=sections.spans(results.spans) if results.spans else None,
        stores=sections.answer_stores(results.answer_stores) if results.answer_stores else None,
        caches=sections.caches(results.caches) if results.caches else None,
        costs=sections.costs(found),
        teacher_costs=teacher_costs(found),
        budget=results.budget,
        reproduce=results.reproduce,
        environment=results.environment,
        times=_times(results),
        glossary=glossary(shown),
    )


def plain_headline(found: Sequence[Entry]) -> str:
    """Return what the study shows in one sentence, without a term that the page has not explained."""
    arms = [arm for arm in of_kind(found, "arm") if arm.against_sft is not None]
    if not arms:
        return "Nothing is compared with plain fine-tuning (SFT) here."
    known = [arm for arm in arms if arm.against_sft is not None and arm.against_sft.outcome == "better"]
    alone = [arm for arm in arms if arm.against_sft is not None and arm.against_sft.better_alone]
    if not known and alone:
        most = min(alone, key=lambda arm: arm.against_sft.mean if arm.against_sft is not None else 0.0).name
        who = f"{most} is" if len(alone) == 1 else f"{len(alone)} of {len(arms)} arms, {most} the most, are"
        by = "by its own interval" if len(alone) == 1 else "by their own intervals"
        return (
            f"{who} better than plain fine-tuning (SFT) {by}; the test of all arms together needs more seeds or rows."
        )
    if not known:
        who = "The arm that learns" if len(arms) == 1 else f"None of the {len(arms)} arms that learn"
        words = "is not measurably better" if len(arms) == 1 else "is measurably better"
        return f"{who} from a teacher {words} than plain fine-tuning on the data set’s answers (SFT)."
    best = min(known, key=lambda arm: arm.against_sft.mean if arm.against_sft is not None else 0.0)
    share = next((one.recovered for one in best.comparisons if one.family == "likelihood"), None)
    source = {"none": "other data", "text": "the teacher’s answers", "top_k": "the teacher’s likeliest tokens"} | {
        "logits": "the teacher’s probabilities",
        "internals": "the teacher’s inner activations",
    }
    gain = "is measurably better than plain fine-tuning (SFT)"
    if share is not None:
        gain = f"closes {fixed(100 * share.share, 0)} % of the gap between plain fine-tuning (SFT) and the teacher"
    others = (
        f"; of {len(arms)} arms {len(known)} {'is' if len(known) == 1 else 'are'} better than SFT"
        if len(arms) > 1
        else ""
    )
    return f"Learning from {source[best.access or 'none']} ({best.name}) {gain}{others}."


def pending_line(results: StudyResults) -> str:
    """Return how many runs are finished, and which are still to come; "" where all are."""
    if not results.pending:
        return ""
    done = sum(len(arm.seeds) for arm in results.arms)
    left = [f"{name} ({_seeds(seeds)})" for name, seeds in results.pending.items()]
    runs = done + sum(map(len, results.pending.values()))
    return f"Not finished: {done} of {count(runs)} runs are done. Still to come: {', '.join(left)}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def _facts(results: StudyResults, found: Sequence[Entry]) -> tuple[tuple[str, str], ...]:
    arms, failures = of_kind(found, "arm"), of_kind(found, "failure")
    rows = count_range([e.n("held-out rows") for entry in found for e in entry.evaluations])
    counts = results.held_out_counts
    if counts.left_out:
        rows += f" of {count(counts.rows)}, {count(counts.left_out)} not evaluated"
        rows += f": {counts.reasons}" if counts.reasons else ""
    tokens = [e.tokens for entry in (*arms, *failures) for e in entry.evaluations]
    shown = f" + {len(failures)} shown failure{'s' if len(failures) > 1 else ''}" if failures else ""
    return (
        ("arms", f"{len(arms)}{shown}"),
        ("seeds an arm", count_range([len(entry.seeds) for entry in (*arms, *failures)])),
        ("held-out rows", rows),
        ("held-out tokens scored", count_range(tokens)),
        ("budget an arm", results.budget),
        ("time in all", _time_in_all(results)),
    )


def _time_in_all(results: StudyResults) -> str:
    if results.shared_s is None:
        return f"{duration(results.wall_s)}, without the teachers’ answers and caches"
    return duration(results.wall_s + results.shared_s)


def _times(results: StudyResults) -> str:
    shared = "an unknown time" if results.shared_s is None else duration(results.shared_s)
    return (
        f"All runs together took {duration(results.wall_s)} of training and evaluation, and what they share of their "
        f"teachers (answers, caches) {shared}; evaluating the teachers and the undistilled student is not counted."
    )


def _references(results: StudyResults, found: Sequence[Entry]) -> tuple[tuple[str, str, str], ...]:
    """Return reference lines as (name, value, meaning)."""
    lines = [
        ("log V", fixed(results.references.uniform_nats), "every token equally likely"),
        ("unigram", fixed(results.references.unigram_nats), "token frequencies of the training answers alone"),
    ]
    untrained = of_kind(found, "undistilled")
    lines += [("undistilled student", fixed(e.held_out_nats[0]), "the student as it was given") for e in untrained]
    return tuple(lines)


def _not_drawn(found: Sequence[Entry]) -> tuple[str, ...]:
    """Return why a model is missing in the figures, a sentence each."""
    reasons = []
    for entry in found:
        broken = sum(1 for value in entry.held_out_nats if not math.isfinite(value))
        if not entry.comparable:
            reasons.append(f"{entry.name} is not drawn: its nats are a token of another tokenizer.")
        elif broken:
            reasons.append(f"{entry.name}: {broken} of {len(entry.evaluations)} values are not finite and not drawn.")
        elif not entry.evaluations:
            reasons.append(f"{entry.name} is not drawn: it has no finished run.")
    return tuple(reasons)


def _curves_not_drawn(found: Sequence[Entry]) -> tuple[str, ...]:
    """Return which arms have curve points that no line can show, a sentence each."""
    reasons = []
    for entry in found:
        values = [
            v for curve in entry.curves for p in curve for v in (p.held_out_nats_per_token, *p.train_nats.values())
        ]
        broken = sum(1 for value in values if not math.isfinite(value))
        if broken:
            reasons.append(f"{entry.name}: {broken} values of its curves are not finite and not drawn.")
    return tuple(reasons)


def _curve_table(found: Sequence[Entry]) -> sections.Grid | None:
    """Return the held-out curves as numbers, for those who cannot see the figure."""
    series = held_out_series(found)
    if not series:
        return None
    steps = sorted({step for s in series for step in s.steps})
    values = [dict(zip(s.steps, s.mean, strict=True)) for s in series]
    rows = tuple((count(step), *(fixed(v[step]) if step in v else MISSING for v in values)) for step in steps)
    names = tuple(s.entry.marked_name for s in series)
    return sections.Grid("Held-out nats/token by step, mean over seeds", ("step", *names), rows)
