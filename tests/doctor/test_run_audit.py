"""`audit_run`: planted faults are found under their ids, sound logs have no error, broken files are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.doctor.run_columns import FAULTS_OF_COLUMNS, GOOD_COLUMNS
from tests.doctor.run_faults import FAULTS as FAULTS_OF_CURVES
from tests.doctor.run_faults import GOOD as GOOD_CURVES
from tests.doctor.run_rollouts import FAULTS_OF_ROLLOUTS, GOOD_ROLLOUTS
from tests.doctor.run_samples import REAL, UNIFORM, Case, OurRun, curve, printed_run, theirs, write_lines
from tests.report.fixture import study
from typer.testing import CliRunner

from distillab.cli.main import app
from distillab.doctor.run.audit import audit_run
from distillab.doctor.run.logs import read_runs
from distillab.doctor.run.schedule import check_differences
from distillab.doctor.run.series import near_factor, noise, slope, spikes, trend
from distillab.errors import ConfigError, DataError
from distillab.records import Investigation

FAULTS = [*FAULTS_OF_CURVES, *FAULTS_OF_COLUMNS, *FAULTS_OF_ROLLOUTS]
GOOD = [*GOOD_CURVES, *GOOD_COLUMNS, *GOOD_ROLLOUTS]


def ids(investigation: Investigation) -> set[tuple[str, str]]:
    return {(finding.id, finding.severity) for finding in investigation.findings}


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: case.name)
def test_a_planted_fault_is_found_under_its_id(case: Case, tmp_path: Path) -> None:
    found = ids(audit_run(case.make(tmp_path), **case.given))
    assert (case.finds, case.severity) in found


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_sound_log_has_no_error(case: Case, tmp_path: Path) -> None:
    found = ids(audit_run(case.make(tmp_path), **case.given))
    grave = {"error", "warning"} if case.severity else {"error"}
    assert not [one for one in found if one[1] in grave]


def test_warm_restarts_are_named_as_such() -> None:
    (finding,) = (one for one in audit_run(REAL / "good_restarts.json").findings if one.id == "schedule-restarts")
    assert "warm restarts" in finding.title
    assert finding.evidence[0].startswith("3 rises")


def test_a_rise_over_many_steps_is_one(tmp_path: Path) -> None:
    rates = [1e-3 * (0.02 + abs(math.cos(math.pi * at / 100))) for at in range(201)]
    rows = theirs(curve(201, 3.0, 1.0), rates=rates)
    (finding,) = (one for one in audit_run(write_lines(tmp_path, rows)).findings if one.id == "schedule-restarts")
    assert finding.evidence[0].startswith("2 rises; the first at step")


def test_an_inverse_square_root_has_come_to_its_end(tmp_path: Path) -> None:
    rates = [1e-3 * min((at + 1) / 20, math.sqrt(20 / (at + 1))) for at in range(200)]
    found = audit_run(write_lines(tmp_path, theirs(curve(200, 3.0, 1.2), rates=rates)))
    assert not ids(found)


def test_a_share_that_grows_is_an_effect(tmp_path: Path) -> None:
    terms = {"cross_entropy": curve(300, UNIFORM, 0.8), "token_divergence": curve(300, 5.0, 1.0)}
    OurRun(terms=terms, shares={"cross_entropy": 0.003, "token_divergence": 0.997}).write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if "gradient_shares" in line]
    measured[-1]["gradient_shares"] = {"cross_entropy": 0.3, "token_divergence": 0.7}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert not ids(audit_run(tmp_path))


def test_the_best_step_of_an_overfitting_run_is_named() -> None:
    (finding,) = (one for one in audit_run(REAL / "bad_overfitting.json").findings if one.id == "overfitting")
    assert "at step 60, its best" in finding.evidence[0]
    assert "training.steps=60" in finding.fix[0]


def test_the_first_nan_is_named() -> None:
    (finding,) = (one for one in audit_run(REAL / "bad_trl_nan.log").findings if one.id == "nan-shown-as-zero")
    # the first printed entry holds a loss of 3.125 with a NaN gradient; the second is 0
    assert "first at step 2:" in finding.evidence[0]
    assert finding.example[0] == "step 1: loss 3.125, grad_norm nan"


def test_a_log_says_the_same_in_every_form(tmp_path: Path) -> None:
    rows = theirs(curve(100, 3.0, 1.0), held_out=[(20, 1.5), (50, 1.0), (80, 1.2), (100, 1.4)], epochs=5.0)
    whole = audit_run(write_lines(tmp_path, rows))
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows}), encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    names = ["step", "loss", "eval_loss", "grad_norm", "learning_rate", "epoch"]
    table = "\n".join(",".join(str(row.get(name, "")) for name in names) for row in rows)
    (tmp_path / "log.csv").write_text(",".join(names) + "\n" + table + "\n", encoding="utf-8")
    assert ids(whole) == {("overfitting", "warning")}
    for name in ("trainer_state.json", "list.json", "log.csv"):
        assert ids(audit_run(tmp_path / name)) == ids(whole)


def test_what_a_trainer_prints_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(printed_run(40), encoding="utf-8")
    (run,) = read_runs(path).runs
    points = run.series.steps
    assert [point.step for point in points] == list(range(1, 41))  # the closing summary is no step
    assert points[3].learning_rate == pytest.approx(1e-4 * (1 - 3 / 40), rel=1e-3)
    assert points[3].grad_norm == 1.0
    state = read_runs(REAL / "good_trl_sft.log").runs[0].series
    assert state.facts.significant_digits == 4
    assert state.held_out[0].step == 0
    assert state.held_out[-1].accuracy is not None


def test_the_newest_checkpoint_of_a_folder_is_read(tmp_path: Path) -> None:
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        history = [{"step": at, "loss": 3.0 - at / 10} for at in range(1, step + 1)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}), encoding="utf-8")
    assert read_runs(tmp_path).runs[0].series.last_step == 10


def test_our_run_is_judged_by_its_own_record(tmp_path: Path) -> None:
    run = read_runs(OurRun().write(tmp_path)).runs[0]
    assert run.series.facts.uniform_nats == pytest.approx(UNIFORM)
    assert run.series.facts.random_student is True
    assert run.series.epoch_at(300) == pytest.approx(300 * 16 / 1000)
    alone = read_runs(tmp_path / "metrics.jsonl").runs[0].series
    assert alone.steps[5].terms == run.series.steps[5].terms
    assert alone.facts.uniform_nats is None


def test_a_torn_last_line_is_told_and_any_other_refused(tmp_path: Path) -> None:
    OurRun().write(tmp_path)
    path = tmp_path / "metrics.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + '{"step": 30', encoding="utf-8")
    assert "incomplete" in audit_run(tmp_path).checks[0].scope
    path.write_text('{"step": 30\n' + text, encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        audit_run(tmp_path)


def test_a_line_of_a_log_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    OurRun().write(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = read_runs(path).runs[0].series
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    noted = [line | {"sample": "one\u2028two\x85three"} for line in lines]
    path.write_bytes(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\r\n" for line in noted))
    assert [step.loss for step in read_runs(path).runs[0].series.steps] == [step.loss for step in whole.steps]


def test_a_study_names_its_runs_in_one_finding(tmp_path: Path) -> None:
    worse = ((0, 6.48), (60, 8.3), (120, 8.9), (180, 9.0), (300, 9.4))
    kd = {"token_divergence": curve(300, 5.6, 0.6)}
    for seed in range(8):
        OurRun(terms=kd, held_out=worse).write(tmp_path / "runs" / "logits" / f"seed{seed}")
    OurRun().write(tmp_path / "runs" / "sft" / "seed0")
    found = audit_run(tmp_path)
    (finding,) = (one for one in found.findings if one.severity == "error")
    assert finding.id == "held-out-above-uniform"
    assert finding.evidence[0].startswith("logits/seed0: held-out 9.400")
    assert finding.evidence[-1] == "and 2 more runs: logits/seed6, logits/seed7"
    assert not [line for line in finding.evidence if "sft" in line]
    assert len({one.check for one in found.checks}) == len(found.checks)


def test_arms_that_cannot_be_told_from_sft() -> None:
    results = study()
    unclear = [
        a.name for a in results.arms if a.against_sft and not a.shown_failure and not a.against_sft.excludes_zero
    ]
    findings = check_differences(results).findings
    assert bool(findings) == bool(unclear)
    if findings:
        assert [line.split(":")[0] for line in findings[0].evidence] == unclear


HOSTILE = {
    "binary.log": b"\x80\x04\x95\xff",
    "deep.json": b"[" * 200_000,
    "deep.jsonl": b"[" * 200_000 + b"\n{}\n",
    "list.jsonl": b"[1, 2]\n[3]\n",
    "text.log": b"nothing was logged\n",
    "other.csv": b"a,b\n1,2\n",
    "ragged.csv": b"step,loss\n1,2\n2\n",
    "text.csv": b"step,loss\n1,high\n",
    "negative.csv": b"step,loss\n-1,2\n",
    "huge.jsonl": b'{"step": 1e400, "loss": 1}\n',
    "number.jsonl": b'{"step": 1' + b"0" * 400 + b', "loss": 1}\n',
    "nested.jsonl": b'{"step": 1, "loss": {"a": 1}}\n',
    "empty.jsonl": b"",
    "history.json": b'{"log_history": []}',
    "history2.json": b'{"log_history": [1]}',
    "metrics.jsonl": b'{"step": 1, "terms": {"cross_entropy": 1.0}}\n',
    "terms.jsonl": b'{"step": 1, "terms": 3, "loss": 1, "grad_norm": 1, "learning_rate": 1}\n',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_log_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(DataError) as caught:
        audit_run(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


def test_a_place_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known log"):
        audit_run(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        audit_run(tmp_path / "missing")
    with pytest.raises(ConfigError):
        audit_run(REAL / "good_linear.json", vocabulary=1)
    with pytest.raises(ConfigError):
        audit_run(REAL / "good_linear.json", entropy_nats=math.nan)


def test_a_misspelt_column_gets_its_near_names(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,los\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match='did you mean "loss"'):
        audit_run(tmp_path / "log.csv")


NUMBER = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 1.0, math.nan, math.inf]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(0, 40), "loss": st.floats()},
        optional={
            "eval_loss": NUMBER,
            "grad_norm": NUMBER,
            "learning_rate": NUMBER,
            "epoch": NUMBER,
            "eval_ece": NUMBER,
            "completions/mean_length": NUMBER,
            "completions/clipped_ratio": NUMBER,
            "entropy": NUMBER,
        },
    ),
    min_size=1,
    max_size=60,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(rows=ROWS)
@example(rows=[{"step": 1, "loss": 2e-136, "eval_loss": 8e187}])  # their ratio is no number above zero
@example(rows=[{"step": 0, "loss": math.inf}, {"step": 0, "loss": 0.0, "grad_norm": math.inf}])  # one brings the other
def test_no_numbers_break_the_doctor(rows: list[dict[str, float]], tmp_path: Path) -> None:
    found = audit_run(write_lines(tmp_path, rows), vocabulary=64, random_student=True, unigram_nats=3.0)
    written = {"completions/mean_length", "completions/clipped_ratio"} & {name for row in rows for name in row}
    assert len({one.check for one in found.checks} - {"run-rollouts"}) == 13
    assert written or "run-rollouts" not in {one.check for one in found.checks}
    if not all(math.isfinite(row["loss"]) for row in rows):
        cause = "nan-shown-as-zero" if ("nan-shown-as-zero", "error") in ids(found) else "loss-not-finite"
        assert (cause, "error") in ids(found) and "loss-not-finite" in {id_ for id_, _ in ids(found)}


@given(st.floats(0.5, 4.0), st.floats(-0.5, 0.5))
def test_the_trend_sees_the_noise_and_the_slope(level: float, fall: float) -> None:
    values = [level + fall * at / 200 + 0.01 * math.sin(7 * at) for at in range(200)]
    ends = trend(values)
    assert ends.noise == pytest.approx(noise([value + 3.0 * at for at, value in enumerate(values)]), abs=1e-6)
    if fall < -0.2:
        assert ends.fell(0.0)
        assert not ends.rose(0.0)
    rate, error = slope(range(200), values)
    assert abs(rate - fall / 200) < 4 * error + 1e-9


def test_spikes_are_lone_and_a_new_level_is_none() -> None:
    flat = [1.0 + 0.01 * math.sin(7 * at) for at in range(100)]
    lone = [3.0 if at == 50 else value for at, value in enumerate(flat)]
    level = [value + 3.0 * (at >= 50) for at, value in enumerate(flat)]
    assert spikes(lone, factor=2.0) == [50]
    assert spikes(level, factor=2.0) == []
    assert [near_factor(ratio) for ratio in (4.1, 0.24, 1.2, 2.5, 0.0)] == [4, -4, None, None, None]


def test_the_command_prints_findings_and_ends_with_one_where_there_is_an_error(tmp_path: Path) -> None:
    bad = CliRunner().invoke(app, ["doctor", "run", str(REAL / "bad_nan.json"), "--json", str(tmp_path / "found.json")])
    assert bad.exit_code == 1
    assert "error: nan-shown-as-zero" in bad.output
    assert '"nan-shown-as-zero"' in (tmp_path / "found.json").read_text(encoding="utf-8")
    good = CliRunner().invoke(app, ["doctor", "run", str(REAL / "good_linear.json"), "--vocabulary", "64"])
    assert good.exit_code == 0
    assert "nothing was found" in good.output
