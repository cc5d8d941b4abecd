"""The settings of the student."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from distillab.config.base import PathText, Settings
from distillab.config.parallel import ParallelConfig
from distillab.config.pruning import PruningConfig
from distillab.paths import is_gguf

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Init = Literal["pretrained", "random"]
Quantization = Literal["int8", "nf4"]
_SOURCES = ("path", "from_teacher")
TargetName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]


class AdapterConfig(Settings):
    """Low-rank adapters on frozen weights: W + alpha / rank · B A (LoRA, Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, description="of the two low-rank matrices")
    alpha: float = Field(default=32.0, gt=0, description="the adapter's product is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the adapter's input")
    targets: Literal["all-linear"] | tuple[TargetName, ...] = Field(
        default="all-linear",
        description="names of the modules that get an adapter, as q_proj; all-linear: every linear layer but the head",
    )

    @model_validator(mode="after")
    def _something_learns(self) -> AdapterConfig:
        if not self.targets:
            raise ValueError("targets is empty, so nothing would learn; write all-linear, or names such as [q_proj]")
        return self


class StudentConfig(Settings):
    """The small model that is trained."""

    # without a path it is made from the teacher (`pruning.with_source`)
    model_config = ConfigDict(json_schema_extra={"required": [], "anyOf": [{"required": [one]} for one in _SOURCES]})
    # every process computes a part of the same sums
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"parallel"})
    path: PathText = Field(
        description="folder or hub id of the model, or a GGUF file; default with from_teacher: the teacher's"
    )
    from_teacher: PruningConfig | None = Field(
        default=None, description="the student is what is kept of the model at `path`, and learns from there"
    )
    tokenizer: PathText | None = Field(default=None, description="folder or hub id; default: the model's")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    init: Init = Field(
        default="pretrained",
        description="random: only config.json is used, weights are drawn from the run's seed. A method's preset has "
        "other weights for its terms then",
    )
    dtype: Dtype = Field(default="float32", description="of the weights in training; auto: as in the files")
    adapter: AdapterConfig | None = Field(
        default=None, description="train adapters alone, on frozen weights; default: every weight is trained"
    )
    quantization: Quantization | None = Field(
        default=None, description="load the frozen weights quantised (nf4: QLoRA); needs an adapter"
    )
    save_as: Literal["merged", "adapter"] = Field(
        default="merged",
        description="what is evaluated and saved of a student with adapters: the whole model with the adapters in its "
        "weights, or the adapters alone, which peft loads on the student's path",
    )
    save_dtype: Literal["source", "float32", "bfloat16", "float16"] = Field(
        default="source",
        description="dtype of the saved weights; source: that of the model's config.json. Weights are rounded to it "
        "before the evaluation, so the evaluated model is the saved one",
    )
    parallel: ParallelConfig | None = Field(
        default=None, description="divide its weights, gradients and optimizer over processes; default: each has all"
    )

    @model_validator(mode="after")
    def _divided(self) -> StudentConfig:
        if self.parallel is None:
            return self
        if self.parallel.tensor > 1:
            raise ValueError(
                f"parallel.tensor {self.parallel.tensor}: tensor parallelism is for teachers, whose processes read the "
                f"same rows; write parallel: {{fsdp: {self.parallel.processes}}}"
            )
        if self.quantization is not None:
            raise ValueError("parallel does not divide quantised weights: remove one of parallel and quantization")
        return self

    @model_validator(mode="after")
    def _made_or_random(self) -> StudentConfig:
        if self.from_teacher is not None and self.init == "random":
            raise ValueError("from_teacher keeps the teacher's weights; with init: random it has no effect")
        return self

    @model_validator(mode="after")
    def _adapter_fits(self) -> StudentConfig:
        if self.adapter is not None and self.init == "random":
            raise ValueError("an adapter learns on frozen pretrained weights; init: random has none. Remove one")
        if self.adapter is None and self.quantization is not None:
            raise ValueError(
                f"quantization {self.quantization}: quantised weights cannot be trained, only adapters on them; "
                "add adapter: {kind: lora}"
            )
        if self.from_teacher is not None and (self.quantization is not None or self.save_as == "adapter"):
            raise ValueError(
                "with from_teacher the student's whole weights are in the run alone: remove quantization and save_as; "
                "or make the student with `distillab prune`, and give its folder as path"
            )
        # a model in memory can have adapters already
        if self.adapter is None and self.save_as == "adapter" and not self.path.startswith("memory:"):
            raise ValueError("save_as: adapter has no effect without adapter: {kind: lora}")
        if self.save_as == "adapter" and is_gguf(self.path):
            raise ValueError("save_as: adapter: peft cannot load adapters on a GGUF file; write save_as: merged")
        return self
