"""The term merged_spans as loops over texts in plain torch; they share nothing with the code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.objectives.span_samples import SAMPLES, STUDENT_TOKENS, TEACHER_TOKENS, cut, spans_by_hand

COMMON = sorted(set(STUDENT_TOKENS) & set(TEACHER_TOKENS))
OTHERS_S = [token for token in STUDENT_TOKENS if token not in COMMON]
OTHERS_T = [token for token in TEACHER_TOKENS if token not in COMMON]

# settings, and the formula
DIVERGENCES: dict[str, tuple[dict[str, float], Callable[[Tensor, Tensor], Tensor]]] = {
    "forward_kl": ({}, lambda p, q: (p * (p / q).log()).sum()),
    "reverse_kl": ({}, lambda p, q: (q * (q / p).log()).sum()),
    "jensen_shannon": (
        {"teacher_weight": 0.3},
        lambda p, q: sum(
            weight * (side * (side / (0.3 * p + 0.7 * q)).log()).sum() for weight, side in ((0.3, p), (0.7, q))
        ),  # type: ignore[return-value]
    ),
    "total_variation": ({}, lambda p, q: (p - q).abs().sum() / 2),
}


def naive(
    number: int, ours: Tensor, theirs: Tensor, *, name: str, temperature: float, squared: bool, unmatched: float
) -> list[tuple[int, Tensor]]:
    """Place among the scored tokens, and value, of every span of a sample."""
    prompt_s, answer_s, prompt_t, answer_t = map(cut, SAMPLES[number])
    spans_s, spans_t = spans_by_hand(prompt_s + answer_s, prompt_t + answer_t)
    spans_s, spans_t = spans_s[len(prompt_s) :], spans_t[len(prompt_t) :]
    q_all, p_all = ((logits / temperature).softmax(dim=-1) for logits in (ours, theirs))
    compare = DIVERGENCES[name][1]
    found = []
    for span in sorted(set(spans_s)):
        places_s = [place for place, of in enumerate(spans_s) if of == span]
        places_t = [place for place, of in enumerate(spans_t) if of == span]
        if len(places_s) == len(places_t) == 1:
            q = {token: q_all[places_s[0], place] for place, token in enumerate(STUDENT_TOKENS)}
            p = {token: p_all[places_t[0], place] for place, token in enumerate(TEACHER_TOKENS)}
            others_q, others_p = [q[token] for token in OTHERS_S], [p[token] for token in OTHERS_T]
            matched_q, matched_p = (torch.stack([side[token] for token in COMMON]) for side in (q, p))
            mass = matched_p.sum()
            matched_q, matched_p = matched_q / matched_q.sum(), matched_p / mass
            longest = max(len(others_q), len(others_p))
            down_q, down_p = (
                sorted(side, key=Tensor.item, reverse=True) + [torch.zeros(())] * (longest - len(side))
                for side in (others_q, others_p)
            )
            rest = sum((a - b).abs() for a, b in zip(down_q, down_p, strict=True))
        else:
            # by the chain rule in full: the distribution at the last token times the path to it, and what left it
            q_span = _merged(q_all, places_s, answer_s, STUDENT_TOKENS)
            p_span = _merged(p_all, places_t, answer_t, TEACHER_TOKENS)
            matched_q, matched_p = (torch.stack([side, 1 - side]) for side in (q_span, p_span))
            rest, mass = torch.zeros(()), torch.ones(())
        value = mass * compare(matched_p, matched_q) * (temperature**2 if squared else 1.0)
        found.append((places_s[0], (1 - unmatched) * value + unmatched * rest))
    return found


def _merged(probs: Tensor, places: list[int], answer: list[str], vocabulary: list[str]) -> Tensor:
    """Of the merged distribution over last tokens and "left the path": the outcome that is the span."""
    path = torch.ones(())
    for place in places[:-1]:
        path = path * probs[place, vocabulary.index(answer[place])]
    merged = torch.cat([path * probs[places[-1]], (1 - path)[None]])
    assert merged.sum().item() == pytest.approx(1.0)
    return merged[vocabulary.index(answer[places[-1]])]
