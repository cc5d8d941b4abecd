"""What must not change a step: batch split, padding side, processes, interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillab.config.methods import METHODS
from distillab.config.terms import TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedSplit
from distillab.errors import ConfigError, NumericsError, TeacherError
from distillab.models.scoring import at_scored, scored_targets
from distillab.objectives import build_objective
from distillab.teachers.signals import Distribution, SignalRequest
from distillab.training.sampling import StepSampler
from tests.training.conftest import VOCABULARY, Train, flat_parameters, ragged_split, teacher, tiny_llama


@pytest.mark.parametrize(
    "method", sorted(name for name, method in METHODS.items() if name != "seqkd" and method.tokens != "aligned")
)
def test_batch_split_does_not_change_the_update(train: Train, method: str) -> None:
    start = flat_parameters(tiny_llama(0))
    whole, (report,) = train(method=method, microbatch_size=8)
    moved = flat_parameters(whole) - start
    for microbatch in (4, 2, 1):
        model, (other,) = train(method=method, microbatch_size=microbatch)
        # of the whole update: where a gradient is next to nothing, Adam makes a full step of its rounding
        assert (flat_parameters(model) - start - moved).norm() < 1e-4 * moved.norm()
        assert other.loss == pytest.approx(report.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(report.grad_norm, rel=1e-4)
        assert other.weights == pytest.approx(report.weights, rel=1e-4)


def test_padding_side_does_not_change_the_update(train: Train) -> None:
    right, (a,) = train(padding_side="right", microbatch_size=4)
    left, (b,) = train(padding_side="left", microbatch_size=4)
    torch.testing.assert_close(flat_parameters(left), flat_parameters(right), atol=1e-5, rtol=0)
    assert a.loss == pytest.approx(b.loss, abs=1e-5)


def test_the_loss_is_the_naive_sum_over_the_naive_count(train: Train) -> None:
    """Row by row, token by token, in float64, from the model's full logits."""
    split = ragged_split(8)
    student, source = tiny_llama(0), teacher()
    ce = kl = 0.0
    count = 0
    for row in split.rows:
        ids = torch.tensor(row.input_ids[None].astype("int64"))
        with torch.no_grad():
            q = student(input_ids=ids).logits[0].double().log_softmax(-1)
            p = source.model(input_ids=ids).logits[0].double().log_softmax(-1)
        for position in range(1, len(row)):
            if row.answer_mask[position]:
                ce -= q[position - 1, row.input_ids[position]].item()
                kl += sum(
                    (p[position - 1, v].exp() * (p[position - 1, v] - q[position - 1, v])).item()
                    for v in range(VOCABULARY)
                )
                count += 1
    _, (report,) = train(split=split, microbatch_size=2)
    assert report.terms["cross_entropy"][1] == report.terms["token_divergence"][1] == count
    assert report.terms["cross_entropy"][0] == pytest.approx(ce, rel=1e-5)
    assert report.terms["token_divergence"][0] == pytest.approx(kl, rel=1e-5)
    assert report.loss == pytest.approx(0.5 * (ce + kl) / count, rel=1e-5)


def test_prompt_tokens_get_exactly_no_gradient_and_eos_does() -> None:
    split = ragged_split(3)
    model = tiny_llama(0)
    batch = Collator(0)([IndexedRow(i, row) for i, row in enumerate(split.rows)])
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()
    logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits.detach().requires_grad_()
    scored = logits[:, :-1][batch["answer_mask"][:, 1:]]
    torch.nn.functional.cross_entropy(scored, scored_targets(batch), reduction="sum").backward()
    assert logits.grad is not None
    got = logits.grad.abs().sum(-1) > 0
    expected = torch.zeros_like(got)
    for place, row in enumerate(split.rows):
        for position in range(1, len(row)):
            expected[place, position - 1] = bool(row.answer_mask[position])
    assert torch.equal(got, expected)


def test_a_shifted_mask_gives_another_loss() -> None:
    """The mutant that forgets the causal shift: it must be visible in numbers."""
    model = tiny_llama(0)
    batch = Collator(0)([IndexedRow(i, row) for i, row in enumerate(ragged_split(8).rows)])
    full = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
    right = torch.nn.functional.cross_entropy(at_scored(full, batch), scored_targets(batch))
    wrong = torch.nn.functional.cross_entropy(full[batch["answer_mask"]], batch["labels"][batch["answer_mask"]])
    assert abs(float(right) - float(wrong)) > 1e-3


