"""The documentation has no dead link, and the checker sees each kind of dead link."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the link checker as `make check` does."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "check_links.py"), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small repository whose links are all alive."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "src" / "distillab" / "data").mkdir(parents=True)
    (tmp_path / "src" / "distillab" / "data" / "encoding.py").touch()
    (tmp_path / "README.md").write_text(
        "# Top\n[tour](docs/tour.md) [part](docs/tour.md#a-part-with-code) [here](#top) [web](https://example.org/x)\n"
        "`data/encoding.py` and `src/distillab/data` and `prompt/answer` and `a/b` and `../outside/data`\n"
        "```\n[not a link](nowhere.md) `docs/nowhere.md`\n```\n",
        encoding="utf-8",
    )
    (tmp_path / "docs" / "tour.md").write_text("# Tour\n\n## A part, with `code`\n[up](../README.md)\n", "utf-8")
    return tmp_path


def test_the_documentation_has_no_dead_link() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_that_a_python_block_imports_exists() -> None:
    missing = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S):
            imports = [node for node in ast.walk(ast.parse(dedent(block))) if isinstance(node, ast.ImportFrom)]
            for node in imports:
                module = importlib.import_module(node.module or "")
                missing += [
                    f"{page.name}: {node.module}.{one.name}" for one in node.names if not hasattr(module, one.name)
                ]
    assert missing == []


def test_a_sound_project_passes(project: Path) -> None:
    done = check(project)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[x](docs/gone.md)", "no such file: docs/gone.md"),
        ("[x](docs/tour.md#gone)", "no such heading: docs/tour.md#gone"),
        ("[x](#gone)", "no such heading: #gone"),
        ("[x](../outside.md)", "the link leaves the repository: ../outside.md"),
        ("![x](docs/gone.svg)", "no such file: docs/gone.svg"),
        ("[`x`](docs/gone.md)", "no such file: docs/gone.md"),
        ("see `docs/gone.md`", "no such path in the repository: docs/gone.md"),
        ("see `data/gone.py`", "no such path in the repository: data/gone.py"),
    ],
)
def test_each_kind_of_dead_link_is_named_with_its_line(project: Path, line: str, said: str) -> None:
    (project / "CHANGELOG.md").write_text(f"# Changes\n\n{line}\n", encoding="utf-8")
    done = check(project)
    assert done.returncode == 1
    assert done.stdout == f"CHANGELOG.md:3: {said}\n"


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    assert check(tmp_path).returncode == 2
