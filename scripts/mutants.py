"""Wrong versions of the code, each of which a named test must catch. `make prove` runs it.

    python scripts/mutants.py [WORD …]      all, or those whose place, source or test holds a word

They are listed in scripts/mutants/*.toml:

    [[mutants]]
    where = 'forward_kl'                            # function, class or module; dotted as far as it takes to be unique
    right = 'p, terms = kl_terms(teacher, student)' # an expression or statements in there
    wrong = 'p, terms = kl_terms(student, teacher)'
    test = 'tests/divergences/test_contract.py::test_name[parameters]'
    nth = 2                                         # only where `right` is there more than once

`right` is compared as syntax: formatting, comments and the file's place do not matter. Each version is planted into a
copy of the package, and its test runs against the copy. Exit code 1 where one survives or has lost its place.
"""

from __future__ import annotations

import ast
import compileall
import difflib
import multiprocessing
import os
import py_compile
import shutil
import sys
import tempfile
import textwrap
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "distillab"
# Most of a quick test's time is the import of these: it is done once, and each test runs in a fork.
_SLOW_IMPORTS = (
    *("torch", "transformers.trainer", "transformers.models.llama.modeling_llama", "datasets", "accelerate"),
    *("scipy.stats", "pydantic", "ruamel.yaml", "rich", "typer", "hypothesis", "pytest"),
)
# What pytest returns is told apart from what Python returns where pytest does not come to its end.
_CODES = 100


class Lost(Exception):
    """A mutant cannot be planted: its place is not there, not unique, or what stands there then is not Python."""


@dataclass(frozen=True)
class Mutant:
    """One wrong version: inside `where`, `right` becomes `wrong`; `test` must fail then."""

    where: str
    right: str
    wrong: str
    test: str
    nth: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.right.split())} -> {' '.join(self.wrong.split())}"


