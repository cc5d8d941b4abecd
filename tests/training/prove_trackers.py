"""What trackers get of a run, read by their own readers, against `metrics.jsonl`; nothing leaves the machine.

    make prove-trackers

The packages are not in the environment itself but beside it, after it on the path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillab.files import read_json_lines
from tests.cli.conftest import write_recipe

PACKAGES = Path(sys.prefix) / "trackers"
NAMES = ["tensorboard", "trackio", "wandb", "mlflow"]
pytestmark = pytest.mark.skipif(not PACKAGES.is_dir(), reason=f"the trackers are not in {PACKAGES}")

# Each prints {name: {step: value}} of what the tracker has.
READERS = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
have = {name: {each.step: each.value for each in found.Scalars(name)} for name in found.Tags()["scalars"]}
""",
    "trackio": """
from trackio.sqlite_storage import SQLiteStorage
have = {}
for line in SQLiteStorage.get_logs("distillab", "tracked"):
    for name, value in line.items():
        if isinstance(value, (int, float)):
            have.setdefault(name, {})[line["train/global_step"]] = value
""",
    # It has no reader of these files any more: records after headers of 7 bytes (4 checksum, 2 length, 1 kind).
    "wandb": """
from wandb.proto import wandb_internal_pb2
(file,) = folder.glob("wandb/wandb/offline-run-*/*.wandb")
content, place, have = file.read_bytes(), 7, {}
assert len(content) < 32768  # one block
while place < len(content):
    length = int.from_bytes(content[place + 4 : place + 6], "little")
    record = wandb_internal_pb2.Record()
    record.ParseFromString(content[place + 7 : place + 7 + length])
    place += 7 + length
    line = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
    for name, value in line.items():
        if isinstance(value, (int, float)):
            have.setdefault(name, {})[line["train/global_step"]] = value
""",
    "mlflow": """
from mlflow.tracking import MlflowClient
client = MlflowClient()
(run,) = [run for each in client.search_experiments() for run in client.search_runs([each.experiment_id])]
# it gets the names as they are
names = {name: "eval/" + name[5:] if name.startswith("eval_") else "train/" + name for name in run.data.metrics}
history = {names[name]: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
have = {name: {each.step: each.value for each in points} for name, points in history.items()}
""",
}


def _python(code: str, folder: Path, *words: str) -> str:
    environment = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder / "wandb"),
        "WANDB_SILENT": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    (folder / "wandb").mkdir(exist_ok=True)
    first = [
        "import json, site, sys",
        "from pathlib import Path",
        f"site.addsitedir({str(PACKAGES)!r})",
        f"folder = Path({str(folder)!r})",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*first, code]), *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tracked(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that sent its figures to all trackers."""
    folder = tmp_path_factory.mktemp("tracked")
    training = {**tiny_world["training"], "steps": 6, "evaluate_every": 3, "report_to": NAMES}
    recipe = write_recipe(folder, tiny_world, method="logits", name="tracked", training=training)
    out = _python("from distillab.cli.main import main; sys.argv[0] = 'distillab'; main()", folder, "train", recipe)
    assert "{'" not in out  # transformers' own printing of logs
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_tracker_has_the_figures_of_the_file(name: str, tracked: Path) -> None:
    have = json.loads(_python(READERS[name] + "print(json.dumps(have))", tracked))
    lines = list(read_json_lines(tracked / "run" / "metrics.jsonl"))
    steps = {line["step"]: line for line in lines if "terms" in line}
    curve = {line["step"]: line["held_out_nats_per_token"] for line in lines if "terms" not in line}
    assert sorted(steps) == [1, 2, 3, 4, 5, 6] and sorted(curve) == [0, 3, 6]

    def sent(figure: str) -> dict[int, float]:
        return {int(step): value for step, value in have[figure].items()}

    def of(get: Callable[[Any], float]) -> dict[int, Any]:
        return {step: pytest.approx(get(line), rel=1e-6) for step, line in steps.items()}

    assert sent("train/loss") == of(lambda line: line["loss"])
    assert sent("train/terms/token_divergence") == of(lambda line: line["terms"]["token_divergence"])
    assert sent("train/learning_rate") == of(lambda line: line["learning_rate"])
    assert sent("eval/nats_per_token") == {step: pytest.approx(value, rel=1e-6) for step, value in curve.items()}
    assert set(sent("eval/unigram_nats_per_token")) == {0, 3, 6}
