"""Stored answers survive kills, and damage is found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from distillab.errors import CacheCorrupt, CacheMismatch
from distillab.teachers.served.exchange import Paid, Usage
from distillab.teachers.served.journal import ANSWERS, AnswerJournal, answer_key, paid_in

CONTENTS = [b"{}", b"x" * 1000, bytes(range(256)) * 3]
KEYS = [bytes([number]) * 16 for number in range(3)]
PAID = Paid(Usage(7, 2, 3), 2, 0.5)


def filled(folder: Path) -> None:
    journal = AnswerJournal(folder)
    for key, content in zip(KEYS, CONTENTS, strict=True):
        journal.store_answer(key, content, PAID)
    journal.close()


def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = AnswerJournal(tmp_path)
    assert [journal.get(key) for key in KEYS] == CONTENTS
    assert journal.get(b"?" * 16) is None and len(journal) == 3
    journal.close()
    assert paid_in(tmp_path) == Paid(Usage(21, 6, 9), 6, 1.5) and paid_in(tmp_path / "none") == Paid()


def test_a_record_cut_at_any_byte_is_dropped_and_can_be_stored_again(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / ANSWERS
    whole = path.read_bytes()
    last = whole.index(KEYS[2]) - 4
    for end in range(last + 1, len(whole), 7):
        path.write_bytes(whole[:end])
        journal = AnswerJournal(tmp_path)
        assert journal.get(KEYS[1]) == CONTENTS[1] and journal.get(KEYS[2]) is None
        journal.store_answer(KEYS[2], CONTENTS[2], PAID)
        journal.close()
        assert path.read_bytes() == whole


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / ANSWERS
    whole = path.read_bytes()
    for at in (0, 2, 25, 60, len(whole) - 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CacheCorrupt, match="damaged"):
            read_all(tmp_path)


def read_all(folder: Path) -> list[bytes | None]:
    journal = AnswerJournal(folder)
    try:
        return [journal.get(key) for key in KEYS]
    finally:
        journal.close()


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    journal = AnswerJournal(tmp_path)
    with pytest.raises(CacheMismatch, match="Another process"):
        AnswerJournal(tmp_path)
    journal.close()
    AnswerJournal(tmp_path).close()


def test_everything_that_decides_an_answer_is_in_its_key() -> None:
    base = {"server": "http://a", "model": "m", "tokenizer": "t", "path": "/p", "body": {"prompt": [1, 2], "k": 3}}
    changes = [{}, {"server": "http://b"}, {"model": "n"}, {"tokenizer": "u"}, {"path": "/q"}, {"body": {"k": 3}}]
    keys = [answer_key(**(base | change)) for change in changes]
    assert all(one != other for one, other in itertools.combinations(keys, 2))
    assert answer_key(**(base | {"body": {"k": 3, "prompt": [1, 2]}})) == keys[0]
