"""Every method across tokenizers on real tokenizers and real text. `python -m bench.across_tokenizers`

Two teachers of one shape read 6,000 questions and answers of GSM8K, one by the tokenizer of Mistral-7B-v0.1, one by
that of TinyLlama; a smaller student with TinyLlama's tokens reads 1,000 of them. The methods on two tokenisations
learn from the first teacher, the ceiling (logit KD) from the second. All are judged on rows that nobody has read. With
--pair other tokenizers take their places. Needs the materials (DISTILLAB_MATERIALS). Killed at any instant, it goes on
at the next call.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from transformers import LlamaConfig

from bench.commands import OUTPUT
from distillab.config.data import ColumnsConfig, DataConfig, HeldOutConfig, SourceConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.config.layer_terms import SpanHiddenStatesConfig
from distillab.config.run import RunRecipe
from distillab.config.student import StudentConfig
from distillab.config.study import ArmConfig, StudyRecipe
from distillab.config.teacher import TeacherAnswersConfig, TeacherConfig
from distillab.config.term_base import LinearWeight
from distillab.config.terms import (
    MeasuredTransportConfig,
    TokenDivergenceConfig,
    TopKTransportConfig,
    VocabularyProjectionConfig,
)
from distillab.config.training import TrainingConfig
from distillab.report.build import write_report
from distillab.runs.run import execute
from distillab.study.study import Study
from distillab.study.workers import run_jobs

PAIRS = {
    "mistral-tinyllama": ("mistral-7b-v0.1", "tinyllama-1.1b"),
    "mistral-tok512": ("mistral-7b-v0.1", "tok512"),
    "tok512-mistral": ("tok512", "mistral-7b-v0.1"),
}
_IDS = {"mistral-7b-v0.1": 32_000, "tinyllama-1.1b": 32_000, "tok512": 512}
TEACHER_ROWS, STUDENT_ROWS, HELD_OUT_ROWS = 6000, 1000, 200
METHODS = (
    "vocabulary_projection",
    "measured_transport",
    "span_likelihood",
    "merged_spans",
    "sorted_probabilities",
    "dual_space",
    "contrastive",
    "span_hidden_states",
)
_COLUMNS = ColumnsConfig(prompt="question", answer="answer")
_MAX_TOKENS = {32_000: 320, 512: 640}  # as long a text; a study has one limit for both of its tokenizers
_SPAN_STATES = SpanHiddenStatesConfig(weight=LinearWeight(start=10.0, end=0.0))
_EVALUATION = EvaluationConfig(rows=HELD_OUT_ROWS, curve_rows=20, generate_rows=0, batch_size=10)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the rows, train the teachers, run the study, write its report."""
    options = _parser().parse_args(arguments)
    if options.output is None:
        own = "" if options.pair == "mistral-tinyllama" else f"-{options.pair}"
        options.output = OUTPUT / f"across-tokenizers{own}"
    data = write_rows(options.materials / "text" / "gsm8k" / "train.jsonl", options.shared / "rows")
    tokenizers = [options.materials / "tokenizers" / name for name in PAIRS[options.pair]]
    teachers = [options.shared / "teachers" / folder.name for folder in tokenizers]
    jobs = [
        partial(_train_teacher, output, data, folder, options)
        for output, folder in zip(teachers, tokenizers, strict=True)
    ]
    run_jobs(jobs, workers=options.workers)
    if options.teachers_only:
        return 0
    recipe = study_recipe(options, data, tokenizers[1], teachers)
    results = (
        Study(recipe, reproduce=f"python -m bench.across_tokenizers --pair {options.pair}").showing_mismatches().run()
    )
    for path in write_report(results, options.output / "study"):
        print(path)
    print(results.verdict)
    return 0


