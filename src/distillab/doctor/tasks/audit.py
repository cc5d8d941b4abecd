"""`audit_tasks`: figures of lm-evaluation-harness that mean something else than they seem to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillab.doctor.causes import with_causes
from distillab.doctor.checks import Checked, Scope, Skipped, check, from_page, recorded
from distillab.doctor.data.words import share
from distillab.doctor.run.answers import same_answer
from distillab.doctor.run.logs_other import read_json, read_json_lines, read_text
from distillab.errors import DataError
from distillab.records import Finding, Investigation

_FEWEST = 20
_ERRORS = 2.0  # standard errors
_MANY_EMPTY = 0.2
_SAME_TARGET = 0.4
_AHEAD, _FOUND_LITTLE = 0.1, 0.5
_INSTRUCT = re.compile(r"(?:^|[-_/.])(?:instruct|chat|it|sft|dpo|rlhf|assistant)(?:$|[-_/.,\d])", re.IGNORECASE)
_MOST_SHOWN = 6
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d-]+(?:\.\d+)?)\.jsonl")
_RESULTS = re.compile(r"results_(?P<date>.+)\.json")


def audit_tasks(place: str | Path, other: str | Path | None = None) -> Investigation:
    """Examine results of lm-evaluation-harness by their files; the package is not needed.

    Args:
        place: results_DATE.json with the samples beside it, or a folder with them, of which the newest is read.
        other: a second one, to be compared with the first.
    Raises:
        DataError: there are no such files, or they are damaged.
    """
    given = [read_results(Path(one)) for one in (place, other) if one is not None]
    checks = []
    for one in given:
        checks += [check_template(one), *(recorded(task.name, _examined(task)) for task in one.tasks.values())]
    if len(given) > 1:
        checks.append(check_compared(*given))
    return Investigation(subject="; ".join(str(one.path) for one in given), checks=with_causes(checks))


def _examined(task: Task) -> Checked:
    """Check one task: is it above chance, are there answers, does its filter find them?"""
    figures = ", ".join(_figure(task, key) for key in list(task.figures)[:_MOST_SHOWN])
    samples = f"{_distinct(task):,} samples" if task.samples else "no samples (--log_samples)"
    yield Scope(f"{figures}; {samples}")
    yield _at_chance(task)
    yield _filtered_out(task)
    yield from _answers(task)


@check("template")
def check_template(results: TaskResults) -> Checked:
    """Check that an instruct model, known by its name, was asked in its chat template."""
    name = "no model name" if not results.model else results.model
    yield Scope(f"{name}; chat template {'applied' if results.chat_template else 'not applied'}")
    if not results.states_template:
        yield Scope(name)
        raise Skipped("the file does not state whether one was applied")
    if results.chat_template is not None or not _INSTRUCT.search(results.model):
        return
    yield from_page("task-without-template", f"model: {results.model}", "chat_template: null")


@check("comparison")
def check_compared(one: TaskResults, other: TaskResults) -> Checked:
    """Check that two files can be compared: the same versions, examples, rows and templates."""
    both = sorted(one.tasks.keys() & other.tasks.keys())
    yield Scope(f"{len(both):,} tasks are in both files")
    if not both:
        raise Skipped("the two files have no task in common")
    differ = [
        f"{name}: {what} {first!s:.60} and {second!s:.60}"
        for name in both
        for what, first, second in _conditions(one.tasks[name], other.tasks[name])
        if first != second
    ]
    for what, first, second in (
        ("rows a task (limit)", one.limit, other.limit),
        ("chat template", _applied(one), _applied(other)),
    ):
        if first != second:
            differ.append(f"{what}: {first} and {second}")
    if not differ:
        return
    shown = differ[:_MOST_SHOWN]
    if len(differ) > _MOST_SHOWN:
        shown.append(f"and {len(differ) - _MOST_SHOWN} more")
    yield from_page("tasks-compared-unlike", f"{one.path} and {other.path}", *shown)


def _conditions(one: Task, other: Task) -> Iterator[tuple[str, object, object]]:
    yield "examples in the prompt", one.shots, other.shots
    yield "version", one.version, other.version
    if one.samples and other.samples:
        yield "samples", _distinct(one), _distinct(other)
        first, second = _hashes(one), _hashes(other)
        changed = sum(first[key] != second[key] for key in first.keys() & second.keys())
        yield "samples with another text", 0, changed


def _hashes(task: Task) -> dict[str, object]:
    return {str(line.get("doc_id")): line.get("doc_hash") for line in task.samples}


def _applied(results: TaskResults) -> str:
    return "applied" if results.chat_template else "not applied"


def _figure(task: Task, key: str) -> str:
    error = task.errors.get(key)
    return f"{key} {task.figures[key]:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _distinct(task: Task) -> int:
    return len({str(line.get("doc_id")) for line in task.samples})


def _at_chance(task: Task) -> Finding | None:
    choices = [len(line["resps"]) for line in _once(task) if _is_choice(line)]
    key = next((name for name in ("acc,none", "acc_norm,none") if name in task.figures), None)
    if key is None or len(choices) < _FEWEST or min(choices) < 2:
        return None
    chance, n = sum(1 / count for count in choices) / len(choices), len(choices)
    error = task.errors.get(key, math.sqrt(chance * (1 - chance) / n))
    if not task.figures[key] - _ERRORS * error <= chance:
        return None
    return from_page(
        "task-at-chance",
        f"{task.name}: {key} {task.figures[key]:.3f}, standard error {error:.3f}, n = {n:,}",
        f"guessing gives {chance:.3f}: {sum(choices) / n:.3g} choices a sample on average",
    )


def _filtered_out(task: Task) -> Finding | None:
    strict = {key: value for key, value in task.figures.items() if "strict" in key.partition(",")[2]}
    for key, value in strict.items():
        metric, _, kind = key.partition(",")
        others = {k: v for k, v in task.figures.items() if k.partition(",")[0] == metric and k != key}
        best = max(others, key=lambda name: others[name], default=None)
        if best is None or others[best] - value < _AHEAD or value > _FOUND_LITTLE * others[best]:
            continue
        missed = [
            line
            for line in task.samples
            if line.get("filter") == kind and _first(line, "filtered_resps") == "[invalid]"
        ]
        facts = [f"{task.name}: {_figure(task, key)}, {_figure(task, best)}"]
        if missed:
            facts.append(f"{kind} found nothing in {share(len(missed), _distinct(task))} answers")
        return from_page(
            "task-filter-finds-nothing",
            *facts,
            example=tuple(repr((_first(line, "resps") or "")[-120:]) for line in missed[:2]),
        )
    return None


def _answers(task: Task) -> list[Finding | None]:
    targets = Counter(str(line.get("target")) for line in _once(task))
    # where one answer is right for most samples, giving it is no fault
    if targets and max(targets.values()) >= _SAME_TARGET * targets.total():
        return []
    written = [text for line in _once(task) if not _is_choice(line) and (text := _first(line, "resps")) is not None]
    if len(written) >= _FEWEST:
        return [_empty(task, written), same_answer(written)]
    chosen = [place for line in _once(task) if (place := _chosen(line)) is not None]
    return [same_answer([f"choice {place + 1}" for place in chosen])] if len(chosen) >= _FEWEST else []


def _empty(task: Task, written: Sequence[str]) -> Finding | None:
    hit = [text for text in written if not text.strip()]
    if len(hit) < _MANY_EMPTY * len(written):
        return None
    return from_page("task-answers-empty", f"{task.name}: {share(len(hit), len(written))} answers have no text")


def _once(task: Task) -> list[Mapping[str, Any]]:
    """Return one line a sample: a task with several filters has a line for each."""
    return list({str(line.get("doc_id")): line for line in task.samples}.values())


def _is_choice(line: Mapping[str, Any]) -> bool:
    resps = line.get("resps")
    return isinstance(resps, list) and len(resps) > 1 and all(_score(one) is not None for one in resps)


def _score(response: object) -> float | None:
    """Return the log-likelihood of a choice, [["-1.5", "False"]]; None: it is none."""
    while isinstance(response, list) and response and isinstance(response[0], list):
        response = response[0]
    if not isinstance(response, list) or len(response) != 2:
        return None
    try:
        return float(response[0])
    except (TypeError, ValueError):
        return None


def _chosen(line: Mapping[str, Any]) -> int | None:
    if not _is_choice(line):
        return None
    scores = [_score(one) or 0.0 for one in line["resps"]]
    return max(range(len(scores)), key=lambda place: scores[place])


def _first(line: Mapping[str, Any], key: str) -> Any:
    value = line.get(key)
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class Task:
    """One task of a results file.

    Attributes:
        name: of the task.
        figures: "metric,filter" -> value.
        errors: "metric,filter" -> its standard error.
        shots, version: examples in the prompt, and the task's version; None: not stated.
        samples: the lines of its samples file; none where there is no such file.
    """

    name: str
    figures: Mapping[str, float]
    errors: Mapping[str, float]
    shots: object = None
    version: object = None
    samples: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TaskResults:
    """One results file, with the samples beside it.

    Attributes:
        path: of the file.
        model: its name, as it was given to the harness.
        chat_template: that was applied; None: none was.
        states_template: whether the file says so; files before 0.4.3 do not.
        tasks: by name; groups of tasks, which have no samples of their own, are not among them.
        limit: rows a task, where not all were used.
    """

    path: Path
    model: str
    chat_template: str | None
    states_template: bool
    tasks: Mapping[str, Task] = field(default_factory=dict)
    limit: object = None


def read_results(place: Path) -> TaskResults:
    """Read a results file, or the newest one of a folder and the folders in it.

    Raises:
        DataError: there is none, or it or a samples file beside it is damaged.
    """
    path = _newest(place) if place.is_dir() else place
    value = read_json(read_text(path), where=str(path))
    found = value.get("results") if isinstance(value, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(one, dict) for one in found.values()):
        raise DataError(
            "The file is no results file of lm-evaluation-harness.",
            where=str(path),
            facts=["a results file has results: {TASK: {METRIC,FILTER: value}}"],
            fix="give results_DATE.json, or the folder of --output_path",
        )
    groups = value.get("group_subtasks")
    grouped = {name for name, inside in groups.items() if inside} if isinstance(groups, dict) else set()
    beside = _samples(path)
    tasks = {
        name: _task(name, figures, value, beside.get(name), f"{path}, results.{name}")
        for name, figures in found.items()
        if name not in grouped
    }
    config = value.get("config")
    template = value.get("chat_template")
    return TaskResults(
        path=path,
        model=str(value.get("model_name") or (config.get("model_args") if isinstance(config, dict) else "") or ""),
        chat_template=template if isinstance(template, str) and template else None,
        states_template="chat_template" in value,
        tasks=tasks,
        limit=config.get("limit") if isinstance(config, dict) else None,
    )


def _newest(folder: Path) -> Path:
    found = [path for path in folder.rglob("results_*.json") if path.is_file() and not path.is_symlink()]
    if not found:
        raise DataError(
            "The folder has no results of lm-evaluation-harness.",
            where=str(folder),
            facts=["looked for results_*.json in it and in the folders in it"],
            fix="give the folder of --output_path; --log_samples writes the samples beside it",
        )
    return max(found, key=lambda path: (path.name, str(path)))


def _samples(path: Path) -> dict[str, Path]:
    """Return task -> its samples file of the same date; of a renamed results file, any that stands beside it."""
    match = _RESULTS.fullmatch(path.name)
    found: dict[str, Path] = {}
    for file in sorted(path.parent.glob("samples_*.jsonl")):
        named = _SAMPLES.fullmatch(file.name)
        if named is not None and (match is None or named["date"] == match["date"]):
            found[named["task"]] = file
    return found


def _task(name: str, figures: Mapping[str, Any], value: Mapping[str, Any], file: Path | None, where: str) -> Task:
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, figure in figures.items():
        if isinstance(figure, bool) or not isinstance(figure, int | float):
            continue  # the alias, and "N/A" for an error that is not known
        metric, comma, kind = key.partition(",")
        if not comma:
            continue
        if metric.endswith("_stderr"):
            errors[f"{metric.removesuffix('_stderr')},{kind}"] = float(figure)
        else:
            values[key] = float(figure)
    lines = tuple(row.values for row in read_json_lines(file)[0]) if file is not None else ()
    if not values and not lines:
        raise DataError("A task has no figure.", where=where, facts=[f"keys: {', '.join(map(str, figures))[:200]}"])
    return Task(name, values, errors, _stated(value, "n-shot", name), _stated(value, "versions", name), lines)


def _stated(value: Mapping[str, Any], part: str, name: str) -> object:
    inside = value.get(part)
    return inside.get(name) if isinstance(inside, dict) else None
