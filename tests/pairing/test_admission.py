"""Methods that a pair allows: computed from what a method needs, whatever its name."""

from __future__ import annotations

import pytest

from distillab.config.layer_terms import HiddenStatesConfig, SpanHiddenStatesConfig
from distillab.config.methods import METHODS, Method
from distillab.config.terms import (
    CrossEntropyConfig,
    MergedSpansConfig,
    TermConfig,
    TokenDivergenceConfig,
    VocabularyProjectionConfig,
)
from distillab.errors import TokenizerMismatch
from distillab.pairing.admission import admit, equals_with_same_tokens, pair_check, require_admitted
from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.known import teachers_with_tokenizer
from distillab.records import PairCheck, TokenizerContract

VERDICTS = ("identical", "padded", "extended", "different")


@pytest.fixture(scope="session")
def investigated(real) -> TokenizerContract:
    return compare_tokenizers(
        real("mistral-7b-v0.1"), real("tinyllama-1.1b"), teacher_width=32_000, student_width=32_000
    )


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("name", METHODS)
def test_only_a_loss_that_needs_the_same_tokens_is_refused_on_a_different_pair(
    investigated: TokenizerContract, name: str, verdict: str
) -> None:
    contract = investigated.model_copy(update={"verdict": verdict})
    admission = admit(contract, name, METHODS[name])
    same_tokens = ("logits", "hidden_states", "attention", "white_box", "on_policy", "on_policy_pure", "gkd")
    by_id_or_position = name in same_tokens
    assert admission.admitted == (not by_id_or_position or verdict != "different")
    assert admission.access == METHODS[name].access
    assert admission.reason


def test_the_name_decides_nothing(investigated: TokenizerContract) -> None:
    by_id = Method("teacher", (CrossEntropyConfig(), TokenDivergenceConfig()), "x")
    harmless = Method("dataset", (CrossEntropyConfig(),), "x")
    assert not admit(investigated, "seqkd", by_id).admitted
    assert admit(investigated, "logits", harmless).admitted
    with pytest.raises(TokenizerMismatch, match="Method sft with the terms cross_entropy, token_divergence is not"):
        require_admitted(investigated, "sft", by_id)
    require_admitted(investigated, "logits", harmless)


@pytest.mark.parametrize(
    ("verdict", "name", "expected"),
    [
        ("identical", "vocabulary_projection", "prefer logits"),
        ("padded", "merged_spans", "with the same tokens, as here, it equals logits and costs more"),
        ("extended", "merged_spans", "prefer logits"),
        ("identical", "span_likelihood", "prefer logits"),
        ("identical", "contrastive", "prefer hidden_states"),
        ("extended", "dual_space", "prefer hidden_states"),
    ],
)
def test_with_shared_ids_a_method_for_two_tokenizers_is_outdone(
    investigated: TokenizerContract, verdict: str, name: str, expected: str
) -> None:
    contract = investigated.model_copy(update={"verdict": verdict, "probes_differ": ()})
    admission = admit(contract, name, METHODS[name])
    assert admission.admitted and expected in admission.reason
    cut_otherwise = contract.model_copy(update={"probes_differ": (investigated.example,)})
    reason = admit(cut_otherwise, name, METHODS[name]).reason
    assert "equals" not in reason and "prefer" in reason
    across = admit(investigated, name, METHODS[name]).reason
    assert "equals" not in across and "prefer" not in across


@pytest.mark.parametrize(
    ("terms", "equal"),
    [
        ((CrossEntropyConfig(weight=0.5), VocabularyProjectionConfig(weight=0.5)), True),
        ((CrossEntropyConfig(weight=0.5), VocabularyProjectionConfig(weight=0.5, form="common")), True),
        ((CrossEntropyConfig(weight=0.5), MergedSpansConfig(weight=0.5)), True),
        ((CrossEntropyConfig(), VocabularyProjectionConfig()), False),
        ((CrossEntropyConfig(weight=0.5), VocabularyProjectionConfig(weight=0.5, temperature=2.0)), False),
        ((CrossEntropyConfig(weight=0.5), VocabularyProjectionConfig(weight=0.5, divergence="reverse_kl")), False),
        ((VocabularyProjectionConfig(weight=0.5),), False),
        ((CrossEntropyConfig(), SpanHiddenStatesConfig(weight=METHODS["hidden_states"].terms[1].weight)), False),
    ],
)
def test_equal_is_said_of_equal_settings_alone(terms: tuple[TermConfig, ...], equal: bool) -> None:
    assert equals_with_same_tokens(Method("dataset", terms, "x")) == equal
    assert not equals_with_same_tokens(Method("teacher", terms, "x"))


def test_terms_for_one_tokenisation_and_for_two_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"hidden_states is for one .*span_hidden_states for two"):
        Method("dataset", (CrossEntropyConfig(), HiddenStatesConfig(), SpanHiddenStatesConfig()), "x")


def test_refusal_says_what_why_and_the_ways_out(investigated: TokenizerContract) -> None:
    with pytest.raises(TokenizerMismatch) as caught:
        require_admitted(investigated, "logits", METHODS["logits"])
    text = str(caught.value)
    for part in (
        "Method logits is not valid for this pair",
        "teacher mistral-7b-v0.1, student tinyllama-1.1b",
        "only 270 (0.8%) mean the same",
        "'The quick brown fox jumps over the lazy dog.' in both",
        "teacher 1, 415, 2936, 9060,",
        "student 1, 450, 4996, 17354,",
        "position 1: the student's token ' The' would be pushed towards the teacher's token",
        "because both have id 450",
        "path A: a teacher with the student's tokenizer. For tinyllama-1.1b that is e.g. meta-llama/Llama-2-7b-hf",
        "path B: sequence-level KD (method: seqkd)",
        "path C: a method made for two tokenizers, best first: vocabulary_projection, span_hidden_states, ",
    ):
        assert part in text
    assert "sorted_probabilities" not in text  # it stands behind sft in the measured order


def test_a_refused_method_is_an_error(investigated: TokenizerContract) -> None:
    with pytest.raises(TokenizerMismatch):
        require_admitted(investigated, "logits", METHODS["logits"])


def test_judgement(investigated: TokenizerContract, real) -> None:
    judged = pair_check(investigated)
    assert [method.method for method in judged.methods] == list(METHODS)
    assert len(judged.ways_out) == 3
    assert PairCheck.model_validate_json(judged.model_dump_json()) == judged
    same = compare_tokenizers(real("tok512"), real("tok512"), teacher_width=None, student_width=None)
    assert pair_check(same).ways_out == ()
    assert pair_check(same).recommended.method == "logits"
    assert all(method.admitted for method in pair_check(same).methods)


def test_way_out_for_a_tokenizer_that_nobody_knows(toy, wrap, merges) -> None:
    contract = compare_tokenizers(
        wrap(toy(merges), name="one"), wrap(toy(merges[::-1]), name="two"), teacher_width=None, student_width=None
    )
    (first, *_) = pair_check(contract).ways_out
    assert "larger models of two's own family" in first
    assert "meta-llama" not in first


@pytest.mark.parametrize(
    ("name", "teacher"),
    [
        ("tinyllama-1.1b", "meta-llama/Llama-2-7b-hf"),
        ("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("gpt2", "openai-community/gpt2-xl"),
    ],
)
def test_known_fingerprints_are_those_of_the_real_tokenizers(real, name: str, teacher: str) -> None:
    contract = compare_tokenizers(real(name), real(name), teacher_width=None, student_width=None)
    assert teacher in teachers_with_tokenizer(contract.student.fingerprint)
