"""Evaluate a model on tasks of EleutherAI's lm-evaluation-harness, by the harness itself."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib.util import find_spec
from numbers import Real
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillab.config.evaluation import EvaluationTask
from distillab.config.run import RunRecipe
from distillab.data.reading import Reader
from distillab.errors import ConfigError, DataError, near_names
from distillab.evaluation.task_files import read_task, require_known_metrics, sandboxed
from distillab.hub import reach_hub
from distillab.library_errors import library_errors
from distillab.records import Metric, TaskRecord

_SHARES = frozenset({"acc", "acc_norm", "acc_mutual_info", "exact_match", "likelihood_diff"})
_SEED = 1234  # of the solved examples; that of the harness's command line
_ROOM = 256  # tokens of an answer, where a task names no max_gen_toks


def require_tasks(recipe: RunRecipe, *, context: int | None, readers: Sequence[Reader]) -> None:
    """Check that every task of a recipe can be made, with its rows, before anything is trained.

    Args:
        context: of the student, in tokens.
        readers: of all models.
    Raises:
        ConfigError: lm_eval is not installed; an unknown task, or one that needs code or more than one process.
        DataError: the rows of a task cannot be read.
    """
    tasks = recipe.evaluation.tasks
    if not tasks:
        return
    divided = {
        "student.parallel": recipe.student.parallel is not None,
        "training.deepspeed: 3": recipe.training.deepspeed == 3,
        "teacher.parallel": any(one.parallel is not None for one in recipe.each_teacher.values()),
    }
    if found := [name for name, given in divided.items() if given]:
        raise ConfigError(
            "Tasks of lm-evaluation-harness run on the first process, which has a part of the weights alone.",
            where="evaluation.tasks",
            facts=found,
            fix="remove evaluation.tasks, and evaluate the saved student with lm_eval",
        )
    for one in tasks:
        without = [reader.loaded.name for reader in readers if not reader.tokenizer.chat_template]
        if one.chat_template and without:
            raise ConfigError(
                "A tokenizer has no chat template.",
                where=f"evaluation.tasks: {one.source}",
                facts=without,
                fix="remove chat_template: true",
            )
        longest = _longest_answer(one)
        if context is not None and longest >= context:
            raise ConfigError(
                "The answers of a task do not fit into the student's context.",
                where=f"evaluation.tasks: {one.source}",
                facts=[f"tokens of an answer: {longest}", f"context: {context}"],
                fix="write max_gen_toks under generation_kwargs in a file of your own",
            )


@lru_cache(maxsize=32)
def _longest_answer(task: EvaluationTask) -> int:
    """Make the tasks; return how many tokens an answer can have, 0 where none is generated."""
    made = _made(task)["tasks"].values()
    settings = [one.config.generation_kwargs or {} for one in made if one.OUTPUT_TYPE == "generate_until"]
    return max((int(one.get("max_gen_toks") or one.get("max_new_tokens") or _ROOM) for one in settings), default=0)


def evaluate_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[EvaluationTask], *, batch_size: int
) -> tuple[tuple[Metric, ...], tuple[TaskRecord, ...], dict[str, tuple[float, ...]]]:
    """Return the figures of a model on the tasks, and what was evaluated; as `lm_eval.simple_evaluate` gives them.

    The third: metric -> its values at the documents of the task, where it is their mean.

    Raises:
        ConfigError, DataError: as `require_tasks`; or the harness fails.
    """
    metrics: list[Metric] = []
    records: list[TaskRecord] = []
    scores: dict[str, tuple[float, ...]] = {}
    for task in tasks:
        with _own_random_numbers():
            made = _made(task)
            results = _results(model, tokenizer, task, made, batch_size=batch_size)
        found = {one.name: one for one in _records(results)}
        records += found.values()
        shown = {task.task, *made.get("groups", {})} if task.task in made.get("groups", {}) else set(made["tasks"])
        figures = _metrics(results, found, shown=shown)
        scores |= {one.name: of for one in figures if (of := _documents(results, one)) is not None}
        metrics += figures
    return tuple(metrics), tuple(records), scores


def _documents(results: Mapping[str, Any], metric: Metric) -> tuple[float, ...] | None:
    """Return the metric's value at each document; None if it is not their mean, as of F1 over all or a perplexity."""
    name, _, key = metric.name.partition("/")
    measure, _, taken = key.partition(",")
    found = [one.get(measure) for one in results["samples"].get(name, ()) if one["filter"] == taken]
    values = tuple(float(one) for one in found if isinstance(one, Real))
    if not values or len(values) != len(found) or metric.value is None:
        return None
    return values if math.isclose(fmean(values), metric.value, rel_tol=1e-9, abs_tol=1e-9) else None


