"""The store of a teacher's answers: what it keeps, and that a kill cannot spoil it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, DataError
from distillab.teachers.answers import Answer, Prompt, askable, keep_usable
from tests.teachers.answers_worker import SETTINGS, TEXTS, fill

ROOT = Path(__file__).resolve().parents[2]
# what this process searches first: a wrong copy of the package, where one is on trial
SEARCHED = [path for path in [os.environ.get("PYTHONPATH", "")] if path]


@pytest.fixture(scope="module")
def model_path(materials: Path) -> Path:
    return materials / "models" / "stories260K-tok512"


@pytest.fixture(scope="module")
def whole(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """An uninterrupted store."""
    return fill(tmp_path_factory.mktemp("store") / "whole", model_path, SETTINGS)


def _lines(folder: Path) -> int:
    path = folder / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_every_prompt_is_answered_with_real_text(whole: list[Answer]) -> None:
    assert len(whole) == 3 * len(TEXTS)
    assert {answer.finish for answer in whole} <= {"stop", "length"}
    assert all(answer.tokens <= 48 for answer in whole)
    # the text goes on after the prompt, with its leading space kept
    assert sum(answer.answer.startswith((" ", ",", ".")) for answer in whole) > len(whole) / 2
    assert len({answer.answer for answer in whole}) > 20  # sampled, so the three answers differ


def test_a_killed_store_resumes_to_what_an_uninterrupted_one_holds(
    whole: list[Answer], model_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*SEARCHED, str(ROOT)])}
    command = [sys.executable, "-m", "tests.teachers.answers_worker", str(folder), str(model_path)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while _lines(folder) < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _lines(folder) > 0, "the process was killed before its first answer"
    with (folder / "answers.jsonl").open("ab") as stream:
        stream.write(b'{"key": "key0", "number": 0, "ans')  # a line that the kill cut
    assert fill(folder, model_path, SETTINGS) == whole


def test_a_finished_store_is_not_generated_again(model_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "s", model_path, SETTINGS)
    before = (tmp_path / "s" / "answers.jsonl").stat()
    fill(tmp_path / "s", model_path, SETTINGS)
    after = (tmp_path / "s" / "answers.jsonl").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_other_settings_are_refused_with_both_sides(model_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "s", model_path, SETTINGS)
    other = SETTINGS.model_copy(update={"temperature": 0.5})
    with pytest.raises(CacheMismatch, match=r"(?s)decoding: stored .*1\.0.*this run .*0\.5"):
        fill(tmp_path / "s", model_path, other)


def test_what_is_kept_later_is_no_matter_of_the_store(model_path: Path, tmp_path: Path) -> None:
    first = fill(tmp_path / "s", model_path, SETTINGS)
    assert fill(tmp_path / "s", model_path, SETTINGS.model_copy(update={"keep_cut_off": True})) == first


def test_a_damaged_line_is_named(model_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "s", model_path, SETTINGS)
    path = tmp_path / "s" / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[3:]]))
    with pytest.raises(CacheCorrupt, match="line 3"):
        fill(tmp_path / "s", model_path, SETTINGS)


def test_prompts_without_room_for_an_answer_are_not_asked() -> None:
    prompts = [Prompt("short", (1,) * 10), Prompt("long", (1,) * 60)]
    assert askable(prompts, context=64, max_new_tokens=54) == prompts[:1]
    assert askable(prompts, context=None, max_new_tokens=54) == prompts
    with pytest.raises(ConfigError, match=r"(?s)shortest prompt 10.*context 64"):
        askable(prompts, context=64, max_new_tokens=60)


def test_greedy_answers_do_not_depend_on_the_batch(model_path: Path, tmp_path: Path) -> None:
    greedy = {"sample": False, "answers_per_prompt": 1, "temperature": 1.0}
    one = fill(tmp_path / "a", model_path, SETTINGS.model_copy(update={**greedy, "batch_size": 1}))
    many = fill(tmp_path / "b", model_path, SETTINGS.model_copy(update={**greedy, "batch_size": 8}))
    assert [a.answer for a in one] == [a.answer for a in many]


def _answer(key: str, text: str, finish: str = "stop", number: int = 0) -> Answer:
    return Answer(key=key, number=number, answer=text, finish=finish, tokens=len(text))


def test_empty_cut_off_and_repeated_answers_are_dropped_and_counted() -> None:
    answers = [
        _answer("a", "good"),
        _answer("a", "good", number=1),
        _answer("a", "other", number=2),
        _answer("b", "  \n"),
        _answer("c", "never ends", finish="length"),
        _answer("d", "good"),  # the same text for another prompt is no repetition
    ]
    kept, counts = keep_usable(answers, path=Path("x"), keep_cut_off=False, prompt_tokens=7)
    assert counts.teacher_tokens == 7 + sum(answer.tokens for answer in answers)
    assert kept == {"a": ["good", "other"], "d": ["good"]}
    dropped = (counts.dropped_empty, counts.dropped_cut_off, counts.dropped_duplicate)
    assert (counts.prompts, counts.generated, counts.kept, *dropped) == (4, 6, 3, 1, 1, 1)
    kept, counts = keep_usable(answers, path=Path("x"), keep_cut_off=True, prompt_tokens=7)
    assert kept["c"] == ["never ends"] and counts.dropped_cut_off == 0


def test_no_usable_answer_is_an_error_with_the_counts() -> None:
    with pytest.raises(DataError, match=r"(?s)generated 2.*cut off at max_new_tokens 1"):
        keep_usable(
            [_answer("a", ""), _answer("b", "x", finish="length")], path=Path("x"), keep_cut_off=False, prompt_tokens=0
        )
