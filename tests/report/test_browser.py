"""The report in a real Chromium: at every width, dark and printed, for a screen reader, without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from tests.browser import chromium, violations
from tests.report.test_investigation import finding, pairing

from distillab.records import (
    CheckResult,
    ComparedArm,
    ComparedFigure,
    Interval,
    Investigation,
    StudyComparison,
    StudyResults,
)
from distillab.report import write_report
from distillab.report.between import write_comparison
from distillab.report.investigation import write_investigation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

# the text of every element whose end is cut off, where nothing scrolls and nothing is shortened on purpose
_CUT = """() => [...document.querySelectorAll("main *")].filter(one => {
    const style = getComputedStyle(one);
    return one.checkVisibility() && style.overflowX === "hidden" && style.textOverflow !== "ellipsis"
        && !one.classList.contains("unseen") && one.scrollWidth > one.clientWidth + 1;
}).map(one => one.outerHTML.slice(0, 120))"""
# what stands outside of the page, to the right, except inside of something that scrolls
_OUTSIDE = """() => [...document.querySelectorAll("main *")].filter(one =>
    one.checkVisibility() && !one.closest(".scroll, pre, .unseen, .oneline")
    && one.getBoundingClientRect().right > innerWidth + 1
).map(one => one.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def found(study: StudyResults) -> Investigation:
    errors = CheckResult(check="labels", scope="16 rows", findings=(finding("one", "error"), finding("small", "note")))
    skipped = CheckResult(check="ends", scope="0 rows", skipped="no row could be read")
    return Investigation(subject="a batch", checks=(errors, skipped), pairing=pairing(study.contracts[1]))


@pytest.fixture(scope="module")
def report(study: StudyResults, found: Investigation, tmp_path_factory: pytest.TempPathFactory) -> str:
    changes = {"pending": {"white_box": (0, 1, 2)}, "investigation": found}
    return write_report(study.model_copy(update=changes), tmp_path_factory.mktemp("report"))[1].as_uri()


def _opened(browser: Browser, url: str, width: int, scheme: Literal["light", "dark"]) -> Page:
    """The page with everything on it unfolded; a request to anything but its own file fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert asked == [url]
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_nothing_is_cut_and_axe_finds_nothing(
    browser: Browser, report: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    page = _opened(browser, report, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(_OUTSIDE) == []
    assert page.evaluate(_CUT) == []
    assert violations(page) == []
    # one picture of the two layouts, and it has its size
    wide, narrow = (page.locator(f".first svg.{name}") for name in ("wide", "narrow"))
    assert (wide.is_visible(), narrow.is_visible()) == (width > 720, width <= 720)
    box = (wide if width > 720 else narrow).bounding_box()
    assert box is not None and box["width"] > 0.7 * width and box["height"] > 60
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(253, 253, 251)" if scheme == "light" else "rgb(20, 23, 26)")
    page.close()


def test_the_other_pages_are_as_good(browser: Browser, found: Investigation, tmp_path: Path) -> None:
    figure = ComparedFigure(
        family="likelihood",
        label="held-out",
        unit="nats/token",
        first=1.0,
        second=0.9,
        difference=Interval(mean=-0.1, low=-0.2, high=0.05),
    )
    between = StudyComparison(
        first="runs/a_folder_with_a_very_long_name_that_goes_on_and_on_and_on",
        second="runs/b",
        titles=("The first", "The second"),
        differs=(("budget", "600 steps", "900 steps"),),
        arms=(ComparedArm(name="sft", figures=(figure,)),),
        only_first=(),
        only_second=("logits",),
    )
    for path in (write_comparison(between, tmp_path)[1], write_investigation(found, tmp_path)[0]):
        page = _opened(browser, path.as_uri(), 400, "dark")
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert page.evaluate(_OUTSIDE) == []
        assert violations(page) == []
        page.close()


def test_the_main_table_has_at_most_eight_columns_and_all_are_behind_a_toggle(browser: Browser, report: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report)
    few, every = page.locator("table.few"), page.locator("details.all table")
    assert few.is_visible() and not every.is_visible()
    columns = few.locator("thead tr").last.locator("th").count()
    assert 3 < columns <= 8 < every.locator("thead tr").last.locator("th").count()
    scroll = page.locator(".scroll").first
    assert scroll.evaluate("one => one.scrollWidth - one.clientWidth") <= 1  # it needs no scrolling at this width
    page.locator("details.all > summary").press("Enter")  # a keyboard can open it
    assert every.is_visible()
    page.close()


def test_a_printed_page_is_light_and_holds_what_is_folded(browser: Browser, report: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("details.sample pre").last.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) < 25
    page.close()
