"""The demo world: true answers, disjoint splits, tokenizers of one size that do not agree, tiny models."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distillab.demo.models import MAX_POSITIONS, build_model
from distillab.demo.tasks import ANSWER_WEIGHTS, CAPITALS, COLOURS, KINDS, OPENERS, TASKS, WORDS
from distillab.demo.tokenizers import SPECIAL_TOKENS, train_tokenizers
from distillab.demo.world import (
    VALUE_PATTERN,
    WorldFiles,
    draw_row,
    draw_rows,
    is_held_out,
    value_of,
    write_world,
)
from distillab.errors import ConfigError, DataError

SIZE = 640


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return write_world(tmp_path_factory.mktemp("world"), seed=0, teacher_rows=6000, student_rows=600, held_out_rows=400)


@pytest.fixture(scope="module")
def texts(world: WorldFiles) -> list[str]:
    return [text for row in read(world.teacher) for text in (row["prompt"], row["answer"])]


@pytest.fixture(scope="module")
def pair(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return train_tokenizers(texts, size=SIZE, folder=tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def loaded(pair: tuple[Path, Path]) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    return AutoTokenizer.from_pretrained(pair[0]), AutoTokenizer.from_pretrained(pair[1])


def right_value(prompt: str) -> str:
    """The answer, worked out from the question's text alone."""
    words = re.findall(r"[A-Za-z]+", prompt)
    numbers = [int(n) for n in re.findall(r"\d+", prompt)]
    named = [w for w in words if w in CAPITALS or w in COLOURS]
    things = [w for w in words if w in WORDS]
    kinds = [w for w in words if w in KINDS]
    home = {word: kind for kind, members in KINDS.items() for word in members}
    if named:
        return CAPITALS.get(named[0]) or COLOURS[named[0]]
    if letters := re.search(r"\b([a-z])-([a-z])\b", prompt):
        return f"{letters[2]}-{letters[1]}"
    if len(numbers) == 3:
        return str((max if re.search("largest|biggest|maximum|greatest|highest", prompt) else min)(numbers))
    if len(numbers) == 2:
        low, high = sorted(numbers)
        if re.search(r"plus|Add|\+|together|sum", prompt):
            return str(low + high)
        return str(high - low if re.search(r"minus|Take| - |without|difference", prompt) else low * high)
    if len(things) == 2:
        return next(w for w in things if home[w] == kinds[0])
    if re.search("How many|Count|How long|length|number of letters", prompt):
        return str(len(things[0]))
    if re.search("capitals|uppercase|Shout|big letters", prompt):
        return things[0].upper()
    if re.search("group|kind of thing|heading|in one word", prompt):
        return home[things[0]]
    return things[0][0 if re.search("first|begin|initial|starts", prompt) else -1]


def test_every_answer_is_right_and_its_value_is_found(world: WorldFiles) -> None:
    for path in (world.teacher, world.train, world.held_out):
        for row in read(path):
            assert set(row) == {"prompt", "answer"}
            assert value_of(row["answer"]) == right_value(row["prompt"]), row
            assert len(re.findall(VALUE_PATTERN, row["answer"])) == 1


def test_value_pattern_finds_nothing_in_an_unfinished_answer() -> None:
    assert value_of("Sure, that makes 12") is None
    assert value_of("Turned around that is b-a.") == "b-a"


def test_splits_have_their_sizes_and_share_no_held_out_prompt(world: WorldFiles) -> None:
    teacher, train, held_out = (read(p) for p in (world.teacher, world.train, world.held_out))
    assert (len(teacher), len(train), len(held_out)) == (6000, 600, 400)
    held = {row["prompt"] for row in held_out}
    assert len(held) == 400
    assert len({row["prompt"] for row in train}) == 600
    assert not held & {row["prompt"] for row in teacher}
    assert not held & {row["prompt"] for row in train}


def test_the_teacher_has_seen_every_held_out_fact_and_the_small_set_only_a_part(world: WorldFiles) -> None:
    def facts(path: Path) -> set[str]:
        text = " ".join(row["prompt"] for row in read(path))
        return {name for name in (*CAPITALS, *COLOURS) if re.search(rf"\b{name}\b", text)}

    assert facts(world.held_out) <= facts(world.teacher) == {*CAPITALS, *COLOURS}
    assert 0.5 < len(facts(world.train)) / len(facts(world.teacher)) < 0.8


def test_every_kind_of_question_is_held_out(world: WorldFiles) -> None:
    patterns = {t.name: [re.sub(r"\\{\w+\\}", ".+", re.escape(q)) for q in t.questions] for t in TASKS}
    prompts = [row["prompt"] for row in read(world.held_out)]
    for name, wordings in patterns.items():
        assert sum(any(re.fullmatch(w, p) for w in wordings) for p in prompts) >= 8, name


