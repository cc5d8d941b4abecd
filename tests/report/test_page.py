"""The two files of a report: complete, self-contained, true to the record."""

from __future__ import annotations

import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.figures import with_value, without_generations

from distillab.errors import DataError
from distillab.records import ArmResult, StudyResults
from distillab.report import write_report
from distillab.report.safety import unbroken

DEMONSTRATIONS = ("shifted_by_position", "index_by_index")


class MainTable(HTMLParser):
    """Rows of the table of class main: lists of cell texts, small second lines after a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside = ("class", "main") in attrs
        elif self._inside and tag == "tr":
            self.rows.append([])
        elif self._inside and tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True
        elif self._cell and tag == "small":
            self.rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._inside = False
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data.strip()


def pages(study: StudyResults, folder: Path) -> tuple[str, str]:
    markdown, html = write_report(study, folder)
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def table(html: str) -> list[list[str]]:
    parser = MainTable()
    parser.feed(html)
    return parser.rows


def row(html: str, name: str) -> dict[str, str]:
    """One row of the main table by column heading (without unit and arrow)."""
    rows = table(html)
    headings = [re.sub(r"[↓↑]", "", cell.split("|")[0]) for cell in rows[1]]  # the families stand above them
    found = next(cells for cells in rows if cells[0].split("|")[0] == name and len(cells) > 1)
    return dict(zip(headings, found, strict=True))


def with_arm(study: StudyResults, name: str, **changes: object) -> StudyResults:
    arms = tuple(arm.model_copy(update=changes) if arm.name == name else arm for arm in study.arms)
    return study.model_copy(update={"arms": arms})


def with_nats(study: StudyResults, name: str, value: float) -> StudyResults:
    """The study with another held-out figure in the arm's first seed."""
    arm = next(arm for arm in study.arms if arm.name == name)
    first = with_value(arm.evaluations[0], "nats_per_token", value)
    return with_arm(study, name, evaluations=(first, *arm.evaluations[1:]))


def test_equal_results_give_equal_bytes(study: StudyResults, tmp_path: Path) -> None:
    again = StudyResults.model_validate_json(study.model_dump_json())
    assert pages(study, tmp_path / "a") == pages(again, tmp_path / "b")


