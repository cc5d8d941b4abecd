"""A student that begins or ends worse than it should: the first sentence of terminal, report and doctor."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from tests.doctor.run_samples import OurRun
from tests.figures import with_value
from tests.report import fixture
from tests.report.fixture import study as invented

from distillab.cli.console import show_study
from distillab.doctor.run.audit import audit_run
from distillab.records import Interval, StudyResults, outlook, study_outlook, teachers_not_better, write_record
from distillab.report import write_report
from distillab.report.findings import concluded
from distillab.report.safety import unbroken

ABOVE = (
    "The student starts above log V, worse than a uniform guess: 7.900 nats per token before training, log V is 6.238."
)
WORSE = (
    "Every arm is worse than the undistilled student: 1.500 nats per token before training, 1.651 after the best of "
    "4, logits."
)


def begun(nats: float, *, random: bool | None) -> StudyResults:
    """The invented study with an untrained student of so many nats per token."""
    results = invented()
    point = results.baselines[0]
    evaluation = with_value(point.evaluation, "nats_per_token", nats)
    point = point.model_copy(update={"evaluation": evaluation, "random": random})
    return results.model_copy(update={"baselines": (point, *results.baselines[1:])})


@pytest.mark.parametrize(("nats", "sentence"), [(7.9, ABOVE), (1.5, WORSE)])
def test_it_is_the_first_sentence_everywhere(
    nats: float, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = begun(nats, random=False)
    sentence = re.sub("1[.]651", f"{_best(results):.3f}", sentence)
    show_study(results, tmp_path)
    assert " ".join(capsys.readouterr().out.split()).startswith(sentence)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    after_title = html[html.index("</h1>") + len("</h1>") :].lstrip()
    assert after_title.startswith(f'<p class="outlook" role="note">{unbroken(sentence)}</p>')
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.split("\n\n")[1] == f"**{sentence}**"

    for arm in ("sft", "logits"):
        OurRun().write(tmp_path / "runs" / arm / "seed0")
    write_record(results, tmp_path / "results.json")
    found = audit_run(tmp_path)
    conclusions = concluded(found).conclusions
    assert conclusions is not None and conclusions.summary[0] == sentence
    assert [finding.id for finding in found.findings if finding.severity != "note"] == ["worse-than-start"]


def _best(results: StudyResults) -> float:
    arm = next(arm for arm in results.arms if arm.name == "logits")
    return sum(e.nats_per_token for e in arm.evaluations) / len(arm.evaluations)


@pytest.mark.parametrize(
    ("nats", "random"), [(6.3, True), (7.9, True), (7.9, None), (6.3, False), (5.0, False), (1.7, False)]
)
def test_nothing_is_said_of_a_sound_study(nats: float, random: bool | None, tmp_path: Path) -> None:
    results = begun(nats, random=random)
    assert study_outlook(results) == ()
    write_report(results, tmp_path)
    assert 'class="outlook"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_shown_failure_does_not_save_and_does_not_damn() -> None:
    results = begun(1.5, random=False)
    real = [arm for arm in results.arms if arm.shown_failure is None]
    good = with_value(real[0].evaluations[0], "nats_per_token", 1.0)
    shown = [arm for arm in results.arms if arm.shown_failure is not None]
    saved = shown[0].model_copy(update={"evaluations": (good,) * 3})
    assert len(study_outlook(results.model_copy(update={"arms": (*real, saved)}))) == 1


def test_a_teacher_that_is_no_better_than_sft_is_said_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = begun(6.3, random=True)
    (compared,) = fixture.compared(Interval(mean=0.02, low=-0.01, high=0.05), nearer=False)
    first, teacher, other = results.baselines
    points = (first, teacher.model_copy(update={"comparisons": (compared,)}), other)
    results = results.model_copy(update={"baselines": points})
    sentence = (
        "imaginary-teacher-M, the teacher, is not better than SFT on the data set's answers: +0.020 nats/token (95 % "
        "interval -0.010 to +0.050)."
    )
    show_study(results, tmp_path)
    # the headline, which answers the study's question, comes first
    assert f"{results.title} {results.headline} {sentence}" in " ".join(capsys.readouterr().out.split())
    page = unescape((tmp_path / "report.html").read_text())
    assert page.index(unbroken(results.headline)) < page.index(f'<p class="outlook" role="note">{unbroken(sentence)}')
    assert "teacher correction" in (tmp_path / "report.md").read_text(encoding="utf-8")
    OurRun().write(tmp_path / "runs" / "logits" / "seed0")
    write_record(results, tmp_path / "results.json")
    found = audit_run(tmp_path)
    assert found.outlook[0].startswith(sentence)
    assert [finding.id for finding in found.findings if finding.severity != "note"] == ["teacher-not-better"]
    for low, high in ((-0.05, -0.01), (None, None)):
        better = compared.model_copy(update={"difference": Interval(mean=-0.02, low=low, high=high)})
        points = (first, teacher.model_copy(update={"comparisons": (better,)}), other)
        assert teachers_not_better(results.model_copy(update={"baselines": points})) == ()


def test_a_single_run_is_named() -> None:
    assert outlook(2.0, {"run": 2.0}, uniform=6.0, random=False) == (
        "run is no better than the undistilled student: 2.000 nats per token before training, 2.000 after it.",
    )
    assert outlook(None, {"run": 9.0}, uniform=6.0, random=False) == ()


def test_the_doctor_begins_with_it_for_a_run(tmp_path: Path) -> None:
    worse = ((0, 2.0), (60, 2.3), (120, 2.4), (300, 2.6))
    OurRun(held_out=worse, init="pretrained").write(tmp_path / "worse")
    found = audit_run(tmp_path / "worse")
    assert found.outlook[0].startswith("the run is worse than the undistilled student: 2.000 nats per token")
    assert [finding.id for finding in found.findings].count("held-out-worse-than-untrained") == 1
    assert "worse-than-start" not in {finding.id for finding in found.findings}
    OurRun().write(tmp_path / "good")
    assert audit_run(tmp_path / "good").outlook == ()
