"""Read a file with a task of lm-evaluation-harness, which is given as data: nothing in it may run code.

The harness runs what a task's file names: Python functions (`!function`), metrics that it does not know (code of a
folder or of the Hub), Jinja templates that reach Python's objects, and generation by code of a folder. Its own tasks
may; for other files every such way is closed here, and `sandboxed` closes the one of the templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from distillab.config.evaluation import EvaluationTask
from distillab.config.yaml_text import read_text, require_bounded
from distillab.errors import ConfigError, DataError, near_names
from distillab.files import file_sha256

KEYS = frozenset(
    {
        "task",
        "task_alias",
        "tag",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        "training_split",
        "validation_split",
        "test_split",
        "fewshot_split",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "description",
        "target_delimiter",
        "fewshot_delimiter",
        "fewshot_config",
        "num_fewshot",
        "metric_list",
        "output_type",
        "generation_kwargs",
        "repeats",
        "filter_list",
        "should_decontaminate",
        "doc_to_decontamination_query",
        "gen_prefix",
        "metadata",
    }
)
"""What a file can set; the other settings of the harness take code."""
BUILDERS = ("arrow", "csv", "json", "parquet", "text")
_GENERATION = frozenset(
    {
        "until",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "num_beams",
        "length_penalty",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "max_gen_toks",
        "max_new_tokens",
        "max_length",
    }
)
_DATA = frozenset(
    {
        "data_files",
        "data_dir",
        "field",
        "delimiter",
        "sep",
        "column_names",
        "encoding",
        "revision",
    }
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_task(path: str) -> dict[str, Any]:
    """Return the settings of a task's file.

    Raises:
        ConfigError: it cannot be read, is no task, or could run code.
        DataError: a data file that it names does not exist.
    """
    text = read_text(Path(path))
    try:
        require_bounded(text, path)
        # the harness's own YAML, 1.1, so that its values are the same
        values = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(
            "A task's file names code, which distillab runs from lm-evaluation-harness's own tasks alone.",
            where=path + line,
            facts=[str(error.problem)],
            fix="write the prompt as a template (doc_to_text: '{{question}}'), or prepare the rows before",
        ) from error
    except Exception as error:  # two YAML libraries, ValueError of a date, RecursionError
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("A task's file is not YAML.", where=path, facts=[str(error)[:200]]) from error
    if not isinstance(values, dict) or not isinstance(values.get("task"), str):
        raise ConfigError(
            "A task's file holds the settings of one task, with its name.",
            where=path,
            fix="write task: my_task; give each task of a group as a file of its own",
        )
    _require_known(values, KEYS, "setting", path)
    _require_known(values.get("generation_kwargs") or {}, _GENERATION, "generation setting", path)
    _require_known(values.get("dataset_kwargs") or {}, _DATA, "setting of dataset_kwargs", path)
    _require_data(values, path)
    return values


def task_fingerprints(tasks: tuple[EvaluationTask, ...]) -> dict[str, str]:
    """Hash the files of tasks and their data files, by their paths.

    Raises:
        ConfigError, DataError: as `read_task`.
    """
    paths = [one.path for one in tasks if one.path is not None]
    files = [Path(file) for path in paths for file in (path, *_data_files(read_task(path)))]
    return {f"task file {file}": file_sha256(file) for file in files if file.is_file()}


@contextmanager
def sandboxed() -> Iterator[None]:
    """Render the harness's templates in Jinja's sandbox inside the block; what is rendered is the same."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    own = utils.env
    utils.env = ImmutableSandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    utils.env.filters |= own.filters
    try:
        yield
    finally:
        utils.env = own


def require_known_metrics(values: Mapping[str, Any], path: str) -> None:
    """Check that the harness has the metrics of a task; it would run code of that name for any other.

    Raises:
        ConfigError: it lacks one.
    """
    import lm_eval.api.metrics  # noqa: F401 (registers them)
    from lm_eval.api.registry import aggregation_registry, metric_registry

    for one in values.get("metric_list") or ():
        entry = one if isinstance(one, dict) else {}
        names = ((entry.get("metric"), metric_registry), (entry.get("aggregation", "mean"), aggregation_registry))
        for name, known in names:
            if not isinstance(name, str) or name not in known:
                raise ConfigError(
                    "A metric of a task is none of lm-evaluation-harness.",
                    where=path,
                    facts=[f"metric_list: {one}"],
                    fix=near_names(str(name), list(known)),
                )
        if entry.get("hf_evaluate"):
            raise ConfigError("hf_evaluate runs code from the Hub.", where=path, fix="remove hf_evaluate")


def _require_known(values: Any, known: frozenset[str], what: str, path: str) -> None:
    names = values if isinstance(values, dict) else {"": values}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"A task's file has a {what} that distillab does not take.",
                where=path,
                facts=[f"{name!r}"],
                fix=near_names(str(name), known),
            )


def _require_data(values: Mapping[str, Any], path: str) -> None:
    source, files = str(values.get("dataset_path")), _data_files(values)
    on_hub = _HUB_NAME.fullmatch(source) is not None and not Path(source).exists()
    if source not in BUILDERS and not on_hub:
        raise ConfigError(
            "A task's rows come from files, or from a data set of the Hub.",
            where=path,
            facts=[f"dataset_path: {source}"],
            fix="write dataset_path: json and dataset_kwargs: {data_files: rows.jsonl}; or csv, parquet, text, arrow",
        )
    missing = [file for file in files if "://" not in file and not set("*?[") & set(file) and not Path(file).is_file()]
    if missing or (source in BUILDERS and not files):
        raise DataError(
            "A data file of a task does not exist.",
            where=path,
            facts=[f"dataset_kwargs.data_files: {', '.join(missing) or 'none'}"],
            fix="give the path from the current folder, as in a recipe",
        )


def _data_files(values: Mapping[str, Any]) -> list[str]:
    given = (values.get("dataset_kwargs") or {}).get("data_files") or []
    parts = list(given.values()) if isinstance(given, dict) else [given]
    return [str(file) for part in parts for file in (part if isinstance(part, list) else [part])]
