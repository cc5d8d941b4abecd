"""A checkpoint's generation config: its stop ids count, and no other field of it changes what is generated."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation import WatermarkingConfig

from distillab.models.generation import Decoding, Generated, all_stop_ids, generate_batches

TOKENS = 24
PROMPTS = [[5, 9, 3, 17], [11, 4]]

# A value for every field that changes what transformers' `generate` gives, or makes it fail. GREEDY: always.
GREEDY: dict[str, Any] = {
    "min_length": 60,
    "min_new_tokens": TOKENS,
    "max_time": 1e-9,
    "stop_strings": ["a"],
    "num_beams": 4,
    "repetition_penalty": 1.7,
    "encoder_repetition_penalty": 0.3,
    "no_repeat_ngram_size": 1,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": "first",
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 0,
    "exponential_decay_length_penalty": (1, 40.0),
    "suppress_tokens": "first",
    "begin_suppress_tokens": "first",
    "sequence_bias": [[[7], 100.0]],
    "token_healing": True,
    "guidance_scale": 30.0,
    "watermarking_config": WatermarkingConfig(bias=50.0),
    "return_dict_in_generate": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "constraints": ["x"],
    "force_words_ids": [[7]],
    "num_return_sequences": 2,
}
# Only where tokens are drawn.
SAMPLED: dict[str, Any] = {"min_p": 0.9, "top_h": 0.1, "typical_p": 0.05, "epsilon_cutoff": 0.5, "eta_cutoff": 0.9}
# Why no value of these can change an answer.
SET_BY_US = "generate_batches sets it in every call"
NO_ANSWER = "says how the answer is computed or reported, not what it is"
OTHER_MODEL = "read only beside a second (assistant) model, which nobody gives"
HARMLESS: dict[str, str] = {
    **dict.fromkeys(
        ("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "use_cache", "pad_token_id"), SET_BY_US
    ),
    **dict.fromkeys(
        (
            *("cache_implementation", "cache_config", "max_cache_len", "output_attentions", "output_hidden_states"),
            *("output_scores", "output_logits", "compile_config", "disable_compile", "continuous_batching_config"),
            *("low_memory", "prefill_chunk_size", "use_mtp", "speculation_type"),
        ),
        NO_ANSWER,
    ),
    **dict.fromkeys(
        (
            *(
                "is_assistant",
                "num_assistant_tokens",
                "num_assistant_tokens_schedule",
                "assistant_confidence_threshold",
            ),
            *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
        ),
        OTHER_MODEL,
    ),
    "prompt_lookup_num_tokens": "drafts that the model checks: the same answer, sooner",
    "max_matching_ngram_size": "of prompt_lookup_num_tokens",
    "max_length": "max_new_tokens rules it",
    "early_stopping": "of beams",
    "length_penalty": "of beams",
    "num_beam_groups": "of beams",
    "diversity_penalty": "of beams",
    "renormalize_logits": "the order of the tokens stays",
    "remove_invalid_values": "of logits that are not finite",
    "bos_token_id": "of an empty prompt, which is refused",
    "decoder_start_token_id": "of encoder-decoder models",
    "eos_token_id": "the stop ids: they count, see below",
    "transformers_version": "a note",
    "_from_model_config": "a note",
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=40, max_position_embeddings=96, initializer_range=0.3, **shape))
    made.generation_config = GenerationConfig(eos_token_id=0)
    return made.eval()


@pytest.fixture(scope="module")
def stop(model: PreTrainedModel) -> int:
    """A token that the model writes by itself, but not as its first: answers stop, and might go on."""
    ids = _ours(model, GenerationConfig(), sample=False, stop=0)[0].ids
    return next(token for place, token in enumerate(ids) if place > 3 and token not in ids[:place])


def _ours(
    model: PreTrainedModel, own: GenerationConfig, *, sample: bool, stop: int, prompts: list[list[int]] = PROMPTS
) -> list[Generated]:
    torch.manual_seed(0)
    model.generation_config = own
    decoding = Decoding(TOKENS, sample=sample)
    made = next(generate_batches(model, prompts, decoding=decoding, stop_ids=[stop], batch_size=2))
    assert model.generation_config is own
    return made


def _transformers(
    model: PreTrainedModel, own: GenerationConfig, *, sample: bool, stop: int, prompts: list[list[int]]
) -> Any:
    """What `generate` gives where it may read the model's own config."""
    torch.manual_seed(0)
    model.generation_config = own
    config = GenerationConfig(
        max_new_tokens=TOKENS, do_sample=sample, top_k=0 if sample else None, eos_token_id=[stop], pad_token_id=stop
    )
    width = max(map(len, prompts))
    ids = torch.tensor([[stop] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
        return made[:, width:].tolist()
    except (ValueError, TypeError, AttributeError, OSError, NotImplementedError) as error:
        return type(error)


def test_every_field_is_known() -> None:
    assert set(vars(GenerationConfig())) <= {*GREEDY, *SAMPLED, *HARMLESS}


@pytest.mark.parametrize("field", [*GREEDY, *SAMPLED])
def test_no_field_changes_an_answer(model: PreTrainedModel, stop: int, field: str) -> None:
    # a forced first token is read where the prompt is a single one
    prompts = [[5]] if field == "forced_bos_token_id" else PROMPTS
    args: dict[str, Any] = {"sample": field in SAMPLED, "stop": stop, "prompts": prompts}
    value = (GREEDY | SAMPLED)[field]
    plain = _ours(model, GenerationConfig(), **args)
    if value == "first":
        value = [plain[0].ids[0]] if field != "bad_words_ids" else [[plain[0].ids[0]]]
    leaking = GenerationConfig()
    setattr(leaking, field, value)
    assert _transformers(model, leaking, **args) != _transformers(model, GenerationConfig(), **args), "no test of it"
    assert _ours(model, leaking, **args) == plain


def test_the_stop_ids_of_the_model_count(model: PreTrainedModel, stop: int) -> None:
    never = 39
    plain = _ours(model, GenerationConfig(), sample=False, stop=stop)
    own = GenerationConfig(eos_token_id=[stop, never])
    assert _ours(model, own, sample=False, stop=never) == plain
    assert all_stop_ids(model, [never]) == sorted([stop, never])
