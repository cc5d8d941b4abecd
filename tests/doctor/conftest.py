"""Batches of real tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.doctor.batch_samples import World, pairs_of, tokenizer_of

from distillab.doctor.batch import audit
from distillab.doctor.data import content, teacher_answers

_facts = cache(audit.token_facts)
_language = cache(content.language_of)


@pytest.fixture
def world_of(materials: Path) -> Callable[[str], World]:
    """The world of a tokenizer of the materials, by its folder name."""
    return lambda name: World(tokenizer_of(materials, name), pairs_of(materials))


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tokenizer is read once for all tests, and not once a call."""
    monkeypatch.setattr(audit, "token_facts", _facts)


@pytest.fixture
def languages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The language of a text is found once for all tests."""
    for module in (content, teacher_answers):
        monkeypatch.setattr(module, "language_of", _language)
