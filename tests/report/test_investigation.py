"""The investigation report: four forms that say the same, from the record alone."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from tests.report.test_hostile_text import ALLOWED_TAGS, HOSTILE, Tags, assert_nothing_hides, parser

from distillab.cli.doctor_console import report_investigation, show_investigation
from distillab.records import (
    CheckResult,
    Finding,
    Investigation,
    MethodAdmission,
    PairCheck,
    Recommendation,
    StudyResults,
    TokenizerContract,
    read_record,
)
from distillab.report import write_report
from distillab.report.findings import concluded
from distillab.report.investigation import write_investigation
from distillab.terminal import plain_console

WAYS = ("path A: another teacher", "path B: method: seqkd", "path C: align first")


def finding(id_: str, severity: str, **changes: object) -> Finding:
    values = {
        "id": id_,
        "severity": severity,
        "title": f"Title of {id_}.",
        "evidence": (f"seen of {id_}: 3 of 16 rows", f"more of {id_}"),
        "example": (f"row of {id_}:", f"  position 1 of {id_}"),
        "explanation": f"Meaning of {id_}. A second sentence of {id_}.",
        "fix": (f"first to do for {id_}", f"second to do for {id_}"),
    }
    return Finding.model_validate(values | changes)


def pairing(contract: TokenizerContract, *, ways: tuple[str, ...] = WAYS) -> PairCheck:
    return PairCheck(
        contract=contract,
        methods=(
            MethodAdmission(method="sft", access="none", admitted=True, reason="because of sft"),
            MethodAdmission(method="seqkd", access="text", admitted=True, reason="because of seqkd"),
            MethodAdmission(method="logits", access="logits", admitted=not ways, reason="because of logits"),
        ),
        recommended=Recommendation(method="seqkd", because=("a reason to begin with it",)),
        ways_out=ways,
    )


@pytest.fixture
def whole(study: StudyResults) -> Investigation:
    """Two errors, one of which the pair's ways out mend; one finding that follows; a warning; a note."""
    return Investigation(
        subject="batch my-batch.pt; log my-log.csv",
        checks=(
            CheckResult(check="labels", scope="16 rows", findings=(finding("one", "error"), finding("small", "note"))),
            CheckResult(check="pair", scope="2 tokenizers", findings=(finding("two", "error", fix=WAYS),)),
            CheckResult(
                check="log",
                scope="600 steps",
                findings=(finding("effect", "warning", follows_from=("two",)), finding("other", "warning")),
            ),
            CheckResult(check="ends", scope="0 rows", skipped="no row could be read"),
        ),
        pairing=pairing(study.contracts[1]),
    )


def terminal(investigation: Investigation) -> str:
    stream = io.StringIO()
    show_investigation(plain_console(stream), investigation)
    return stream.getvalue()


def phases(investigation: Investigation) -> dict[str, tuple[str, ...]]:
    conclusions = concluded(investigation).conclusions
    assert conclusions is not None
    return {phase.title: phase.steps for phase in conclusions.phases}


def plain(markdown: str) -> str:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    parts = []
    for token in tokens:
        parts += [child.content for child in token.children or ()] or [token.content]
    return "".join(parts)


def test_all_four_forms_say_the_same(whole: Investigation, tmp_path: Path) -> None:
    page, text, record = write_investigation(whole, tmp_path)
    assert [path.name for path in (page, text, record)] == [
        "investigation.html",
        "investigation.md",
        "investigation.json",
    ]
    forms = {
        "html": html.unescape(re.sub(r"<[^>]+>", "", page.read_text())),
        "md": plain(text.read_text()),
        "json": "\n".join(_strings(json.loads(record.read_text()))),
        "terminal": terminal(concluded(whole)),
    }
    conclusions = concluded(whole).conclusions
    assert conclusions is not None
    said = [whole.subject, *conclusions.summary, *WAYS, "a reason to begin with it", "no row could be read"]
    said += [step for phase in conclusions.phases for step in (phase.title, *phase.steps)]
    for one in whole.findings:
        said += [
            one.id,
            one.severity,
            one.title,
            one.explanation,
            *one.evidence,
            *one.fix,
            *(x.strip() for x in one.example),
        ]
    for name, form in forms.items():
        missing = [line for line in said if line not in form]
        assert not missing, f"{name} lacks {missing}"


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _strings(inner)]
    return [value] if isinstance(value, str) else []


def test_what_was_examined_stands_in_one_table(whole: Investigation, tmp_path: Path) -> None:
    table = write_investigation(whole, tmp_path)[1].read_text().split("## What was checked")[1]
    assert "| labels | 16 rows | 1 error, 1 note |" in table
    assert "| ends | 0 rows | not checked: no row could be read |" in table


def test_the_summary_says_errors_then_effects_then_warnings(whole: Investigation) -> None:
    conclusions = concluded(whole).conclusions
    assert conclusions is not None
    lead, first, second, effect, warning, pair, left = conclusions.summary
    assert lead.startswith("2 errors, 2 warnings, 1 note, by 3 checks.")
    assert first == "Title of one. Meaning of one."
    assert second == "Title of two. Meaning of two."
    assert effect == "Consequences of these: Title of effect (two)."
    assert warning == "Warnings: Title of other."
    assert "different: 2 of 3 methods are valid for this pair; begin with seqkd." in pair
    assert left == "Not checked: ends."


