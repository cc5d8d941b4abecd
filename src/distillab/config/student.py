"""The settings of the student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillab.config.base import PathText, Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class StudentConfig(Settings):
    """The small model that is trained."""

    path: PathText = Field(description="folder or hub id of the model, or a GGUF file")
    tokenizer: PathText | None = Field(default=None, description="folder or hub id; default: the model's")
    revision: str | None = None
    init: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: only config.json is used, weights are drawn from the run's seed"
    )
    dtype: Dtype = "float32"
    save_dtype: Literal["source", "float32", "bfloat16", "float16"] = Field(
        default="source",
        description="dtype of the saved weights; source: that of the model's config.json. Weights are rounded to it "
        "before the evaluation, so the evaluated model is the saved one",
    )
