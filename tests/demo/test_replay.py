"""What the demo leaves behind for the replay in docs/doctor."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file

from distillab.data.collation import UNSUPERVISED
from distillab.demo import replay
from distillab.demo.models import build_model
from distillab.demo.tokenizers import train_tokenizers
from distillab.demo.world import draw_rows, write_world

DOCS = Path(__file__).resolve().parents[2] / "docs" / "doctor"


def test_the_broken_batch_is_left_where_the_docs_seek_it(tmp_path: Path) -> None:
    output = tmp_path / "demo-output"
    world = write_world(output / "world", seed=0, teacher_rows=8, student_rows=40, held_out_rows=12)
    rows = draw_rows("teacher", 400, seed=1)
    texts = [text for row in rows for text in (row["prompt"], row["answer"])]
    train_tokenizers(texts, size=450, folder=output / "tokenizers")
    build_model("student", 450, 0).config.save_pretrained(output / "shapes" / "student")
    study = replay._study(output, world)
    replay._save_broken_batch(output, study)

    batch = load_file(output / "replay" / "batch.safetensors")
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    scored = batch["labels"] != UNSUPERVISED
    assert scored.any(dim=1).all() and len(scored) == study.training.batch_size
    assert (batch["labels"] == batch["input_ids"])[scored].float().mean() < 0.2, "the answer stands beside the prompt"

    # every path of the pages is one that the demo makes: now, or as a run of its study
    arms = {arm.name for arm in study.arms}
    for page in ("README.md", "replay.md"):
        named = set(re.findall(r"demo-output/[\w./-]+", (DOCS / page).read_text(encoding="utf-8")))
        assert "demo-output/replay/batch.safetensors" in named
        for path in (path for path in named if "/investigation." not in path):  # those the command itself writes
            run = re.fullmatch(r"demo-output/study/runs/([\w-]+)/seed0/metrics\.jsonl", path)
            assert run[1] in arms if run else (tmp_path / path).exists(), path
