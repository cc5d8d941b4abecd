"""Methods: named pairs of the answers that the student is trained on, and the terms of its loss.

A new method is one file in `objectives/`, one class in `config/terms.py` and one line in `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from distillab.config.layer_terms import (
    AttentionMapsConfig,
    AttentionRelationsConfig,
    ContrastiveConfig,
    HiddenStatesConfig,
    SpanHiddenStatesConfig,
)
from distillab.config.on_policy import StoredAnswers, StudentAnswersConfig, require_teaching
from distillab.config.student import Init
from distillab.config.term_base import LinearWeight, TokenRequirement
from distillab.config.terms import (
    CrossEntropyConfig,
    DualSpaceConfig,
    MeasuredTransportConfig,
    MergedSpansConfig,
    SortedProbabilitiesConfig,
    SpanLikelihoodConfig,
    TermConfig,
    TokenDivergenceConfig,
    TransportConfig,
    VocabularyProjectionConfig,
)
from distillab.records import ACCESS_ORDER, AccessLevel


@dataclass(frozen=True)
class Method:
    """A named pair of choices.

    Attributes:
        answers: whose stored answers the student learns.
        terms: of the loss, with their weights.
        summary: in a line.
        pretrained: the terms with other weights, or another divergence, for a student that starts from pretrained
            weights; None: the same.
        own: how the student writes a share of the answers itself; None: it writes none.

    Raises:
        ValueError: one term needs shared ids, another one two tokenisations; or a term has no signal on text that the
            student wrote.
    """

    answers: StoredAnswers
    terms: tuple[TermConfig, ...]
    summary: str
    pretrained: tuple[TermConfig, ...] | None = None
    own: StudentAnswersConfig | None = None

    def __post_init__(self) -> None:
        shared, aligned = ([term.kind for term in self.terms if term.tokens == need] for need in ("shared", "aligned"))
        if shared and aligned:
            raise ValueError(
                f"{shared[0]} is for one tokenisation that both models read, {aligned[0]} for two, and a batch holds "
                "one or the other: leave out one of the terms, or replace it by one of the other kind (docs/methods)"
            )
        if self.own is not None:
            require_teaching(self.terms, self.own)

    def terms_for(self, init: Init) -> tuple[TermConfig, ...]:
        """Return the terms for a student that starts so."""
        return self.pretrained if init == "pretrained" and self.pretrained is not None else self.terms

    @property
    def access(self) -> AccessLevel:
        """The highest access level that the answers or any term needs."""
        needed: list[AccessLevel] = [term.access for term in self.terms]
        needed.append("text" if self.answers == "teacher" else "none")
        return max(needed, key=ACCESS_ORDER.index)

    @property
    def tokens(self) -> TokenRequirement:
        """`shared` where a term needs one tokenisation that both models read, `aligned` where it needs two."""
        needs = [term.tokens for term in self.terms if term.tokens != "any"]
        return needs[0] if needs else "any"

    @property
    def reads_prompts(self) -> str | None:
        """The first term for which both models must read the same prompt; None: there is none."""
        return next((term.kind for term in self.terms if term.tokens == "aligned" or _reads_prompt(term)), None)

    @property
    def reads_signals(self) -> bool:
        """Whether any term reads the teacher."""
        return any(term.access != "none" for term in self.terms)

    @property
    def counts_rows(self) -> bool:
        """Whether a term reads counts of the training rows in both tokenisations."""
        return any(isinstance(term, TransportConfig) and term.form != "longest_prefix" for term in self.terms)

    @property
    def can_be_cached(self) -> bool:
        """Whether all that the terms read can be stored.

        Attention maps cannot: they grow with the square of a row. Nor can signals on answers yet to be written.
        """
        return self.own is None and not any(isinstance(term, AttentionMapsConfig) for term in self.terms)

    @property
    def trains_from_cache(self) -> bool:
        """Whether training loads no teacher if all that can be stored is stored."""
        return self.can_be_cached or not self.reads_signals


def _reads_prompt(term: TermConfig) -> bool:
    # the keys of attention are positions of the prompt, wherever the queries are
    inside = isinstance(term, AttentionRelationsConfig | AttentionMapsConfig)
    return inside or getattr(term, "positions", None) == "all"


# docs/experiments.md has the runs behind these numbers.
#
# For a student with random weights. Hidden states have most weight at first and fade out: a narrow student cannot
# reproduce a wide teacher's, and the task itself must decide in the end. Attention relations have gradients of very
# different size from model to model, so their weights are balanced.
#
# For a pretrained student. It is near the optimum of its task, and the gradients of the other terms are orthogonal to
# that of the cross-entropy: what they take of a step is lost to the task. So each has a small share of the gradient,
# that of the relations the smallest, and every term that reads the teacher fades out.
_ONCE_FADING = LinearWeight(start=1.0, end=0.0)
_TENTH_FADING = LinearWeight(start=0.1, end=0.0, balanced=True)
_FADING = LinearWeight(start=10.0, end=0.0)
_HINTS = HiddenStatesConfig(weight=_FADING)
_SMALL_HINTS = HiddenStatesConfig(weight=_TENTH_FADING)


_REVERSE_KL = TokenDivergenceConfig(divergence="reverse_kl")


def _relations(start: float) -> AttentionRelationsConfig:
    return AttentionRelationsConfig(weight=LinearWeight(start=start, end=0.0, balanced=True))


METHODS: dict[str, Method] = {
    "sft": Method("dataset", (CrossEntropyConfig(),), "supervised fine-tuning on the data set's answers"),
    "seqkd": Method("teacher", (CrossEntropyConfig(),), "sequence-level KD: fine-tuning on the teacher's answers"),
    "logits": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5)),
        "cross-entropy and the teacher's next-token distribution",
        pretrained=(CrossEntropyConfig(), TokenDivergenceConfig(weight=_ONCE_FADING)),
    ),
    "hidden_states": Method(
        "dataset",
        (CrossEntropyConfig(), _HINTS),
        "cross-entropy and, fading out, the teacher's hidden states",
        pretrained=(CrossEntropyConfig(), _SMALL_HINTS),
    ),
    "attention": Method(
        "dataset",
        (CrossEntropyConfig(), _relations(1.0)),
        "cross-entropy and the relations between the teacher's queries, keys and values",
        pretrained=(CrossEntropyConfig(), _relations(0.03)),
    ),
    "white_box": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), TokenDivergenceConfig(weight=0.5), _HINTS, _relations(0.1)),
        "cross-entropy and everything: next-token distribution, hidden states, attention",
        pretrained=(
            CrossEntropyConfig(),
            TokenDivergenceConfig(weight=_ONCE_FADING),
            _SMALL_HINTS,
            _relations(0.03),
        ),
    ),
    # Made for two tokenizers; weights as found on the demo (docs/experiments.md). Vocabulary projection takes from the
    # text what the teacher does not predict, so it needs no cross-entropy; with it the tokens of the text would count
    # twice. Span likelihood's weight cancels its division by the temperature; sorted probabilities are as published.
    "vocabulary_projection": Method(
        "dataset",
        (VocabularyProjectionConfig(),),
        "the teacher's next-token distribution, projected to the student's tokens; the rest is learned from the text",
    ),
    "measured_transport": Method(
        "dataset",
        (MeasuredTransportConfig(),),
        "the teacher's next-token distribution, on its own tokens, to which the student is carried as the rows show "
        "it; the rest is learned from the text",
    ),
    "span_likelihood": Method(
        "dataset",
        (CrossEntropyConfig(), SpanLikelihoodConfig(weight=10.0, temperature=10.0, debias=False)),
        "cross-entropy and the teacher's likelihood of common spans (ALM)",
    ),
    "sorted_probabilities": Method(
        "dataset",
        (CrossEntropyConfig(), SortedProbabilitiesConfig(weight=1.5)),
        "cross-entropy and the teacher's sorted next-token probabilities, whatever the tokens",
    ),
    "merged_spans": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), MergedSpansConfig(weight=0.5)),
        "cross-entropy and the teacher's distribution, merged over common spans (GOLD)",
    ),
    "dual_space": Method(
        "dataset",
        (CrossEntropyConfig(weight=0.5), DualSpaceConfig(weight=0.5)),
        "cross-entropy and each model's states read by the other's head",
    ),
    "contrastive": Method(
        "dataset",
        (CrossEntropyConfig(), ContrastiveConfig(weight=LinearWeight(start=3.0, end=0.0))),
        "cross-entropy and, fading out, the teacher's similarities between spans (InfoNCE)",
        pretrained=(CrossEntropyConfig(), ContrastiveConfig(weight=_TENTH_FADING)),
    ),
    "span_hidden_states": Method(
        "dataset",
        (CrossEntropyConfig(), SpanHiddenStatesConfig(weight=_FADING)),
        "cross-entropy and, fading out, the teacher's hidden states of common spans",
        pretrained=(CrossEntropyConfig(), SpanHiddenStatesConfig(weight=_TENTH_FADING)),
    ),
    # On text that the student writes: no cross-entropy, which has no signal there. Reverse KL collapses from random
    # weights, where student and teacher have no likely token in common; forward KL does not.
    "on_policy": Method(
        "dataset",
        (TokenDivergenceConfig(),),
        "the teacher's next-token distribution on answers of which the student writes three quarters itself",
        pretrained=(_REVERSE_KL,),
        own=StudentAnswersConfig(),
    ),
    "on_policy_pure": Method(
        "dataset",
        (TokenDivergenceConfig(),),
        "the teacher's next-token distribution on answers that the student writes, all of them",
        pretrained=(_REVERSE_KL,),
        own=StudentAnswersConfig(fraction=1.0, repetition_guard=False),
    ),
    "gkd": Method(
        "dataset",
        (TokenDivergenceConfig(divergence="jensen_shannon", teacher_weight=0.5),),
        "Jensen-Shannon divergence on answers of which the student writes half (GKD)",
        own=StudentAnswersConfig(fraction=0.5),
    ),
}


def described(name: str, method: Method) -> str:
    """Return the name of a method, with its terms where they are not those of that name.

    >>> described("logits", METHODS["logits"])
    'logits'
    >>> described("sft", METHODS["logits"])
    'sft with the terms cross_entropy, token_divergence'
    """
    preset = METHODS[name]
    if method.terms in (preset.terms, preset.pretrained):
        return name
    return f"{name} with the terms {', '.join(term.kind for term in method.terms)}"
