"""Recommend the method to begin with: the best in our measurements among those that suit the pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillab.config.methods import METHODS, Method
from distillab.pairing.sample import SAMPLE_SOURCE
from distillab.records import DataOverlap, Recommendation, TokenizerContract

# Best first, by mean rank on two pairs with different tokenizers (section named below), with one exception: hidden
# states and contrastive were better than the projection, for randomly initialised students. They come after it for the
# reason given below for pairs with the same tokens. Methods after sft are not recommended: they were worse than no
# teacher, or, as measured_transport, no better than the projection.
ORDER_ACROSS_TOKENIZERS: tuple[str, ...] = (
    "vocabulary_projection",
    "span_hidden_states",
    "contrastive",
    "merged_spans",
    "seqkd",
    "span_likelihood",
    "dual_space",
    "sft",
    "measured_transport",
    "sorted_probabilities",
)
ACROSS_TOKENIZERS_MEASURED_IN = "docs/experiments.md#across-tokenizers"
PRETRAINED_MEASURED_IN = "docs/experiments.md#2026-12-01-pretrained-pairs-with-two-tokenizers-three-seeds"

# The order is another one where the student's tokens are longer: measured with 0.54 of the teacher's boundaries in
# common, where transport was as good as no teacher, and the projection and SeqKD were worse. With 0.98 transport and
# projection did not differ; in between nothing was measured.
LONGER_TOKENS_BELOW = 0.6
LONGER_TOKENS_MEASURED_IN = "docs/experiments.md#512-pieces--mistrals-tokens-answers-of-gsm8k"

# With the same tokens: better than sft in every study so far. Hidden states gained more for randomly initialised
# students and nothing for a pretrained one, and a tokenizer does not show which of the two the student is.
BEST_WITH_SAME_TOKENS = "logits"
WITH_SAME_TOKENS_MEASURED_IN = "docs/experiments.md#2026-11-22-weights-of-terms-on-hidden-states-and-attention"

# Below one half most of what a term compares is missing: most of the teacher's probability lies on tokens that the
# student lacks, or most positions of the student have no aligned position of the teacher.
ENOUGH_OF_TEXT = 0.5


def recommend(contract: TokenizerContract) -> Recommendation:
    """Return the method to begin with, and why.

    A term that matches tokens of two vocabularies needs common tokens, and every cross-tokenizer term needs common
    boundaries. The first method of the measured order with enough of both, on the text of the contract, is
    recommended. Tokens are weighted by how often they occur, because most of a vocabulary is rare.
    """
    if contract.verdict != "different":
        return Recommendation(
            method=BEST_WITH_SAME_TOKENS,
            because=(
                f"{contract.shared_width:,} ids mean the same in both tokenizers, so the teacher's whole distribution "
                "can be compared at every token",
                f"for a student with random weights, white_box was better still: {WITH_SAME_TOKENS_MEASURED_IN}",
            ),
        )
    passed: dict[str, list[str]] = {}
    for name in order_across_tokenizers(contract):
        lacking = _lacking(contract, METHODS[name])
        if lacking is None:
            return Recommendation(method=name, because=_because(contract, name, passed))
        passed.setdefault(lacking, []).append(name)
    raise AssertionError("the order has methods that need nothing of a pair")


def order_across_tokenizers(contract: TokenizerContract) -> tuple[str, ...]:
    """Return all methods for two tokenizers, and those they are held against, best first for the pair."""
    if not _student_has_longer_tokens(contract):
        return ORDER_ACROSS_TOKENIZERS
    others = [name for name in ORDER_ACROSS_TOKENIZERS if name not in ("measured_transport", "vocabulary_projection")]
    behind = others.index("sft") + 1
    return ("measured_transport", *others[:behind], "vocabulary_projection", *others[behind:])


def cross_tokenizer_methods(contract: TokenizerContract) -> tuple[str, ...]:
    """Return the cross-tokenizer methods that suit the pair and were not worse than SFT, best first."""
    order = order_across_tokenizers(contract)
    aligned = [name for name in order[: order.index("sft")] if METHODS[name].tokens == "aligned"]
    return tuple(name for name in aligned if _lacking(contract, METHODS[name]) is None)


def _because(contract: TokenizerContract, name: str, passed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    method = METHODS[name]
    skipped = [f"{', '.join(names)}: measured better, but {lacking}" for lacking, names in passed.items()]
    if _student_has_longer_tokens(contract):
        share = f"only {contract.data.teacher_boundaries_shared:.1%} of the teacher's boundaries are the student's"
        skipped.append(
            f"{share}, whose tokens are longer: on such a pair measured_transport was as good as no teacher, "
            "vocabulary_projection and seqkd worse"
        )
        return (*_common(contract, method), *skipped, f"measured: {LONGER_TOKENS_MEASURED_IN}")
    internals = ["span_hidden_states", "contrastive"]
    further = [other for other in internals if _lacking(contract, METHODS[other]) is None and name not in internals]
    if further and name in cross_tokenizer_methods(contract):
        skipped.append(f"for a student with random weights, {' and '.join(further)} were better still")
    if name in internals:
        skipped.append(f"a pretrained student gained nothing from it on three such pairs: {PRETRAINED_MEASURED_IN}")
    return (*_common(contract, method), *skipped, f"the order was measured: {ACROSS_TOKENIZERS_MEASURED_IN}")


def _student_has_longer_tokens(contract: TokenizerContract) -> bool:
    data = contract.data
    return data.teacher_boundaries_shared < min(LONGER_TOKENS_BELOW, data.student_boundaries_shared)


def _matches_tokens(method: Method) -> bool:
    return any(term.matches is not None and term.needs_common_tokens for term in method.terms)


def _common(contract: TokenizerContract, method: Method) -> tuple[str, ...]:
    """Return what the two tokenizers have in common for the method."""
    if method.tokens == "any":
        return ("it needs only text, which every tokenizer can read",)
    data = contract.data
    share, words = _tokens_in_common(data)
    places, where = _places_in_common(data, method)
    common = [f"{share:.1%} {words}"] if _matches_tokens(method) else []
    hint = ["--data FILE measures the same on your own text"] if data.source == SAMPLE_SOURCE else []
    return (*common, f"{places:.1%} {where}", *hint)


def _lacking(contract: TokenizerContract, method: Method) -> str | None:
    """Return why the pair has too little in common for the method; None if it has enough."""
    if method.tokens == "any":
        return None
    data = contract.data
    if data.rows_not_comparable > ENOUGH_OF_TEXT * data.rows:
        return f"{data.rows_not_comparable:,} of {data.rows:,} rows of {data.source} are not the same bytes to both"
    share, words = _tokens_in_common(data)
    if _matches_tokens(method) and share < ENOUGH_OF_TEXT:
        return f"only {share:.1%} {words}"
    places, words = _places_in_common(data, method)
    return f"only {places:.1%} {words}" if places < ENOUGH_OF_TEXT else None


def _tokens_in_common(data: DataOverlap) -> tuple[float, str]:
    """Return the share of the teacher's tokens that the student has too, and its description."""
    return data.teacher_tokens_known, f"of the teacher's tokens in {data.source} are tokens of the student"


def _places_in_common(data: DataOverlap, method: Method) -> tuple[float, str]:
    """Return the share of one tokenizer's boundaries that the other has too, and its description.

    Tokens are matched at the student's positions. Spans end where the tokenizer with fewer boundaries has one.
    """
    teacher, student = data.teacher_boundaries_shared, data.student_boundaries_shared
    if _matches_tokens(method) or student >= teacher:
        return student, f"of the student's boundaries in {data.source} are the teacher's too"
    return teacher, f"of the teacher's boundaries in {data.source} are the student's too"