def test_the_phases_mend_causes_first_and_effects_not_at_all(whole: Investigation) -> None:
    found = phases(whole)
    assert list(found) == ["Fix the errors first", "Check the warnings", "Choose a valid path", "Verify"]
    mend = found["Fix the errors first"]
    assert mend[:2] == ("one: first to do for one", "one: second to do for one")
    # the pair's ways out stand in their own phase, once
    assert len(mend) == 3 and mend[2].startswith("two: stop comparing ids")
    assert found["Check the warnings"] == ("other: first to do for other",)
    assert found["Choose a valid path"][:3] == WAYS
    verify = found["Verify"]
    assert verify[0] == "run the doctor again after the fixes: no error must be left"
    assert verify[1] == "check the log of the fixed run: effect must be gone"
    assert verify[2] == "not checked yet: ends (no row could be read)"


def test_a_valid_pair_has_a_method_and_no_paths(whole: Investigation, study: StudyResults) -> None:
    found = phases(whole.model_copy(update={"pairing": pairing(study.contracts[0], ways=())}))
    assert found["Choose a method"][0] == "with this pair begin with method: seqkd"
    assert "Choose a valid path" not in found
    assert "two: path A: another teacher" in found["Fix the errors first"]


def test_nothing_found_is_no_error(whole: Investigation, tmp_path: Path) -> None:
    clean = Investigation(subject="a batch", checks=(CheckResult(check="labels", scope="16 rows"),))
    conclusions = concluded(clean).conclusions
    assert conclusions is not None
    assert conclusions.summary == ("Nothing was found by 1 check.",)
    assert list(phases(clean)) == ["Verify"]
    page, text, _ = write_investigation(clean, tmp_path)
    assert "No finding." in page.read_text() and "No pair of tokenizers was given" in text.read_text()
    warned = whole.model_copy(update={"checks": (whole.checks[2],), "pairing": None})
    assert "a warning can make the values wrong" in concluded(warned).conclusions.summary[0]
    finding = warned.findings[0].model_copy(update={"severity": "note"})
    noted = whole.model_copy(
        update={"checks": (whole.checks[2].model_copy(update={"findings": (finding,)}),), "pairing": None}
    )
    assert concluded(noted).conclusions.summary[0].endswith("no check found a cause of wrong values.")


def test_what_was_left_out_or_could_not_be_done_is_said(whole: Investigation) -> None:
    skipped = concluded(Investigation(subject="recipe", checks=(), skipped="--no-doctor")).conclusions
    assert skipped is not None
    assert skipped.summary == ("Nothing was checked: the checks were skipped by --no-doctor.",)
    none = concluded(whole.model_copy(update={"checks": (whole.checks[3],)})).conclusions
    assert none is not None
    assert none.summary[0] == "No check could be done."


def test_the_record_comes_back_and_equal_records_give_equal_bytes(whole: Investigation, tmp_path: Path) -> None:
    first = write_investigation(whole, tmp_path / "a")
    back = read_record(Investigation, first[2])
    assert back == concluded(whole)
    assert concluded(back) == back
    second = write_investigation(back, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_command_line_writes_the_same_record_twice(whole: Investigation, tmp_path: Path) -> None:
    console = plain_console(io.StringIO())
    with pytest.raises(Exception, match="1"):
        report_investigation(console, whole, as_json=tmp_path / "found.json", report=tmp_path / "report")
    assert (tmp_path / "found.json").read_bytes() == (tmp_path / "report" / "investigation.json").read_bytes()


def poisoned(study: StudyResults, text: str) -> Investigation:
    """A text in every place that a user's data can reach."""
    bad = finding("an-id", "error", title=text, evidence=(text,), example=(text, text), explanation=text, fix=(text,))
    contract = study.contracts[1]
    contract = contract.model_copy(
        update={"reason": text, "notes": (text,), "would_train": (text,), "extra_tokens": (text,)}
    )
    judged = pairing(contract, ways=(text,))
    return Investigation(
        subject=text,
        checks=(
            CheckResult(check=text, scope=text, findings=(bad,)),
            CheckResult(check="x", scope=text, skipped=text),
        ),
        pairing=judged.model_copy(update={"recommended": Recommendation(method="seqkd", because=(text,))}),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(study: StudyResults, tmp_path: Path, text: str) -> None:
    bad = poisoned(study, text)
    page, markdown, _ = (path.read_text(encoding="utf-8") for path in write_investigation(bad, tmp_path))
    tags = Tags()
    tags.feed(page)
    assert tags.tags <= {*ALLOWED_TAGS, "h4"}
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    blocks = parser().parse(markdown)
    kinds = {token.type for block in blocks for token in (block, *(block.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_block"}
    assert len([block for block in blocks if block.type == "heading_open" and block.tag == "h2"]) == 5
    for form in (page, markdown, terminal(concluded(bad))):
        assert_nothing_hides(form)


def test_a_studys_page_shows_what_the_doctor_found(study: StudyResults, whole: Investigation, tmp_path: Path) -> None:
    pages = [path.read_text() for path in write_report(study.model_copy(update={"investigation": whole}), tmp_path)]
    for page in pages:
        assert "What the doctor found beforehand" in page
        assert "2 errors, 2 warnings, 1 note" in page
        for text in ("Title of one.", "Meaning of effect.", "16 rows", "no row could be read"):
            assert text in page
    skipped = Investigation(subject="recipe", checks=(), skipped="--no-doctor")
    pages = [path.read_text() for path in write_report(study.model_copy(update={"investigation": skipped}), tmp_path)]
    assert all("the checks were skipped by" in page and "no-doctor" in page.replace("\\", "") for page in pages)
    for path in write_report(study, tmp_path):
        assert "doctor found" not in path.read_text(), "records from before the doctor say nothing of it"
