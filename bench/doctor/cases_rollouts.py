"""A student that writes its own answers, in a plain loop with one mistake; the scores that a server gives for text."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from bench.doctor.case import Cases, Place
from bench.doctor.rows import stories, tokenizer_of
from distillab.doctor import audit_run, audit_scores
from distillab.records import CheckResult

CASES = Cases()
_STEPS, _ROWS, _PROMPT, _LONGEST = 40, 8, 8, 32


@dataclass(frozen=True)
class Writing:
    """A training on the student's own answers, which end at a full stop. The defaults are a sound one.

    temperature: of sampling; 0: greedy. hides_prompt: the sampler reads the begin token alone. keeps_sampler: it has
    the first weights for ever. learns_itself: the loss is the likelihood of what it wrote. teacher_never_ends: its
    probability of the end is 0.
    """

    rate: float = 3e-4
    temperature: float = 1.0
    hides_prompt: bool = False
    keeps_sampler: bool = False
    learns_itself: bool = False
    teacher_never_ends: bool = False


def _model(place: Place, name: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(place.material("models", name)).eval()


@torch.no_grad()
def _sampled(model: LlamaForCausalLM, ids_BL: Tensor, end: int, temperature: float) -> Tensor:
    """Return (B, T) new tokens, −1 behind the end."""
    new: list[Tensor] = []
    done, read, cache = torch.zeros(len(ids_BL), dtype=torch.bool), ids_BL, DynamicCache()
    for _ in range(_LONGEST):
        logits = model(input_ids=read, past_key_values=cache).logits[:, -1]
        token = torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0] if temperature else logits.argmax(-1)
        new.append(torch.where(done, -1, token))
        read = token[:, None]
        done |= token == end
    return torch.stack(new, dim=1)


def _logp(model: LlamaForCausalLM, ids_BL: Tensor, new_BT: Tensor) -> Tensor:
    """Return (B, T, V) log-probabilities of what follows each written token's prefix."""
    logits = model(input_ids=torch.cat([ids_BL, new_BT.clamp(min=0)], dim=1)).logits
    return logits[:, ids_BL.shape[1] - 1 : -1].log_softmax(-1)


def _run(place: Place, loop: Writing) -> Sequence[CheckResult]:
    torch.manual_seed(0)
    tokenizer = tokenizer_of(place, "tok512")
    texts = [[1, *tokenizer(text, add_special_tokens=False).input_ids] for text in stories(place, 400)]
    end = int(tokenizer(".", add_special_tokens=False).input_ids[-1])
    student, teacher = _model(place, "stories260K-tok512"), _model(place, "stories260K-tok512")
    with torch.no_grad():
        for weights in student.parameters():
            weights += 0.1 * weights.std() * torch.randn_like(weights)
    sampler = copy.deepcopy(student) if loop.keeps_sampler else student
    optimizer = torch.optim.AdamW(student.parameters(), lr=loop.rate)
    lines = []
    for step in range(_STEPS):
        rows = texts[step * _ROWS : (step + 1) * _ROWS]
        ids_BL = torch.tensor([row[:_PROMPT] for row in rows])
        read_BL = ids_BL[:, :1] if loop.hides_prompt else ids_BL
        new_BT = _sampled(sampler, read_BL, end, loop.temperature)
        kept_BT = new_BT >= 0
        with torch.no_grad():
            p_BTV, then_BTV = _logp(teacher, ids_BL, new_BT), _logp(sampler, ids_BL, new_BT)
            if loop.teacher_never_ends:
                p_BTV[..., end] = -30.0
                p_BTV = p_BTV.log_softmax(-1)
        q_BTV = _logp(student, ids_BL, new_BT)
        own_BT = q_BTV.gather(-1, new_BT.clamp(min=0)[..., None])[..., 0]
        apart_BT = (q_BTV.exp() * (q_BTV - p_BTV)).sum(-1)
        loss = (-own_BT if loop.learns_itself else apart_BT)[kept_BT].mean()
        optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0))
        optimizer.step()
        then_BT = then_BTV.gather(-1, new_BT.clamp(min=0)[..., None])[..., 0]
        stored = {tuple(row[_PROMPT : _PROMPT + _LONGEST]) for row in rows}
        entropy = {
            name: float(-(logp.exp() * logp.clamp(min=-1e4)).sum(-1)[kept_BT].mean())
            for name, logp in (("student_entropy", q_BTV.detach()), ("teacher_entropy", p_BTV))
        }
        written = {
            "fraction": 1.0,
            "max_new_tokens": _LONGEST,
            "length_mean": float(kept_BT.sum(1).float().mean()),
            "truncated": float(((new_BT != end) & kept_BT).all(1).float().mean()),
            "distinct": len(set(map(tuple, new_BT.tolist()))) / _ROWS,
            "distinct_stored": len(stored) / _ROWS,
            "nats": float(apart_BT.detach()[kept_BT].mean()),
            "sampler_gap": float((then_BT - own_BT.detach())[kept_BT].abs().mean()),
            **entropy,
        }
        figures = {"loss": float(loss.detach()), "grad_norm": norm, "learning_rate": loop.rate}
        terms = {"terms": {"token_divergence": figures["loss"]}, "counts": {"token_divergence": int(kept_BT.sum())}}
        lines.append(json.dumps({"step": step + 1, **figures, **terms, "rollout": written}))
    path: Path = place.scratch / "metrics.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return audit_run(path).checks


