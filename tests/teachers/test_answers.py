"""The store of a teacher's answers: what it keeps, and that a kill cannot spoil it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from distillab.cache.reader import CacheReader
from distillab.cache.text import Text
from distillab.cache.verify import verify
from distillab.config.teacher import TeacherAnswersConfig
from distillab.errors import CacheCorrupt, CacheMismatch, ConfigError, DataError
from distillab.teachers import LocalTeacher
from distillab.teachers.stored.answer_identity import Prompt, answers_identity
from distillab.teachers.stored.answers import (
    Answer,
    answerable,
    drop_invalid,
    generate_store,
    read_store,
    store_is_complete,
)
from tests.processes import Forked, wait_for
from tests.teachers.answers_worker import SETTINGS, TEACHER, WORDS, answers, fill, prompts

# what this process searches first: a wrong copy of the package, where one is on trial


@pytest.fixture(scope="module")
def model_path(materials: Path) -> Path:
    return materials / "models" / "stories260K-tok512"


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(model_path)


@pytest.fixture(scope="module")
def whole(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted store."""
    folder = tmp_path_factory.mktemp("store") / "whole"
    fill(folder, model_path, SETTINGS)
    return folder


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def _lines(folder: Path) -> list[str]:
    return [line for path in (folder / "journals").glob("*.jsonl") for line in path.read_text().splitlines()]


def _same(folder: Path, whole: Path) -> bool:
    names = {"identity.json", "shards", "journals"}
    return (
        _shards(folder) == _shards(whole)
        and sorted(_lines(folder)) == sorted(_lines(whole))
        and {path.name for path in folder.iterdir()} == names
        and (folder / "identity.json").read_bytes() == (whole / "identity.json").read_bytes()
    )


