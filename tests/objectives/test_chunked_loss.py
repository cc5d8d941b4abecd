"""The chunked pass equals the dense computation: loss and every gradient, for every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from distillab.config.terms import CrossEntropyConfig, TermConfig, TokenDivergenceConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.models import chunking
from distillab.models.batch import TokenBatch
from distillab.models.loading import recompute_activations
from distillab.models.scoring import scored_positions
from distillab.objectives import build_objective
from distillab.objectives.step import measure
from distillab.teachers.signals import FullLogits, TeacherSignal
from tests.models.head_models import KINDS, VOCABULARY, tiny_model
from tests.training.conftest import ragged_split
from tests.training.conftest import teacher as local_teacher

CPU = torch.device("cpu")
BOTH: tuple[TermConfig, ...] = (CrossEntropyConfig(weight=0.3), TokenDivergenceConfig(weight=0.7))


def small_tiles(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Tiles of so many rows, read in pieces of a third of that."""
    monkeypatch.setattr(chunking, "LEAST_ROWS", 1)
    monkeypatch.setitem(chunking.CHUNK_BYTES, "cpu", rows * 4 * VOCABULARY)
    monkeypatch.setitem(chunking.SUB_CHUNK_BYTES, "cpu", max(1, rows // 3) * 4 * VOCABULARY)


@pytest.fixture(params=[1, 7, 1000], ids=lambda rows: f"chunks of {rows}")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of a chunk: one, some, all."""
    small_tiles(monkeypatch, request.param)
    return int(request.param)


def _batch(rows: int = 5) -> TokenBatch:
    split = ragged_split(rows)
    return Collator(0)([IndexedRow(index, row) for index, row in enumerate(split.rows)])


def _teacher_logits(batch: TokenBatch, width: int = VOCABULARY) -> Tensor:
    return torch.randn(int(scored_positions(batch).sum()), width, generator=torch.Generator().manual_seed(7))


def _dense(model: torch.nn.Module, batch: TokenBatch, teacher: Tensor, of_cross_entropy: float = 0.3) -> Tensor:
    """0.3 · cross-entropy + 0.7 · forward KL, each summed, from the model's own full logits."""
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).logits
    mask = batch["answer_mask"][:, 1:]
    logits, targets = logits[:, :-1][mask].float(), batch["input_ids"][:, 1:][mask]
    ce = functional.cross_entropy(logits, targets, reduction="sum")
    width = min(VOCABULARY, teacher.shape[1])
    kl = functional.kl_div(
        logits[:, :width].log_softmax(-1), teacher[:, :width].softmax(-1), reduction="sum", log_target=False
    )
    return of_cross_entropy * ce + 0.7 * kl


def _ours(
    model: torch.nn.Module, batch: TokenBatch, teacher: Tensor, terms: tuple[TermConfig, ...] = BOTH, **options: Any
) -> Tensor:
    objective = build_objective(terms, shared_width=min(VOCABULARY, teacher.shape[1]))
    factors = {name: {"cross_entropy": 0.3, "token_divergence": 0.7}[name] for name in objective.names}
    signal = TeacherSignal(scores=FullLogits(teacher))
    measured = measure(model, batch, objective, signal, factors=factors, device=CPU, **options)
    return torch.stack(list(measured.losses.values())).sum()


def _gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _compare(model: torch.nn.Module, batch: TokenBatch, teacher: Tensor, **options: Any) -> None:
    expected = _dense(model, batch, teacher, 0.3 if options.get("terms", BOTH) == BOTH else 0.0)
    dense = _gradients(model, expected)
    loss = _ours(model, batch, teacher, **options)
    ours = _gradients(model, loss)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert set(ours) == set(dense)
    for name, gradient in dense.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_loss_and_every_gradient_equal_the_dense_ones(kind: str, chunk: int) -> None:
    batch = _batch()
    _compare(tiny_model(kind), batch, _teacher_logits(batch))


@pytest.mark.parametrize("kind", ["tied", "soft cap"])
def test_each_term_in_a_pass_of_its_own_gives_the_same(kind: str) -> None:
    batch = _batch()
    _compare(tiny_model(kind), batch, _teacher_logits(batch), per_term_backward=True)


def test_one_divergence_alone_equals_the_dense_one(chunk: int) -> None:
    batch, model = _batch(), tiny_model("head bias")
    teacher = _teacher_logits(batch)
    _compare(model, batch, teacher, terms=BOTH[1:])


def test_a_padded_vocabulary_is_compared_on_the_shared_ids_alone(chunk: int) -> None:
    batch = _batch()
    _compare(tiny_model("untied"), batch, _teacher_logits(batch, VOCABULARY - 5))
    _compare(tiny_model("untied"), batch, _teacher_logits(batch, VOCABULARY + 3))


def test_a_frozen_head_gets_no_gradient_and_the_rest_the_same(chunk: int) -> None:
    batch, model = _batch(), tiny_model("untied")
    model.get_output_embeddings().weight.requires_grad_(False)
    _compare(model, batch, _teacher_logits(batch))
    assert model.get_output_embeddings().weight.grad is None


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
@pytest.mark.parametrize("target", [["q_proj"], ["q_proj", "lm_head"]], ids=["body", "body and head"])
@pytest.mark.parametrize("saved", [None, ["lm_head"]], ids=["", "head saved"])
def test_adapters(target: list[str], saved: list[str] | None) -> None:
    if saved and "lm_head" in target:
        pytest.skip("PEFT takes a module as adapted or as saved, not as both")
    batch = _batch()
    config = LoraConfig(target_modules=target, modules_to_save=saved, r=2, lora_alpha=8, init_lora_weights=False)
    model = get_peft_model(tiny_model("untied"), config)
    _compare(model, batch, _teacher_logits(batch))


def test_gradient_checkpointing_changes_nothing() -> None:
    batch, model = _batch(), tiny_model("untied")
    model.train()
    dense = _gradients(model, _dense(model, batch, _teacher_logits(batch)))
    recompute_activations(model)
    ours = _gradients(model, _ours(model, batch, _teacher_logits(batch)))
    for name, gradient in dense.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bfloat16_stays_near_the_dense_float32(autocast: bool, chunk: int) -> None:
    batch, model = _batch(), tiny_model("untied")
    teacher = _teacher_logits(batch)
    expected = _dense(model, batch, teacher)
    dense = _gradients(model, expected)
    if not autocast:
        model = model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = _ours(model, batch, teacher)
    ours = _gradients(model, loss)
    # bfloat16 has 8 bits: 1/256 a rounding, some of them on the way
    assert abs(loss.item() / expected.item() - 1) < 0.01
    for name, gradient in dense.items():
        distance = (ours[name].float() - gradient).norm() / gradient.norm()
        assert distance < 0.05, (name, float(distance))


def test_two_backward_passes_accumulate() -> None:
    batch, model = _batch(), tiny_model("tied")
    teacher = _teacher_logits(batch)
    once = _gradients(model, _ours(model, batch, teacher))
    model.zero_grad()
    for _ in range(2):
        (0.5 * _ours(model, batch, teacher)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, once[name], rtol=1e-5, atol=1e-7)


def test_a_microbatch_without_scored_tokens_gives_zero_and_zero_gradients() -> None:
    batch, model = _batch(), tiny_model("untied")
    batch["answer_mask"] = torch.zeros_like(batch["answer_mask"])
    loss = _ours(model, batch, torch.randn(0, VOCABULARY))
    assert loss.item() == 0.0
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in _gradients(model, loss).values())


class _Logits(TorchDispatchMode):
    """Notes the most rows of any tensor as wide as the vocabulary that is made."""

    rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dim() >= 2 and made.shape[-1] == VOCABULARY:
            self.rows = max(self.rows, made.numel() // VOCABULARY)
        return made


def test_no_tensor_of_size_tokens_by_vocabulary_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 3)
    batch, student, teacher = _batch(), tiny_model("untied"), local_teacher(tiny_model("untied", seed=9))
    objective = build_objective(BOTH, shared_width=VOCABULARY)
    assert int(scored_positions(batch).sum()) > 10 and student.config.hidden_size < VOCABULARY
    with _Logits() as seen:
        signal = teacher.signal(batch, objective.request)
        factors = dict.fromkeys(objective.names, 1.0)
        loss = measure(student, batch, objective, signal, factors=factors, device=CPU).losses
        torch.stack(list(loss.values())).sum().backward()
    assert seen.rows in (3, student.config.hidden_size)  # a chunk; the head's weight transposed
