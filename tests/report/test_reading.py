"""`distillab report` and the reading of results.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from distillab.cli.report import report_command
from distillab.errors import DataError
from distillab.records import StudyResults
from distillab.report import read_results, write_report

app = typer.Typer()
app.command()(report_command)


def test_the_command_makes_both_files_again(study: StudyResults, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(study.model_dump_json(), encoding="utf-8")
    expected = [path.read_bytes() for path in write_report(study, tmp_path / "expected")]
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = [tmp_path / "report.md", tmp_path / "report.html"]
    assert result.output.split() == [str(path) for path in made]
    assert [path.read_bytes() for path in made] == expected


@pytest.mark.parametrize("kind", ["no folder", "no file"])
def test_the_command_says_what_is_missing(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "absent" if kind == "no folder" else tmp_path
    result = CliRunner().invoke(app, [str(folder)])
    assert isinstance(result.exception, DataError)
    assert result.exception.where == str(folder)
    assert "results.json" in str(result.exception)


def test_a_newer_schema_is_named(study: StudyResults, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    value = json.loads(study.model_dump_json()) | {"schema_version": 99, "field of the future": 1}
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DataError, match="newer distillab") as caught:
        read_results(path)
    assert "99" in str(caught.value)
    path.write_text(json.dumps(value | {"schema_version": 1}), encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)earlier distillab.*distillab compare"):
        read_results(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"title": "cut o', "not JSON"),
        (b"", "not JSON"),
        (b'{"title": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no StudyResults"),
        (b"null", "no StudyResults"),
        (b'{"schema_version": 3}', "title"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "results.json")
