"""Real processes, really interrupted: Ctrl-C and SIGTERM while training, kill -9 while generating, a full disk."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from distillab.config import RunRecipe, load_recipe
from distillab.errors import StorageError
from distillab.files import require_space
from distillab.interruption import Interrupted, defer_interrupt, handle_signals, interrupt_requested
from distillab.runs.run import execute
from tests.processes import LIMIT_S, Forked, ended, start_code, start_distillab, start_python, steps_done, wait_for


def _write(tiny_world: dict[str, Any], folder: Path, output: str, *, checkpoint_every: int = 5, **changes: Any) -> Path:
    values = {key: value for key, value in tiny_world.items() if key != "seeds"}
    training = {**tiny_world["training"], "steps": 60, "checkpoint_every": checkpoint_every, "evaluate_every": 20}
    values |= {"method": "logits", "training": training, "output": str(folder / output), **changes}
    path = folder / f"{output}.yaml"
    with path.open("w") as stream:
        YAML(typ="safe", pure=True).dump(values, stream)
    return path


def _start(recipe: Path) -> Forked:
    return start_distillab("train", str(recipe))


def _finish(recipe: Path) -> None:
    """Run to the end in this process, on one thread as the started ones: sums depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        execute(load_recipe(RunRecipe, recipe))
    finally:
        torch.set_num_threads(threads)


