"""The formulas of terms and divergences, each in a line, for a reader without the documentation.

p is the teacher's next-token distribution and q the student's, at one position; docs/methods has a page for each term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillab.config.term_base import LinearWeight, weight_text

DIVERGENCES = {
    "forward_kl": "KL(p ‖ q) = Σ p (log p − log q)",
    "reverse_kl": "KL(q ‖ p) = Σ q (log q − log p)",
    "jensen_shannon": "w·KL(p ‖ M) + (1−w)·KL(q ‖ M), M = w·p + (1−w)·q, w = {teacher_weight}",
    "skewed_forward_kl": "KL(p ‖ α·p + (1−α)·q), α = {skew}",
    "skewed_reverse_kl": "KL(q ‖ (1−α)·p + α·q), α = {skew}",
    "adaptive_kl": "forward and reverse KL, weighted by the gaps of head and tail; the head holds {head_mass} of p",
    "total_variation": "½ Σ |p − q|",
    "alpha_beta": "−1/(αβ) Σ [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)], α = {alpha}, β = {beta}",
}
TERMS = {
    "cross_entropy": "−log q(y), y the next token of the answer",
    "token_divergence": "{divergence}",
    "top_k_divergence": "{divergence}, over the teacher's {k} most likely tokens (tail: {tail})",
    "sampled_divergence": "mean of log p(x) − log q(x) over {samples} tokens x drawn from p",
    "vocabulary_projection": "{divergence}, over groups of tokens of the two vocabularies (form: {form})",
    "measured_transport": "{divergence}, one of both carried over to the other's tokens (form: {form})",
    "top_k_transport": "{divergence} at the {k} most likely tokens of p, one side carried over (form: {form})",
    "span_likelihood": "KL between Bernoulli(P^(1/τ)) and Bernoulli(Q^(1/τ)), P and Q the probabilities of a common "
    "span of text, τ = {temperature}",
    "sorted_probabilities": "Σ |sort↓(q) − sort↓(p)|",
    "merged_spans": "{divergence}, merged over common spans of text",
    "dual_space": "divergence of each model's distribution from the other's states read by its head",
    "contrastive": "InfoNCE between the two models' states of common spans",
    "custom_loss": "a loss of the user's own: {name}",
    "custom_divergence": "a divergence of the user's own: {name}",
    "hidden_states": "distance of the hidden states ({loss}), layers: {layers}",
    "span_hidden_states": "distance of the hidden states of common spans ({loss}), layers: {layers}",
    "attention_relations": "KL between softmax(x·xᵀ/√d) of the two models, x: {relations}, layers: {layers}",
    "attention_maps": "KL between the attention maps of the two models, layers: {layers}",
}


def formula_of(term: Mapping[str, Any]) -> str:
    """Return the formula of a term, with its settings.

    Args:
        term: the settings of a recorded recipe.

    >>> formula_of({"kind": "token_divergence", "divergence": "skewed_forward_kl", "skew": 0.5, "temperature": 2})
    'KL(p ‖ α·p + (1−α)·q), α = 0.5, temperature 2'
    """
    divergence = DIVERGENCES[term["divergence"]].format_map(term) if "divergence" in term else ""
    values = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in term.items()}
    text = TERMS[term["kind"]].format_map({**values, "divergence": divergence})
    tempered = divergence and term.get("temperature", 1.0) != 1.0
    if not tempered:
        return text
    squared = ", times its square" if term.get("rescale_by_temperature_squared") else ""
    return f"{text}, temperature {term['temperature']:g}{squared}"


def weight_of(term: Mapping[str, Any]) -> str:
    """Return the weight of a term as the report shows it: `0.5`, `1→0`, `balanced`."""
    weight = term["weight"]
    return weight_text(LinearWeight(**weight) if isinstance(weight, Mapping) else weight)
