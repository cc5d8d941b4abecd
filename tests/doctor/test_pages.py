"""Every finding that the code gives has its page, with the case and the words that the code names."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from distillab.doctor.checks import FOLDER, cases, from_page, page
from distillab.errors import ConfigError
from distillab.records import Severity

ROOT = Path(__file__).parents[2]
SECTIONS = ("What it is", "How it is seen", "Why it hurts", "What else to do")
IDS = sorted(path.stem for path in FOLDER.glob("*.md"))


def _texts(node: ast.expr) -> Iterator[str]:
    for one in (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,):
        assert isinstance(one, ast.Constant) and isinstance(one.value, str), ast.unparse(node)
        yield one.value


def _calls() -> Iterator[tuple[str, str, frozenset[str], bool]]:
    """Id, case, words and whether a severity is given, of every call in the source."""
    for path in sorted(
        file for room in ("doctor", "preflight") for file in (ROOT / "src/distillab" / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "from_page":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                words = given.get("words", ast.Dict([], []))
                assert isinstance(words, ast.Dict)
                names = frozenset(text for key in words.keys if key is not None for text in _texts(key))
                (name,) = _texts(node.args[0])
                for case in _texts(given["case"]) if "case" in given else ("",):
                    yield name, case, names, "severity" in given


CALLS = list(_calls())


def test_every_case_of_a_page_is_given_by_the_code_and_every_case_of_the_code_has_its_page() -> None:
    given = defaultdict(set)
    for name, case, _, _ in CALLS:
        given[name].add(case)
    assert {name: set(cases(name)) for name in IDS} == given
    assert len(CALLS) > len(IDS) > 170


def test_the_code_supplies_the_words_of_the_text_and_a_severity_where_the_page_names_several() -> None:
    words = defaultdict(set)
    for name, case, supplied, graded in CALLS:
        text = cases(name)[case]
        assert text.words <= supplied, (name, case)
        assert graded or len(text.severities) == 1, (name, case)
        words[name] |= supplied
    for name, supplied in words.items():
        assert supplied == {word for case in cases(name).values() for word in case.words}, name


@pytest.mark.parametrize("name", IDS)
def test_a_page_has_its_id_the_facts_for_a_reader_and_a_line_in_the_table(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# `{name}`\n\nFound by ")
    sections = [part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:] if part.partition("\n")[0] in SECTIONS]
    assert [part.partition("\n")[0] for part in sections] == [one for one in SECTIONS if f"\n## {one}\n" in text]
    assert "## How it is seen\n" in text and all(part.partition("\n")[2].strip() for part in sections)
    for case in cases(name).values():
        assert case.title and case.explanation and not case.title.endswith(" ")
    every = [one for one in get_args(Severity) if any(one in case.severities for case in cases(name).values())]
    listed = " or ".join(filter(None, (", ".join(every[:-1]), every[-1])))
    table = (ROOT / "docs/doctor/README.md").read_text(encoding="utf-8")
    assert f"| [`{name}`](../../src/distillab/doctor/findings/{name}.md) | {listed} |" in table


def test_every_finding_is_named_by_another_test() -> None:
    tests = (path for path in (ROOT / "tests").rglob("*.py") if path.name != Path(__file__).name)
    named = {name for path in tests for name in re.findall(r'"([a-z0-9-]+)"', path.read_text(encoding="utf-8"))}
    assert set(IDS) - named == set()


def test_the_words_are_filled_in_and_a_computed_fix_comes_first() -> None:
    finding = from_page("overfitting", "fact", words={"best_step": "1,200", "steps": 1200}, fix=("first",))
    assert finding.fix[:2] == ("first", "stop near step 1,200: training.steps=1200")
    assert (finding.id, finding.severity, finding.evidence) == ("overfitting", "warning", ("fact",))
    with pytest.raises(KeyError):
        from_page("overfitting", "fact")
    with pytest.raises(ValueError, match="severity note is not on the page"):
        from_page("overfitting", "fact", severity="note", words={"best_step": 1, "steps": 1})


def test_an_unknown_id_gets_its_near_names() -> None:
    with pytest.raises(ConfigError, match="overfitting"):
        page("overfiting")


def test_a_case_without_an_explanation_or_without_a_list_has_that_of_the_next_case() -> None:
    text, lists = cases("prompt-in-loss").values(), cases("padding-attended").values()
    assert len({(case.explanation, case.fix) for case in text}) == 1 and len({case.title for case in text}) == 2
    assert len({case.fix for case in lists}) == 1 and len({case.explanation for case in lists}) == 2
    assert cases("pair-ids-unrelated")["compared"].fix == ()
