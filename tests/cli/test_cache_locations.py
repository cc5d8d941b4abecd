"""A cache location as a whole: its parts, the tokenizer that travels with it, and what killed commands leave."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from transformers import LlamaConfig, PreTrainedTokenizerFast

from distillab.errors import CacheCorrupt
from distillab.teachers.stored.location import keep_tokenizer, kept_tokenizer, location_faults
from distillab.teachers.stored.merging import merge_locations
from tests.cache.cache_samples import build, sample_identity, sample_rows, tree
from tests.cli.conftest import Run, call

ROWS = sample_rows(5)
IDENTITY = sample_identity(ROWS)
HELD_OUT = IDENTITY.model_copy(update={"source": "held out"})


@pytest.fixture(scope="module")
def built(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("built") / "cache"
    build(location, ROWS, IDENTITY)
    build(location / "held_out", ROWS, HELD_OUT)
    keep_tokenizer(location, tokenizer_of(tiny_world), LlamaConfig())
    return location


def tokenizer_of(tiny_world: dict[str, Any]) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(tiny_world["student"]["path"])
    return found


@pytest.fixture
def location(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "cache"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


TOKENIZER_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda place: flip(place / "tokenizer" / "tokenizer.json"), "'tokenizer.json': not what was written"),
    "a file gone": (
        lambda place: (place / "tokenizer" / "tokenizer_config.json").unlink(),
        "config.json': missing",
    ),
    "a file more": (
        lambda place: (place / "tokenizer" / "added_tokens.json").write_text('{"x": 1}'),
        "'added_tokens.json': not one of its files",
    ),
    "the seal changed": (lambda place: flip(place / "tokenizer" / "seal.json"), "is not the one that was written"),
    "config gone": (lambda place: (place / "tokenizer" / "config.json").unlink(), "tokenizer/config.json"),
    "all of it gone": (lambda place: shutil.rmtree(place / "tokenizer"), "has no tokenizer of its teacher"),
    "all files gone": (lambda place: empty(place / "tokenizer"), "has no tokenizer of its teacher"),
}


@pytest.mark.parametrize("name", TOKENIZER_DAMAGE)
def test_a_tokenizer_that_is_gone_or_changed_is_not_sound(run: Run, location: Path, name: str) -> None:
    damage, said = TOKENIZER_DAMAGE[name]
    code, out, _ = run("cache", "verify", str(location))
    assert code == 0
    assert "DAMAGED" not in out
    assert "no seal" not in out
    damage(location)
    code, out, _ = run("cache", "verify", str(location))
    assert code == 1
    assert f"{location}: DAMAGED" in out
    assert said in out
    with pytest.raises(CacheCorrupt):
        kept_tokenizer(str(location))
    with pytest.raises(CacheCorrupt):
        kept_tokenizer(f"file://{location}")


def test_a_tokenizer_without_a_seal_is_said_to_be_unchecked(run: Run, location: Path) -> None:
    (location / "tokenizer" / "seal.json").unlink()
    code, out, _ = run("cache", "verify", str(location))
    assert code == 0
    assert "its tokenizer has no seal" in out
    assert kept_tokenizer(str(location)) == location / "tokenizer"


def test_a_part_by_itself_needs_no_tokenizer(run: Run, location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert location_faults(str(location / "held_out")) == []
    assert location_faults(f"file://{location}/held_out") == []
    monkeypatch.chdir(location)
    assert run("cache", "verify", "held_out")[0] == 0


@pytest.mark.parametrize("part", [".", "held_out"])
def test_a_part_whose_identity_is_gone_is_not_passed_over(run: Run, location: Path, part: str) -> None:
    (location / part / "identity.json").unlink()
    for words in ([], ["--discard"]):
        code, out, _ = run("cache", "verify", str(location), *words)
        assert code == 1
        assert "has lost its identity.json" in out
        assert os.path.normpath(location / part / "identity.json") in out


def test_an_identity_that_was_changed_is_not_sound(run: Run, location: Path) -> None:
    path = location / "held_out" / "identity.json"
    path.write_text(path.read_text().replace('"source": "held out"', '"source": "held in"'))
    code, _, err = run("cache", "verify", str(location))
    assert code == 1
    assert "identity.json was exchanged or changed" in err


def test_a_merge_takes_the_tokenizer_with_its_seal(run: Run, location: Path, tmp_path: Path) -> None:
    unsealed = Path(shutil.copytree(location, tmp_path / "unsealed"))
    (unsealed / "tokenizer" / "seal.json").unlink()
    merge_locations(tmp_path / "merged", [location, unsealed])
    assert run("cache", "verify", str(tmp_path / "merged"))[0] == 0
    assert tree(tmp_path / "merged" / "tokenizer") == tree(location / "tokenizer")
    flip(location / "tokenizer" / "tokenizer.json")
    with pytest.raises(CacheCorrupt, match="not the one that was written"):
        merge_locations(tmp_path / "again", [location])


# ---------------------------------------------------------------- killed, and no room


def in_a_child(work: Callable[[], object]) -> int:
    """How a fork that did this ended: it has what takes seconds to import already."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)  # a fork must not go on with what its parent does
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("instant", ["replace", "rename"])
def test_what_a_killed_merge_leaves_is_taken_away_by_the_next(
    run: Run, location: Path, tmp_path: Path, instant: str
) -> None:
    """A manifest is put into its place by the one, a tokenizer by the other."""
    into = tmp_path / "merged"

    def killed() -> None:
        setattr(Path, instant, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        merge_locations(into, [location])

    assert os.WTERMSIG(in_a_child(killed)) == signal.SIGKILL
    assert list(into.rglob(".*.tmp"))
    assert run("cache", "merge", str(into), str(location))[0] == 0
    assert not list(into.rglob(".*"))
    assert run("cache", "verify", str(into))[0] == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("command", ["merge", "export"])
def test_a_limit_of_file_sizes_is_no_traceback(location: Path, tmp_path: Path, command: str) -> None:
    output, said = tmp_path / "made", tmp_path / "said"
    words = {
        "merge": ["merge", str(output), str(location)],
        "export": ["export", str(location), "--to", "parquet", "--output", str(output)],
    }

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        code, out, err = call("cache", *words[command])
        said.write_text(f"{code} {out}{err}"[:600])

    assert in_a_child(limited) == 0
    assert said.read_text().startswith("1 StorageError: The disk is full")
    assert "Traceback" not in said.read_text()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded", "/data/cache"),
        SafetensorError("I/O error: File too large (os error 27)"),
        Exception("No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_a_full_disk_is_no_traceback_whatever_library_meets_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("distillab.cli.main.app", fails)
    code, _, err = call()
    assert code == 1
    assert err.startswith("StorageError: The disk is full")
    assert str(error) in err