def test_answer_wordings_follow_their_stated_distribution() -> None:
    assert sum(ANSWER_WEIGHTS) == pytest.approx(1)
    assert sum(weight for _, weight in OPENERS) == pytest.approx(1)
    task, rng = TASKS[0], random.Random(5)
    rows = [draw_row(task, rng, labelled_facts_only=False) for _ in range(20_000)]
    # "{a} + {b} = ?" is question wording 2, so its most likely answer is wording 2: "together they are".
    bare = [row["answer"].lower() for row in rows if row["prompt"].endswith("= ?")]
    share = sum("together they are" in answer for answer in bare) / len(bare)
    assert share == pytest.approx(ANSWER_WEIGHTS[0], abs=4 * math.sqrt(0.25 / len(bare)))
    share = sum("adding them gives" in answer for answer in bare) / len(bare)
    assert share == pytest.approx(ANSWER_WEIGHTS[2], abs=4 * math.sqrt(0.25 / len(bare)))
    sure = sum(row["answer"].startswith("Sure, ") for row in rows) / len(rows)
    assert sure == pytest.approx(dict(OPENERS)["Sure, "], abs=0.015)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_rows_depend_on_the_seed_alone(seed: int) -> None:
    first, second = (draw_rows("train", 15, seed=seed) for _ in range(2))
    assert first == second
    assert first != draw_rows("train", 15, seed=seed + 1)
    assert not any(is_held_out(row["prompt"], seed) for row in first)
    assert all(is_held_out(row["prompt"], seed) for row in draw_rows("held_out", 5, seed=seed))


def test_a_smaller_world_is_the_beginning_of_a_larger_one() -> None:
    assert draw_rows("train", 300, seed=3)[:50] == draw_rows("train", 50, seed=3)


def test_too_many_rows_are_refused_not_repeated() -> None:
    with pytest.raises(DataError, match="too few different questions"):
        draw_rows("held_out", 50_000, seed=0)
    with pytest.raises(ConfigError, match="at least one row"):
        draw_rows("train", 0, seed=0)


def test_tokenizers_have_one_size_and_roles_but_disagree(
    loaded: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast],
) -> None:
    a, b = loaded
    assert len(a) == len(b) == SIZE
    for tokenizer in loaded:
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
        assert sorted(tokenizer.get_vocab().values()) == list(range(SIZE))
        assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(SPECIAL_TOKENS)
    as_text = [{i: t.replace("Ġ", " ").replace("▁", " ") for t, i in x.get_vocab().items()} for x in loaded]
    assert sum(as_text[0][i] == as_text[1][i] for i in range(SIZE)) < 0.05 * SIZE
    assert len(set(as_text[0].values()) & set(as_text[1].values())) > 0.3 * SIZE


def test_tokenizers_lose_no_text_of_the_world(
    world: WorldFiles, loaded: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
) -> None:
    for tokenizer in loaded:
        longest = 0
        for row in read(world.held_out) + read(world.train):
            ids = [tokenizer(row[column], add_special_tokens=False)["input_ids"] for column in ("prompt", "answer")]
            assert [tokenizer.decode(part) for part in ids] == [row["prompt"], row["answer"]]
            longest = max(longest, sum(map(len, ids)))
        assert longest + 3 <= MAX_POSITIONS // 2


@given(text=st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_tokenizers_lose_no_other_text(
    loaded: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast], text: str
) -> None:
    if any(token in text for token in SPECIAL_TOKENS):
        return
    a, b = loaded
    assert a.decode(a(text, add_special_tokens=False)["input_ids"]) == text
    # B writes "▁" for a space, as SentencePiece does, so a "▁" in the text is read as a space.
    assert b.decode(b(text, add_special_tokens=False)["input_ids"]) == text.replace("▁", " ")


def test_a_written_byte_token_is_text(loaded: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]) -> None:
    for tokenizer in loaded:
        assert len(tokenizer("<0x41>", add_special_tokens=False)["input_ids"]) > 1


def test_another_process_makes_the_same_bytes(pair: tuple[Path, Path], texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    code = (
        "import json, sys; from pathlib import Path; from distillab.demo.tokenizers import train_tokenizers;"
        "folder = Path(sys.argv[1]); texts = json.loads((folder / 'texts.json').read_text(encoding='utf-8'));"
        f"train_tokenizers(texts, size={SIZE}, folder=folder)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    for path in pair:
        files = sorted(p.name for p in path.iterdir())
        assert files == sorted(p.name for p in (tmp_path / path.name).iterdir())
        assert all((path / name).read_bytes() == (tmp_path / path.name / name).read_bytes() for name in files)


def test_a_vocabulary_that_cannot_be_filled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs room"):
        train_tokenizers(["a b"], size=300, folder=tmp_path)
    with pytest.raises(ConfigError, match="too small for a vocabulary"):
        train_tokenizers(["a b"], size=SIZE, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_are_seeded_and_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, same, other = (build_model("student", SIZE, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_models_have_the_tokenizers_width_and_the_teacher_is_the_larger() -> None:
    sizes = Counter({kind: build_model(kind, SIZE, 0).num_parameters() for kind in ("teacher", "student")})
    assert sizes["teacher"] > 2.5 * sizes["student"]
    logits = build_model("student", SIZE, 0)(torch.tensor([[1, 5, 2]])).logits
    assert logits.shape == (1, 3, SIZE)
    # A fresh model knows nothing: its loss is near log V.
    loss = -logits.log_softmax(-1).mean().item()
    assert loss == pytest.approx(math.log(SIZE), abs=0.1)
