"""The loop that samples answers in training: against `generate`, against a fresh forward pass, and by frequencies."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from distillab.errors import ConfigError
from distillab.models.generation import Decoding, generate_batches
from distillab.models.rollout import Sampled, require_samples, sample_answers
from tests.training.conftest import VOCABULARY, ragged_split, tiny_llama

TOKENS = 12
PROMPTS = [row.input_ids[: row.prompt_length].tolist() for row in ragged_split(6).rows]


def _uniform(rows: int, tokens: int = TOKENS, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _sample(model: PreTrainedModel, temperature: float = 1.0, stop_ids: tuple[int, ...] = (2,)) -> list[Sampled]:
    return sample_answers(
        model,
        PROMPTS,
        stop_ids=stop_ids,
        width=VOCABULARY,
        temperature=temperature,
        uniform_BT=_uniform(len(PROMPTS)),
    )


def _middle(found: list[Sampled]) -> int:
    """A token in the middle of the longest answer: as a stop it makes rows leave the batch at different steps."""
    return max((one.answer.ids for one in found), key=len)[3]


def test_at_temperature_0_it_writes_what_generate_writes() -> None:
    model = tiny_llama(0)
    stop = _middle(_sample(model, 0.0))
    found = [one.answer for one in _sample(model, 0.0, (2, stop))]
    (expected,) = generate_batches(model, PROMPTS, decoding=Decoding(TOKENS), stop_ids=(2, stop), batch_size=6)
    assert found == expected
    assert any(one.stopped for one in found)
    assert len({len(one.ids) for one in found}) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kept_log_probabilities_are_those_of_a_fresh_forward_pass(temperature: float) -> None:
    model = tiny_llama(0)
    stop = _middle(_sample(model, temperature))
    for prompt, one in zip(PROMPTS, _sample(model, temperature, (2, stop)), strict=True):
        ids = torch.tensor([[*prompt, *one.answer.scored_ids]])
        fresh = model(input_ids=ids).logits[0].detach().log_softmax(-1)
        expected = [float(fresh[len(prompt) - 1 + n, token]) for n, token in enumerate(one.answer.scored_ids)]
        assert one.logp == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_are_the_model_s_probabilities(temperature: float) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, eos_token_id=None
    )
    model, rows = LlamaForCausalLM(config).eval(), 4000
    with torch.no_grad():
        model.lm_head.weight *= 12
        expected = (model(input_ids=torch.tensor([[1, 3]])).logits[0, -1].double() / temperature).softmax(-1)
    answers = sample_answers(
        model, [[1, 3]] * rows, stop_ids=(), width=5, temperature=temperature, uniform_BT=_uniform(rows, 1)
    )
    counts = torch.bincount(torch.tensor([one.answer.ids[0] for one in answers]), minlength=5)
    assert expected.min() > 1e-3 and expected.max() < 0.9
    for count, p in zip(counts.tolist(), expected.tolist(), strict=True):
        assert abs(count - rows * p) < 4 * math.sqrt(rows * p * (1 - p))


def test_the_rows_that_share_a_batch_do_not_matter() -> None:
    model, uniform = tiny_llama(0), _uniform(len(PROMPTS))
    stops = (2, _middle(_sample(model)))
    alone = [
        sample_answers(model, [p], stop_ids=stops, width=VOCABULARY, temperature=1.0, uniform_BT=uniform[n : n + 1])[0]
        for n, p in enumerate(PROMPTS)
    ]
    together = [one.answer for one in _sample(model, stop_ids=stops)]
    assert [one.answer for one in alone] == together
    assert len({len(one.ids) for one in together}) > 1


def test_a_token_without_probability_is_never_drawn() -> None:
    model = tiny_llama(0)
    with torch.no_grad():
        model.lm_head.weight *= 2000  # float32 gives most tokens no probability
    zeros = torch.zeros(len(PROMPTS), 4, dtype=torch.float64)  # the lowest number that can be drawn
    found = sample_answers(model, PROMPTS, stop_ids=(2,), width=VOCABULARY, temperature=1.0, uniform_BT=zeros)
    assert min(logp for one in found for logp in one.logp) > -104  # exp(-104) is 0 in float32


def test_ids_beyond_the_shared_ones_are_never_written() -> None:
    model = tiny_llama(0)
    found = sample_answers(
        model, PROMPTS, stop_ids=(2,), width=10, temperature=1.0, uniform_BT=_uniform(len(PROMPTS), 40)
    )
    assert max(token for one in found for token in one.answer.scored_ids) < 10


def test_the_mode_and_the_global_generator_are_left_as_they_were() -> None:
    model = tiny_llama(0).train()
    before = torch.get_rng_state()
    _sample(model)
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_a_student_without_a_cache_of_keys_and_values_is_refused() -> None:
    require_samples(tiny_llama(0))
    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ConfigError, match="cannot write its own answers") as error:
        require_samples(model)
    assert "MambaForCausalLM" in str(error.value) and "no row can leave its cache" in str(error.value)
