"""Every command of the pages in docs/start runs as it is written, on tiny real models: only paths and sizes differ."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import pytest
from tests.cli.conftest import call, dumped
from tests.served.conftest import llama_cpp
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from distillab.config.run import RunRecipe
from distillab.demo.broken_batch import save_batch
from distillab.demo.failures import PromptPositions
from distillab.errors import FaultFound

PAGES = Path(__file__).resolve().parents[2] / "docs" / "start"
# what a study takes in a test; the page's own words come first, and of two equal settings the later counts
SMALL = """training.steps=2 training.batch_size=8 training.warmup_steps=0 training.device=cpu training.precision=float32
    seeds=[0] data.train.limit=16 evaluation.rows=4 evaluation.generate_rows=2 evaluation.max_new_tokens=4
    --no-doctor"""
# a teacher with random weights never ends its answers
ANSWERS = "teacher_answers.max_new_tokens=8 teacher_answers.keep_cut_off=true teacher_answers.sample=true"


@pytest.fixture
def given(tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Values of the variables that the pages set."""
    monkeypatch.chdir(tmp_path)
    paths = {"TEACHER": tiny_world["teacher"], "STUDENT": tiny_world["student"], "ROWS": tiny_world["data"]["train"]}
    return {name: value["path"] for name, value in paths.items()} | {"DEVICE": "cpu"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def walk(page: str, given: dict[str, str]) -> Iterator[tuple[list[str], int, str, str]]:
    """Call each command of a page; yields its words, exit code and outputs."""
    first, *rest = blocks(page, "bash")
    assert {line.partition("=")[0].removeprefix("export ") for line in first.splitlines()} <= set(given)
    for line in "".join(rest).splitlines():
        program, *words = shlex.split(Template(line).substitute(given))
        assert program == "distillab", line
        small = SMALL.split() if words[0] == "compare" else []
        yield words, *call(*words, *small, *(ANSWERS.split() if "seqkd" in line else []))


def test_every_page_is_walked() -> None:
    assert {page.name for page in PAGES.glob("*.md")} == {
        "another-tokenizer.md",
        "only-an-api.md",
        "low-values.md",
        "trl-nonsense.md",
        "one-24gb-gpu.md",
    }
    assert all(len(page.read_text(encoding="utf-8").splitlines()) <= 75 for page in PAGES.glob("*.md"))


def test_a_teacher_with_another_tokenizer(given: dict[str, str], stranger: str) -> None:
    outputs = []
    for words, code, out, err in walk("another-tokenizer.md", given | {"TEACHER": stranger}):
        assert code == 0, (words, err)
        outputs.append(out)
    assert outputs[0].startswith("verdict: different") and "recommended" in outputs[1]
    assert "span_hidden_states" in outputs[-1] and Path("runs/methods/report.html").is_file()
    assert Path("runs/study/report.html").is_file()


def test_only_an_api(given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe,) = blocks("only-an-api.md", "yaml")
    recipe = recipe.replace("max_tokens: 512", "max_tokens: 96")
    recipe = recipe.replace("max_new_tokens: 256", "max_new_tokens: 8, keep_cut_off: true, sample: true")
    Path("study.yaml").write_text(f"{recipe}evaluation: {{rows: 4, generate_rows: 2, max_new_tokens: 4}}\n")
    with llama_cpp(Path(given["TEACHER"]), tmp_path) as url:
        given |= {"URL": url, "MODEL": "teacher"}
        for name, value in (given | {"MY_API_KEY": "k-of-a-test"}).items():
            monkeypatch.setenv(name, value)
        for words, code, out, err in walk("only-an-api.md", given):
            assert code == 0, (words, err)
            assert "seqkd" in out
    assert Path("runs/api/report.html").is_file() and any(Path("runs/try/answers").rglob("*"))
    assert not any(b"k-of-a-test" in file.read_bytes() for file in Path("runs").rglob("*") if file.is_file())


def test_low_values(given: dict[str, str], tiny_world: dict[str, Any], tmp_path: Path) -> None:
    values = {name: value for name, value in tiny_world.items() if name != "seeds"}
    values |= {"method": "sft", "output": str(tmp_path / "run")}
    assert call("train", dumped(values, tmp_path / "run.yaml"))[0] == 0
    given |= {"LOG": str(tmp_path / "run" / "metrics.jsonl")}
    batches: list[dict[str, Any]] = []

    def kept(pad_id: int) -> Any:
        def collate(rows: Any) -> Any:
            batches.append(PromptPositions(pad_id)(rows))
            return batches[-1]

        return collate

    save_batch(RunRecipe.model_validate(values), kept, tmp_path / "planted.safetensors")
    (snippet,) = blocks("low-values.md", "python")
    exec(snippet, {"batch": batches[0]})
    codes = {}
    for words, code, out, err in walk("low-values.md", given):
        codes[words[1]] = code
        assert code in (0, 1) and "Traceback" not in err, (words, err)
        if words[1] == "investigate":
            assert "answer-at-prompt-positions" in out
    assert codes == {"run": 0, "data": 0, "investigate": 1, "explain": 0}
    assert Path("doctor").is_dir()


def test_trl_and_nonsense(given: dict[str, str], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(given["STUDENT"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = [json.loads(line) for line in Path(given["ROWS"]).read_text(encoding="utf-8").splitlines()[:16]]
    texts = [f"{row['prompt']}{row['answer']}{tokenizer.eos_token}" for row in rows]
    settings = TrainingArguments(
        str(tmp_path / "output"),
        max_steps=3,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_steps=3,
        use_cpu=True,
        report_to=[],
    )
    snippet, watched = blocks("trl-nonsense.md", "python")

    def trainer() -> Trainer:
        return Trainer(
            AutoModelForCausalLM.from_pretrained(given["STUDENT"]),
            settings,
            train_dataset=[{"input_ids": ids} for ids in tokenizer(texts).input_ids],
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            processing_class=tokenizer,
        )

    first = trainer()
    exec(snippet, {"trainer": first})
    first.train()
    given |= {"LOG": str(tmp_path / "output" / "checkpoint-3" / "trainer_state.json")}
    found = {words[1]: (code, out) for words, code, out, _ in walk("trl-nonsense.md", given)}
    assert {name: code for name, (code, _) in found.items()} == {"run": 0, "batch": 1, "explain": 0}
    (shown, mend) = blocks("trl-nonsense.md", "text")
    assert shown.splitlines()[:2] == ["error: prompt-in-loss", "Prompts are scored too."]
    assert all(line in found["batch"][1] for line in [*shown.splitlines()[:2], "every token of these rows is scored"])
    assert mend.strip()[len("SFTConfig(") : -1] in found["explain"][1]
    with pytest.raises(FaultFound, match="prompt-in-loss"):
        exec(watched, {"trainer": trainer()})


def test_one_24_gb_gpu(given: dict[str, str]) -> None:
    outputs = []
    for words, code, out, err in walk("one-24gb-gpu.md", given):
        assert code == 0, (words, err)
        outputs.append(out)
    assert all("rtx-4090" in out and "fits" in out for out in outputs[1:4])
    assert "teacher-nf4" in outputs[2] and Path("runs/study/report.html").is_file()