def test_leaves_no_other_file_and_overwrites(study: StudyResults, tmp_path: Path) -> None:
    first = pages(study, tmp_path)
    second = pages(study.model_copy(update={"title": "Another title"}), tmp_path)
    assert first[1] != second[1]
    assert "Another title" in second[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_the_page_loads_nothing(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form)\b", html)
    assert not re.search(r"""(src|href|srcset|action|data)\s*=""", html)
    assert not re.search(r"@import|url\(", html)
    assert set(re.findall(r"https?://[^\"' <]*", html)) == {"http://www.w3.org/2000/svg"}
    assert re.search(r'Content-Security-Policy" content="default-src \'none\'', html)
    assert len(html.encode()) < 1_000_000


def test_sections_come_in_order(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    marks = [
        study.title,
        study.question,
        unbroken(study.headline)[:20],
        unbroken(study.verdict)[:40],
        "no result",
        "What each level of access buys",
        "Reference lines",
        "Figure 1",
        "Figure 2",
        "What they answer",
        "Do teacher and student share their tokens?",
        "Rows and tokens",
        "How the two tokenisations align",
        "Answers written by teachers",
        "Cached teacher signals, read by all runs",
        "What one run used",
        study.reproduce,
        "Terms",
    ]
    body = html[html.index("<body>") :]
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)


def test_rows_are_ordered_by_access(study: StudyResults, tmp_path: Path) -> None:
    names = [cells[0].split("|")[0] for cells in table(pages(study, tmp_path)[1])]
    shown = [name for name in names[1:] if name in {p.name for p in study.baselines} | {a.name for a in study.arms}]
    assert shown == [
        "undistilled student",
        "sft",
        "seqkd",
        "logits",
        "seqkd_other_teacher",
        "imaginary-teacher-M",
        "imaginary-teacher-X",
        *DEMONSTRATIONS,
    ]


def test_every_number_of_the_main_table_is_the_records(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    for arm in study.arms:
        assert row(html, arm.name) | {"model": ""} == expected(arm) | {"model": ""}


def expected(arm: ArmResult) -> dict[str, str]:
    """The row of an arm, computed naively from its record."""

    def seeds(name: str, decimals: int, factor: float = 1.0) -> str:
        values = [metric.value for e in arm.evaluations for metric in e.metrics if metric.name == name]
        there = [value * factor for value in values if value is not None]
        if not there:
            return "–"
        return f"{sum(there) / len(there):.{decimals}f}|± {statistics.stdev(there):.{decimals}f}"

    def sign(value: float) -> str:
        return f"{value:+.3f}".replace("-", "−")

    delta = "SFT itself"
    if arm.against_sft is not None:
        low, high = arm.against_sft.low, arm.against_sft.high
        word = "better" if high < 0 else "worse" if low > 0 else "not significant"
        delta = f"{sign(arm.against_sft.mean)}|[{sign(low)}, {sign(high)}]|{word}"
    return {
        "held-out": seeds("nats_per_token", 3),
        "Δ to SFT": delta,
        "bits/byte": seeds("bits_per_byte", 3),
        "token accuracy": seeds("token_accuracy", 1, 100),
        "KL from teacher": seeds("kl_from_teacher", 3),
        "top-1 agreement": seeds("top1_agreement", 1, 100),
        "acceptance": seeds("acceptance", 1, 100),
        "KL from teacher, own text": seeds("own_kl_from_teacher", 3),
        "top-1 agreement, own text": seeds("own_top1_agreement", 1, 100),
        "acceptance, own text": seeds("own_acceptance", 1, 100),
        "value match": seeds("value_match", 1, 100),
        "exact match": seeds("exact_match", 1, 100),
        "norm. match": seeds("normalised_match", 1, 100),
        "ROUGE-L": seeds("rouge_l", 1, 100),
        "stops by EOS": seeds("stopped_by_eos", 1, 100),
        "mean length": seeds("mean_tokens", 1),
        "rows scored": "400",
        "generations": "200",
        "seeds": str(len(arm.seeds)),
    }


def test_metrics_stand_in_families_and_gaps_beside_them(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = pages(study, tmp_path)
    spans = re.findall(r'<th scope="colgroup" colspan="(\d+)">([^<]*)<', html)
    few = [
        ("2", "likelihood of the data set’s answers"),
        ("2", "fidelity to the teacher"),
        ("1", "task scores of generated answers"),
    ]
    assert spans == [
        *few,
        ("4", "likelihood of the data set’s answers"),
        ("6", "fidelity to the teacher"),
        ("6", "task scores of generated answers"),
    ]
    (line,) = [line for line in markdown.splitlines() if line.startswith("| logits | held-out")]
    assert [cell.strip().replace("\\", "") for cell in line.split("|")[2:-1]] == [
        "held-out −0.088 nats/token [−0.095, −0.081], better",
        "+27 % [+25, +30]",
        "KL from teacher −0.040 nats/token [−0.050, −0.030], better",
        "+13 % [+10, +16]",
    ]
    assert "seqkd_other_teacher, likelihood of the data set’s answers: too few rows for an interval." in html
    (cost,) = [line for line in markdown.splitlines() if line.startswith("| logits | imaginary-teacher-M |")][-1:]
    assert [cell.strip() for cell in cost.split("|")[3:-1]] == ["431,000", "75,000", "12.5 s", "3 MiB"]


def test_demonstrations_are_marked_everywhere(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = pages(study, tmp_path)
    banner = html[html.index('<aside class="warning"') : html.index("</aside>")]
    curves = html[html.index('class="legend"') : html.index('class="panels"')]
    for name in DEMONSTRATIONS:
        assert name in banner
        assert row(html, name)["model"].startswith(f"{name}|shown failure")
        assert f"{name} (shown failure)" in html[html.index("What one run used") :]
        assert re.search(rf"<bdi>{name}</bdi> <span class=\"badge failure\">shown failure", curves)
        assert html.count(f"✗ {name}") >= 2
        broken = name.replace("_", "_<wbr>")
        assert html.count(f'<bdi>{broken}</bdi> <span class="badge failure">shown failure') == 10
        escaped = name.replace("_", r"\_")
        assert f"| {escaped} **(shown failure, not a result)** |" in markdown
        assert markdown.count(f"{escaped} **(shown failure)**:") == 10
    for name in ("sft", "seqkd", "logits"):
        assert f"✗ {name}" not in html


def test_no_demonstration_no_banner(study: StudyResults, tmp_path: Path) -> None:
    arms = tuple(arm for arm in study.arms if arm.shown_failure is None)
    markdown, html = pages(study.model_copy(update={"arms": arms}), tmp_path)
    assert 'class="warning"' not in html
    assert "shown failure" not in html.lower().replace("a cross ✗ marks every shown failure", "").replace(
        "without the shown failures", ""
    )
    assert "Warning" not in markdown


def test_a_metric_that_nobody_has_is_left_out(study: StudyResults, tmp_path: Path) -> None:
    points = tuple(p.model_copy(update={"evaluation": without_generations(p.evaluation)}) for p in study.baselines)
    arms = tuple(
        arm.model_copy(update={"evaluations": tuple(map(without_generations, arm.evaluations))}) for arm in study.arms
    )
    _, html = pages(study.model_copy(update={"arms": arms, "baselines": points}), tmp_path)
    assert "held-out" in row(html, "sft")
    assert not {"ROUGE-L", "value match", "generations", "mean length"} & set(row(html, "sft"))


def test_missing_is_a_dash_with_a_note_and_never_zero(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    assert row(html, "seqkd_other_teacher")["KL from teacher"] == "–"
    assert row(html, "undistilled student")["seeds"] == "–"
    assert "not measured, or not defined" in html


def test_nan_is_said_and_not_drawn(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = pages(with_nats(study, "seqkd", math.nan), tmp_path)
    assert row(html, "seqkd")["held-out"] == "not finite"
    assert "seqkd: 1 of 3 values are not finite and not drawn." in html
    assert "not finite" in markdown
    assert not re.search(r"\b(nan|inf)\b", html)
    infinite = pages(with_nats(study, "sft", math.inf), tmp_path)[1]
    assert row(infinite, "sft")["held-out"] == "not finite"
    assert not re.search(r"\b(nan|inf)\b", infinite)


def test_a_nan_in_a_curve_is_said(study: StudyResults, tmp_path: Path) -> None:
    arm = next(arm for arm in study.arms if arm.name == "sft")
    point = arm.curves[0][3].model_copy(update={"held_out_nats_per_token": math.nan})
    first = (*arm.curves[0][:3], point, *arm.curves[0][4:])
    _, html = pages(with_arm(study, "sft", curves=(first, *arm.curves[1:])), tmp_path)
    assert "sft: 1 values of its curves are not finite and not drawn." in html
    assert not re.search(r"\b(nan|inf)\b", html)


def test_one_seed_has_no_spread(study: StudyResults, tmp_path: Path) -> None:
    arm = next(arm for arm in study.arms if arm.name == "sft")
    one = {"seeds": (0,), "evaluations": arm.evaluations[:1], "curves": arm.curves[:1], "costs": arm.costs[:1]}
    _, html = pages(with_arm(study, "sft", **one), tmp_path)
    assert row(html, "sft")["held-out"] == f"{arm.evaluations[0].nats_per_token:.3f}"


def test_a_teacher_with_other_tokens_is_not_compared_in_nats(study: StudyResults, tmp_path: Path) -> None:
    _, html = pages(study, tmp_path)
    assert row(html, "imaginary-teacher-X")["held-out"] == "1.587 †"
    assert row(html, "imaginary-teacher-M")["held-out"] == "1.421"
    assert "imaginary-teacher-X is not drawn" in html
    # The number of scored tokens alone gives it away, too.
    _, without = pages(study.model_copy(update={"contracts": ()}), tmp_path)
    assert row(without, "imaginary-teacher-X")["held-out"] == "1.587 †"


def test_the_contract_alone_marks_a_teacher_with_other_tokens(study: StudyResults, tmp_path: Path) -> None:
    student, same, other = study.baselines
    points = (student, same, other.model_copy(update={"evaluation": same.evaluation}))
    _, html = pages(study.model_copy(update={"baselines": points}), tmp_path)
    assert row(html, "imaginary-teacher-X")["held-out"] == "1.421 †"
    _, without = pages(study.model_copy(update={"baselines": points, "contracts": ()}), tmp_path)
    assert row(without, "imaginary-teacher-X")["held-out"] == "1.421"


def test_a_cache_is_shown_with_what_it_cost_once(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = pages(study, tmp_path)
    assert "cache/imaginary-teacher-M" in html
    lines = [line for line in markdown.splitlines() if line.startswith(("| cache/imaginary", "| s3"))]
    figures = [cell.strip() for cell in lines[0].split("|")[5:10]]
    assert figures == ["2,991", "104,310", "59,211", "3 MiB", "12.5 s"]
    assert [cell.strip() for cell in lines[1].split("|")[8:10]] == ["–", "–"]  # made elsewhere


def test_the_meeting_of_two_tokenisations_is_counted(study: StudyResults, tmp_path: Path) -> None:
    markdown, _ = pages(study, tmp_path)
    (line,) = [line for line in markdown.splitlines() if line.startswith("| world/train.jsonl, and imaginary")]
    figures = [cell.strip() for cell in line.split("|")[2:9]]
    assert figures == ["2,991", "3", "59,211 / 61,002", "99.6 % / 99.8 %", "48,000", "85.4 %", "2"]


def test_arms_across_tokenizers_stand_by_themselves(study: StudyResults, tmp_path: Path) -> None:
    markdown, html = pages(study, tmp_path)
    marked = [line for line in markdown.splitlines() if "(other tokens)" in line]
    assert len(marked) == 2 and sum("seqkd" in line and "shown failure" not in line for line in marked) == 1
    own, across = html.index("<strong>Access: text</strong>"), html.index("Across tokenizers, access: text")
    assert own < html.index("Access: logits") < across < html.index("<strong>Teachers</strong>")


def test_a_bare_study_still_gives_a_page(study: StudyResults, tmp_path: Path) -> None:
    arm = next(arm for arm in study.arms if arm.name == "sft")
    bare = arm.model_copy(update={"curves": ((),) * 3})
    changes = {"arms": (bare,), "baselines": (), "samples": (), "contracts": (), "answer_stores": ()}
    changes |= {"caches": (), "spans": ()}
    markdown, html = pages(study.model_copy(update=changes), tmp_path)
    assert "The record holds no samples." in html
    assert "The record holds no samples." in markdown
    assert "Figure 2" not in html


@pytest.mark.parametrize("field", ["evaluations", "curves", "costs"])
def test_contradicting_lengths_are_refused(study: StudyResults, tmp_path: Path, field: str) -> None:
    arm = study.arms[0]
    with pytest.raises(DataError, match="for each seed"):
        write_report(with_arm(study, arm.name, **{field: getattr(arm, field)[:1]}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_arms_of_one_name_are_refused(study: StudyResults, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a different name"):
        write_report(study.model_copy(update={"arms": (*study.arms, study.arms[0])}), tmp_path)
