"""Every planted fault is found under its own id, and no other is called an error with it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from bench.doctor.rows import CHATML
from tests.doctor.batch_borders import FAULTS
from tests.doctor.batch_faults import Fault
from tests.doctor.batch_samples import TOKENIZERS, World, answer_start, pairs_of, scored_from, tokenizer_of, unmasked

from distillab.doctor.batch.audit import audit_batch
from distillab.pairing.loading import load_tokenizer

CASES = [(fault, name) for fault in FAULTS for name in fault.only or TOKENIZERS]


def found(checks):
    return [finding for one in checks for finding in one.findings]


@pytest.mark.parametrize(("fault", "name"), CASES, ids=[f"{fault.name}-{name}" for fault, name in CASES])
def test_a_planted_fault_is_found(fault: Fault, name: str, world_of, read_once):
    world = world_of(name)
    findings = found(audit_batch(fault.spoil(world), world.tokenizer, **fault.said))
    said = {finding.id: finding.severity for finding in findings}
    assert said.get(fault.id) == fault.severity, said
    assert {id for id, severity in said.items() if severity == "error"} <= {fault.id}
    assert len(findings) == len(said), "an id is said once"


@pytest.mark.parametrize(("made", "read"), [("gpt2", "mistral-7b-v0.1"), ("tinyllama-1.1b", "mistral-7b-v0.1")])
def test_ids_of_another_tokenizer(made, read, world_of, read_once):
    """Both tokenizers of the second pair have 32,000 tokens, and nothing else shows that the ids are foreign."""
    batch, other = world_of(made).good(), world_of(read)
    batch = {key: tensor[:, :150] % len(other.tokenizer) for key, tensor in batch.items() if key != "labels"}
    findings = found(audit_batch(batch | {"labels": batch["input_ids"]}, other.tokenizer))
    assert "ids-of-another-tokenizer" in {finding.id for finding in findings}


@pytest.fixture(scope="module")
def chat_world(materials: Path):
    """TinyLlama with the tokens of ChatML."""
    tokenizer = copy.deepcopy(tokenizer_of(materials, "tinyllama-1.1b"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return World(tokenizer, pairs_of(materials))


def test_markers_split_although_there_are_tokens_for_them(chat_world, materials):
    """As with split_special_tokens=True."""
    plain = World(load_tokenizer(str(materials / "tokenizers" / "tinyllama-1.1b")).tokenizer, chat_world.pairs)
    findings = found(audit_batch(plain.batch(plain.chatml()), chat_world.tokenizer))
    assert [(f.id, f.severity) for f in findings] == [("markers-in-pieces", "error")]


def test_another_familys_template(chat_world):
    findings = found(audit_batch(chat_world.batch(chat_world.turns(turns=1)), chat_world.tokenizer))
    assert [(f.id, f.severity) for f in findings] == [("template-of-another-family", "warning")]
    assert "ChatML" in " ".join(findings[0].evidence)


def test_markers_show_that_prompts_are_scored(chat_world):
    batch = chat_world.batch(unmasked(chat_world.chatml(turns=2)))
    findings = found(audit_batch(batch, chat_world.tokenizer, learns="answers"))
    assert [(f.id, f.severity) for f in findings] == [("prompt-in-loss", "error")]


HEADER = "<|im_start|>assistant\n"


def with_header(world, scored):
    """Conversations of ChatML in which the last `scored` tokens before the answer are scored."""
    return world.batch([scored_from(answer_start(row) - scored, row[0]) for row in world.chatml()])


@pytest.mark.parametrize("learns", [None, "answers"])
def test_the_header_of_the_answers_is_scored(chat_world, learns):
    count = len(chat_world.text(HEADER))
    findings = found(audit_batch(with_header(chat_world, count), chat_world.tokenizer, learns=learns))
    assert [(f.id, f.severity) for f in findings] == [("answer-header-scored", "warning")]
    assert findings[0].evidence[0] == "8 of 8 answers, by the markers of the ChatML template"
    assert found(audit_batch(with_header(chat_world, count), chat_world.tokenizer, learns="text")) == []


def test_the_role_alone_is_a_header_too_and_a_line_end_is_a_note(chat_world):
    count = len(chat_world.text(HEADER))
    findings = found(audit_batch(with_header(chat_world, count - 1), chat_world.tokenizer))
    assert [(f.id, f.severity) for f in findings] == [("answer-header-scored", "warning")]
    findings = found(audit_batch(with_header(chat_world, 1), chat_world.tokenizer))
    assert [(f.id, f.severity) for f in findings] == [("prompt-end-scored", "note")]
    findings = found(audit_batch(with_header(chat_world, count + 4), chat_world.tokenizer))
    assert [(f.id, f.severity) for f in findings] == [("prompt-end-scored", "warning")]


def test_a_template_that_writes_no_header_has_the_student_write_it(chat_world):
    """Without add_generation_prompt the prompt ends before the header, which then belongs to what is learned."""
    tokenizer = copy.deepcopy(chat_world.tokenizer)
    tokenizer.chat_template = CHATML.split("{% if add_generation_prompt")[0]
    batch = with_header(chat_world, len(chat_world.text(HEADER)))
    assert found(audit_batch(batch, tokenizer, learns="answers")) == []


def test_the_investigations_batch_says_what_is_read_and_what_is_asked(world_of, read_once):
    world = world_of("tinyllama-1.1b")
    spoil = next(fault.spoil for fault in FAULTS if fault.name == "prompt_in_answer_out")
    finding = next(f for f in found(audit_batch(spoil(world), world.tokenizer)) if f.severity == "error")
    text = "\n".join(finding.example)
    prompt, answer = world.pairs[0]
    assert answer[:20] in text and prompt[:20] in text
    assert "8 of 8 rows" in finding.evidence[0]