def listed() -> list[Mutant]:
    """Return all mutants, file by file of scripts/mutants/."""
    return [
        Mutant(**entry)
        for path in sorted((ROOT / "scripts" / "mutants").glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutants"]
    ]


@dataclass(frozen=True)
class Scope:
    """A module, a class or a function of the package."""

    name: str
    path: Path
    node: ast.AST

    def found(self, right: str) -> list[tuple[ast.AST, ast.AST]]:
        """Return first and last node of each place where the source `right` stands, in the order of the file."""
        wanted = _parsed(right)
        lone = wanted[0].value if len(wanted) == 1 and isinstance(wanted[0], ast.Expr) else None
        places: list[tuple[ast.AST, ast.AST]] = []
        for node in _inside(self.node):
            if lone is not None:
                if type(node) is type(lone) and ast.unparse(node) == ast.unparse(lone):
                    places.append((node, node))
                continue
            for block in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
                for start in range(len(block) - len(wanted) + 1):
                    here = block[start : start + len(wanted)]
                    same_types = [type(node) for node in here] == [type(node) for node in wanted]
                    if same_types and list(map(ast.unparse, here)) == list(map(ast.unparse, wanted)):
                        places.append((here[0], here[-1]))
        return sorted(places, key=lambda place: (place[0].lineno, place[0].col_offset))  # type: ignore[attr-defined]

    def nearest(self, right: str) -> list[str]:
        """Return the sources in this scope that are most like `right`."""
        wanted = ast.unparse(ast.Module(_parsed(right), []))
        sources = {ast.unparse(node) for node in _inside(self.node) if isinstance(node, ast.expr | ast.stmt)}
        return difflib.get_close_matches(wanted, [s for s in sources if len(s) < 4 * len(wanted)], n=3, cutoff=0.5)


class Package:
    """The modules, classes and functions of a source folder, and the mutants planted there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def scopes(self) -> list[Scope]:
        """All scopes, named as `pairing.admission.Reason.text`."""
        scopes = []
        for path in sorted(self.folder.rglob("*.py")):
            module = ".".join(path.relative_to(self.folder).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            scopes += [Scope(name, path, node) for name, node in [(module, tree), *_named(tree, module)]]
        return scopes

    def scope(self, name: str) -> Scope:
        """Return the one scope whose dotted name ends so; raises `Lost` where there is none, or more than one."""
        found = [scope for scope in self.scopes if f".{scope.name}".endswith(f".{name}")]
        if not found:
            last = [scope.name.rpartition(".")[2] for scope in self.scopes]
            near = difflib.get_close_matches(name.rpartition(".")[2], set(last), n=3, cutoff=0.7)
            named = [scope.name for scope, word in zip(self.scopes, last, strict=True) if word in near]
            raise Lost(f"no {name!r} in the package; near: {named[:5]}")
        if len(found) > 1:
            raise Lost(f"{name!r} is not unique: {[scope.name for scope in found]}")
        return found[0]

    def planted(self, mutant: Mutant) -> tuple[Path, str]:
        """Return the file that a mutant changes, and its text then; raises `Lost` where that cannot be done."""
        scope = self.scope(mutant.where)
        places = scope.found(mutant.right)
        if not places:
            elsewhere = [other.name for other in self.scopes if other.found(mutant.right)]
            raise Lost(f"not in {scope.name}; near: {scope.nearest(mutant.right)}; the same is in {elsewhere[-3:]}")
        if (len(places) > 1) != (mutant.nth is not None) or (mutant.nth or 1) > len(places):
            lines = [place[0].lineno for place in places]  # type: ignore[attr-defined]
            raise Lost(f"{len(places)} times in {scope.name}, lines {lines}; nth is {mutant.nth}")
        text = scope.path.read_text(encoding="utf-8")
        changed = _replaced(text, places[(mutant.nth or 1) - 1], mutant)
        if [*map(ast.dump, _parsed(mutant.right))] == [*map(ast.dump, _parsed(mutant.wrong))]:
            raise Lost("the wrong version is the right one")
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise Lost(f"the wrong version is not Python: {error}") from None
        return scope.path, changed


def _parsed(source: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(source).strip()).body


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but not what stands in f-strings: before Python 3.12 it has no place."""
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in ast.iter_child_nodes(node):
            yield from _inside(child)


def _named(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the classes and functions below a node with their dotted names."""
    for child in (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
            yield inner, child
        yield from _named(child, inner)


def _replaced(text: str, place: tuple[Any, Any], mutant: Mutant) -> str:
    content = text.encode()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    first, last = place
    begin = starts[first.lineno - 1] + first.col_offset
    end = starts[last.end_lineno - 1] + last.end_col_offset
    wrong = textwrap.dedent(mutant.wrong).strip()
    if isinstance(first, ast.expr) and isinstance(_parsed(wrong)[0], ast.Expr):
        wrong = f"({wrong})"
    wrong = wrong.replace("\n", "\n" + " " * first.col_offset)
    return (content[:begin] + wrong.encode() + content[end:]).decode()


class Worker:
    """A copy of the package that holds one mutant at a time, and the test that runs against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        shutil.copytree(PACKAGE, folder / "distillab", ignore=shutil.ignore_patterns("__pycache__"))
        # by its content: by time and size, one mutant would be taken for the next
        checked = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(str(folder / "distillab"), quiet=1, invalidation_mode=checked)

    def start(self, mutant: Mutant, package: Package) -> None:
        """Plant a mutant and start its test; raises `Lost`."""
        path, changed = package.planted(mutant)
        self.mutant, self.started = mutant, time.monotonic()
        self.file = self.folder / "distillab" / path.relative_to(PACKAGE)
        self.file.write_text(changed, encoding="utf-8")
        self.process = multiprocessing.get_context("fork").Process(target=self._test)
        self.process.start()

    def _test(self) -> None:
        with self.log.open("wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(self.folder), str(ROOT)])
        sys.path.insert(0, str(self.folder))
        import pytest

        # pytest warns of a plugin that was imported before it
        options = [
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        sys.exit(_CODES + pytest.main([*options, self.mutant.test]))

    def verdict(self) -> str | None:
        """Wait for the test and mend the copy; return why the mutant is not caught, or None where it is."""
        self.process.join()
        original = PACKAGE / self.file.relative_to(self.folder / "distillab")
        shutil.copyfile(original, self.file)
        if self.process.exitcode == _CODES:
            return f"{self.mutant.test} passes"
        # a test failed; anything else means that it did not run
        return (
            None
            if self.process.exitcode == _CODES + 1
            else self.log.read_text(encoding="utf-8", errors="replace")[-1000:]
        )


def main(words: list[str]) -> int:
    """Run the mutants, as many at a time as there are cores; return the exit code."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    for name in _SLOW_IMPORTS:
        __import__(name)
    package = Package(PACKAGE)
    chosen = [m for m in listed() if not words or any(word in f"{m} {m.test}" for word in words)]
    todo, busy, done, alive = list(chosen), [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        free = [Worker(Path(folder) / str(number)) for number in range(min(os.cpu_count() or 1, len(chosen)))]

        def report(mutant: Mutant, reason: str | None, seconds: float) -> None:
            nonlocal done, alive
            done, alive = done + 1, alive + (reason is not None)
            outcome = "caught" if reason is None else f"SURVIVES, {reason}"
            print(f"{done}/{len(chosen)} {mutant}: {outcome} ({seconds:.1f} s)", flush=True)

        while todo or busy:
            while todo and free:
                mutant, worker = todo.pop(0), free.pop()
                try:
                    worker.start(mutant, package)
                    busy.append(worker)
                except Lost as problem:
                    free.append(worker)
                    report(mutant, str(problem), 0.0)
            ended = wait([worker.process.sentinel for worker in busy])
            for worker in [worker for worker in busy if worker.process.sentinel in ended]:
                reason = worker.verdict()
                report(worker.mutant, reason, time.monotonic() - worker.started)
                busy.remove(worker)
                free.append(worker)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
