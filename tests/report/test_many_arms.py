"""A page of a dozen arms: what tells them apart, what is cut, and what stands where nobody scores."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from tests.figures import with_value
from tests.report.fixture import compared

from distillab.cli.console import show_study
from distillab.records import Interval, StudyResults, TeacherCost
from distillab.report import write_report
from distillab.report.drawing import fitted, marker
from distillab.report.entries import COLOURS, MARKERS, entries, of_kind
from distillab.report.safety import without_blank_runs

STYLE = Path(__file__).resolve().parents[2] / "src" / "distillab" / "report" / "templates" / "style.css"
LONG = "token_divergence_temperature_"


def pages(results: StudyResults, folder: Path) -> tuple[str, str]:
    markdown, html = write_report(results, folder)
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


@pytest.fixture
def eleven(study: StudyResults) -> StudyResults:
    """The invented study with seven arms more, of long names that differ at their ends."""
    model = next(arm for arm in study.arms if arm.name == "logits")
    more = [model.model_copy(update={"name": f"{LONG}{n}"}) for n in range(7)]
    return study.model_copy(update={"arms": (*study.arms, *more)})


def test_no_two_of_eleven_arms_look_alike(eleven: StudyResults) -> None:
    arms = of_kind(entries(eleven), "arm")
    assert len(arms) == 11
    assert len({arm.colour for arm in arms}) == len({arm.marker for arm in arms}) == 11
    shapes = {str(marker(shape, (0, 0), "c0", 4)) for shape in MARKERS}
    assert len(shapes) == len(MARKERS) == 15


def test_the_gap_is_drawn_for_arms_of_every_marker_without_a_difference(study: StudyResults, tmp_path: Path) -> None:
    model = next(arm for arm in study.arms if arm.name == "logits")
    same = tuple(
        one.model_copy(
            update={"difference": one.difference.model_copy(update={"low": -1.0, "high": 1.0, "adjusted_p": 1.0})}
        )
        for one in model.comparisons
    )
    more = [model.model_copy(update={"name": f"n{n}", "comparisons": same}) for n in range(len(MARKERS))]
    _, html = pages(study.model_copy(update={"arms": (*study.arms, *more)}), tmp_path)
    assert html.count("mark-open") >= len(MARKERS)


@pytest.mark.parametrize(
    ("which", "paper"), [(0, "#fdfdfb"), (1, "#14171a"), (2, "#ffffff")], ids=["light", "dark", "print"]
)
def test_the_colours_can_be_told_apart_and_read(which: int, paper: str) -> None:
    found = re.findall(r"--c(\d+):(#[0-9a-f]{6})", STYLE.read_text(encoding="utf-8"))
    palette = [colour for _, colour in found[which * COLOURS : (which + 1) * COLOURS]]
    assert len(found) == 3 * COLOURS and [int(number) for number, _ in found[:COLOURS]] == list(range(COLOURS))
    for name in ("tint", "text"):
        assert all(f".c{n}{'{' if name == 'tint' else '-text{'}" in STYLE.read_text() for n in range(COLOURS))
    assert min(_distance(a, b) for a, b in itertools.combinations(palette, 2)) > 20  # a just noticeable difference is 2
    assert min(_contrast(colour, paper) for colour in palette) > 4.4


def test_long_names_are_whole_beside_the_curves_and_keep_both_ends_elsewhere(
    eleven: StudyResults, tmp_path: Path
) -> None:
    _, html = pages(eleven, tmp_path)
    curves = html[html.index('class="panels"') : html.index("How to read them")]
    for n in range(7):
        assert f">{LONG}{n}<" in curves
    wide = float(re.findall(r'<svg class="figure wide" viewBox="0 0 ([0-9.]+)', curves)[0])
    assert wide >= 346 + 10 + 6.6 * len(f"{LONG}0")
    assert len({fitted(f"{LONG}{n}", 20) for n in range(7)}) == 7
    narrow = re.findall(r'<svg class="figure narrow" viewBox="0 0 ([0-9.]+)', curves)
    assert narrow == ["380"] * 3


def test_where_nobody_scores_nobody_is_best(study: StudyResults, tmp_path: Path) -> None:
    def silent(results: StudyResults, value: float) -> StudyResults:
        arms = []
        for arm in results.arms:
            changed = tuple(with_value(e, "exact_match", value) for e in arm.evaluations)
            arms.append(arm.model_copy(update={"evaluations": changed}))
        return results.model_copy(update={"arms": tuple(arms)})

    for value in (0.0, 1e-6):
        _, html = pages(silent(study, value), tmp_path)
        assert not re.search(r'<td class="best">0[.]0<', html)
        assert '<td class="best">' in html  # the other columns have one
    _, html = pages(study, tmp_path)
    assert len(re.findall(r'<td class="best">', html)) >= 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("7" + "\n" * 60, "7 ⟨60 line ends⟩ "),
        ("a\n\nb\n", "a\n\nb\n"),
        ("a\n \n\t\n \nb", "a ⟨4 line ends⟩ b"),
        ("a" + " " * 500 + "b", "a ⟨500 spaces⟩ b"),
        ("if x:\n        return", "if x:\n        return"),
    ],
)
def test_empty_lines_leave_no_hole(text: str, shown: str, study: StudyResults, tmp_path: Path) -> None:
    assert without_blank_runs(text) == shown
    sample = study.samples[0].model_copy(update={"answers": {"sft": f"begin{text}end"}, "prompt": f"p{text}p"})
    for page in pages(study.model_copy(update={"samples": (sample,)}), tmp_path):
        assert "\n\n\n\n\n" not in page and " " * 80 not in page


def test_what_was_made_once_is_counted_where_it_is_used(study: StudyResults, tmp_path: Path) -> None:
    seconds = {"sft": 0.0, "seqkd": 3600.0, "logits": 60.0}
    bare = {"read_tokens": 1, "generated_tokens": 0, "stored_bytes": None}
    costs = {name: TeacherCost(seconds=value, **bare) for name, value in seconds.items()}
    arms = tuple(arm.model_copy(update={"teacher_cost": costs.get(arm.name)}) for arm in study.arms)
    markdown, html = pages(study.model_copy(update={"arms": arms, "shared_s": 3700.0}), tmp_path)
    lines = markdown[markdown.index("| arm | runs") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    cells = {row[0]: row[8:10] for row in rows}
    assert cells["seqkd"] == ["1 h 00 min", "1 h 01 min"]
    assert cells["sft"][0] == "0.0 s" and cells["seqkd\\_other\\_teacher"] == ["–", "–"]
    assert "<dt>time in all</dt><dd>1\xa0h 09\xa0min</dd>" in html  # 497.3 s of runs, 3,700 s shared
    _, unknown = pages(study, tmp_path)
    assert "8\xa0min 17\xa0s, without the teachers’ answers and caches" in unknown


def test_n_stands_beside_every_interval_and_few_rows_have_none(
    study: StudyResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Interval(mean=-0.1, low=-0.2, high=-0.05, p=0.01, rows=200, seeds=3)
    few = Interval(mean=-0.4, low=None, high=None, p=1.0, rows=2, seeds=3)
    given = {"logits": measured, "seqkd": few}
    arms = tuple(
        arm.model_copy(update={"comparisons": compared(given[arm.name], nearer=False) if arm.name in given else ()})
        for arm in study.arms
    )
    counts = study.held_out_counts.model_copy(update={"rows": 420, "left_out": 20, "left_out_for": {"too long": 20}})
    results = study.model_copy(update={"arms": arms, "held_out_counts": counts})
    assert StudyResults.model_validate_json(results.model_dump_json()) == results
    markdown, html = pages(results, tmp_path)
    assert r"−0.100 \[−0.200, −0.050\] n = 200 rows × 3 seeds better" in markdown
    assert "−0.400 too few rows for an interval n = 2 rows × 3 seeds |" in markdown
    assert "<dd>400 of 420, 20 not evaluated: 20 too long</dd>" in html
    show_study(results, tmp_path)
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "-0.100 [-0.200, -0.050] 400 × 3 " in lines["logits"]
    assert "-0.400 [too few rows] 400 × 3 " in lines["seqkd"]


def test_a_narrow_screen_says_that_the_table_goes_on(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    body = html[html.index("<body>") :]
    tables = re.findall(
        r'(<p class="swipe"[^>]*>[^<]*</p>\s*)?<div class="scroll"[^>]*>\s*<table class="(?:main|plain figures)"', body
    )
    assert len(tables) >= 6 and all("Swipe for more columns" in hint for hint in tables)
    style = STYLE.read_text(encoding="utf-8")
    assert ".swipe{display:none" in style
    assert ".swipe{display:block}" in style[style.index("@media (max-width:720px)") :]


def _linear(value: int) -> float:
    share = value / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (_linear(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
    return red, green, blue


def _contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio."""
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b_ for r, g, b_ in (_rgb(a), _rgb(b)))
    return (light + 0.05) / (dark + 0.05)


def _distance(a: str, b: str) -> float:
    """CIE76: distance in CIELAB."""

    def lab(colour: str) -> tuple[float, float, float]:
        red, green, blue = _rgb(colour)
        x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
        y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
        fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)

    return sum((p - q) ** 2 for p, q in zip(lab(a), lab(b), strict=True)) ** 0.5
