"""The pair's checks: planted faults are found, and good pairs are left in peace."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.doctor.pair_samples import STUDENT, TEACHER, UNLIKE, found, reader_of, subject_of, with_width
from transformers import LlamaConfig, LlamaForCausalLM

from distillab.doctor.pair.audit import run_pair_checks
from distillab.doctor.pair.contract import check_contract
from distillab.doctor.pair.precision import check_mode, check_padding, check_precision
from distillab.doctor.pair.quality import check_begin, check_quality, check_template
from distillab.doctor.pair.subject import affordable_tokens, evaluating
from distillab.doctor.pair.verdict import check_alignment


@pytest.fixture
def good(materials):
    return subject_of(materials)


def fewer(subject):
    """Of a vocabulary of 32,000 tokens some rows are enough."""
    return replace(subject, examples=subject.examples[:10])


def test_a_good_pair_is_left_in_peace(good):
    checks = tuple(run_pair_checks(good))
    assert not found(checks)
    assert [one.skipped for one in checks if one.check != "template"] == [None] * 7
    assert "no template" in next(one.skipped for one in checks if one.check == "template")
    assert "p = 0.002" in next(one.scope for one in checks if one.check == "alignment")


def test_an_index_wise_pair_of_other_tokens(materials):
    subject = fewer(subject_of(materials, teacher=UNLIKE, student=None, tokenizer="tinyllama-1.1b"))
    errors = {
        id_: finding
        for id_, finding in found((check_contract(subject), check_alignment(subject))).items()
        if finding.severity == "error"
    }
    assert set(errors) == {"pair-ids-unrelated", "teacher-signal-unrelated"}
    assert any("▁quick" in line for line in errors["pair-ids-unrelated"].example)
    assert any("would be pushed" in line for line in errors["pair-ids-unrelated"].example)
    assert any("at its own tokens" in line for line in errors["teacher-signal-unrelated"].evidence)


def test_other_tokens_that_nobody_compares_are_no_error(materials):
    subject = subject_of(materials, teacher=UNLIKE, student=None, tokenizer="tinyllama-1.1b")
    subject = fewer(replace(subject, compares_by_index=False))
    checks = (check_contract(subject), check_alignment(subject), check_mode(subject), check_padding(subject))
    assert {id_: finding.severity for id_, finding in found(checks).items()} == {"pair-ids-unrelated": "note"}
    assert "at its own tokens" in checks[1].scope


def test_a_teacher_that_cannot_read_the_students_ids(materials):
    subject = subject_of(materials, teacher="babyllama-tok105", student=STUDENT)
    checks = (check_contract(subject), check_alignment(subject))
    assert list(found(checks)) == ["pair-ids-unrelated"]
    assert "no embedding" in checks[1].skipped


def test_weights_of_another_tokenizer_are_a_warning(good):
    weight = good.teacher_model.get_input_embeddings().weight
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight.copy_(weight[order].clone())
        head = good.teacher_model.get_output_embeddings().weight
        if head.data_ptr() != weight.data_ptr():
            head.copy_(head[order].clone())
    findings = found((check_alignment(good), check_quality(good)))
    assert {"teacher-below-unigram", "teacher-below-student"} <= set(findings)
    signal = [finding for id_, finding in findings.items() if id_.startswith("teacher-signal-")]
    assert signal and all(finding.severity == "warning" for finding in findings.values())


@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_that_has_learned_nothing_is_no_error(good, tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=tied,
    )  # fmt: skip
    subject = replace(good, teacher_model=LlamaForCausalLM(config).eval())
    assert all(finding.severity == "warning" for finding in found(tuple(run_pair_checks(subject))).values())


def test_without_weights_and_without_rows(good):
    for subject, why in (
        (replace(good, teacher_model=None), "no weights"),
        (replace(good, examples=()), "no rows"),
    ):
        checks = tuple(run_pair_checks(subject))
        assert checks[0].skipped is None
        assert all(why in one.skipped for one in checks[1:])
        assert not found(checks)


def drops(model, share):
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = share
    return model


def test_a_teacher_in_train_mode(good):
    drops(good.teacher_model, 0.1).train()
    state = torch.get_rng_state()
    finding = found([check_mode(good)])["teacher-in-train-mode"]
    assert finding.severity == "error"
    assert any("self_attn" in line and "0.1" in line for line in finding.evidence)
    assert torch.equal(torch.get_rng_state(), state), "a run's own draws are not disturbed"
    assert all(module.training for module in good.teacher_model.modules())


def test_train_mode_without_dropout_and_dropout_in_eval_mode_are_no_faults(good):
    assert not found([check_mode(replace(good, teacher_model=good.teacher_model.train()))])
    assert not found([check_mode(replace(good, teacher_model=drops(good.teacher_model, 0.1).eval()))])


def test_every_module_keeps_its_own_mode(good):
    model = good.teacher_model
    model.model.layers[1].train()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    assert any(before) and not all(before)


def test_a_teacher_that_is_worse_than_its_student(materials):
    subject = subject_of(materials, teacher=STUDENT, student=TEACHER)
    findings = found([check_quality(subject)])
    assert {id_: finding.severity for id_, finding in findings.items()} == {"teacher-below-student": "warning"}
    assert not found([check_quality(replace(subject, student_is_random=True))])


def test_rows_without_the_begin_token(materials, tmp_path):
    subject = subject_of(materials, teacher="babyllama-tok105", student="babyllama-tok105")
    assert not found([check_begin(subject)])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        values = json.loads((materials / "tokenizers/tok105" / name).read_text())
        values.pop("post_processor", None)
        values.pop("add_bos_token", None)
        (tmp_path / name).write_text(json.dumps(values))
    finding = found([check_begin(replace(subject, student=reader_of(tmp_path)))])["teacher-begin-token"]
    assert finding.severity == "warning" and finding.title.startswith("Without")


def test_a_template_that_the_teacher_does_not_know(materials):
    subject = subject_of(materials, kind="pair", template="alpaca")
    finding = found([check_template(subject)])["teacher-template"]
    assert finding.severity == "warning" and "data.template: plain" in finding.fix
    assert not found([check_template(subject_of(materials, kind="pair", template="plain"))])


def widened(subject, *, like):
    """64 rows more in the output layer, which say what another one says."""
    model = subject.teacher_model
    model.resize_token_embeddings(576, mean_resizing=False)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[512:] = head[like]
    return with_width(subject, 576)


def test_logits_without_a_token(good):
    padded = widened(good, like=0)
    checks = (check_contract(padded), check_padding(padded), check_alignment(padded))
    findings = found(checks)
    assert {id_: finding.severity for id_, finding in findings.items()} == {"pair-vocabulary-wider": "note"}


def test_probability_on_logits_without_a_token(good):
    often = good.teacher.tokenizer("the", add_special_tokens=False)["input_ids"][-1]
    finding = found([check_padding(widened(good, like=often))])["logits-beyond-tokenizer"]
    assert finding.severity == "warning" and "64 of 576 logits" in finding.evidence[0]


def test_an_overflow_in_float16(good):
    with torch.no_grad():
        good.teacher_model.model.layers[2].mlp.down_proj.weight.mul_(1e6)
    note = found([check_precision(good)])["teacher-overflows-float16"]
    assert note.severity == "note"
    result = check_precision(replace(good, teacher_model=good.teacher_model.half()))
    finding = found([result])["teacher-logits-not-finite"]
    assert finding.severity == "error" and any("first in module model.layers.2" in line for line in finding.evidence)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sound_teacher_of_half_precision(good, dtype):
    result = check_precision(replace(good, teacher_model=good.teacher_model.to(dtype)))
    assert not found([result]) and "from itself in float32" in result.scope
    assert good.teacher_model.dtype == dtype, "the float32 copy is a copy"


def test_a_teacher_that_rounds_much_away(good):
    with torch.no_grad():
        # softmax does not see what all logits have in common, but bfloat16 keeps eight bits of it
        good.teacher_model.get_output_embeddings().weight.add_(5.0)
    finding = found([check_precision(replace(good, teacher_model=good.teacher_model.bfloat16()))])
    assert finding["teacher-imprecise"].severity == "warning"


def test_large_models_are_asked_about_less(good):
    small, large = good.teacher_model, LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, hidden_size=512))
    assert affordable_tokens(small) == 16_384 > affordable_tokens(small, large) >= 256


def test_a_teacher_that_draws_random_numbers(good):
    good.teacher_model.model.norm.register_forward_hook(lambda _, __, output: output + torch.rand(()))
    finding = found([check_mode(good)])["teacher-not-repeatable"]
    assert finding.severity == "warning" and "KL between the two passes" in finding.evidence[0]


def test_an_output_layer_that_is_too_narrow(good):
    finding = found([check_contract(with_width(good, 500))])["pair-logits-too-narrow"]
    assert finding.severity == "warning" and "500" in finding.evidence[0]


def test_much_of_the_teacher_lies_beyond_what_is_shared(good):
    contract = good.contract.model_copy(update={"verdict": "extended", "shared_width": 300})
    finding = found([check_padding(replace(good, contract=contract))])["teacher-outside-shared-ids"]
    assert finding.severity == "warning" and "300 of the teacher's 512" in finding.evidence[0]
    assert not found([check_padding(good)])


def test_begin_tokens_and_templates_that_differ_are_noted(good):
    notes = ("BOS differs: teacher none, student '<s>' (id 1)", "only the teacher has a chat template")
    contract = good.contract.model_copy(update={"notes": notes})
    finding = found([check_contract(replace(good, contract=contract))])["pair-reads-otherwise"]
    assert finding.severity == "note" and finding.evidence == notes
