"""Wrong versions of the code, each of which a named test must catch. `make prove` runs it.

    python scripts/mutants.py [WORD …]      all, or those whose file or text holds a word

They are listed in scripts/mutants/*.toml. Each changes one place in a copy of the package and runs one test against
the copy. Exit code 1 where a mutant survives, or where its line is no longer in the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One wrong version: in `file`, `right` becomes `wrong`; `test` must fail then."""

    file: str
    right: str
    wrong: str
    test: str


def listed() -> list[Mutant]:
    """All mutants, file by file of scripts/mutants/."""
    folder = Path(__file__).resolve().parent / "mutants"
    return [
        Mutant(**entry)
        for path in sorted(folder.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutants"]
    ]


def survives(mutant: Mutant) -> str | None:
    """Why a mutant is not caught, or None where it is."""
    source = ROOT / "src" / "distillab"
    if mutant.right not in (source / mutant.file).read_text(encoding="utf-8"):
        return "its line is no longer in the code"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "distillab"
        shutil.copytree(source, copy)
        path = copy / mutant.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.right, mutant.wrong), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "OMP_NUM_THREADS": "1"}
        file, _, name = mutant.test.partition("::")
        chosen = ["-k", name] if name else []
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, *chosen]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return f"{mutant.test} passes"
    # 1: tests failed; anything else means that they did not run
    return None if done.returncode == 1 else done.stdout[-500:] + done.stderr[-500:]


def main(words: list[str]) -> int:
    """Run the mutants, as many at a time as there are cores; returns the exit code."""
    chosen = [m for m in listed() if not words or any(word in m.file or word in m.right for word in words)]
    alive = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (mutant, reason) in enumerate(zip(chosen, pool.map(survives, chosen), strict=True), start=1):
            alive += reason is not None
            said = f"SURVIVES, {reason}" if reason else "caught"
            print(f"{number}/{len(chosen)} {mutant.file}: {mutant.right!r}: {said}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
