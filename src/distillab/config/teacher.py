"""The settings of a teacher, and of the answers that it generates."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from distillab.config.base import PathText, Settings
from distillab.config.parallel import ParallelConfig
from distillab.config.reasoning import ReasoningSettings
from distillab.config.served import ServerConfig
from distillab.config.student import AdapterConfig, Dtype, Quantization
from distillab.config.training import TrainingConfig


class TeacherConfig(Settings):
    """The large model that the student learns from."""

    # the first adds a baseline to a study, and no run reads it; the other divides the same sums
    no_effect_on_results: ClassVar[frozenset[str]] = frozenset({"measure_full_precision", "parallel"})
    path: PathText | None = Field(default=None, description="folder or hub id of the model, or a GGUF file")
    cache: PathText | None = Field(
        default=None,
        description="folder or URL (s3://bucket/name, …) of a cache made by `distillab cache build`; teacher signals "
        "are read from it. With path as well, the weights are loaded only for what the cache does not hold",
    )
    server: ServerConfig | None = Field(
        default=None,
        description="a server that has the model and gives its k most likely tokens, or its answers; path is then the "
        "folder or hub id of its configuration and tokenizer, and no weights are read; a chat server needs none",
    )
    tokenizer: PathText | None = Field(default=None, description="folder or hub id; default: the model's")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    adapter: PathText | None = Field(default=None, description="folder of LoRA adapters (peft) on the model at path")
    prompt_column: str | None = Field(
        default=None,
        min_length=1,
        description="column with the prompt that the teacher reads in place of the data's: a hint, or the answer, "
        "which the student does not see",
    )
    dtype: Dtype = Field(default="auto", description="of the weights; auto: as in the files")
    quantization: Quantization | None = Field(
        default=None, description="quantise the weights of its linear layers, but not of the head, while loading"
    )
    measure_full_precision: bool = Field(
        default=True,
        description="a study with a quantised teacher also evaluates its weights as they are, once, as a baseline; "
        "false: where they do not fit into the memory",
    )
    device: str = Field(default="auto", description="auto: the student's device; or cpu, cuda, cuda:1, …")
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        default=None, description="spread a large teacher over several devices (accelerate's device_map)"
    )
    parallel: ParallelConfig | None = Field(
        default=None, description="divide its weights over the processes of the run; default: each has all"
    )

    @model_validator(mode="after")
    def _something_to_read(self) -> TeacherConfig:
        if self.path is None and self.cache is None and self.server is None:
            raise ValueError("a teacher needs path (its weights), cache (its stored signals), or both; or a server")
        if self.path is None:
            about_weights = (
                "tokenizer",
                "revision",
                "adapter",
                "dtype",
                "quantization",
                "device",
                "device_map",
                "parallel",
            )
            idle = [name for name in about_weights if getattr(self, name) != type(self).model_fields[name].default]
            if idle:
                raise ValueError(f"{' and '.join(idle)}: no effect without path; add path, or remove the setting")
        return self

    @model_validator(mode="after")
    def _a_server_has_the_weights(self) -> TeacherConfig:
        if self.server is None:
            return self
        if self.path is None and self.server.dialect not in ("auto", "openai_chat"):
            raise ValueError("a server needs path beside it: the folder or hub id of its configuration and tokenizer")
        about_weights = ("cache", "adapter", "dtype", "quantization", "device", "device_map", "parallel")
        idle = [name for name in about_weights if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            raise ValueError(f"{' and '.join(idle)}: no effect on a teacher behind a server; remove the setting")
        if self.server.dialect == "openai_chat" and self.server.model is None:
            raise ValueError("server.dialect openai_chat needs server.model, the name under which the server has it")
        return self

    @model_validator(mode="after")
    def _full_precision_is_another(self) -> TeacherConfig:
        if self.quantization is None and not self.measure_full_precision:
            raise ValueError("measure_full_precision has no effect without quantization")
        return self

    @property
    def has_weights(self) -> bool:
        """Whether its weights can be loaded here."""
        return self.path is not None and self.server is None

    @property
    def source(self) -> str:
        """Return the folder, hub id or address of the weights, else of the cache, else the name of a server's model."""
        source = self.path or self.cache or (None if self.server is None else self.server.model)
        assert source is not None
        return source

    @model_validator(mode="after")
    def _device_or_map(self) -> TeacherConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(f"device_map {self.device_map} chooses the devices; device {self.device} has no effect")
        return self

    @model_validator(mode="after")
    def _divided_as_it_is(self) -> TeacherConfig:
        if self.parallel is not None and (self.device != "auto" or self.device_map or self.quantization):
            raise ValueError(
                "parallel chooses the devices and divides plain weights: remove device, device_map and quantization"
            )
        return self


class TeacherAnswersConfig(ReasoningSettings):
    """How the teacher generates answers for sequence-level KD."""

    answers_per_prompt: int = Field(default=1, ge=1, description="how many different answers are sampled")
    sample: bool = Field(default=False, description="false: greedy")
    temperature: float = Field(default=1.0, gt=0, description="of sampling: the logits are divided by it")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="of sampling: only the most likely tokens with this probability together"
    )
    max_new_tokens: int = Field(default=128, ge=1, description="longest answer")
    batch_size: int = Field(default=32, ge=1, description="prompts generated at once")
    seed: int = Field(default=0, description="of sampling")
    keep_cut_off: bool = Field(default=False, description="keep answers that do not end before max_new_tokens")

    @model_validator(mode="after")
    def _sampling_settings_need_sampling(self) -> TeacherAnswersConfig:
        if not self.sample:
            if self.answers_per_prompt > 1:
                raise ValueError("several answers per prompt need sample: true; greedy answers are all the same")
            if self.temperature != 1.0 or self.top_p != 1.0:
                raise ValueError("temperature and top_p have no effect without sample: true")
        return self


class TeacherCorrectionConfig(Settings):
    """Train the teacher on the training rows before the student learns from it (Minitron, arXiv:2408.11796).

    All other settings of the training are the recipe's.
    """

    steps: int = Field(ge=1, description="optimizer steps of the teacher")
    learning_rate: float = Field(default=1e-5, gt=0, description="of the teacher")
    adapter: AdapterConfig | None = Field(
        default=None, description="train adapters alone and merge them; default: every weight of the teacher is trained"
    )
    seed: int = Field(default=0, description="of the order of the rows")

    def training(self, training: TrainingConfig) -> TrainingConfig:
        """Return the training settings of a recipe, with these steps and this learning rate.

        Raises:
            ValueError: they do not go together.
        """
        own = self.model_dump(include={"steps", "learning_rate"}) | {"budget": None}
        return TrainingConfig(**training.model_dump() | own)

    def require_fits(self, teacher: TeacherConfig | None, training: TrainingConfig, *, whose: str) -> None:
        """Check that a teacher can be corrected; `whose` is the prefix of the message.

        Raises:
            ValueError: it cannot.
        """
        if teacher is None or teacher.path is None or teacher.cache is not None or teacher.server is not None:
            raise ValueError(
                f"{whose}teacher_correction trains the weights of teacher.path: it needs one, and no cache or server"
            )
        if teacher.adapter is not None:
            raise ValueError(f"{whose}teacher_correction trains whole weights: merge teacher.adapter into them first")
        try:
            self.training(training)
        except ValueError as error:
            raise ValueError(f"{whose}teacher_correction: {error}") from error