def test_every_prompt_is_answered_with_real_text(whole: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    made = answers(whole, tokenizer, SETTINGS)
    assert [(answer.key, answer.number) for answer in made] == [
        (f"key{index}", number) for index in range(len(WORDS)) for number in range(3)
    ]
    assert {answer.finish for answer in made} <= {"stop", "length"}
    assert all(answer.tokens == 48 if answer.finish == "length" else answer.tokens < 48 for answer in made)
    # the text goes on after the prompt, with its leading space kept
    assert sum(answer.answer.startswith((" ", ",", ".")) for answer in made) > len(made) / 2
    assert len({answer.answer for answer in made}) > 20  # sampled, so the three answers differ


def test_a_row_is_the_prompt_and_all_that_was_written_after_it(whole: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    asked = {prompt.key: prompt.ids for prompt in prompts(tokenizer)}
    reader = CacheReader(whole)
    rows = reader.read(range(len(reader)), ["text"])
    assert len(rows) == 3 * len(WORDS)
    lengths = [len(asked[row.key.split("/")[0]]) for row in rows]
    assert lengths == sorted(lengths)  # like lengths together
    for row, length in zip(rows, lengths, strict=True):
        assert tuple(row.input_ids[:length]) == asked[row.key.split("/")[0]]
        assert not row.answer_mask[:length].any() and row.answer_mask[length:].all()
        text = row.sections["text"]
        assert isinstance(text, Text)
        before, after = (
            tokenizer.decode(ids, skip_special_tokens=True) for ids in (row.input_ids[:length], row.input_ids)
        )
        assert before + text.answer == after
        assert (row.input_ids[-1] == tokenizer.eos_token_id) == (text.finish == "stop")


@pytest.mark.slow
def test_a_killed_store_resumes_to_what_an_uninterrupted_one_holds(
    whole: Path, model_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = Forked("tests.teachers.answers_worker", str(folder), str(model_path))
    wait_for(process, lambda: len(_lines(folder)) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the process had finished before it was killed"
    assert 0 < len(_lines(folder)) < len(_lines(whole)), "the process was killed before or after all of its work"
    with (folder / "journals" / "0-of-1.jsonl").open("ab") as stream:
        stream.write(b'{"shard": 7, "file": "shar')  # a line that the kill cut
    assert not store_is_complete(folder)
    fill(folder, model_path, SETTINGS)
    assert store_is_complete(folder)
    assert _same(folder, whole)
    assert verify(folder).complete


def test_two_workers_make_the_store_of_one(
    whole: Path, model_path: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    fill(folder, model_path, SETTINGS, worker=1, workers=2)
    assert not store_is_complete(folder)
    with pytest.raises(CacheMismatch, match="not complete"):
        answers(folder, tokenizer, SETTINGS)
    fill(folder, model_path, SETTINGS, worker=0, workers=2)
    assert _shards(folder) == _shards(whole)
    assert answers(folder, tokenizer, SETTINGS) == answers(whole, tokenizer, SETTINGS)


def test_a_finished_store_is_not_generated_again(model_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fill(folder, model_path, SETTINGS)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = times()
    fill(folder, model_path, SETTINGS)
    assert times() == before


def test_other_settings_are_refused_with_both_sides(
    whole: Path, model_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = SETTINGS.model_copy(update={"temperature": 0.5})
    both = r"decoding\.temperature: the cache 1\.0, this run 0\.5"
    with pytest.raises(CacheMismatch, match=both):
        fill(whole, model_path, other)
    with pytest.raises(CacheMismatch, match=both):
        answers(whole, tokenizer, other)


def test_a_store_of_other_prompts_or_another_teacher_is_not_read(
    whole: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = prompts(tokenizer)
    swapped = [Prompt(asked[1].key, asked[0].ids), Prompt(asked[0].key, asked[1].ids), *asked[2:]]
    with pytest.raises(CacheMismatch, match="prompts: the cache"):
        read_store(
            whole, prompts=swapped, settings=SETTINGS, tokenizer=tokenizer, fingerprint="tokens", weights_sha256="0"
        )
    with pytest.raises(CacheMismatch, match="tokenizer: the cache tokens, this run others"):
        read_store(
            whole, prompts=asked, settings=SETTINGS, tokenizer=tokenizer, fingerprint="others", weights_sha256="0"
        )
    with pytest.raises(CacheMismatch, match="weights: the cache 0, this run 1"):
        read_store(
            whole, prompts=asked, settings=SETTINGS, tokenizer=tokenizer, fingerprint="tokens", weights_sha256="1"
        )
    made = read_store(
        whole, prompts=asked, settings=SETTINGS, tokenizer=tokenizer, fingerprint="tokens", weights_sha256=None
    )
    assert len(made.answers) == 3 * len(asked)


def test_what_is_kept_later_is_no_matter_of_the_store(
    whole: Path, model_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    later = SETTINGS.model_copy(update={"keep_cut_off": True})
    fill(whole, model_path, later)
    assert answers(whole, tokenizer, later) == answers(whole, tokenizer, SETTINGS)


def test_a_damaged_answer_is_never_read(
    whole: Path, model_path: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    fill(folder, model_path, SETTINGS)
    shard = sorted((folder / "shards").iterdir())[2]
    data = bytearray(shard.read_bytes())
    text = answers(whole, tokenizer, SETTINGS)
    stored = next(answer.answer.encode() for answer in text if answer.answer.encode() in data)
    data[data.index(stored) + 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheCorrupt, match=shard.name):
        answers(folder, tokenizer, SETTINGS)


@pytest.mark.parametrize("name", ["answers.jsonl", "provenance.json"])
def test_answers_of_version_0_1_are_refused_with_what_to_do(
    model_path: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / name).write_text(json.dumps({"key": "key0", "number": 0, "answer": "x", "finish": "stop", "tokens": 1}))
    for use in (
        lambda: fill(folder, model_path, SETTINGS),
        lambda: answers(folder, tokenizer, SETTINGS),
        lambda: store_is_complete(folder),
    ):
        with pytest.raises(CacheMismatch, match=rf"(?s)distillab 0\.1.*{name}.*another folder, or delete"):
            use()
    assert [path.name for path in folder.iterdir()] == [name]


def test_an_answer_without_a_token_is_kept_as_one(
    model_path: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Every id ends the answer, so the teacher says nothing; two keys ask the same."""
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(model_path), TEACHER)
    settings = TeacherAnswersConfig(max_new_tokens=4, batch_size=2)
    asked = [Prompt("a", (1, 5)), Prompt("b/c", (1, 5)), Prompt("d", (1, 5, 9))]
    identity = answers_identity(
        teacher.identity,
        tokenizer="tokens",
        stop_ids=range(512),
        prompts=asked,
        settings=settings,
        source="prompts",
    )
    generate_store(
        tmp_path / "s",
        teacher=teacher,
        tokenizer=tokenizer,
        stop_ids=range(512),
        prompts=asked,
        settings=settings,
        identity=identity,
    )
    made = read_store(
        tmp_path / "s", prompts=asked, settings=settings, tokenizer=tokenizer, fingerprint="tokens", weights_sha256="0"
    )
    assert list(made.answers) == [Answer(prompt.key, 0, "", "stop", 0) for prompt in asked]
    rows = CacheReader(tmp_path / "s").read(range(3), [])
    assert [int(np.sum(row.answer_mask)) for row in rows] == [1, 1, 1]


def test_a_prompt_without_a_token_is_refused(model_path: Path) -> None:
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(model_path), TEACHER)
    with pytest.raises(DataError, match="row empty"):
        answers_identity(
            teacher.identity,
            tokenizer="tokens",
            stop_ids=[2],
            prompts=[Prompt("empty", ())],
            settings=SETTINGS,
            source="prompts",
        )


@pytest.mark.parametrize(("asked", "batch", "rows"), [(1, 3, 3), (3, 3, 3), (4, 3, 6), (32, 100, 100), (256, 32, 256)])
def test_shards_hold_whole_batches(model_path: Path, asked: int, batch: int, rows: int) -> None:
    teacher = LocalTeacher(AutoModelForCausalLM.from_pretrained(model_path), TEACHER)
    identity = answers_identity(
        teacher.identity,
        tokenizer="tokens",
        stop_ids=[2],
        prompts=[Prompt("a", (1,))],
        settings=SETTINGS.model_copy(update={"batch_size": batch}),
        source="prompts",
        rows_per_shard=asked,
    )
    assert identity.rows_per_shard == rows


def test_prompts_without_room_for_an_answer_are_not_asked() -> None:
    prompts = [Prompt("short", (1,) * 10), Prompt("long", (1,) * 60)]
    assert answerable(prompts, context=64, max_new_tokens=54) == prompts[:1]
    assert answerable(prompts, context=None, max_new_tokens=54) == prompts
    with pytest.raises(ConfigError, match=r"(?s)shortest prompt 10.*context 64"):
        answerable(prompts, context=64, max_new_tokens=60)


def test_greedy_answers_do_not_depend_on_the_batch(
    model_path: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = []
    for batch_size in (1, 8):
        settings = TeacherAnswersConfig(max_new_tokens=48, batch_size=batch_size)
        folder = tmp_path / str(batch_size)
        fill(folder, model_path, settings)
        texts.append([answer.answer for answer in answers(folder, tokenizer, settings)])
    assert texts[0] == texts[1]


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
    kept, counts = drop_invalid(answers, path="x", settings=TeacherAnswersConfig(), prompt_tokens=7)
    assert counts.teacher_tokens == 7 + sum(answer.tokens for answer in answers)
    assert kept == {"a": ["good", "other"], "d": ["good"]}
    dropped = (counts.dropped_empty, counts.dropped_cut_off, counts.dropped_duplicate)
    assert (counts.prompts, counts.generated, counts.kept, *dropped) == (4, 6, 3, 1, 1, 1)
    kept, counts = drop_invalid(answers, path="x", settings=TeacherAnswersConfig(keep_cut_off=True), prompt_tokens=7)
    assert kept["c"] == ["never ends"] and counts.dropped_cut_off == 0


def test_no_usable_answer_is_an_error_with_the_counts() -> None:
    with pytest.raises(DataError, match=r"(?s)generated 2.*cut off at max_new_tokens 1"):
        drop_invalid(
            [_answer("a", ""), _answer("b", "x", finish="length")],
            path="x",
            settings=TeacherAnswersConfig(),
            prompt_tokens=0,
        )
