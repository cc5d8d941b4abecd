"""`distillab init`: write a recipe for a pair and rows, with the method that suits them and settings that fit."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillab.cli.check import checked_pair
from distillab.cli.recipes import require_free, write_recipe
from distillab.errors import ConfigError
from distillab.terminal import echo

if TYPE_CHECKING:
    from distillab.preflight.devices import Device
    from distillab.records import PairCheck

_BATCH, _EPOCHS, _STEPS = 32, 3, (50, 1000)  # steps: at least, at most
_MAX_TOKENS = 512
_LARGE = 10**9  # bytes of a student for which the smaller learning rate is usual
# What is tried, in this order, until one run fits the memory of the device: setting -> value.
_FITS: tuple[dict[str, Any], ...] = (
    {"training.microbatch_size": 8},
    {"training.microbatch_size": 1, "training.gradient_checkpointing": True},
    {
        "training.microbatch_size": 1,
        "training.gradient_checkpointing": True,
        "training.learning_rate": 2e-4,
        "student.adapter.rank": 16,
    },
)
_QUESTIONS = {
    "teacher": "Teacher (folder, GGUF file or hub id)",
    "student": "Student (folder, GGUF file or hub id)",
    "data": "Rows (file, folder or hub id)",
    "device": "Device (cpu, or a GPU: h100-80g, a100-80g, l40s, rtx-4090, …)",
}


def init_command(
    output: Annotated[Path, typer.Argument(help="File of the recipe.")] = Path("study.yaml"),
    teacher: Annotated[str | None, typer.Option("--teacher", help=f"{_QUESTIONS['teacher']}.")] = None,
    student: Annotated[str | None, typer.Option("--student", help=f"{_QUESTIONS['student']}.")] = None,
    data: Annotated[str | None, typer.Option("--data", help=f"{_QUESTIONS['data']}.")] = None,
    device: Annotated[str | None, typer.Option("--device", help=f"{_QUESTIONS['device']}.")] = None,
) -> None:
    """Write a recipe for a study of a pair: what is not given as an option is asked.

    The pair is checked, the rows are read, and the settings are chosen so that a run fits the device. Weights are not
    read, and need not be there. Nothing is written if anything is wrong.
    """
    require_free(output, "study")
    given = {"teacher": teacher, "student": student, "data": data, "device": device}
    answers = {name: value if value is not None else _asked(name) for name, value in given.items()}
    from distillab.cli.console import quiet_libraries

    quiet_libraries()
    from distillab.preflight.devices import device_named
    from distillab.preflight.machine import this_memory

    chosen = device_named(answers["device"], memory_bytes=this_memory())
    pair = checked_pair(answers["teacher"], answers["student"], data=answers["data"])
    method = pair.recommended.method
    echo(f"verdict: {pair.contract.verdict}; recommended: {method}")
    text, fits = _fitting_text(answers, pair, chosen, output)
    write_recipe(output, text, "study")
    file = shlex.quote(str(output))
    echo(f"{output} is written{'' if fits else f', but a run does NOT fit {chosen.name}'}. Next:")
    echo(f"  distillab estimate {file} --device {chosen.name}")
    echo(f"  distillab compare {file}")


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"--{name} is missing, and there is no terminal to ask at.", fix=f"add --{name} …")
    return str(typer.prompt(_QUESTIONS[name], default="cpu" if name == "device" else None))


def _fitting_text(answers: dict[str, str], pair: PairCheck, device: Device, output: Path) -> tuple[str, bool]:
    """Return the text of the first recipe of which a run fits the device, or of the last one; and whether it fits."""
    from distillab.config import StudyRecipe
    from distillab.config.loader import apply_overrides, build_recipe
    from distillab.preflight.estimate import estimate
    from distillab.study.plan import StudyPlan

    values = _values(answers, pair, device, output)
    for changes in _FITS:
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        tried = apply_overrides(values, overrides)
        recipe = build_recipe(StudyRecipe, tried, (), where="distillab init")
        found = estimate(recipe, device)
        fits = found.memory_bytes <= device.memory_bytes
        if fits:
            break
    rows = len(StudyPlan(recipe, needs_weights=False).inputs(recipe.arms[0]).train.rows)
    tried["training"]["steps"] = steps = min(max(_STEPS[0], math.ceil(_EPOCHS * rows / _BATCH)), _STEPS[1])
    tried["training"]["warmup_steps"] = steps // 20
    if found.runs[0].weights.student > _LARGE and recipe.student.adapter is None:
        tried["training"]["learning_rate"] = 2e-5
    return _text(tried, pair, output), fits


def _values(answers: dict[str, str], pair: PairCheck, device: Device, output: Path) -> dict[str, Any]:
    """Return the settings of the recipe, in the order in which they are written."""
    from distillab.models.loading import context_length, load_config

    contexts = [context_length(load_config(answers[role], revision=None)) for role in ("teacher", "student")]
    student, teacher = (Path(answers[role]).name for role in ("student", "teacher"))
    on_cpu = device.name == "cpu"
    return {
        "title": f"{student} from {teacher}",
        "teacher": {"path": answers["teacher"]},
        "student": {"path": answers["student"]},
        "data": {
            "train": {"path": answers["data"]},
            "held_out": {"fraction": 0.1},
            "max_tokens": min([_MAX_TOKENS, *(found for found in contexts if found is not None)]),
        },
        "arms": ["sft", pair.recommended.method],
        "seeds": [0, 1, 2],
        "training": {
            "steps": _STEPS[0],
            "batch_size": _BATCH,
            "learning_rate": 1e-4,
            "warmup_steps": 0,
            "precision": "float32" if on_cpu else "bfloat16",
            "device": "cpu" if on_cpu else "auto",
        },
        "evaluation": {"rows": 200, "generate_rows": 50, "max_new_tokens": 64},
        "output": str(Path("runs") / output.stem),
    }


_COMMENTS = {
    "data.train": "columns are recognised by their names; for others add columns: {prompt: …, answer: …}",
    "data.held_out": "no student is trained on these rows",
    "data.max_tokens": "longest sequence; longer answers are cut, and such held-out rows are left out",
    "arms": "sft is what every method is compared with; distillab check lists the others",
    "seeds": "one run of each arm with each; intervals need several",
    "student.adapter": "LoRA: the weights with their optimizer do not fit the device",
    "training.steps": "the same for every arm",
    "training.learning_rate": "the setting to tune first, on rows that you do not report",
    "training.microbatch_size": "per forward pass; the result does not depend on it",
    "evaluation.rows": "held-out rows for the loss",
    "evaluation.generate_rows": "held-out prompts that every model answers",
}


def _text(values: dict[str, Any], pair: PairCheck, output: Path) -> str:
    lines = [
        f"# distillab compare {output}",
        "# yaml-language-server: $schema=study.schema.json",
        "#",
        f"# Pair: {pair.contract.verdict}. {pair.contract.reason}",
        f"# Recommended: {pair.recommended.method}",
        *(f"#   {reason}" for reason in pair.recommended.because),
        "# Settings that are not here have defaults: distillab show prints them all.",
    ]
    for key, value in values.items():
        if not isinstance(value, dict):
            lines.append(_line(key, value, key))
            continue
        lines += ["", f"{key}:"]
        lines += [_line(f"  {name}", item, f"{key}.{name}") for name, item in value.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, path: str) -> str:
    """Return a setting with its comment; JSON is YAML."""
    written = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    return f"{written:<39} # {_COMMENTS[path]}" if path in _COMMENTS else written
