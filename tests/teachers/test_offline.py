"""A cache in somebody's own loop: the page's example, alignment, workers, and the Trainer of transformers."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import distillab
from distillab import OfflineDistillationDataset
from distillab.cache.activations import StateArray, States, StatesLayout
from distillab.cache.head import StoredHead
from distillab.cache.rows import CachedRow
from distillab.cache.writer import CacheWriter
from distillab.divergences import forward_kl, with_tail_cell
from distillab.errors import CacheMismatch, DataError, ShapeError
from tests.teachers.offline_cache import DRAWS, ROWS, SPLIT, WIDTH, an_identity, sharp_teacher, write_cache
from tests.training.conftest import VOCABULARY, tiny_llama

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cache" / "offline-loop.md"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("offline") / "cache", an_identity())


EVERY = ("top_k", "sampled", "hidden_states", "attention_inputs")


def test_an_item_is_what_the_teacher_said_at_its_scored_positions(cache: Path) -> None:
    rows = OfflineDistillationDataset(cache, kinds=EVERY)
    teacher = sharp_teacher()
    assert len(rows) == ROWS and rows.width == VOCABULARY
    for index in (0, 11, ROWS - 1):
        item, row = rows[index], SPLIT.rows[index]
        ids = row.input_ids.tolist()
        assert item["input_ids"].tolist() == ids
        assert item["labels"].tolist() == [
            token if learned else -100 for token, learned in zip(ids, row.answer_mask, strict=True)
        ]
        assert item["attention_mask"].tolist() == [1] * len(ids)
        places = [place for place, scored in enumerate(item["scored"].tolist()) if scored]
        assert [place + 1 for place in places] == np.flatnonzero(row.answer_mask).tolist()
        with torch.no_grad():
            output = teacher(item["input_ids"][None], output_hidden_states=True)
        logp = output.logits[0].log_softmax(-1)[places]
        assert item["top_k_ids"].dtype == torch.int64
        assert item["top_k_ids"][:, 0].tolist() == logp.argmax(-1).tolist()
        near = {"atol": 2e-2, "rtol": 2e-3}
        torch.testing.assert_close(item["top_k_logp"], logp.gather(1, item["top_k_ids"]), **near)
        total = torch.cat([item["top_k_logp"], item["top_k_tail"][:, None]], dim=1).logsumexp(1)
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-2, rtol=0.0)
        actual = logp[torch.arange(len(places)), item["input_ids"][[place + 1 for place in places]]]
        torch.testing.assert_close(item["actual_logp"], actual, **near)
        assert torch.equal(item["hidden.1"], output.hidden_states[1][0, places])
        assert torch.equal(item["hidden.2"], output.hidden_states[2][0, places].bfloat16())
        assert torch.equal(item["block.1.query"], output.hidden_states[1][0].half())
        assert item["sampled_own_nats"].tolist() == places
        generator = np.random.default_rng(len(row))
        drawn = [sorted(generator.integers(0, VOCABULARY, size=DRAWS).tolist()) for _ in places]
        assert [sorted(ids) for ids in item["sampled_ids"].tolist()] == drawn


def test_a_batch_stands_row_by_row_against_the_students_logits(cache: Path) -> None:
    """Logits that name their own row and position: what is picked by `scored` is what each signal is about."""
    rows = OfflineDistillationDataset(cache, kinds=EVERY, pad_id=9)
    places = [5, 0, 40]
    items = [rows[place] for place in places]
    batch = rows.collate(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["scored"].shape == (3, longest)
    for number, item in enumerate(items):
        length = len(item["input_ids"])
        assert batch["input_ids"][number].tolist() == item["input_ids"].tolist() + [9] * (longest - length)
        assert batch["labels"][number].tolist() == item["labels"].tolist() + [-100] * (longest - length)
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * (longest - length)
        assert batch["scored"][number].tolist() == item["scored"].tolist() + [False] * (longest - length)
    names = 100 * torch.arange(3)[:, None] + torch.arange(longest)
    picked = names[batch["scored"]].tolist()
    wanted = [
        100 * number + place
        for number, item in enumerate(items)
        for place, scored in enumerate(item["scored"].tolist())
        if scored
    ]
    assert picked == wanted
    # the draws' own nats were written as the position they stand at
    assert [name % 100 for name in picked] == batch["sampled_own_nats"].tolist()
    for name in ("top_k_ids", "top_k_logp", "top_k_tail", "actual_logp", "sampled_ids", "hidden.1", "hidden.2"):
        assert torch.equal(batch[name], torch.cat([item[name] for item in items])), name
    assert len(batch["block.1.query"]) == int(batch["attention_mask"].sum())


def test_kinds_that_are_not_asked_for_are_not_there(cache: Path) -> None:
    tokens = {"input_ids", "labels", "attention_mask", "scored"}
    assert set(OfflineDistillationDataset(cache, kinds=())[0]) == tokens
    assert set(OfflineDistillationDataset(cache, kinds=("sampled",))[0]) == tokens | {"sampled_ids", "sampled_own_nats"}
    top_k = {"top_k_ids", "top_k_logp", "top_k_tail", "actual_logp"}
    assert set(OfflineDistillationDataset(cache)[0]) == tokens | top_k


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_stored_head_makes_the_teachers_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    teacher = sharp_teacher().to(dtype)
    store: Any = str(dtype).removeprefix("torch.")
    array = StateArray(name="head_input", width=WIDTH, store=store)
    identity = an_identity(rows=5, layouts=(StatesLayout(kind="full", positions="answer", arrays=(array,)),))
    writer = CacheWriter(tmp_path, identity)

    def bits(tensor: Tensor) -> Any:
        return (tensor.view(torch.uint16) if dtype == torch.bfloat16 else tensor).numpy()

    stored, logits = [], []
    for row in SPLIT.rows[:5]:
        with torch.no_grad():
            output = teacher(torch.from_numpy(row.input_ids).long()[None], output_hidden_states=True)
        places = np.flatnonzero(row.answer_mask) - 1
        logits.append(output.logits[0, places])
        states = States({"head_input": bits(output.hidden_states[-1][0, places].contiguous())})
        stored.append(CachedRow(row.key, row.input_ids, row.answer_mask, {"full": states}))
    writer.write_head(StoredHead(bits(teacher.lm_head.weight.detach())))
    writer.write(0, stored)
    rows = OfflineDistillationDataset(tmp_path, kinds=("full",))
    batch = rows.collate([rows[place] for place in range(5)])
    assert batch["head_input"].dtype == dtype
    torch.testing.assert_close(rows.head().logits(batch["head_input"]), torch.cat(logits))


def test_a_head_that_is_not_stored_is_refused(cache: Path) -> None:
    with pytest.raises(CacheMismatch, match='"full"'):
        OfflineDistillationDataset(cache).head()


def test_rows_are_chosen_by_key(cache: Path) -> None:
    rows = OfflineDistillationDataset(cache, keys=["row7", "row0"])
    assert [item["input_ids"].tolist() for item in rows] == [SPLIT.rows[place].input_ids.tolist() for place in (7, 0)]
    with pytest.raises(CacheMismatch, match=r'(?s)2 of 3 keys.*"row99".*"x".*'):
        OfflineDistillationDataset(cache, keys=["row1", "row99", "x"])


def test_what_the_cache_does_not_hold_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheMismatch, match=r'(?s)"full".*it holds: attention_inputs, hidden_states, sampled, top_k'):
        OfflineDistillationDataset(cache, kinds=("top_k", "full"))
    part = write_cache(tmp_path / "part", an_identity(), shards=2)
    with pytest.raises(CacheMismatch, match=r"(?s)not complete.*3 of \d shards are missing, the first is 2"):
        OfflineDistillationDataset(part)


def test_a_changed_item_is_refused(cache: Path) -> None:
    rows = OfflineDistillationDataset(cache)
    item = rows[0]
    item["top_k_ids"] = item["top_k_ids"][:-1]
    with pytest.raises(ShapeError, match="top_k_ids"):
        rows.collate([rows[1], item])
    with pytest.raises(DataError, match="at least one row"):
        rows.collate([])


def test_workers_and_a_pickled_copy_give_the_same(cache: Path) -> None:
    rows = OfflineDistillationDataset(cache, kinds=EVERY)
    copy = pickle.loads(pickle.dumps(rows))  # noqa: S301 what a DataLoader does
    here = list(DataLoader(rows, batch_size=7, collate_fn=rows.collate))
    for others in (
        DataLoader(copy, batch_size=7, collate_fn=copy.collate),
        DataLoader(rows, batch_size=7, collate_fn=rows.collate, num_workers=2),
    ):
        there = list(others)
        assert len(here) == len(there) == 7
        for one, other in zip(here, there, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


class _OfflineTrainer(Trainer):
    """What a user of transformers writes."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        student, teacher = with_tail_cell(
            student_logp=output.logits[inputs["scored"]].log_softmax(-1),
            kept_ids=inputs["top_k_ids"],
            kept_logp=inputs["top_k_logp"],
            tail_logmass=inputs["top_k_tail"],
        )
        loss = forward_kl(student_logp=student, teacher_logp=teacher).mean()
        return (loss, output) if return_outputs else loss


