"""`distillab prune` writes a student, and says what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillab.records import PruningRecord, read_record
from tests.cli.conftest import Run
from tests.tiny_world import save_tiny


@pytest.fixture
def words(tiny_world: dict[str, Any], tmp_path: Path) -> list[str]:
    """The command, but for what is kept."""
    teacher = save_tiny(tmp_path / "deep", 4, Path(tiny_world["teacher"]["path"]), layers=4)
    rows = tiny_world["data"]["train"]["path"]
    settings = ["data.max_tokens=96", "evaluation.rows=5", "training.device=cpu"]
    return ["prune", str(teacher), *settings, "--data", rows, "--out", str(tmp_path / "small")]


def test_it_compares_the_ways_to_choose_and_keeps_the_one_that_was_asked_for(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    code, out, err = run(*words, "--keep-layers", "2", "--by", "contiguous", "--compare")
    assert code == 0, err
    record = read_record(PruningRecord, tmp_path / "small" / "pruning.json")
    table = {line[:24].strip(): line[24:].split() for line in out.splitlines() if "  " in line}
    sizes = {name: int(cells[0].replace(",", "")) for name, cells in table.items() if len(cells) == 4}
    assert sizes == {
        "before": record.before.parameters,
        "contiguous": record.after.parameters,
        "influence (not kept)": record.after.parameters,
        "uniform (not kept)": record.after.parameters,
    }
    assert table["before"][3] == "1.00"
    assert float(table["contiguous"][1]) != float(table["before"][1])
    assert record.settings["keep_layers"] == {"count": 2, "by": "contiguous"}
    assert f"layers {', '.join(map(str, record.kept_layers))}" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--keep-layers", "0,2", "--compare"], "need a number of blocks"),
        (["--keep-layers", "half"], "takes a number, or numbers with commas"),
        (["--keep-layers", "9"], "must be a smaller part"),
        (["--keep-layers", "2", "--by", "size"], "keep_layers"),
        ([], "from_teacher keeps everything"),
    ],
)
def test_what_cannot_be_kept_is_wrong_usage(run: Run, words: list[str], more: list[str], message: str) -> None:
    code, _, err = run(*words, *more)
    assert code == 2
    assert message in err


def test_it_does_not_replace_a_folder_of_something_else(run: Run, words: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "small" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    code, _, err = run(*words, "--keep-layers", "0,2")
    assert (code, mine.read_text()) == (2, "mine")
    assert "distillab did not make it" in err
