"""How a model is divided over the processes of a run."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distillab.config.base import Settings


class ParallelConfig(Settings):
    """Divide one model over all processes of a run; their number is fsdp × tensor × replicate."""

    fsdp: int = Field(
        default=1,
        ge=1,
        description="each of so many processes holds a part of every weight, and gathers a block at a time",
    )
    tensor: int = Field(
        default=1, ge=1, description="each of so many processes computes a part of every layer (a teacher's alone)"
    )
    replicate: int = Field(default=1, ge=1, description="so many groups of fsdp processes hold the whole model each")
    offload: bool = Field(default=False, description="keep the parts in the CPU's memory; needs fsdp and GPUs")

    @property
    def processes(self) -> int:
        """The processes that the model is divided over."""
        return self.fsdp * self.tensor * self.replicate

    @property
    def shards(self) -> int:
        """The parts that each weight is divided into."""
        return self.fsdp * self.tensor

    @property
    def mesh(self) -> str:
        """Its sizes in one line."""
        sizes = {"replicate": self.replicate, "fsdp": self.fsdp, "tensor": self.tensor}
        return " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.processes == 1:
            raise ValueError("parallel divides nothing: set fsdp or tensor to the number of processes, or remove it")
        if self.replicate > 1 and self.tensor > 1:
            raise ValueError("replicate makes groups of fsdp processes; with tensor, use fsdp for the other direction")
        if self.offload and self.fsdp == 1:
            raise ValueError("offload has no effect without fsdp")
        return self