def test_it_works_with_the_trainer_of_transformers(cache: Path, tmp_path: Path) -> None:
    rows = OfflineDistillationDataset(cache)
    trainer = _OfflineTrainer(
        model=tiny_llama(1),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=24,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            remove_unused_columns=False,
            logging_steps=6,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        data_collator=rows.collate,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.3, losses


def test_the_pages_loop_runs_and_the_loss_falls(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1 and len(code[0].splitlines()) <= 30
    tiny_llama(1).save_pretrained(tmp_path / "student")
    source = code[0]
    for written, here in (
        ("runs/cache", cache),
        ("models/student", tmp_path / "student"),
        ("runs/student", tmp_path / "trained"),
        ("range(3)", "range(6)"),
        ("5e-4", "1e-2"),
    ):
        assert source.count(written) == 1, written
        source = source.replace(written, str(here))
    torch.manual_seed(0)
    capsys.readouterr()
    exec(compile(source, str(PAGE), "exec"), {"__name__": "__main__"})
    losses = [float(nats) for nats in re.findall(r"epoch \d: ([\d.]+) nats", capsys.readouterr().out)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.3, losses
    assert (tmp_path / "trained" / "model.safetensors").exists()


def test_importing_distillab_imports_no_torch() -> None:
    code = "import sys, distillab; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert distillab.OfflineDistillationDataset is OfflineDistillationDataset
    assert "OfflineDistillationDataset" in distillab.__all__
    with pytest.raises(AttributeError, match="no attribute 'Offline'"):
        _ = distillab.Offline  # type: ignore[attr-defined]
