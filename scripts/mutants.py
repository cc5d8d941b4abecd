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
import gc
import multiprocessing
import os
import py_compile
import shutil
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
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

    def found(self, right: str) -> list[tuple[Any, Any]]:
        """Return first and last node of each place where the source `right` stands, in the order of the file."""
        wanted = _parsed(right)
        alone = len(wanted) == 1 and isinstance(wanted[0], ast.Expr)
        sought: list[ast.AST] = [wanted[0].value] if alone else list(wanted)
        types, sources = list(map(type, sought)), list(map(ast.unparse, sought))
        places = []
        for node in _inside(self.node):
            blocks = [[node]] if alone else [value for _, value in ast.iter_fields(node) if isinstance(value, list)]
            for block in blocks:
                for start in range(len(block) - len(sought) + 1):
                    here = block[start : start + len(sought)]
                    if list(map(type, here)) == types and list(map(ast.unparse, here)) == sources:
                        places.append((here[0], here[-1]))
        return sorted(places, key=lambda place: (place[0].lineno, place[0].col_offset))

    def nearest(self, right: str) -> list[str]:
        """Return the sources in this scope that are most like `right`."""
        wanted = ast.unparse(ast.Module(_parsed(right), []))
        sources = {ast.unparse(node) for node in _inside(self.node) if isinstance(node, ast.expr | ast.stmt)}
        return difflib.get_close_matches(wanted, [s for s in sources if len(s) < 4 * len(wanted)], n=3, cutoff=0.5)


class Package:
    """The modules, classes and functions of a source folder, and the mutants planted there."""

    def __init__(self, folder: Path) -> None:
        # named as `pairing.admission.Reason.text`
        self.scopes: list[Scope] = []
        for path in sorted(folder.rglob("*.py")):
            module = ".".join(path.relative_to(folder).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.scopes += [Scope(name, path, node) for name, node in [(module, tree), *_named(tree, module)]]

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
        try:
            scope = self.scope(mutant.where)
            places = scope.found(mutant.right)
            if not places:
                raise Lost(f"not in {scope.name}; near: {scope.nearest(mutant.right)}")
        except Lost as problem:
            files = {
                other.path for other in self.scopes if isinstance(other.node, ast.Module) and other.found(mutant.right)
            }
            elsewhere = [other.name for other in self.scopes if other.path in files and other.found(mutant.right)]
            raise Lost(f"{problem}; the same is in {elsewhere[-3:]}") from None
        if (len(places) > 1) != (mutant.nth is not None) or (mutant.nth or 1) > len(places):
            lines = [first.lineno for first, _ in places]
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


@cache
def distillab() -> Package:
    """Return distillab's own package."""
    return Package(PACKAGE)


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


def survives(mutant: Mutant, folder: Path) -> str | None:
    """Return why a mutant is not caught, or None where it is.

    Each process that calls it has a copy of the package, made from that in `folder`, and plants one mutant at a time.
    """
    copy = folder / str(os.getpid())
    if not copy.exists():
        shutil.copytree(folder / "distillab", copy / "distillab")
    try:
        path, changed = distillab().planted(mutant)
    except Lost as problem:
        return str(problem)
    file, log = copy / "distillab" / path.relative_to(PACKAGE), copy / "log.txt"
    right = file.read_bytes()
    file.write_text(changed, encoding="utf-8")
    process = multiprocessing.get_context("fork").Process(target=_run, args=(mutant.test, copy, log))
    process.start()
    process.join()
    file.write_bytes(right)
    if process.exitcode == _CODES:
        return f"{mutant.test} passes"
    # a test failed; anything else means that it did not run
    return None if process.exitcode == _CODES + 1 else log.read_text(encoding="utf-8", errors="replace")[-1000:]


def _run(test: str, copy: Path, log: Path) -> None:
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(ROOT)])
    sys.path.insert(0, str(copy))
    # without these, a quarter of the time goes to the search for plugins
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider")
    import pytest

    sys.exit(_CODES + pytest.main(["-qx", *plugins, test]))


def main(words: list[str]) -> int:
    """Run the mutants, as many at a time as there are cores; return the exit code."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    for name in _SLOW_IMPORTS:
        __import__(name)
    gc.freeze()  # what is imported here is never collected in the forks
    distillab()  # parsed before the processes that plant are forked
    chosen = [m for m in listed() if not words or any(word in f"{m} {m.test}" for word in words)]
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "distillab", ignore=shutil.ignore_patterns("__pycache__"))
        # told apart by content: by time and size, one mutant would be taken for the next
        by_hash = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(f"{folder}/distillab", quiet=1, invalidation_mode=by_hash)
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
            outcomes = pool.map(survives, chosen, repeat(Path(folder)))
            for number, (mutant, reason) in enumerate(zip(chosen, outcomes, strict=True), start=1):
                alive += reason is not None
                outcome = "caught" if reason is None else f"SURVIVES, {reason}"
                print(f"{number}/{len(chosen)} {mutant}: {outcome}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
