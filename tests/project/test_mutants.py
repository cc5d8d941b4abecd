"""The wrong versions of `make prove` can be planted: code that moved must not end its proof unseen."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from scripts.mutants import ROOT, Lost, Mutant, Package, distillab, listed

CODE = '''
def area(width, height):
    """Return an area."""
    if width < 0:
        raise ValueError
    half = width * height  # a comment
    half = half / 2 if width else 0
    return half + width * height


class Box:
    def area(self):
        return 6 * self.side**2
'''


@pytest.fixture
def package(tmp_path: Path) -> Package:
    (tmp_path / "shapes.py").write_text(CODE, encoding="utf-8")
    return Package(tmp_path)


@pytest.mark.slow
def test_every_wrong_version_can_be_planted_and_its_test_exists() -> None:
    problems: list[str] = []
    tests: dict[str, set[str]] = defaultdict(set)
    for mutant in listed():
        try:
            distillab().planted(mutant)
        except Lost as problem:
            problems.append(f"{mutant}: {problem}")
        file, _, name = mutant.test.partition("::")
        if file not in tests and (ROOT / file).is_file():
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            tests[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if name.partition("[")[0] not in tests[file]:
            problems.append(f"{mutant}: no {mutant.test}")
    assert not problems, "\n".join(problems)
    assert len(set(listed())) == len(listed()) > 100


@pytest.mark.parametrize(
    ("mutant", "line"),
    [
        # formatting and comments do not matter, and parentheses keep what stands around the place
        (Mutant("shapes.area", "width*height", "width + height", "t", nth=2), "    return half + (width + height)"),
        (Mutant("shapes.area", "half = width * height", "half = 0", "t"), "    half = 0  # a comment"),
        (Mutant("Box.area", "self.side ** 2", "self.side", "t"), "        return 6 * (self.side)"),
        (Mutant("shapes.area", "if width < 0: raise ValueError", "pass", "t"), "    pass"),
    ],
)
def test_the_place_alone_is_changed(mutant: Mutant, line: str, package: Package) -> None:
    _, text = package.planted(mutant)
    gone = set(CODE.splitlines()) - set(text.splitlines())
    assert line in text.splitlines() and line not in CODE.splitlines()
    assert len(gone) == (2 if line == "    pass" else 1)


@pytest.mark.parametrize(
    ("mutant", "reason"),
    [
        (Mutant("aera", "width", "height", "t"), "near:.*shapes.area"),
        (Mutant("area", "width", "height", "t"), "not unique"),
        (Mutant("shapes.area", "width / height", "width", "t"), r"near: .*width \* height"),
        (Mutant("shapes.area", "self.side ** 2", "1", "t"), r"the same is in .*shapes.Box.area"),
        (Mutant("shapes.area", "width * height", "1", "t"), "2 times"),
        (Mutant("shapes.area", "width * height", "1", "t", nth=3), "2 times"),
        (Mutant("shapes.area", "width < 0", "width  <  0", "t"), "is the right one"),
        (Mutant("shapes.area", "width < 0", "pass", "t"), "not Python"),
    ],
)
def test_what_cannot_be_planted_is_refused_with_the_nearest(mutant: Mutant, reason: str, package: Package) -> None:
    with pytest.raises(Lost, match=reason):
        package.planted(mutant)
