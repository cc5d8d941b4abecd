"""The examples of docs/python.md and the notebooks run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
import transformers

import distillab as dl
from tests.processes import Forked, ended

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
COMMAND = """subprocess.run(
    [sys.executable, "-m", "distillab.cli.main", "cache", "build", "recipe.yaml"], capture_output=True, text=True
)"""


@pytest.mark.filterwarnings("ignore:.*pin_memory")  # transformers' default, where there is no GPU
def test_the_blocks_of_the_page_run_one_after_another(
    tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    student, file = tiny_world["student"]["path"], Path(tiny_world["data"]["train"]["path"])
    names: dict[str, Any] = {
        "dl": dl,
        "transformers": transformers,
        "student": student,
        "teacher": tiny_world["teacher"]["path"],
        "model": transformers.AutoModelForCausalLM.from_pretrained(student),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(student),
        "rows": [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()],
        "small": {"evaluation.generate_rows": 0, "data.max_tokens": 96, "training.device": "cpu"},
    }
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(block, names)
    assert names["pair"].verdict == "identical"
    assert list(names["study"].table().index)[-1] == "logits"


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def cache_built() -> subprocess.CompletedProcess[str]:
    """The command of the notebook, in a process that has all imported."""
    code, err = ended(Forked("distillab.cli.main", "cache", "build", "recipe.yaml", folder=Path.cwd()))
    return subprocess.CompletedProcess(COMMAND, code, stderr=err)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory")  # as above
@pytest.mark.parametrize(
    ("name", "fewer"),
    [
        (
            "own_loop",
            {"range(30)": "range(4)", COMMAND: "cache_built()"},
        ),
        ("quickstart", {"steps=250": "steps=4", "steps=150": "steps=4", '"teacher", 3000': '"teacher", 900'}),
    ],
)
def test_a_notebook_runs(name: str, fewer: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, and its command in a fork; `make prove` runs both as they stand, in a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    cells = code_cells(ROOT / "examples" / f"{name}.ipynb")
    assert all("".join(cells).count(written) == 1 for written in fewer)
    names: dict[str, Any] = {"cache_built": cache_built}
    for cell in cells:
        for written, here in fewer.items():
            cell = cell.replace(written, here)
        exec(cell, names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_small_and_name_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code" and "print(" in cell.source)
    assert len(text) < 20_000
    assert not re.search(r"/tmp/|/home/|/root/|/work/", text)
