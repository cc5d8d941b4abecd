"""`distillab doctor investigate`: the investigation's own case, from batch, tokenizers and log alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distillab.records import Investigation, RunRecord, read_record
from tests.cli.conftest import Run
from tests.doctor.broken_runs import Case, make_case

TWO = {"answer-at-prompt-positions", "pair-ids-unrelated"}


@pytest.fixture(scope="module")
def case(tiny_world, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Both errors on the demo's tokenizers: real short runs."""
    tokenizers = Path(tiny_world["teacher"]["path"]).parent / "tokenizers"
    return make_case(
        tmp_path_factory.mktemp("case"),
        student=tokenizers / "tokenizer-a",
        teacher=tokenizers / "tokenizer-b",
        steps=48,
        teacher_steps=80,
    )


@pytest.fixture(scope="module")
def real_case(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The same with the investigation's own tokenizers, TinyLlama's and Mistral's."""
    tokenizers = materials / "tokenizers"
    return make_case(
        tmp_path_factory.mktemp("real"),
        student=tokenizers / "tinyllama-1.1b",
        teacher=tokenizers / "mistral-7b-v0.1",
        steps=2,
        teacher_steps=0,
        runs=("tokens",),
    )


@pytest.fixture
def doctor(run: Run, tmp_path: Path):
    """Call it; exit code, output, and the record."""

    def call(*words: str) -> tuple[int, str, Investigation]:
        written = tmp_path / "found.json"
        code, out, err = run("doctor", "investigate", *words, "--json", str(written))
        assert written.exists(), err
        return code, out, read_record(Investigation, written)

    return call


def words(case: Case, *, logs: tuple[str, ...] = (), batch: bool = True, pair: bool = True, data: bool = False):
    found = ["--student", str(case.student)]
    found += ["--batch", str(case.batch)] if batch else []
    found += ["--teacher", str(case.teacher)] if pair else []
    found += ["--data", str(case.data)] if data else []
    return [*found, *(word for name in logs for word in ("--log", str(case.log(name))))]


def ids(found: Investigation, severity: str) -> set[str]:
    return {finding.id for finding in found.findings if finding.severity == severity}


def two_paths(found: Investigation) -> None:
    """Both paths of the historical report, and what each of them makes valid."""
    assert found.conclusions is not None
    phases = {phase.title: "\n".join(phase.steps) for phase in found.conclusions.phases}
    chosen = phases["Choose a valid path"]
    assert "path A: a teacher with the student's tokenizer" in chosen
    assert "path B: sequence-level KD (method: seqkd)" in chosen
    assert "white box: logits, hidden_states, attention, white_box, on_policy, on_policy_pure, gkd only after" in chosen
    assert "Black box: seqkd as it is" in chosen
    titles = list(phases)
    assert titles[0] == "Fix the errors first" and titles[-1] == "Verify"
    assert "answer-at-prompt-positions: input_ids = prompt + answer" in phases[titles[0]]


def test_the_replay_on_the_demos_tokenizers(doctor, case):
    code, out, found = doctor(*words(case, logs=("positions", "tokens"), data=True))
    assert code == 1
    assert ids(found, "error") == TWO
    two_paths(found)
    unrelated = next(finding for finding in found.findings if finding.id == "pair-ids-unrelated")
    assert "tokens.jsonl: its loss has token_divergence" in unrelated.evidence
    # its log shows what follows, and says from what
    effect = next(finding for finding in found.findings if finding.id == "held-out-above-uniform")
    assert effect.follows_from == ("pair-ids-unrelated",)
    assert effect.evidence[0] == "log: tokens.jsonl"
    assert "held-out-above-uniform must be gone" in out
    assert "Phase 2: Check the warnings" not in out, "what follows from an error is no work of its own"


def test_the_replay_on_the_investigations_tokenizers(doctor, real_case):
    code, out, found = doctor(*words(real_case, logs=("tokens",)))
    assert code == 1
    assert ids(found, "error") == TWO
    two_paths(found)
    # the very ids of that report: "The quick brown fox …"
    assert "1, 415, 2936" in out and "1, 450, 4996" in out


def test_each_alone(doctor, case):
    code, _, found = doctor(*words(case, pair=False))
    assert (code, ids(found, "error"), found.pairing) == (1, {"answer-at-prompt-positions"}, None)
    code, _, found = doctor(*words(case, batch=False, logs=("tokens",)))
    assert (code, ids(found, "error")) == (1, {"pair-ids-unrelated"})
    # a log that compares nothing by id is no evidence; where nobody says anything, it is no error
    code, _, found = doctor(*words(case, batch=False, logs=("positions",)))
    assert (code, ids(found, "error")) == (0, set())
    assert "pair-ids-unrelated" in ids(found, "warning")
    code, _, found = doctor(*words(case, batch=False), "--compares", "ids")
    assert (code, ids(found, "error")) == (1, {"pair-ids-unrelated"})


def test_rows_alone_are_examined(doctor, case):
    code, _, found = doctor("--student", str(case.student), "--data", str(case.data))
    assert code == 0 and found.pairing is None
    assert any("200 rows" in one.scope for one in found.checks)
    code, _, found = doctor("--student", str(case.student), "--data", str(case.data), "--held-out", str(case.data))
    assert code == 1 and "held-out" in next(f.title for f in found.findings if f.severity == "error")


def test_a_sound_set_up(doctor, case, tmp_path):
    from distillab.pairing.loading import load_tokenizer

    tokenizer = load_tokenizer(str(case.student)).tokenizer
    rows = []
    for line in case.data.read_text().splitlines()[:8]:
        row = json.loads(line)
        prompt, answer = (tokenizer(row[key], add_special_tokens=False).input_ids for key in ("prompt", "answer"))
        ids_ = [*prompt, *answer, tokenizer.eos_token_id]
        rows.append({"input_ids": ids_, "labels": [-100] * len(prompt) + ids_[len(prompt) :]})
    batch = tmp_path / "rows.jsonl"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, found = doctor(
        *("--batch", str(batch), "--student", str(case.student), "--teacher", str(case.student)),
        *("--log", str(case.log("sound")), "--data", str(case.data)),
    )
    assert code == 0
    assert not ids(found, "error") and not ids(found, "warning")
    assert found.pairing is not None and found.pairing.contract.verdict == "identical"
    assert "Choose a method" in out and "Fix the errors" not in out


def test_a_log_that_the_batch_cannot_have_made(doctor, case):
    _, _, found = doctor(*words(case, pair=False, logs=("sound",), data=True))
    assert "log-of-another-run" in ids(found, "warning")
    _, _, found = doctor(*words(case, pair=False, logs=("positions",), data=True))
    assert "log-of-another-run" not in ids(found, "warning")


def test_log_v_and_the_unigram_line_come_from_tokenizer_and_data(doctor, case):
    def scope(*given: str) -> str:
        found = doctor("--log", str(case.log("sound")), *given)[2]
        return next(one.scope for one in found.checks if one.check == "run-references")

    rows = ["--student", str(case.student), "--data", str(case.data)]
    assert "log V 5.991" in scope(*rows) and "unigram" in scope(*rows)
    # with the held-out rows it is the line that the run's own record has
    record = read_record(RunRecord, case.given.parent / "sound" / "run.json")
    judged = scope(*rows, "--held-out", str(case.data.with_name("held_out.jsonl")))
    said = float(judged.rpartition("unigram ")[2].split()[0])
    assert said == pytest.approx(record.references.unigram_nats, abs=0.1)
    assert "unigram" not in scope("--student", str(case.student))
    assert "log V" not in scope()


def test_the_report_is_written(doctor, case, tmp_path):
    _, out, found = doctor(*words(case), "--report", str(tmp_path / "report"))
    for ending in ("html", "md", "json"):
        path = tmp_path / "report" / f"investigation.{ending}"
        assert path.exists() and f"written: {path}" in out
    assert read_record(Investigation, tmp_path / "report" / "investigation.json") == found


def test_wrong_usage(run, case, tmp_path):
    for given, said in (
        ([], "nothing to check"),
        (["--student", str(case.student)], "nothing to check"),
        (["--log", str(case.log("sound")), "--compares", "ids"], "--teacher"),
        (["--log", str(case.log("sound")), "--shifts", "model"], "--batch"),
        (["--log", str(case.log("sound")), "--held-out", str(case.data)], "--data"),
        (["--batch", str(case.batch)], "--student"),
        (["--teacher", str(case.teacher)], "--student"),
        (["--log", str(case.log("sound")), "--data", str(case.data)], "--student"),
        (["--log", str(tmp_path / "no.csv")], "no such file"),
    ):
        code, out, err = run("doctor", "investigate", *given)
        assert code != 0 and said in err, (given, err)
        assert not out and "Traceback" not in err


def test_a_batch_from_memory(case):
    from safetensors.torch import load_file

    from distillab.doctor.investigate import investigate

    batch = load_file(case.batch)
    assert isinstance(batch["labels"], torch.Tensor)
    found = investigate(batch=batch, student=str(case.student))
    assert ids(found, "error") == {"answer-at-prompt-positions"}
    assert found.subject == f"batch in memory; student {case.student}"
