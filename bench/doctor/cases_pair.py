"""Faults of a pair, of a teacher's signal and of the rows: the checks that are asked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.doctor.case import Cases, Place
from bench.doctor.rows import stories, sums, tokenizer_of
from distillab.doctor import audit_data, audit_pair, audit_signal
from distillab.records import CheckResult

CASES = Cases()


def _stories(place: Place) -> str:
    return str(place.material("text", "tinystories", "stories_dev.jsonl"))


def _asked(place: Place, tokenizer: str = "tok512") -> tuple[Tensor, Tensor]:
    """The real small teacher's logits (B, L, 512) at the ids (B, L) of stories, as this tokenizer writes them."""
    encode = tokenizer_of(place, tokenizer)
    rows = [[1, *encode(text[:300], add_special_tokens=False).input_ids][:64] for text in stories(place, 24)]
    ids = torch.tensor([row for row in rows if len(row) == 64])
    model = AutoModelForCausalLM.from_pretrained(place.material("models", "stories260K-tok512")).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits, ids


@CASES.fault("torch", "pair", "pair-ids-unrelated")
def mistral_teaches_tinyllama(place: Place) -> Sequence[CheckResult]:
    """The investigation's pair: 32,000 ids on both sides, and they mean other tokens."""
    teacher, student = place.material("tokenizers", "mistral-7b-v0.1"), place.material("tokenizers", "tinyllama-1.1b")
    return audit_pair(teacher, student, _stories(place), rows=24).checks


@CASES.fault("torch", "pair", "pair-ids-unrelated", "teacher-signal-unrelated", beside=["pair-logits-too-narrow"])
def characters_teach_pieces(place: Place) -> Sequence[CheckResult]:
    """A teacher of 105 characters for a student of 512 pieces."""
    teacher, student = place.material("models", "babyllama-tok105"), place.material("models", "llama2xs-tok512")
    return audit_pair(teacher, student, _stories(place), rows=24).checks


@CASES.fault("torch", "pair", "teacher-signal-unrelated")
def signal_of_ids_in_another_order(place: Place) -> Sequence[CheckResult]:
    """The same teacher, its vocabulary numbered otherwise: what an index-wise loss gets from another tokenizer."""
    logits, ids = _asked(place)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(4))
    return (audit_signal(logits[..., order], ids, own=(logits, ids)),)


@CASES.fault("torch", "pair", "teacher-signal-shifted")
def signal_one_position_late(place: Place) -> Sequence[CheckResult]:
    """A server that echoes the row of a token with the token after it."""
    logits, ids = _asked(place)
    return (audit_signal(torch.roll(logits, 1, dims=1), ids),)


@CASES.fault("torch", "pair", "teacher-signal-of-other-rows", "teacher-signal-unrelated")
def signal_of_rows_in_another_order(place: Place) -> Sequence[CheckResult]:
    """A cache read in the order in which it was written, by a training that shuffles."""
    logits, ids = _asked(place)
    return (audit_signal(logits.roll(1, dims=0), ids),)


@CASES.good("torch", "pair")
def one_tokenizer_two_models(place: Place) -> Sequence[CheckResult]:
    """A real small pair."""
    teacher, student = place.material("models", "stories260K-tok512"), place.material("models", "llama2xs-tok512")
    return audit_pair(teacher, student, _stories(place), rows=24).checks


@CASES.good("torch", "pair")
def signal_in_its_place(place: Place) -> Sequence[CheckResult]:
    """The same teacher, read rightly."""
    logits, ids = _asked(place)
    return (audit_signal(logits, ids),)


def _rows(place: Place, name: str, rows: list[dict[str, str]]) -> Path:
    path = place.scratch / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def _sums(place: Place, count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": prompt, "answer": answer.strip()} for prompt, answer in sums(place, count, start=start)]


def _audit(place: Place, train: list[dict[str, str]], held_out: list[dict[str, str]]) -> Sequence[CheckResult]:
    files = _rows(place, "train.jsonl", train), _rows(place, "held_out.jsonl", held_out)
    tokenizer = str(place.material("tokenizers", "tinyllama-1.1b"))
    return audit_data(files[0], tokenizer, held_out=files[1]).checks


@CASES.fault("torch", "data", "train-held-out-overlap")
def held_out_rows_in_train(place: Place) -> Sequence[CheckResult]:
    """The split was made after the rows were doubled."""
    return _audit(place, _sums(place, 200), _sums(place, 40, start=170))


@CASES.fault("torch", "data", "duplicated-rows")
def one_shard_read_twice(place: Place) -> Sequence[CheckResult]:
    """A glob that matches a file and its copy."""
    return _audit(place, _sums(place, 120) * 2, _sums(place, 40, start=200))


@CASES.fault("torch", "data", "answers-empty")
def answers_that_are_empty(place: Place) -> Sequence[CheckResult]:
    """A third of the answers were lost on the way."""
    rows = [{**row, "answer": "" if n % 3 == 0 else row["answer"]} for n, row in enumerate(_sums(place, 150))]
    return _audit(place, rows, _sums(place, 40, start=200))


@CASES.fault("torch", "data", "markers-in-text", "prompts-already-rendered")
def prompts_rendered_before(place: Place) -> Sequence[CheckResult]:
    """The prompts hold ChatML already, and a template will be put around them."""
    rows = [
        {**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"}
        for row in _sums(place, 150)
    ]
    return _audit(place, rows, _sums(place, 40, start=200))


@CASES.fault("torch", "data", "text-damaged")
def text_read_in_the_wrong_encoding(place: Place) -> Sequence[CheckResult]:
    """UTF-8 was read as Latin-1."""
    rows = [
        {**row, "answer": ("Voilà, l’élève a déjà noté : " + row["answer"]).encode().decode("latin-1")}
        for row in _sums(place, 150)
    ]
    return _audit(place, rows, _sums(place, 40, start=200))


@CASES.good("torch", "data")
def sums_apart(place: Place) -> Sequence[CheckResult]:
    """Worked sums, none of them in both parts."""
    return _audit(place, _sums(place, 300), _sums(place, 60, start=320))