@CASES.fault("torch", "run", "rollouts-grow")
def teacher_without_an_end(place: Place) -> Sequence[CheckResult]:
    """The teacher is asked with ignore_eos: it gives the end no probability."""
    return _run(place, Writing(teacher_never_ends=True, rate=2e-5))


@CASES.fault("torch", "run", "rollouts-collapse", "rollouts-same", beside=["rollouts-grow"])
def likelihood_of_its_own_cool_samples(place: Place) -> Sequence[CheckResult]:
    """Cross-entropy on what it wrote itself at temperature 0.3."""
    return _run(place, Writing(temperature=0.3, learns_itself=True, rate=1e-3))


@CASES.fault("torch", "run", "rollouts-same", beside=["rollouts-collapse", "rollouts-stale"])
def sampler_is_sent_no_prompt(place: Place) -> Sequence[CheckResult]:
    """The prompt is lost on its way to the sampler, which is greedy."""
    return _run(place, Writing(hides_prompt=True, temperature=0.0))


@CASES.fault("torch", "run", "rollouts-stale")
def sampler_keeps_its_first_weights(place: Place) -> Sequence[CheckResult]:
    """The weights are never sent to the server that samples."""
    return _run(place, Writing(keeps_sampler=True, rate=1e-3))


@CASES.good("torch", "run")
def student_that_writes(place: Place) -> Sequence[CheckResult]:
    """Reverse KL on its own answers."""
    return _run(place, Writing())


@CASES.good("torch", "run")
def student_that_writes_and_learns_faster(place: Place) -> Sequence[CheckResult]:
    """The same at twice the rate."""
    return _run(place, Writing(rate=6e-4))


# ---------------------------------------------------------------- scores of a server


def _scores(place: Place) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, L) of stories' tokens by a server's model, and by the student."""
    encode = tokenizer_of(place, "tok512")
    rows = [[1, *encode(text[:300], add_special_tokens=False).input_ids][:64] for text in stories(place, 24)]
    ids = torch.tensor([row for row in rows if len(row) == 64])
    found = []
    for name in ("stories260K-tok512", "llama2xs-tok512"):
        with torch.no_grad():
            logp = _model(place, name)(input_ids=ids).logits[:, :-1].log_softmax(-1)
        found.append(torch.nn.functional.pad(logp.gather(-1, ids[:, 1:, None])[..., 0], (1, 0), value=torch.nan))
    return found[0], found[1]


@CASES.fault("torch", "pair", "scores-shifted")
def server_echoes_one_token_late(place: Place) -> Sequence[CheckResult]:
    """prompt_logprobs without its first entry, joined to the ids from the front."""
    scores, reference = _scores(place)
    return (audit_scores(scores.roll(-1, dims=1), reference),)


@CASES.fault("torch", "pair", "scores-unrelated")
def answers_of_a_server_in_the_order_of_their_arrival(place: Place) -> Sequence[CheckResult]:
    """Several requests at once, and nothing says which answer belongs to which row."""
    scores, reference = _scores(place)
    return (audit_scores(scores.flip(0), reference),)


@CASES.good("torch", "pair")
def scores_of_a_server(place: Place) -> Sequence[CheckResult]:
    """As they should be, rounded to bfloat16."""
    scores, reference = _scores(place)
    return (audit_scores(scores.bfloat16(), reference),)
