"""A secret in a recipe stands in no file that a command writes, and in nothing that it prints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, write_recipe

VALUE = "canary-7f3a91c2"


@pytest.fixture
def secret_world(tiny_world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny world below a folder that is named by a secret."""
    monkeypatch.setenv("MY_HUB_TOKEN", VALUE)
    monkeypatch.setenv("DISTILLAB_DEBUG", "")  # which --debug sets
    kept, named = tmp_path / "inputs" / VALUE, f"{tmp_path}/inputs/${{MY_HUB_TOKEN}}"
    for role in ("student", "teacher"):
        shutil.copytree(tiny_world[role]["path"], kept / role)
    for split in ("train", "held_out"):
        shutil.copy(tiny_world["data"][split]["path"], kept / f"{split}.jsonl")
    data = {**tiny_world["data"], **{s: {"path": f"{named}/{s}.jsonl"} for s in ("train", "held_out")}}
    return tiny_world | {
        "student": {"path": f"{named}/student", "tokenizer": f"{named}/student"},
        "teacher": {"path": f"{named}/teacher"},
        "data": data,
        "training": tiny_world["training"] | {"steps": 2, "checkpoint_every": 1},
    }


def test_no_file_and_no_line_holds_it(run: Run, secret_world: dict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "written"
    told = []

    def command(*words: str, code: int = 0) -> None:
        done, out, err = run(*words)
        told.append(out + err)
        assert done == code, out + err

    one = write_recipe(tmp_path, secret_world, name="of ${MY_HUB_TOKEN}", method="logits", output=str(written / "run"))
    command("train", one)
    command("train", one)  # finished: the record is read
    command("cache", "build", one, f"cache.folder={written}/cache")
    shutil.copytree(written / "cache", tmp_path / "inputs" / VALUE / "cache")
    location = f"{tmp_path}/inputs/${{MY_HUB_TOKEN}}/cache"
    command("train", one, f"teacher.cache={location}", f"output={written}/cached")
    command("cache", "info", location)
    command("cache", "verify", location)
    command("data", one)
    command("doctor", "preflight", one, "--json", str(written / "doctor.json"))
    (tmp_path / "study").mkdir()
    study = write_recipe(tmp_path / "study", secret_world, output=str(written / "study"), title="of ${MY_HUB_TOKEN}")
    text = Path(study).read_text().replace("method: sft\n", "arms: [sft, seqkd, logits]\nseeds: [0]\n")
    Path(study).write_text(text)
    command("compare", study)
    command("report", str(written / "study"))
    # mistakes, whose messages name places
    command("train", one, f"student.path={location}/nothing", f"output={written}/none", code=2)
    command("--debug", "train", one, f"data.train.path={location}/nothing.jsonl", f"output={written}/none", code=1)

    assert VALUE not in "".join(told)
    files = [path for path in written.rglob("*") if path.is_file()]
    assert len(files) > 40
    leaking = [str(path) for path in files if VALUE.encode() in path.read_bytes() or VALUE in path.name]
    assert leaking == []
    for kept in (written / "run" / "recipe.json", written / "study" / "report.html", written / "study" / "study.json"):
        assert "MY_HUB_TOKEN}" in kept.read_text(), kept
