"""Builds that die by `kill -9` at any instant or by Ctrl-C, and builds by two processes: always the same bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from distillab.cache.verify import verify
from tests.cli.conftest import Run
from tests.processes import ONE_THREAD, Forked, ended, start_distillab, wait_for

pytestmark = pytest.mark.slow

CHAINS, KILLS = 3, 4  # caches, and how often the build of each is killed: 12 instants
KINDS = [
    {"kind": "top_k", "k": 8},
    {"kind": "sampled", "draws": 20},
    {"kind": "full"},
    {"kind": "hidden_states", "layers": [0, 1]},
]


@pytest.fixture(scope="module")
def built(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("builds")
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    values |= {"method": "logits", "cache": {"kinds": KINDS, "rows_per_shard": 5, "batch_size": 3}}
    recipe = folder / "recipe.yaml"
    with recipe.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    words = (str(recipe), str(folder), str(CHAINS), str(KILLS))
    started = Forked("tests.cli.cache_builds", *words, environment=ONE_THREAD | {"TOKENIZERS_PARALLELISM": "false"})
    out, err = started.communicate()
    assert started.returncode == 0, err[-3000:]
    return folder, json.loads(out.splitlines()[-1])


def contents(location: Path) -> dict[str, bytes | list[bytes]]:
    """Every file below a location; a journal as its sorted lines, and all workers' journals of a part as one."""
    found: dict[str, bytes | list[bytes]] = {}
    for file in sorted(path for path in location.rglob("*") if path.is_file()):
        name = file.relative_to(location)
        if file.name == "built.json":  # says how long it took
            continue
        if name.parent.name == "journals":
            lines = found.setdefault(str(name.parent), [])
            assert isinstance(lines, list)
            lines[:] = sorted([*lines, *file.read_bytes().splitlines()])
        else:
            found[str(name)] = file.read_bytes()
    return found


def test_kills_hit_every_part_of_a_build(built: tuple[Path, dict[str, Any]]) -> None:
    """Else the tests below would show nothing."""
    seen = built[1]["seen"]
    assert len(seen) == CHAINS * KILLS
    assert sum(item["killed"] for item in seen) >= CHAINS * KILLS * 3 // 4
    middle = {item["finished"] for item in seen if item["killed"]}
    assert len(middle) >= 5, middle


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_build_killed_at_random_instants_and_resumed_is_byte_for_byte_the_same(
    built: tuple[Path, dict[str, Any]], chain: int
) -> None:
    folder, _ = built
    resumed, whole = contents(folder / f"killed{chain}"), contents(folder / "whole")
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if resumed[name] != whole[name]] == []


def test_two_processes_at_once_make_what_one_makes(built: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = built
    journals = sorted(file.name for file in (folder / "two" / "journals").iterdir())
    assert journals == ["0-of-2.jsonl", "1-of-2.jsonl"]
    assert contents(folder / "two") == contents(folder / "whole")


def test_what_all_are_compared_with_is_sound_and_whole(built: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = built
    for location in (folder / "whole", folder / "whole" / "held_out"):
        report = verify(location)
        assert report.complete
    assert verify(folder / "whole").shards == 12


def shards(location: Path) -> dict[str, bytes]:
    return {str(file.relative_to(location)): file.read_bytes() for file in sorted(location.rglob("shards/*"))}


@pytest.fixture
def started(recipe: Callable[..., str], tmp_path: Path) -> Iterator[tuple[str, Forked]]:
    """A build in a process of its own, which has written a shard or two of many."""
    path = recipe(method="logits", cache={"kinds": KINDS, "rows_per_shard": 2, "batch_size": 2})
    process = start_distillab("cache", "build", path)
    wait_for(process, lambda: len(list(tmp_path.glob("run/cache/shards/*.safetensors"))) >= 2)
    yield path, process
    process.kill()
    process.communicate()


def test_the_same_share_is_not_made_twice_at_once(run: Run, started: tuple[str, Forked], tmp_path: Path) -> None:
    path, process = started
    process.send_signal(signal.SIGSTOP)  # or it finishes while the second loads
    assert process.poll() is None
    code, _, err = run("cache", "build", path)
    assert code == 2 and "Another process writes into this folder" in err and f"pid: {process.pid}" in err


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(
    run: Run, started: tuple[str, Forked], tmp_path: Path
) -> None:
    path, process = started
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 130 and "the same command resumes" in err and "Traceback" not in err, err
    before = shards(tmp_path / "run" / "cache")
    assert 0 < len(before) < 40
    code, _, err = run("cache", "build", path)
    assert code == 0, err
    after = shards(tmp_path / "run" / "cache")
    assert len(after) == 40 and before.items() <= after.items()
