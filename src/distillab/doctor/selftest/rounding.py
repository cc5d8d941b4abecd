"""How far two ways to one value may be apart: as far as the coarsest number format that takes part rounds."""

from __future__ import annotations

from dataclasses import dataclass

from distillab.doctor.selftest.setup import Setup

# relative differences of a loss or of a gradient; float16 has three bits more than bfloat16, and underflows
_ALLOWED = {"float32": 5e-3, "float16": 5e-2, "bfloat16": 0.1}


@dataclass(frozen=True)
class Rounding:
    """A difference that is allowed.

    Attributes:
        allowed: relative.
        of: whose number format it is.
    """

    allowed: float
    of: str

    def __str__(self) -> str:
        return f"rounding: {self.allowed:.1%}, {self.of}"


def rounding_of(setup: Setup) -> Rounding:
    """Return the rounding of a loss and its gradient: of the student's weights, the arithmetic, and a live teacher.

    Other kernels calculate a row alone than a row among others, so that the same teacher rounds it otherwise. What is
    read from a cache is the same each time.
    """
    formats = {
        "the student's weights are": str(setup.original.dtype).removeprefix("torch."),
        "training.precision is": setup.recipe.training.precision,
        "the teacher's weights are": teacher_format(setup),
    }
    whose, name = max(formats.items(), key=lambda item: _ALLOWED.get(item[1], 0.0))
    if name == "float32":
        return Rounding(_ALLOWED[name], "everything is float32")
    return Rounding(_ALLOWED[name], f"{whose} {name}")


def teacher_format(setup: Setup) -> str:
    """Return the number format of a live teacher; float32 without one."""
    model = setup.teacher_model
    if setup.inputs.views and setup.teacher is not None:  # the coarsest of several
        formats = setup.teacher.identity.provenance.dtype.split(", ")
        return max(formats, key=lambda name: _ALLOWED.get(name, 0.0))
    return "float32" if model is None else str(model.dtype).removeprefix("torch.")
