"""Divergence from a teacher of which only the k most likely tokens are known.

Shape letters: N scored positions, V student vocabulary, W teacher vocabulary, K kept entries.
"""

from __future__ import annotations

from torch import Tensor

from distillab.config.terms import TopKDivergenceConfig
from distillab.divergences.fused import evaluate
from distillab.divergences.truncated import drop_tail, renormalised, with_tail_cell
from distillab.errors import ConfigError
from distillab.objectives.term import StudentScores
from distillab.objectives.token_divergence import TokenDivergence
from distillab.teachers.signals import NextTokens, Top, scaled_logits


class TopKDivergence(TokenDivergence, config=TopKDivergenceConfig):
    """D(teacher, student) over the teacher's k most likely tokens of each position, and the rest by a policy.

    Both logits are cut to the shared ids and divided by the temperature before the softmax, as in `TokenDivergence`;
    the k tokens, and their true probabilities, are those of the teacher at that temperature. Of a teacher with full
    logits only these k tokens are read, so the term shows what that access level gains.

    Args:
        settings: k, the policy for the tail, divergence, temperature and rescaling.
        shared_width: ids 0 … shared_width−1 mean the same to both models (from the tokenizer contract).
    Raises:
        ConfigError: k is larger than the number of shared ids, or the policy is `drop_tail` and the divergence not
            forward KL.
    """

    def __init__(self, settings: TopKDivergenceConfig, *, shared_width: int) -> None:
        if settings.k > shared_width:
            raise ConfigError(
                "k is larger than the number of ids that teacher and student share.",
                facts=[f"k {settings.k}", f"shared ids {shared_width}"],
                where="top_k_divergence: k",
                fix="a smaller k, or token_divergence, which reads all of them",
            )
        if settings.tail == "drop_tail" and settings.divergence != "forward_kl":
            raise ConfigError(
                "Without its tail a distribution does not sum to one, and only forward KL still has a meaning then.",
                facts=[f"tail {settings.tail}", f"divergence {settings.divergence}"],
                where="top_k_divergence: tail",
                fix="tail: cell (the tail as one outcome), or divergence: forward_kl",
            )
        super().__init__(settings, shared_width=shared_width)
        self._k, self._tail = settings.k, settings.tail
        self.score_request = Top(settings.k, shared_width, settings.temperature)

    def distance(self, student: StudentScores, teacher: NextTokens) -> Tensor:
        """Return (N,) the divergence over the kept tokens, with `cell` also over the rest as one outcome."""
        return evaluate(self._formula, *self._outcomes(student, teacher))

    def _outcomes(self, student: StudentScores, teacher: NextTokens) -> tuple[Tensor, Tensor]:
        width, temperature = self.shared_width, self.settings.temperature
        top = teacher.top(self._k, width, temperature)
        match self._tail:
            case "cell":
                logits_NV = scaled_logits(student.logits_NV, width, temperature)
                return with_tail_cell(
                    student_logp=logits_NV, kept_ids=top.ids, kept_logp=top.logp, tail_logmass=top.tail_logmass
                )
            case "renormalise":
                logp_NV = student.logp(width, temperature)
                return renormalised(student_logp=logp_NV, kept_ids=top.ids, kept_logp=top.logp)
            case "drop_tail":
                logp_NV = student.logp(width, temperature)
                return drop_tail(student_logp=logp_NV, kept_ids=top.ids, kept_logp=top.logp)
