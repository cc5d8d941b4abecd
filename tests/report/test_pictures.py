"""The page's pictures and views: the gap, cost against quality, marked answers, tokens; the size of a large page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distillab.records import Interval, Recovered, StudyResults, TeacherCost
from distillab.report import write_report
from distillab.report.differences import marked
from distillab.report.entries import entries
from distillab.report.figure_gap import figure_gap
from distillab.report.page import page_of


def _with(study: StudyResults, share: Recovered | None, difference: Interval | None = None) -> StudyResults:
    """The study with this share of the gap for the arm logits, in every family."""
    arms = []
    for arm in study.arms:
        changed = tuple(
            one.model_copy(update={"recovered": share, **({"difference": difference} if difference else {})})
            for one in arm.comparisons
        )
        arms.append(arm.model_copy(update={"comparisons": changed}) if arm.name == "logits" else arm)
    return study.model_copy(update={"arms": tuple(arms)})


def _places(svg: str, css: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<line class="{css}" x1="([0-9.]+)" y1="[0-9.]+" x2="([0-9.]+)"', svg)
    return [(float(a), float(b)) for a, b in found]


def test_the_gap_is_drawn_to_scale_with_its_interval(study: StudyResults) -> None:
    figure = figure_gap(entries(_with(study, Recovered(share=0.5, low=0.25, high=1.0))))
    assert figure is not None and figure.family == "likelihood" and figure.left_out == ("seqkd_other_teacher",)
    for svg in map(str, figure.pictures):
        (sft, _), (teacher, _) = _places(svg, "axis")
        *_, (low, high) = _places(svg, "interval c[0-9]+")
        assert low == pytest.approx(sft + 0.25 * (teacher - sft), abs=0.02)
        assert high == pytest.approx(teacher, abs=0.02)
        assert "logits (access logits) +50 % [+25, +100]" in svg


def test_a_wide_interval_is_cut_with_an_arrow_and_the_axis_stays_readable(study: StudyResults) -> None:
    figure = figure_gap(
        entries(_with(study, Recovered(share=0.4, low=-30.0, high=50.0), Interval(mean=-1, low=-9, high=9)))
    )
    assert figure is not None
    wide = str(figure.pictures[0])
    (sft, _), (teacher, _) = _places(wide, "axis")
    assert teacher - sft > 100
    *_, (low, high) = _places(wide, "interval c[0-9]+")
    assert low < sft - 80 and high > teacher + 80  # to both ends
    assert "[−3,000, +5,000]" in wide
    assert wide.count('class="mark-open') == 1  # no significant difference


def test_without_a_share_there_is_no_picture_and_the_headline_has_none(study: StudyResults) -> None:
    arms = tuple(arm.model_copy(update={"comparisons": ()}) for arm in study.arms)
    page = page_of(study.model_copy(update={"arms": arms}))
    assert page.gap_figure is None and page.headline == "Nothing is compared with plain fine-tuning (SFT) here."
    page = page_of(study)
    assert page.headline == (
        "Learning from the teacher’s probabilities (logits) closes 27 % of the gap between plain fine-tuning (SFT) and "
        "the teacher; of 3 arms 2 are better than SFT."
    )
    even = Interval(mean=-0.01, low=-0.2, high=0.1)
    nothing = _with(study, None, even)
    nothing = nothing.model_copy(update={"arms": tuple(a for a in nothing.arms if a.name in ("sft", "logits"))})
    assert page_of(nothing).headline.startswith("The arm that learns from a teacher is not measurably better than")
    alone = _with(nothing, None, Interval(mean=-0.1, low=-0.2, high=-0.01, adjusted_p=0.2))
    assert page_of(alone).headline.startswith("logits is better than plain fine-tuning (SFT) by its own interval; the")


def test_cost_is_the_time_of_a_run_with_its_share_of_what_was_made_once(study: StudyResults) -> None:
    cost = TeacherCost(read_tokens=1, generated_tokens=0, seconds=300.0, stored_bytes=None)
    arms = tuple(
        arm.model_copy(
            update={
                "teacher_cost": cost if arm.name == "logits" else None,
                "costs": tuple(one.model_copy(update={"wall_s": 20.0}) for one in arm.costs),
            }
        )
        for arm in study.arms
    )
    wide, narrow = map(str, page_of(study.model_copy(update={"arms": arms})).cost_figure)
    # seqkd's answers were made elsewhere: its cost is not known
    assert re.search(r"<desc[^>]*>sft: 20\.0 s, [0-9.]+; logits: 2 min 00 s, [0-9.]+\.</desc>", wide)
    assert "seqkd" not in wide and "seqkd" not in narrow


@pytest.mark.parametrize(
    ("answer", "reference", "differs"),
    [
        ("There are 7.", "There are 7.", []),
        ("There are 6.", "There are 7.", ["6"]),
        ("Now there are 7.", "there are 7.", ["Now "]),
        ("", "There", []),
        ("word " * 500, "other", []),  # too long to compare
    ],
)
def test_an_answer_is_marked_where_it_differs(answer: str, reference: str, differs: list[str]) -> None:
    pieces = marked(answer, reference)
    assert "".join(piece.text for piece in pieces) == answer
    assert [piece.text for piece in pieces if piece.differs] == differs


def test_tokens_show_the_teacher_the_best_student_and_sft(study: StudyResults, tmp_path: Path) -> None:
    page = page_of(study).token_probs
    assert page is not None and [model.name for model in page.models] == ["teacher", "logits", "sft"]
    assert page.tokens[2] == (" 7", (97, 60, 10))
    html = write_report(study, tmp_path)[1].read_text(encoding="utf-8")
    assert html.count('<span class="prob ') == 3 * 7
    assert page_of(study.model_copy(update={"token_view": None})).token_probs is None


def test_a_page_of_sixty_runs_is_below_a_megabyte(study: StudyResults, tmp_path: Path) -> None:
    model = next(arm for arm in study.arms if arm.name == "logits")
    arms = (*study.arms, *(model.model_copy(update={"name": f"divergence_number_{n}"}) for n in range(14)))
    samples = tuple(
        one.model_copy(update={"answers": {arm.name: one.reference * 6 for arm in arms}}) for one in study.samples
    )
    large = study.model_copy(update={"arms": arms, "samples": samples})
    assert sum(len(arm.seeds) for arm in arms) == 60
    assert len(write_report(large, tmp_path)[1].read_bytes()) < 1_000_000
