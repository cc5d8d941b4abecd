"""What the report shows of students that wrote answers in training."""

from __future__ import annotations

from pathlib import Path

from distillab.records import Comparison, Interval, RolloutRecord, RolloutSample, StudyResults
from distillab.report import write_report


def _with_on_policy(study: StudyResults) -> StudyResults:
    def rollout(nats: float) -> RolloutRecord:
        return RolloutRecord(
            steps=60,
            first={"length_mean": 20.0, "truncated": 0.25, "nats": nats, "nats_0_32": 2 * nats},
            last={"length_mean": 30.0, "truncated": 0.0, "nats": nats / 2, "nats_0_32": nats},
            samples=(RolloutSample(prompt="What is 2 + 2?", first="qu the the", last="<b>four</b></s>"),),
        )

    def compared(metric: str, low: float) -> Comparison:
        interval = Interval(mean=low + 0.05, low=low, high=low + 0.1)
        return Comparison(family="fidelity", metric=metric, label=metric, unit="nats/token", difference=interval)

    logits = next(arm for arm in study.arms if arm.name == "logits")
    own = logits.model_copy(
        update={
            "name": "own",
            "method": "on_policy",
            "rollouts": tuple(rollout(nats) for nats in (0.4, 0.6, 0.8)),
            "twin": "logits",
            "against_twin": (compared("own text", -0.3), compared("held-out", 0.2)),
        }
    )
    return study.model_copy(update={"arms": (*study.arms, own)})


def test_the_section_shows_twin_figures_and_examples(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = (path.read_text().replace("\\", "") for path in write_report(_with_on_policy(study), tmp_path))
    assert "| own | logits, on-policy |" in markdown
    assert "| own | logits | own text −0.250 nats/token [−0.300, −0.200], better |" in markdown
    assert "held-out +0.250 nats/token [+0.200, +0.300], worse" in markdown
    figures = next(line for line in markdown.splitlines() if line.startswith("| own | 20.0"))
    assert figures.startswith("| own | 20.0 → 30.0 | 25.0 → 0.0 | 0.600 → 0.300 |")
    assert "| own | 1.200 → 0.600 | \n" in markdown and "33–128" not in markdown
    assert "qu the the" in markdown.split("before training:")[1]
    assert "&lt;b&gt;four&lt;/b&gt;&lt;/s&gt;" in html and "What the students wrote in training" in html
    assert html.index("Access: logits</strong>") < html.index("Access: logits, on-policy</strong>")


def test_without_such_an_arm_there_is_no_section(study: StudyResults, tmp_path: Path) -> None:
    for path in write_report(study, tmp_path):
        assert "wrote in training" not in path.read_text() and "on-policy" not in path.read_text()
