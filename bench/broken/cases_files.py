"""Rows, recipes, output folders, caches, and what the doctor reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.broken.case import TRAIN, Case, cut, file, nothing, removed, write_rows
from bench.broken.cases_models import CHECK, DEEP, PAGE, POINTER

ROWS = "rows.jsonl"
GOOD = '{"prompt": "What is 1 plus 1?", "answer": "It is 2."}\n'


def _with(path: str) -> tuple[str, ...]:
    return (*TRAIN, f"data.train.path={path}")


def _parquet(folder: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"] * 20, "answer": ["b"] * 20}), folder / "rows.parquet")
    cut("rows.parquet")(folder)


def _saved(folder: Path) -> None:
    (folder / "saved").mkdir()
    (folder / "saved/state.json").write_text("{}")


def _no_words(folder: Path) -> None:
    write_rows(folder / ROWS, [{"prompt": f"question {n}", "answer": " "} for n in range(12)])


def _one_token(folder: Path) -> None:
    """Texts of one character: the first token of a text that no token begins is never predicted."""
    write_rows(folder / ROWS, [{"text": character} for character in "abcdefghijkl"])


def _no_prompt(folder: Path) -> None:
    """The tokenizer has no token that begins a text."""
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
    write_rows(folder / ROWS, [{"text": word} for word in words * 3])


ROW_CASES = (
    Case("rows", "missing", removed(ROWS), TRAIN, ("no such file",)),
    Case("rows", "empty", file(ROWS, ""), TRAIN, ("empty",)),
    Case("rows", "blank lines", file(ROWS, "\n\n\n"), TRAIN, ("no rows",)),
    Case("rows", "a git-LFS pointer", file(ROWS, POINTER), TRAIN, ("git-LFS pointer",)),
    Case("rows", "a web page", file(ROWS, PAGE), TRAIN, ("web page",)),
    Case("rows", "a broken line", file(ROWS, GOOD * 3 + '{"prompt": "cut\n' + GOOD), TRAIN, ("line 4",)),
    Case("rows", "Latin-1", file(ROWS, (GOOD * 3 + GOOD.replace("plus", "Käse")).encode("latin-1")), TRAIN, ("UTF-8",)),
    Case("rows", "UTF-16", file(ROWS, (GOOD * 3).encode("utf-16")), TRAIN, ("UTF-8",)),
    Case("rows", "100,000 deep", file(ROWS, '{"prompt": "a", "answer": ' + DEEP + "}\n"), TRAIN, ("line 1",)),
    Case("rows", "a list of texts", file("rows.json", '["a", "b"]'), _with("rows.json"), ("item 1",)),
    Case("rows", "NaN", file(ROWS, '{"prompt": "a", "answer": NaN}\n' * 5), TRAIN, ("NaN",)),
    Case("rows", "unknown columns", file(ROWS, '{"foo": "a", "bar": "b"}\n' * 5), TRAIN, ("foo",)),
    Case("rows", "empty answers", _no_words, TRAIN, ("No supervised token",)),
    Case("rows", "an unknown ending", file("rows.xlsx", b"PK"), _with("rows.xlsx"), (".xlsx",)),
    Case("rows", "a URL", nothing, _with("https://example.org/rows.jsonl"), ("web page",)),
    Case(
        "rows",
        "CSV with semicolons",
        file("rows.csv", "prompt;answer\na;b\n" * 3),
        _with("rows.csv"),
        ("not separated by commas",),
    ),
    Case(
        "rows",
        "CSV with a field too many",
        file("rows.csv", "prompt,answer\na,b,c\n"),
        _with("rows.csv"),
        ("3 fields",),
    ),
    Case("rows", "Parquet, cut off", _parquet, _with("rows.parquet"), ("not readable Parquet",)),
    Case(
        "rows",
        "Parquet that is a web page",
        file("rows.parquet", PAGE),
        _with("rows.parquet"),
        ("web page",),
    ),
    Case("rows", "a saved data set, damaged", _saved, _with("saved"), ("saved",)),
    Case("rows", "texts of one word, no begin token", _no_prompt, TRAIN, ("held-out ",), works=True),
    Case("rows", "only first tokens", _one_token, TRAIN, ("No held-out row",)),
)


def _recipe(content: bytes | str) -> Callable[[Path], object]:
    return file("recipe.yaml", content)


STUDY = json.dumps({"student": {"path": "./model"}, "teacher": {"path": "./teacher"}, "arms": ["sft"]})

RECIPE_CASES = (
    Case("recipe", "missing", removed("recipe.yaml"), TRAIN, ("cannot be read",)),
    Case("recipe", "a folder", nothing, ("train", "model"), ("not a folder",)),
    Case("recipe", "empty", _recipe(""), TRAIN, ("mapping",)),
    Case("recipe", "a list", _recipe("[1, 2]"), TRAIN, ("mapping",)),
    Case("recipe", "NUL", _recipe("student: \x00"), TRAIN, ("not YAML",)),
    Case("recipe", "a tab", _recipe("student:\n\tpath: s"), TRAIN, ("not YAML",)),
    Case("recipe", "Latin-1", _recipe("name: Käse".encode("latin-1")), TRAIN, ("not UTF-8",)),
    Case("recipe", "1,000 deep", _recipe("[" * 1000 + "]" * 1000), TRAIN, ("nested too deep",)),
    Case("recipe", "a key twice", _recipe("seed: 1\nseed: 2\n"), TRAIN, ("twice",)),
    Case("recipe", "a weight file", nothing, ("train", "model/model.safetensors"), ("recipe",)),
    Case("recipe", "a study's recipe for train", _recipe(STUDY), TRAIN, ("distillab compare",)),
    Case(
        "recipe", "a run's recipe for compare", nothing, ("compare", "recipe.yaml", "method=sft"), ("distillab train",)
    ),
    Case("recipe", "LoRA", nothing, (*TRAIN, "lora.r=8"), ("student: {adapter:", "the command line")),
    Case("recipe", "load_in_4bit", nothing, (*TRAIN, "student.load_in_4bit=true"), ("student.quantization",)),
    Case("recipe", "num_epochs", nothing, (*TRAIN, "training.num_epochs=3"), ("training.steps = epochs",)),
    Case("recipe", "learning_rate at the top", nothing, (*TRAIN, "learning_rate=1e-4"), ("training.learning_rate",)),
    Case("recipe", "output on a hub", nothing, (*TRAIN, "output=hf://me/model"), ("folder of this machine",)),
    Case("recipe", "a model's URL", nothing, (*TRAIN, "student.path=https://huggingface.co/a/b"), ("write a/b",)),
    Case(
        "recipe",
        "a missing GPU",
        nothing,
        (*TRAIN, "method=logits", "teacher.path=./teacher", "teacher.device=cuda:97"),
        ("cuda:97",),
    ),
    Case("recipe", "a hub id, offline", nothing, (*TRAIN, "student.path=no-such/model"), ("no-such/model",)),
    Case("recipe", "an invalid override", nothing, (*TRAIN, "training.steps"), ("key.sub=value",)),
)


def _out(name: str, content: bytes | str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "out").mkdir()
        file(f"out/{name}", content)(folder)

    return make


def _cache(folder: Path) -> None:
    (folder / "cache/train").mkdir(parents=True)
    (folder / "cache/train/identity.json").write_text("{")


def _arrays(folder: Path) -> None:
    np.savez(folder / "batch.npz", nothing=np.zeros(3))


QUOTA = 4096
CACHED = (*TRAIN, "method=logits", "teacher.cache=cache")
BATCH = ("doctor", "batch", "batch.safetensors", "--tokenizer", "./model")
FOLDER_CASES = (
    Case("output", "not made by distillab", _out("notes.txt", "mine"), TRAIN, ("not empty",)),
    Case("output", "a file", file("out", "mine"), TRAIN, ("must be a folder",)),
    Case("output", "recipe.json, cut off", _out("recipe.json", "{"), TRAIN, ("recipe.json",)),
    Case("output", "recipe.json, a list", _out("recipe.json", "[]"), TRAIN, ("another recipe",)),
    Case("output", "recipe.json, 100,000 deep", _out("recipe.json", DEEP), TRAIN, ("recipe.json",)),
    Case(
        "output",
        "study.json, cut off",
        _out("study.json", "{"),
        ("compare", "recipe.yaml", "teacher.path=./teacher", "arms=[sft]", "seeds=[0]", "--no-doctor"),
        ("study.json",),
    ),
    Case("output", "results.json, cut off", _out("results.json", "{"), ("report", "out"), ("results.json",)),
    Case("output", "results.json, not of a study", _out("results.json", "{}"), ("report", "out"), ("results.json",)),
    Case("output", "a full quota", nothing, TRAIN, ("The disk is full", "free some space"), most_bytes=QUOTA),
    Case("output", "an ASCII terminal", nothing, TRAIN, ("held-out ",), works=True, encoding="ascii"),
    Case("output", "check on an ASCII terminal", nothing, CHECK, ("verdict:",), works=True, encoding="ascii"),
    Case("cache", "missing", nothing, CACHED, ("cache",)),
    Case("cache", "identity, cut off", _cache, CACHED, ("cache",)),
    Case("doctor", "a batch that is a web page", file("batch.safetensors", PAGE), BATCH, ("batch.safetensors",)),
    Case("doctor", "a batch that is empty", file("batch.safetensors", b""), BATCH, ("batch.safetensors",)),
    Case(
        "doctor",
        "a batch that torch did not write",
        file("batch.pt", b"PK\x03\x04"),
        ("doctor", "batch", "batch.pt", "--tokenizer", "./model"),
        ("batch.pt",),
    ),
    Case(
        "doctor",
        "a log of random bytes",
        file("log.jsonl", b"\xff\x00" * 50),
        ("doctor", "run", "log.jsonl"),
        ("log.jsonl",),
    ),
    Case("doctor", "a log, 100,000 deep", file("log.json", DEEP), ("doctor", "run", "log.json"), ("log.json",)),
    Case(
        "doctor",
        "rows that are a pointer",
        file(ROWS, POINTER),
        ("doctor", "data", ROWS, "--tokenizer", "./model"),
        ("git-LFS pointer",),
    ),
    Case(
        "doctor",
        "a pair with a pointer as weights",
        file("model/model.safetensors", POINTER),
        ("doctor", "pair", "./teacher", "./model", "--data", ROWS),
        ("git-LFS pointer",),
    ),
)
CASES = (*ROW_CASES, *RECIPE_CASES, *FOLDER_CASES)