def _results(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: EvaluationTask,
    made: dict[str, Any],
    *,
    batch_size: int,
) -> dict[str, Any]:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    with library_errors(DataError, "lm-evaluation-harness failed.", where=f"evaluation.tasks: {task.source}"):
        # it sets a padding token, which is not to reach the saved student
        harness = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        with sandboxed() if task.path is not None else nullcontext():
            found: dict[str, Any] = lm_eval.evaluate(
                harness,
                made,
                limit=task.limit,
                apply_chat_template=task.chat_template,
                fewshot_as_multiturn=task.chat_template,
            )
            return found


def _made(task: EvaluationTask) -> dict[str, Any]:
    """Return the harness's tasks and groups of an entry, with their rows."""
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "lm-evaluation-harness is not installed.", where="evaluation.tasks", fix="pip install 'distillab[lm-eval]'"
        )
    where = f"evaluation.tasks: {task.source}"
    given: Any
    if task.path is not None:
        given = read_task(task.path)
        require_known_metrics(given, task.path)
        manager = _tasks_of_the_harness(defaults=False)
    else:
        manager, given = _tasks_of_the_harness(defaults=True), task.task
        # the harness takes an unknown name for a file, and runs the code that it names
        if given not in manager.task_index:
            near = near_names(str(given), manager.all_tasks)
            listed = "`lm_eval ls tasks` lists the names; a file of your own is given as path"
            raise ConfigError(
                "lm-evaluation-harness has no such task.",
                where=where,
                fix=near if near.startswith("did you mean") else listed,  # there are 14,000
            )
        reach_hub()
    rule = "A task of lm-evaluation-harness cannot be made: its settings, or its rows, cannot be used."
    fix = "download its data set once with a connection (unset HF_HUB_OFFLINE), or correct the setting"
    with library_errors(DataError, rule, where=where, fix=fix), sandboxed() if task.path else nullcontext():
        made: dict[str, Any] = manager.load([copy.deepcopy(given)])
    for name, one in made["tasks"].items():
        if getattr(one, "UNSAFE_CODE", False) or getattr(one, "MULTIMODAL", False):
            raise ConfigError(
                "A task runs code that the model writes, or needs images or sound.", where=where, facts=[name]
            )
        own = one.get_config("num_fewshot")
        if task.num_fewshot is not None and own == 0 != task.num_fewshot:
            raise ConfigError(
                "A task has no solved examples by its definition.",
                where=where,
                facts=[f"{name}: num_fewshot 0", f"here: {task.num_fewshot}"],
                fix="remove num_fewshot",
            )
        one.set_config(key="num_fewshot", value=(own or 0) if task.num_fewshot is None else task.num_fewshot)
        one.set_fewshot_seed(seed=_SEED)
    return made


@lru_cache(maxsize=2)
def _tasks_of_the_harness(*, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Keep the states of the generators, for what comes after."""
    state, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(0)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(arrays)


def _records(results: Mapping[str, Any]) -> Iterator[TaskRecord]:
    import lm_eval
    from lm_eval.utils import hash_string

    for name, samples in results["samples"].items():
        hashes = (one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples)
        yield TaskRecord(
            name=name,
            version=str(results["versions"].get(name)),
            documents=results["n-samples"][name]["effective"],
            num_fewshot=results["n-shot"][name],
            sha256=hash_string("".join(hashes)),
            harness=lm_eval.__version__,
        )


def _metrics(results: Mapping[str, Any], records: Mapping[str, TaskRecord], *, shown: set[str | None]) -> list[Metric]:
    """Return the figures of tasks and groups.

    Args:
        shown: those that tables show; the parts of a group are in the record alone.
    """
    found = []
    for name, values in results["results"].items():
        record = records.get(name)
        for key, value in values.items():
            measure, comma, taken = key.partition(",")
            if not comma or not isinstance(value, int | float):
                continue
            plain = measure.removesuffix("_stderr")
            better = None if plain != measure else results["higher_is_better"].get(name, {}).get(plain)
            label = f"{name} {plain}" + ("" if taken == "none" else f" ({taken})")
            n = values.get("sample_count", {}).get(f"{plain},{taken}") if record is None else record.documents
            about = "" if record is None else f", version {record.version}, {record.num_fewshot} solved examples"
            level = "record" if name not in shown else "summary" if plain == measure else "table"
            found.append(
                Metric(
                    name=f"{name}/{key}",
                    label=label if plain == measure else f"{label}, standard error",
                    family="benchmark",
                    unit="share" if plain in _SHARES else "value",
                    direction=None if better is None else "higher" if better else "lower",
                    value=float(value),
                    n=n or 0,
                    sample="task documents",
                    level=level,
                    meaning=f"{key} of lm-evaluation-harness on {name}{about}, {n} documents.",
                )
            )
    return found
