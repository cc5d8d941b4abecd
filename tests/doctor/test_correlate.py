"""What several examinations say together: which log follows from which fault, and what is known of the loss."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from tests.doctor.batch_faults import FAULTS
from tests.doctor.batch_samples import World, pairs_of, tokenizer_of

from distillab import doctor
from distillab.cli.doctor_investigate import investigate_command
from distillab.doctor.causes import follows
from distillab.doctor.investigate import CheckedLog, check_together, compared_by_id, explained, investigate
from distillab.doctor.run.logs import Run
from distillab.doctor.run.series import HeldOutPoint, RunFacts, RunSeries, StepPoint
from distillab.errors import ConfigError
from distillab.records import CheckResult, Finding, Investigation, Severity


def finding(id_: str, severity: Severity = "error") -> Finding:
    return Finding(
        id=id_, severity=severity, title="A title.", evidence=(), explanation="A meaning.", fix=("its own advice",)
    )


POSITIONS, TOKENS = finding("answer-at-prompt-positions"), finding("pair-ids-unrelated")


def log(
    *terms: str, found: str = "held-out-above-uniform", held_out: float = 5.0, unigram: float | None = None
) -> CheckedLog:
    """A log of two steps with one finding and one held-out loss; `unigram` as the given rows have it."""
    steps = tuple(StepPoint(step, "line", loss=3.0, terms=dict.fromkeys(terms, 3.0)) for step in (1, 2))
    facts = RunFacts(in_nats=True, held_out_is_cross_entropy=True)
    series = RunSeries("", "a log", steps, (HeldOutPoint(2, "line", loss=held_out),), facts)
    result = CheckResult(check="run-held-out", scope="2 steps", findings=(finding(found, "warning"),))
    return CheckedLog("mine", (Run(series),), Investigation(subject="log", checks=(result,)), unigram)


def causes(given: CheckedLog, *, batch: tuple[Finding, ...] = (), tokens: Finding | None = None) -> tuple[str, ...]:
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


def test_what_follows_names_its_cause_as_the_fix() -> None:
    (after,) = explained([log("cross_entropy")], batch=(POSITIONS,), tokens=None)
    effect = after.investigation.findings[0]
    assert effect.fix == ("fix answer-at-prompt-positions, then run the check again",)
    assert effect.explanation == "A meaning. The cause was found: answer-at-prompt-positions."
    assert effect.severity == "warning"
    again = follows(effect, ["another"], severity="note")
    assert again.explanation == "A meaning. The cause was found: answer-at-prompt-positions, another."


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
    result = check_together([given], batch=batch, tokens=None)
    assert [one.id for one in result.findings] == (["log-of-another-run"] if found else [])


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
    # --vocabulary, which the log's check names, is taken here too: the losses are then nats per token
    known = investigate(student=pair["student"], logs=[log_file], vocabulary=400)
    assert "held-out-above-uniform" in {one.id for one in known.findings}


def test_every_option_that_a_finding_names_is_one_of_investigate() -> None:
    source = Path(doctor.__file__).parent
    files = [*source.glob("findings/*.md"), *source.glob("run/*.py"), source / "pair/contract.py"]
    named = {name for file in files for name in re.findall(r"(?:say|give|pass) --([a-z-]+)", file.read_text())}
    assert {"learns", "shifts", "vocabulary", "ignore-index", "compares"} <= named
    taken = {name.replace("_", "-") for name in inspect.signature(investigate_command).parameters}
    assert named <= taken


def test_what_should_be_scored_is_said_to_investigate(materials: Path) -> None:
    """The advice of a batch's finding, `--learns` and `--pad-id`, given to the command that printed it."""
    world = World(tokenizer_of(materials, "tok512"), pairs_of(materials))
    students = {"student": str(materials / "tokenizers" / "tok512")}
    inverted = next(fault.spoil for fault in FAULTS if fault.name == "mask_the_wrong_way_round")(world)

    def errors(**said: Any) -> set[str]:
        found = investigate(batch=inverted, **students, **said)
        return {finding.id for finding in found.findings if finding.severity == "error"}

    assert errors() == {"mask-inverted"}
    assert errors(learns="prompts") == set()
    whole = world.good() | {"labels": world.good()["input_ids"].masked_fill(world.good()["attention_mask"] == 0, -1)}
    found = investigate(batch=whole, **students, learns="text", ignore_index=-1, pad_id=3)
    assert [one.id for one in found.findings if one.severity == "error"] == []


@pytest.mark.parametrize("said", ["compares", "shifts", "held_out", "learns", "ignore_index", "pad_id"])
def test_what_would_change_nothing_is_refused(said: str, pair: dict[str, str], tmp_path: Path) -> None:
    log_file = metrics(tmp_path, "cross_entropy")
    values = {"compares": "ids", "shifts": "model", "held_out": log_file, "learns": "text", "pad_id": 0}
    value = values.get(said, -1)
    with pytest.raises(ConfigError, match=f"--{said.replace('_', '-')} needs"):
        investigate(student=pair["student"], logs=[log_file], **{said: value})
