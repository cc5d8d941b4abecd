"""The settings of the student."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distillab.config.base import PathText, Settings
from distillab.config.pruning import PruningConfig

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class StudentConfig(Settings):
    """The small model that is trained."""

    path: PathText = Field(
        description="folder or hub id of the model, or a GGUF file; default with from_teacher: the teacher's"
    )
    from_teacher: PruningConfig | None = Field(
        default=None, description="the student is what is kept of the model at `path`, and learns from there"
    )
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

    @model_validator(mode="after")
    def _made_or_random(self) -> StudentConfig:
        if self.from_teacher is not None and self.init == "random":
            raise ValueError("from_teacher keeps the teacher's weights; with init: random it has no effect")
        return self
