"""The pages of the documentation site: what docs/ links to is a page, links lead there, the navigation is whole.

`make docs` builds the site itself, strictly: MkDocs finds each link and anchor, or the build fails.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import docs_site  # noqa: E402


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"(\S+\.md)$", nav, re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    copied = {name for name in named if name.startswith("repository/")}
    assert len(named) == len(set(named))
    assert set(named) - copied == pages, "write the new page into the nav of mkdocs.yml"
    assert copied <= {docs_site.site_path(path) for path in docs_site.copied_pages(ROOT)}


def test_every_link_of_a_page_is_a_page_of_the_site() -> None:
    copied = docs_site.copied_pages(ROOT)
    own = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")}
    assert {"README.md", "recipes", "recipes/minimal.yaml", "src/distillab/cache/FORMAT.md"} <= set(copied)
    for page, text in (own | copied).items():
        folder = Path(docs_site.site_path(page)).parent
        for written, _ in docs_site.targets(docs_site.for_site(text, page), str(Path("site") / folder / "x.md")):
            reached = Path("/site", folder, written.partition("#")[0]).resolve().relative_to("/site")
            pages = {docs_site.site_path(path) for path in own | copied}
            assert str(reached) in pages or (ROOT / "docs" / reached).is_file(), (page, written)


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/a/b.md", "[x](../c.md#d) [y](../../src/e.py)", "[x](../c.md#d) [y](../repository/src/e.py.md)"),
        ("README.md", "[x](docs/c.md)\n`[z](q)`\n", "[x](../c.md)\n`[z](q.md)`\n"),
        ("docs/c.md", "[x\ny](../recipes)", "[x\ny](repository/recipes.md)"),
        ("docs/c.md", "[x](https://example.org/a.py) [y](#z)", "[x](https://example.org/a.py) [y](#z)"),
        ("docs/c.md", "```\n[x](../src/e.py)\n* a\n```\n", "```\n[x](../src/e.py)\n* a\n```\n"),
        ("docs/c.md", "text\n* a\n  b\n* c\n", "text\n\n* a\n  b\n* c\n"),
        ("docs/c.md", "1. a\n   * b\n", "1. a\n    * b\n"),
    ],
)
def test_what_the_site_gets_of_a_page(page: str, text: str, expected: str) -> None:
    assert docs_site.for_site(text, page) == expected
