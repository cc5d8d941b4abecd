"""Hostile text stays text, in both files."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from distillab.records import GenerationSample, StudyResults
from distillab.report import write_report
from distillab.report.safety import markdown_block, markdown_inline, visible

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "{{ 7*7 }} {% raise %}",
    "```\n# heading\n```` <b>",
    "a | b | c \\| d",
    "[click](https://example.invalid) ![x](y) <https://example.invalid>",
    "\x1b[31mred\x1b[0m\x07\r\x00",
    "\u202egnp.exe\u2066\u200b",
    "]]><!--<svg onload=alert(1)>",
    "&lt;script&gt; &#x202e;",
)
ALLOWED_TAGS = re.findall(
    r"\w+",
    "html head meta title style body main header p h1 h2 h3 dl dt dd div aside strong b ul li bdi span section table "
    "caption thead tbody tr th td small details summary figure figcaption svg desc line polyline polygon circle "
    "path rect text pre em article ol footer code wbr",
)


class Tags(HTMLParser):
    """Names of all tags and attributes, and the text of every pre."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "pre":
            self._pre = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._pre = self._pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._pre:
            self.texts[-1] += data


def poisoned(study: StudyResults, text: str) -> StudyResults:
    """The study with the text in every place that a user or a model can write."""
    arms = tuple(
        arm.model_copy(
            update={"name": f"{arm.name}{text}", "teacher": text, "shown_failure": arm.shown_failure and text}
        )
        for arm in study.arms
    )
    sample = GenerationSample(prompt=text, reference=text, answers={arms[0].name: text, "stranger" + text: text})
    contract = study.contracts[1]
    line = contract.example.model_copy(update={"text": text, "teacher_tokens": (text,) * 10})
    poison = {"reason": text, "notes": (text,), "would_train": (text,), "extra_tokens": (text,), "example": line}
    points = tuple(p.model_copy(update={"name": f"{p.name}{text}", "note": text}) for p in study.baselines)
    return study.model_copy(
        update={
            "title": text,
            "question": text,
            "verdict": text,
            "budget": text,
            "reproduce": text,
            "environment": {text: text},
            "arms": arms,
            "baselines": points,
            "samples": (sample,),
            "contracts": (contract.model_copy(update=poison),),
            "held_out_counts": study.held_out_counts.model_copy(update={"source": text}),
            "caches": tuple(c.model_copy(update={"path": text, "teacher": text, "source": text}) for c in study.caches),
            "spans": tuple(counts.model_copy(update={"source": text}) for counts in study.spans),
            "answer_stores": tuple(s.model_copy(update={"path": text}) for s in study.answer_stores),
        }
    )


def parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable("table")


@pytest.mark.parametrize("text", HOSTILE)
def test_html_holds_it_as_text(study: StudyResults, tmp_path: Path, text: str) -> None:
    page = write_report(poisoned(study, text), tmp_path)[1].read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert tags.tags <= set(ALLOWED_TAGS)
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    # prompt, reference, two answers, the command
    assert tags.texts.count(visible(text)) == 5
    assert_nothing_hides(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_holds_it_as_text(study: StudyResults, tmp_path: Path, text: str) -> None:
    page = write_report(poisoned(study, text), tmp_path)[0].read_text(encoding="utf-8")
    blocks = parser().parse(page)
    kinds = {token.type for block in blocks for token in (block, *(block.children or ()))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "code_block"}
    fences = [block.content for block in blocks if block.type == "fence"]
    assert fences.count(visible(text) + "\n") == 6
    headings = [block for block in blocks if block.type == "heading_open" and block.tag == "h2"]
    assert len(headings) == 7
    assert_nothing_hides(page)


def test_table_rows_keep_their_columns(study: StudyResults, tmp_path: Path) -> None:
    def cells(results: StudyResults) -> list[int]:
        page = write_report(results, tmp_path)[0].read_text(encoding="utf-8")
        kinds = [token.type for token in parser().parse(page)]
        rows = " ".join(kinds).split("tr_open")[1:]
        return [row.count("td_open") + row.count("th_open") for row in rows]

    clean = study.model_copy(update={"contracts": (study.contracts[1],), "samples": study.samples[:1]})
    assert cells(clean) == cells(poisoned(study, "a | b \\| c"))


def assert_nothing_hides(page: str) -> None:
    hidden = {c for c in page if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert not hidden


@given(st.text())
def test_visible_leaves_nothing_that_hides(text: str) -> None:
    shown = visible(text)
    assert_nothing_hides(shown.replace("\u200c", "").replace("\u200d", ""))
    assert visible(shown) == shown


@given(st.text(alphabet=st.sampled_from("ab1.)-+=>#*_`[]()<>!&|~\\:/@$ \n\t\u202e\x1b\"'w")))
@example("1. a")
@example("- a")
@example("https://a.b")
@example("---")
def test_markdown_inline_reads_as_the_plain_text(text: str) -> None:
    expected = " ".join(visible(text).split())
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(markdown_inline(text))
    if not expected:
        assert tokens == []
        return
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == expected


@given(st.text(alphabet=st.sampled_from("`~ab \n#")))
def test_markdown_block_is_one_fence_with_the_text(text: str) -> None:
    tokens = parser().parse(markdown_block(text))
    assert [token.type for token in tokens] == ["fence"]
    assert tokens[0].content == text + "\n"


def test_a_long_answer_is_cut_with_a_note(study: StudyResults, tmp_path: Path) -> None:
    sample = study.samples[0].model_copy(update={"answers": {"sft": "z" * 100_000}})
    for path in write_report(study.model_copy(update={"samples": (sample,)}), tmp_path):
        page = path.read_text(encoding="utf-8")
        assert "(98000 more characters in results.json)" in page
        assert max(map(len, re.findall("z+", page))) == 2000
