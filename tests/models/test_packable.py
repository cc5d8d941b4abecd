"""No packed sample reads another one: proven on real architectures; those that would leak are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel, modeling_flash_attention_utils

from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow
from distillab.errors import ConfigError
from distillab.models.inputs import model_inputs
from distillab.models.packable import require_packable
from distillab.models.scoring import scored_positions, scored_rows, scored_targets

CPU = torch.device("cpu")
VOCABULARY = 64
_ROPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_SHAPES = {
    "Llama": _ROPE,
    "Mistral": {**_ROPE, "sliding_window": 4},
    "Qwen2": _ROPE,
    "Gemma2": {**_ROPE, "sliding_window": 4, "head_dim": 8},
    "GPT2": {**_GPT2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
}
_NAMES = [f"{name}-{attention}" for name in _SHAPES for attention in ("sdpa", "eager") if name != "Gemma2"]
_NAMES += ["Gemma2-eager", "bitllama-3M-tok512", "smallmistral-stories"]


def tiny(name: str, attention: str, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**_SHAPES[name], **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.fixture(params=_NAMES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    name, _, attention = request.param.partition("-")
    if name in _SHAPES:
        return tiny(name, attention)
    materials = request.getfixturevalue("materials")
    return AutoModelForCausalLM.from_pretrained(materials / "models" / request.param, dtype=torch.float32).eval()


def rows(seed: int = 0) -> list[IndexedRow]:
    """Ragged rows of random tokens; each learns its second half."""
    generator = np.random.default_rng(seed)
    made = []
    for index, length in enumerate([9, 4, 14, 6, 11, 3]):
        ids = generator.integers(3, VOCABULARY, size=length).astype(np.int32)
        made.append(IndexedRow(index, EncodedRow(f"k{index}", ids, np.arange(length) >= length // 2, length // 2)))
    return made


def logits(model: PreTrainedModel, batch) -> torch.Tensor:
    return model(**model_inputs(batch, CPU, model=model)).logits


def row_sums(model: PreTrainedModel, batches, count: int) -> torch.Tensor:
    """Cross-entropy of each row in nats, as the trainer scores it."""
    sums = torch.zeros(count)
    for batch in batches:
        scored = logits(model, batch)[:, :-1][scored_positions(batch)]
        nats = torch.nn.functional.cross_entropy(scored, scored_targets(batch), reduction="none")
        sums = sums.index_add(0, scored_rows(batch), nats)
    return sums


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> torch.Tensor:
    learning = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, learning)])


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_changing_one_sample_moves_no_logit_of_another(model, side):
    batch = Collator(0, side, capacity=20)(rows())
    assert len(batch["input_ids"]) == 3 and not batch["attention_mask"].all()
    before = logits(model, batch)
    for changed in range(6):
        mine = batch["rows"] == changed
        other = {**batch, "input_ids": torch.where(mine, (batch["input_ids"] + 1) % VOCABULARY, batch["input_ids"])}
        difference = (logits(model, other) - before).abs().amax(-1)
        assert difference[mine].max() > 1e-3
        assert difference[~mine & (batch["rows"] >= 0)].max() == 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_loss_and_gradients_are_those_of_rows_alone(model, side):
    made = rows()
    packed = row_sums(model, [Collator(0, side, capacity=20)(made)], len(made))
    # each row by itself, with nothing but its ids
    alone = torch.stack(
        [
            torch.nn.functional.cross_entropy(
                model(input_ids=torch.tensor(item.row.input_ids[None].astype(np.int64))).logits[
                    0, len(item.row) // 2 - 1 : -1
                ],
                torch.tensor(item.row.input_ids[len(item.row) // 2 :].astype(np.int64)),
                reduction="sum",
            )
            for item in made
        ]
    )
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    got, expected = gradients(model, packed.mean()), gradients(model, alone.mean())
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_the_padding_mask_would_let_samples_read_each_other():
    """Why a packed batch goes without it: transformers then looks for packed samples no more."""
    model = tiny("Llama", "sdpa")
    batch = Collator(0, capacity=20)(rows())
    wrong = {**model_inputs(batch, CPU, model=model), "attention_mask": batch["attention_mask"]}
    mine = batch["rows"] >= 0
    assert (model(**wrong).logits - logits(model, batch))[mine].abs().max() > 0.01


def test_the_probe_passes_what_keeps_samples_apart(model):
    model.train()
    require_packable(model, role="student")
    assert model.training


_REFUSED: dict[str, dict[str, object]] = {
    "Mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2},
    "Bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4},
    "Rwkv": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2},
    "Falcon": {**_ROPE, "hidden_size": 32},
    "Jamba": {**_ROPE, "use_mamba_kernels": False},
}


@pytest.mark.parametrize("name", _REFUSED)
def test_models_that_read_across_samples_are_refused(name, recwarn):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**_REFUSED[name]))
    with pytest.raises(ConfigError, match="teacher") as error:
        require_packable(model, role="teacher")
    message = str(error.value)
    assert name.lower() in message.lower()
    assert "logits moved: by" in message and "training.packing: false" in message


class WithoutPositions(transformers.LlamaForCausalLM):
    """A model that can be told nothing but ids and mask."""

    def forward(self, input_ids=None, attention_mask=None, use_cache=None):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)


def test_a_model_that_takes_no_position_ids_is_refused_and_called_without_them():
    model = WithoutPositions(transformers.LlamaConfig(**_ROPE)).eval()
    assert set(model_inputs(Collator(0)(rows()), CPU, model=model)) == {"input_ids", "attention_mask", "use_cache"}
    with pytest.raises(ConfigError, match="takes no argument") as error:
        require_packable(model, role="student")
    assert "does not take position_ids" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_probe_judges_low_precision_by_its_own_measure(dtype):
    require_packable(tiny("Llama", "sdpa", num_hidden_layers=6).to(dtype), role="student")
    torch.manual_seed(0)
    leaky = AutoModelForCausalLM.from_config(transformers.FalconConfig(**_ROPE), dtype=dtype)
    with pytest.raises(ConfigError, match="would read each other"):
        require_packable(leaky, role="student")


def reference_varlen(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False, window_size=None
):
    """What a flash kernel computes over samples in one line, (tokens, heads, width), as a loop."""
    assert causal and max_seqlen_q == max(np.diff(cu_seqlens_q.tolist())) and max_seqlen_k == max_seqlen_q
    repeat = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    for start, end in zip(cu_seqlens_q.tolist(), cu_seqlens_k.tolist()[1:], strict=False):
        for t in range(start, end):
            first = start if window_size is None else max(start, t - window_size[0])
            keys, values = (x[first : t + 1].repeat_interleave(repeat, dim=1) for x in (k, v))
            weights = (torch.einsum("hd,shd->hs", q[t], keys) * softmax_scale).softmax(-1)
            out[t] = torch.einsum("hs,shd->hd", weights, values)
    return out


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PreTrainedModel]:
    """Models that call flash attention, with the reference in the place of the kernel, which needs a GPU."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a packed batch must use the kernel that knows samples")

    functions = (forbidden, reference_varlen, None, forbidden, forbidden)
    monkeypatch.setattr(modeling_flash_attention_utils, "_lazy_imports", lambda *args, **kwargs: functions)
    monkeypatch.setattr(modeling_flash_attention_utils, "_loaded_implementation", None)

    def make(name: str) -> PreTrainedModel:
        made = tiny(name, "eager")
        made.config._attn_implementation_internal = "flash_attention_2"
        return made

    return make


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_flash_attention_is_told_where_samples_begin_in_every_sequence(flash, name, side):
    batch = Collator(0, side, capacity=20)(rows())
    assert len(batch["input_ids"]) > 1  # for one sequence transformers reads position ids itself
    tokens = batch["rows"] >= 0
    expected = logits(tiny(name, "eager"), batch)[tokens]
    torch.testing.assert_close(logits(flash(name), batch)[tokens], expected, rtol=1e-5, atol=1e-5)
