"""What several examinations say together: which log follows from which fault, and what is known of the loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillab.doctor.investigate import investigate
from distillab.doctor.run.logs import Run
from distillab.doctor.run.series import HeldOutPoint, RunFacts, RunSeries, StepPoint
from distillab.doctor.together import ExaminedLog, compared_by_id, examine_together, explained
from distillab.errors import ConfigError
from distillab.records import Examined, Finding, Investigation, Severity


def finding(id_: str, severity: Severity = "error") -> Finding:
    return Finding(id=id_, severity=severity, title="A title.", seen=(), means="A meaning.", do=("its own advice",))


POSITIONS, TOKENS = finding("answer-at-prompt-positions"), finding("pair-ids-unrelated")


def log(
    *terms: str, found: str = "held-out-above-uniform", held_out: float = 5.0, unigram: float | None = None
) -> ExaminedLog:
    """A log of two steps with one finding and one held-out loss; `unigram` as the given rows have it."""
    steps = tuple(StepPoint(step, "line", loss=3.0, terms=dict.fromkeys(terms, 3.0)) for step in (1, 2))
    facts = RunFacts(in_nats=True, held_out_is_cross_entropy=True)
    series = RunSeries("", "a log", steps, (HeldOutPoint(2, "line", loss=held_out),), facts)
    examined = Examined(probe="run-held-out", looked_at="2 steps", findings=(finding(found, "warning"),))
    return ExaminedLog("mine", (Run(series),), Investigation(subject="log", examined=(examined,)), unigram)


def causes(given: ExaminedLog, *, batch: tuple[Finding, ...] = (), tokens: Finding | None = None) -> tuple[str, ...]:
    (after,) = explained([given], batch=batch, tokens=tokens)
    return after.investigation.findings[0].follows_from


@pytest.mark.parametrize(
    ("term", "by_id"),
    [
        ("token_divergence", True),
        ("token_divergence_2", True),
        ("hidden_states", True),
        ("attention_relations", True),
        ("cross_entropy", False),
        ("vocabulary_projection", False),
        ("span_hidden_states", False),
        ("a_term_of_another_trainer_1", False),
    ],
)
def test_which_terms_compare_by_id(term: str, by_id: bool) -> None:
    assert compared_by_id(log(term).runs[0].series) == ((term,) if by_id else ())


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (("cross_entropy",), ("answer-at-prompt-positions",)),
        (("token_divergence",), ("pair-ids-unrelated",)),
        (("cross_entropy", "token_divergence"), ("answer-at-prompt-positions", "pair-ids-unrelated")),
        (("vocabulary_projection",), ()),
        # another trainer's log does not say what its loss is made of
        ((), ("answer-at-prompt-positions", "pair-ids-unrelated")),
    ],
)
def test_a_fault_explains_the_log_whose_terms_it_touches(terms: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert causes(log(*terms), batch=(POSITIONS,), tokens=TOKENS) == expected


def test_what_explains_nothing() -> None:
    assert causes(log("cross_entropy"), batch=(finding("answer-at-prompt-positions", "warning"),)) == ()
    assert causes(log("cross_entropy"), batch=(finding("padding-attended"),)) == ()
    assert causes(log("cross_entropy", found="learning-rate-zero"), batch=(POSITIONS,)) == ()


def test_what_follows_has_no_advice_of_its_own() -> None:
    (after,) = explained([log("cross_entropy")], batch=(POSITIONS,), tokens=None)
    effect = after.investigation.findings[0]
    assert effect.do == ("nothing of its own: mend answer-at-prompt-positions, then examine again",)
    assert effect.means == "A meaning. Here the cause was found: answer-at-prompt-positions."
    assert effect.severity == "warning"


@pytest.mark.parametrize(
    ("held_out", "unigram", "terms", "batch", "found"),
    [
        (3.0, 4.5, ("cross_entropy",), (POSITIONS,), True),
        (4.4, 4.5, ("cross_entropy",), (POSITIONS,), False),
        (3.0, None, ("cross_entropy",), (POSITIONS,), False),
        (3.0, 4.5, ("token_divergence",), (POSITIONS,), False),
        (3.0, 4.5, ("cross_entropy",), (), False),
    ],
)
def test_a_log_that_the_batch_cannot_have_made(
    held_out: float, unigram: float | None, terms: tuple[str, ...], batch: tuple[Finding, ...], found: bool
) -> None:
    given = log(*terms, held_out=held_out, unigram=unigram)
    examined = examine_together([given], batch=batch, tokens=None)
    assert [one.id for one in examined.findings] == (["log-of-another-run"] if found else [])


@pytest.fixture(scope="module")
def pair(materials: Path) -> dict[str, str]:
    return {side: str(materials / "tokenizers" / name) for side, name in (("student", "tok512"), ("teacher", "tok105"))}


def of_pair(found: Investigation) -> list[tuple[str, str]]:
    return [(one.id, one.severity) for one in found.findings if one.id == "pair-ids-unrelated"]


def metrics(folder: Path, term: str) -> Path:
    path = folder / "metrics.jsonl"
    line = '{"step": %d, "terms": {"%s": 2.0}, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1}\n'
    path.write_text("".join(line % (step, term) for step in range(1, 9)))
    return path


def test_the_severity_follows_from_what_is_known_of_the_loss(pair: dict[str, str], tmp_path: Path) -> None:
    by_id = metrics(tmp_path, "token_divergence")
    assert of_pair(investigate(**pair)) == [("pair-ids-unrelated", "warning")]
    assert of_pair(investigate(**pair, compares="text")) == [("pair-ids-unrelated", "note")]
    assert of_pair(investigate(**pair, compares="ids")) == [("pair-ids-unrelated", "error")]
    assert of_pair(investigate(**pair, logs=[by_id])) == [("pair-ids-unrelated", "error")]
    # a log goes before what is said
    assert of_pair(investigate(**pair, logs=[by_id], compares="aligned")) == [("pair-ids-unrelated", "error")]
    same = pair | {"teacher": pair["student"]}
    assert of_pair(investigate(**same, logs=[by_id])) == []


def test_another_trainers_loss_is_not_taken_for_cross_entropy(pair: dict[str, str], tmp_path: Path) -> None:
    log_file = tmp_path / "trainer.csv"
    lines = [f"{step},{9 - step / 10},{9 + step / 10}" for step in range(60)]
    log_file.write_text("\n".join(["step,loss,eval_loss", *lines]) + "\n")
    found = investigate(student=pair["student"], logs=[log_file])
    assert "held-out-above-uniform" not in {one.id for one in found.findings}


@pytest.mark.parametrize("said", ["compares", "shifts", "held_out"])
def test_what_would_change_nothing_is_refused(said: str, pair: dict[str, str], tmp_path: Path) -> None:
    log_file = metrics(tmp_path, "cross_entropy")
    value = {"compares": "ids", "shifts": "model", "held_out": log_file}[said]
    with pytest.raises(ConfigError, match=f"--{said.replace('_', '-')} is read beside"):
        investigate(student=pair["student"], logs=[log_file], **{said: value})
