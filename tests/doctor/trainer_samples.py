"""Runs of axolotl and LLaMA-Factory: a config, rows, and a data set as those programs write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from ruamel.yaml import YAML
from tests.doctor.batch_samples import World, pairs_of, tokenizer_of

from distillab.doctor.trainer.audit import audit_trainer
from distillab.records import Investigation

AXOLOTL: dict[str, Any] = {
    "datasets": [{"path": "rows.jsonl", "type": "alpaca"}],
    "dataset_prepared_path": "prepared",
    "sequence_len": 1024,
    "sample_packing": True,
    "flash_attention": True,
    "adapter": "lora",
    "learning_rate": "2e-4",
    "lr_scheduler": "cosine",
    "warmup_steps": 10,
    "num_epochs": 3,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "train_on_inputs": False,
    "bf16": "auto",
}
FACTORY: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "template": "default",
    "dataset": "rows",
    "dataset_dir": "data",
    "tokenized_path": "tokenized",
    "cutoff_len": 1024,
    "learning_rate": 1.0e-5,
    "num_train_epochs": 3.0,
    "warmup_ratio": 0.1,
    "per_device_train_batch_size": 1,
    "bf16": True,
}


class Place:
    """A folder with a config, rows and a prepared data set."""

    def __init__(self, folder: Path, materials: Path, tool: str) -> None:
        self.folder, self.tool = folder, tool
        self.model = materials / "tokenizers" / "tok512"
        self.world = World(tokenizer_of(materials, "tok512"), pairs_of(materials))
        self.rows = self.world.rows()
        good = (
            {"base_model": str(self.model), **AXOLOTL}
            if tool == "axolotl"
            else {"model_name_or_path": str(self.model), **FACTORY}
        )
        self.config = dict(good)
        self.texts = [{"instruction": p, "input": "", "output": a} for p, a in self.world.pairs * 2]

    def check(self) -> Investigation:
        columns = {
            "input_ids": [ids for ids, _ in self.rows],
            "labels": [labels for _, labels in self.rows],
            "attention_mask": [[1] * len(ids) for ids, _ in self.rows],
        }
        if self.tool == "axolotl":  # of packing, which the collator does
            columns["position_ids"] = [list(range(len(ids))) for ids, _ in self.rows]
            columns["length"] = [len(ids) for ids, _ in self.rows]
            Dataset.from_dict(columns).save_to_disk(self.folder / "prepared" / "0f3a")
            text = "".join(json.dumps(row) + "\n" for row in self.texts)
            (self.folder / "rows.jsonl").write_text(text, encoding="utf-8")
        else:
            columns["images"] = [None for _ in self.rows]
            DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(self.folder / "tokenized")
            (self.folder / "data").mkdir()
            (self.folder / "data" / "rows.json").write_text(json.dumps(self.texts), encoding="utf-8")
            (self.folder / "data" / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}')
        return audit_trainer(self.written())

    def written(self) -> Path:
        path = self.folder / "config.yaml"
        YAML(typ="safe", pure=True).dump(self.config, path)
        return path