def _weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "student" / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _steps(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def whole(tiny_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The weights of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    _finish(_write(tiny_world, folder, "whole"))
    return _weights(folder / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_its_last_step_and_says_how_to_go_on(
    tiny_world: dict[str, Any], whole: torch.Tensor, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    broken = _write(tiny_world, tmp_path, "broken", checkpoint_every=60)
    process = _start(broken)
    wait_for(process, lambda: steps_done(tmp_path / "broken") >= 7)
    process.send_signal(number)
    returned, err = ended(process)
    assert returned == code, err
    assert f"the same command resumes:\n  distillab train {broken}" in err and "Traceback" not in err
    assert not (tmp_path / "broken" / "run.json").exists() and not (tmp_path / "broken" / ".lock").exists()
    (kept,) = (tmp_path / "broken" / "checkpoints").iterdir()
    step = int(kept.name.removeprefix("checkpoint-"))
    assert 7 <= step == steps_done(tmp_path / "broken")
    assert f"run: step {step} of 60 is kept" in err
    _finish(broken)
    assert _steps(tmp_path / "broken") == list(range(1, 61))
    assert torch.equal(_weights(tmp_path / "broken"), whole)


IN_A_TERMINAL = """
import os, pty, signal, sys, time
from pathlib import Path
from tests.processes import steps_done

recipe, run = sys.argv[1:]
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup tests ignore it
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "distillab.cli.main", "train", recipe])
while steps_done(Path(run)) < 7:
    time.sleep(0.02)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_keeps_its_last_step(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """As where the connection to a machine is lost: every further line to the terminal would be an error."""
    training = {**tiny_world["training"], "steps": 4000, "checkpoint_every": 4000, "evaluate_every": 4000}
    recipe = _write(tiny_world, tmp_path, "run", training=training)
    code, err = ended(start_code(IN_A_TERMINAL, str(recipe), str(tmp_path / "run")))
    assert code == 129, err
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert steps_done(tmp_path / "run") < 4000
    assert kept.name == f"checkpoint-{steps_done(tmp_path / 'run')}" and not (tmp_path / "run" / ".lock").exists()


def test_a_second_ctrl_c_ends_at_once(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    """A step of a tenth of a million rows would take minutes."""
    training = {**tiny_world["training"], "steps": 1, "batch_size": 100_000, "microbatch_size": 10}
    process = _start(_write(tiny_world, tmp_path, "run", training=training))
    wait_for(process, (tmp_path / "run" / "metrics.jsonl").exists)
    process.send_signal(signal.SIGINT)
    wait_for(process, lambda: "Press Ctrl-C again to stop at once" in process.written("stderr"))
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 130 and "Traceback" not in err, err
    assert steps_done(tmp_path / "run") == 0


@pytest.mark.slow
def test_a_study_that_is_terminated_ends_its_workers_and_they_keep_their_steps(
    tiny_world: dict[str, Any], tmp_path: Path
) -> None:
    training = {**tiny_world["training"], "steps": 400, "checkpoint_every": 400, "evaluate_every": 400}
    values = {**tiny_world, "arms": ["sft", "seqkd"], "seeds": [0], "workers": 2, "training": training}
    recipe = tmp_path / "study.yaml"
    with recipe.open("w") as stream:
        YAML(typ="safe", pure=True).dump({**values, "output": str(tmp_path / "study")}, stream)
    process = start_distillab("compare", str(recipe), "--no-doctor")
    runs = [tmp_path / "study" / "runs" / arm / "seed0" for arm in ("sft", "seqkd")]
    wait_for(process, lambda: all(steps_done(run) >= 3 for run in runs))
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert code == 143 and "Traceback" not in err, err
    for run in runs:
        (kept,) = (run / "checkpoints").iterdir()
        step = int(kept.name.removeprefix("checkpoint-"))
        assert step == steps_done(run) and f"{run.parent.name}-seed0: step {step} of 400 is kept" in err
        assert not (run / ".lock").exists()


def test_programs_that_tests_start_heed_ctrl_c_also_where_the_tests_ignore_it() -> None:
    """As under `nohup make test &`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start_python("-c", "import signal; print(signal.getsignal(signal.SIGINT))")
    finally:
        signal.signal(signal.SIGINT, before)
    assert "default_int_handler" in process.communicate()[0]


@pytest.mark.slow
def test_kill_9_while_the_teacher_answers_loses_nothing(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    answers = {"sample": True, "max_new_tokens": 12, "batch_size": 2, "keep_cut_off": True, "answers_per_prompt": 2}
    values = {"method": "seqkd", "teacher_answers": answers, "training": tiny_world["training"]}
    _finish(_write(tiny_world, tmp_path, "whole", **values))
    broken = _write(tiny_world, tmp_path, "broken", **values)
    process = _start(broken)
    journal = tmp_path / "broken" / "answers" / "journals" / "0-of-1.jsonl"
    wait_for(process, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert journal.read_bytes().count(b"\n") < 4, "the teacher had finished before it was killed"
    _finish(broken)

    def stored(name: str) -> dict[str, bytes]:
        folder = tmp_path / name / "answers" / "shards"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert len(stored("whole")) == 4
    assert stored("broken") == stored("whole")
    assert torch.equal(_weights(tmp_path / "broken"), _weights(tmp_path / "whole"))


def test_a_disk_without_room_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"(?s)no room for the checkpoint.*needed .*free .*resumes"):
        require_space(tmp_path / "not" / "yet", 1 << 60, what="the checkpoint")
    require_space(tmp_path, 1, what="a byte")


def test_handlers_are_the_command_lines_alone_and_leave_nothing_behind() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert before[0] is signal.default_int_handler or before[0] is signal.SIG_IGN  # importing installs none
    with handle_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        with pytest.raises(Interrupted) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.value.exit_code == 143
        heard = []

        def work() -> None:
            with defer_interrupt():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)  # torchrun and the cluster may both send one
                heard.append(interrupt_requested())

        with pytest.raises(Interrupted):
            work()
        assert heard == [signal.SIGTERM]
    assert [
        signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)
    ] == before and interrupt_requested() is None

    def elsewhere() -> None:
        with handle_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before[1]]


def test_a_second_sigint_ends_a_program_at_once_and_changes_nothing_in_a_task_of_a_cluster() -> None:
    def work(*, sent: int | None) -> None:
        with handle_signals(quiet=True, sent=sent), defer_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("first")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("saved")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        for sent, expected in ((None, ["first"]), (signal.SIGINT, ["first", "saved"])):
            done: list[str] = []
            with pytest.raises(Interrupted):
                work(sent=sent)
            assert done == expected
        with handle_signals(quiet=True, sent=signal.SIGINT):
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # while it cleans up
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handle_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt_requested() is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_signal_of_a_program_is_handled_where_it_was_ignored(sent: signal.Signals) -> None:
    """As in a task of Ray whose cluster was started in the background of a script."""
    before = signal.signal(sent, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted), handle_signals(quiet=True, sent=sent):
            signal.raise_signal(sent)
        assert signal.getsignal(sent) is signal.SIG_IGN
    finally:
        signal.signal(sent, before)