def write_rows(source: Path, folder: Path) -> dict[str, Path]:
    """The three parts of a file of rows, none of whose rows stands in two: teacher (which holds train) and held_out."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = source.read_bytes().splitlines(keepends=True)
    parts = {
        "teacher": lines[:TEACHER_ROWS],
        "train": lines[:STUDENT_ROWS],
        "held_out": lines[TEACHER_ROWS : TEACHER_ROWS + HELD_OUT_ROWS],
    }
    paths = {name: folder / f"{name}.jsonl" for name in parts}
    for name, part in parts.items():
        paths[name].write_bytes(b"".join(part))
    return paths


def study_recipe(
    options: argparse.Namespace, data: dict[str, Path], tokenizer: Path, teachers: Sequence[Path]
) -> StudyRecipe:
    """The study, with the student's tokenizer; arms beside SFT in the order of `all_arms`.

    Args:
        teachers: their runs; the second has the student's tokens.
    """
    ids = _IDS[tokenizer.name]
    longest = max(_MAX_TOKENS[_IDS[name]] for name in PAIRS[options.pair])
    return StudyRecipe(
        title="Across tokenizers, on real tokenizers and real text",
        student=StudentConfig(
            path=str(shape(options.output / "shape", width=64, layers=2, ids=ids)),
            tokenizer=str(tokenizer),
            init="random",
        ),
        teacher=TeacherConfig(path=str(teachers[0] / "student")),
        data=_data(data["train"], data["held_out"], options.max_tokens or longest),
        arms=(ArmConfig(name="sft", method="sft"), *(arm for arm in all_arms(teachers[1]) if arm.name in options.arms)),
        seeds=tuple(options.seeds),
        teacher_answers=TeacherAnswersConfig(sample=True, max_new_tokens=160, batch_size=50, keep_cut_off=True),
        training=TrainingConfig(
            steps=options.student_steps,
            batch_size=8,
            learning_rate=options.rate,
            warmup_steps=20,
            device="cpu",
            gradient_shares_every=0,
        ),
        evaluation=_EVALUATION,
        workers=options.workers,
        output=str(options.output / "study"),
    )


def all_arms(same_tokens: Path) -> list[ArmConfig]:
    """Every arm beside SFT; `same_tokens` is the run of the teacher with the student's tokens."""
    by_id = (TokenDivergenceConfig(),)
    return [
        ArmConfig(name="seqkd", method="seqkd"),
        ArmConfig(name="logits-by-index", method="logits", terms=by_id),
        *(ArmConfig(name=name, method=name) for name in METHODS),
        ArmConfig(name="strict", method=METHODS[0], terms=(VocabularyProjectionConfig(form="strict"),)),
        ArmConfig(name="longest-prefix", method=METHODS[1], terms=(MeasuredTransportConfig(form="longest_prefix"),)),
        ArmConfig(
            name="transport-to-the-student", method=METHODS[1], terms=(MeasuredTransportConfig(form="measured"),)
        ),
        ArmConfig(name="transport-top-16", method=METHODS[1], terms=(TopKTransportConfig(k=16),)),
        ArmConfig(name="white-box-across", method=METHODS[0], terms=(VocabularyProjectionConfig(), _SPAN_STATES)),
        ArmConfig(name="transport-and-states", method=METHODS[1], terms=(MeasuredTransportConfig(), _SPAN_STATES)),
        ArmConfig(
            name="ceiling-logits",
            method="logits",
            terms=by_id,
            teacher=TeacherConfig(path=str(same_tokens / "student")),
        ),
    ]


def _train_teacher(output: Path, data: dict[str, Path], tokenizer: Path, options: argparse.Namespace) -> None:
    execute(
        RunRecipe(
            name=f"teacher-{tokenizer.name}",
            student=StudentConfig(
                path=str(shape(output.parent / "shapes" / output.name, width=128, layers=4, ids=_IDS[tokenizer.name])),
                tokenizer=str(tokenizer),
                init="random",
            ),
            data=_data(data["teacher"], data["held_out"], _MAX_TOKENS[_IDS[tokenizer.name]]),
            method="sft",
            training=TrainingConfig(
                steps=options.steps,
                batch_size=8,
                learning_rate=options.teacher_rate,
                warmup_steps=40,
                evaluate_every=100,
                device="cpu",
            ),
            evaluation=_EVALUATION,
            output=str(output),
        )
    )


def shape(folder: Path, *, width: int, layers: int, ids: int) -> Path:
    """A folder with the config.json of a small Llama."""
    if not (folder / "config.json").exists():
        LlamaConfig(
            vocab_size=ids,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
        ).save_pretrained(folder)
    return folder


def _data(train: Path, held_out: Path, max_tokens: int) -> DataConfig:
    return DataConfig(
        train=SourceConfig(path=str(train), columns=_COLUMNS),
        held_out=HeldOutConfig(path=str(held_out), columns=_COLUMNS),
        max_tokens=max_tokens,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.across_tokenizers", description=__doc__)
    names = [arm.name for arm in all_arms(Path())]
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
    parser.add_argument("--materials", type=Path, default=materials, help="folder with tokenizers/ and text/")
    parser.add_argument("--output", type=Path, help="folder of the study")
    shared = OUTPUT / "across-shared"
    parser.add_argument("--shared", type=Path, default=shared, help="folder of rows and teachers, which pairs share")
    parser.add_argument("--pair", choices=PAIRS, default="mistral-tinyllama", help="tokenizers of teacher and student")
    parser.add_argument("--steps", type=int, default=400, help="of each teacher")
    parser.add_argument("--teacher-rate", type=float, default=4e-3, help="learning rate of the teachers")
    parser.add_argument("--student-steps", type=int, default=150, help="of each student")
    parser.add_argument("--rate", type=float, default=6e-3, help="learning rate of the students")
    parser.add_argument("--max-tokens", type=int, help="of a row of the study; default: as both tokenizers need")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="beside SFT; default: all")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--teachers-only", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