def test_a_killed_run_resumes_bit_exactly(train: Train, tmp_path: Path) -> None:
    settings = {"steps": 8, "batch_size": 4, "checkpoint_every": 2, "split": ragged_split(10)}
    straight, reports = train(folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=5, **settings)
    resumed, rest = train(folder=tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-4"), **settings)
    assert torch.equal(flat_parameters(resumed), flat_parameters(straight))
    assert [r.step for r in rest] == [5, 6, 7, 8]
    assert [r.loss for r in rest] == [r.loss for r in reports[4:]]


def test_the_row_order_depends_on_the_seed_alone() -> None:
    size = {"rows": 5, "draws": 12, "batch_size": 4}
    order = list(StepSampler(**size, seed=3))
    assert order == list(StepSampler(**size, seed=3)) != list(StepSampler(**size, seed=4))
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(order) == 12


def test_the_teacher_is_untouched_and_outside_of_the_student(train: Train) -> None:
    before = flat_parameters(teacher().model)
    student, _ = train(steps=2)
    source = teacher()
    assert torch.equal(flat_parameters(source.model), before)
    assert not any(p.requires_grad for p in source.model.parameters())
    assert not source.model.training
    assert len(list(student.parameters())) == len(list(tiny_llama(0).parameters()))


def test_a_teacher_in_train_mode_is_put_back(train: Train) -> None:
    source = teacher()
    source.model.train()
    request = SignalRequest(scores=frozenset({Distribution(64)}))
    source.signal(Collator(0)([IndexedRow(0, ragged_split(1).rows[0])]), request)
    assert not source.model.training


def test_an_objective_that_needs_a_teacher_is_refused_without_one() -> None:
    with pytest.raises(TeacherError, match="token_divergence"):
        build_objective(METHODS["logits"].terms, shared_width=VOCABULARY).require(None)


def test_a_batch_size_that_does_not_divide_is_refused(train: Train) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        train(batch_size=8, microbatch_size=3)


def test_a_nan_loss_stops_the_run_and_names_step_rows_and_tensor(train: Train) -> None:
    student = tiny_llama(0)
    poisoned = 7  # a token whose embedding is NaN: only rows that hold it before a scored position are hit
    with torch.no_grad():
        student.get_input_embeddings().weight[poisoned] = torch.nan
    split = ragged_split(8)
    hit = sorted(
        index
        for index, row in enumerate(split.rows)
        if any(row.input_ids[t] == poisoned and row.answer_mask[t + 1 :].any() for t in range(len(row) - 1))
    )
    assert 0 < len(hit) < 8
    with pytest.raises(NumericsError) as error:
        train(method="sft", student=student, split=split, microbatch_size=8)
    message = str(error.value)
    assert "step 1" in message and "the student's logits are NaN" in message
    for index in hit[:5]:
        assert f"rows.jsonl:{index + 1}" in message


def test_a_nan_gradient_stops_the_run_before_the_optimizer_uses_it(train: Train) -> None:
    student = tiny_llama(0)
    before = flat_parameters(student)
    norm = student.model.norm.weight
    norm.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NumericsError, match=r"gradient of model\.norm\.weight"):
        train(student=student, method="sft")
    assert torch.equal(flat_parameters(student), before)


def test_a_diverging_run_stops_instead_of_reporting_zero(train: Train) -> None:
    """transformers prints loss 0.0 for NaN by default (logging_nan_inf_filter)."""
    with pytest.raises(NumericsError):
        train(method="sft", steps=300, learning_rate=1e30, max_grad_norm=1e30)


def test_a_term_may_stand_twice(train: Train) -> None:
    """Forward and reverse KL together: each has its own sum, and the loss is the sum of both."""
    kinds = ("forward_kl", "reverse_kl")
    together = tuple(TokenDivergenceConfig(divergence=kind, weight=0.5) for kind in kinds)
    _, (both,) = train(terms=together)
    assert set(both.terms) == {"token_divergence_1", "token_divergence_2"}
    alone = [train(terms=(TokenDivergenceConfig(divergence=kind),))[1][0].loss for kind in kinds]
    assert alone[0] != pytest.approx(alone[1], rel=1e-4)
    assert both.loss == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_rows_are_drawn_evenly_when_they_do_not_divide_by_the_batch(train: Train) -> None:
    _, reports = train(method="sft", steps=5, batch_size=4, split=ragged_split(6))
    assert len(reports) == 5


def test_all_rows_of_one_step_masked_gives_zero_not_nan(train: Train) -> None:
    split = ragged_split(1)
    split.rows[0].answer_mask[:] = False
    blank = EncodedSplit(split.rows, split.examples, split.counts)
    _, (report,) = train(method="sft", split=blank, batch_size=1)
    assert report.loss == 0.0 and report.terms["cross_entropy"] == (0.0, 0)
