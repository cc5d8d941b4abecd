"""What a run takes of its device at once, from its parts, before it is trained.

Shape letters: L positions of the longest row, V vocabulary, W the teacher's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillab.config.models import RunRecipe
from distillab.data.collation import IndexedRow
from distillab.doctor.selftest.machine import Weights, size, weights_of
from distillab.doctor.selftest.setup import Arm, Setup, setups_of
from distillab.models.chunking import SUB_CHUNK_BYTES, chunks
from distillab.models.heads import output_head, with_lm_head
from distillab.models.scoring import at_scored
from distillab.models.structure import model_shape
from distillab.runs.environment import peak_rss_bytes
from distillab.runs.inputs import load_inputs
from distillab.runs.teacher import RunTeacher, stored_signals
from distillab.runs.training import load_student
from distillab.training.arguments import microbatch_size

_MIB = 1 << 20
# kernels, thread pools and the trainer's modules, which are loaded when a model is first trained
_FIRST_USE_BYTES = 60 * _MIB
# tensors of a piece of a chunk that the terms hold at once
_OF_A_PIECE = 12


@dataclass(frozen=True)
class RunMemory:
    """Bytes of one run.

    Attributes:
        process: interpreter, libraries, tokenizers and rows; 0 on a GPU.
        learning: the student's weights, their gradients, and AdamW's moments.
        teacher: its weights, where they are loaded.
        activations: what the student keeps of the largest microbatch until its gradients are made.
        logits: chunks of both models' logits, and the sum of the head's gradients over them.
    """

    process: int
    learning: int
    teacher: int
    activations: int
    logits: int

    def __str__(self) -> str:
        named = (
            ("interpreter, libraries and rows", self.process),
            ("the student with its gradients and AdamW", self.learning),
            ("the teacher", self.teacher),
            ("activations", self.activations),
            ("logits", self.logits),
        )
        return ", ".join(f"{size(part)} {name}" for name, part in named if part)

    @property
    def total(self) -> int:
        """All together."""
        return self.process + self.learning + self.teacher + self.activations + self.logits


def resident_bytes() -> int:
    """Return the bytes of this process in memory now; where the system does not give them, the peak so far."""
    table = Path("/proc/self/statm")
    if sys.platform != "linux" or not table.is_file():
        return peak_rss_bytes()
    import resource

    return int(table.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def run_memory(setup: Setup, weights: Weights, *, process: int) -> RunMemory:
    """Return the memory of a run of these arms.

    Args:
        weights: of its models.
        process: of this process with its rows, before a model was loaded.
    """
    rows = microbatch_size(setup.recipe.training, 1)
    kept, scored = kept_by_student(setup, rows)
    device = setup.device
    head = output_head(setup.original).weight_VD
    widths = [head.shape[0]]
    if setup.teacher_model is not None:
        widths.append(output_head(setup.teacher_model).weight_VD.shape[0])
    elif setup.teacher is not None:
        widths *= 2
    return RunMemory(
        process=0 if device.type == "cuda" else process + _FIRST_USE_BYTES,
        learning=weights.learning,
        teacher=weights.teacher,
        activations=kept,
        logits=sum(_chunk_bytes(scored, each, device) for each in widths) + 4 * head.numel(),
    )


def kept_by_student(setup: Setup, rows: int) -> tuple[int, int]:
    """Return the bytes kept of so many of the longest rows for the backward pass, and how many positions are scored.

    The longest row is read once, and every tensor that the graph saves is counted once; other rows of a microbatch are
    padded to it.
    """
    inputs, training = setup.inputs, setup.recipe.training
    longest = max(inputs.train.rows, key=len)
    batch = inputs.student.collator(training.padding_side)([IndexedRow(0, longest)])
    student = setup.student()
    student.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            found[place.data_ptr()] = place.nbytes()
        return tensor

    # the graph holds what it saves until here, so that no two tensors have one place
    with setup.arithmetic(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_ND = with_lm_head(student, batch, lambda hidden, head: at_scored(hidden, batch), device=setup.device)
    shape = model_shape(student)
    kept = sum(found.values())
    if training.gradient_checkpointing:
        # what a block reads is kept of all of them, and everything of the one that is made again
        kept = kept // shape.blocks + shape.blocks * len(longest) * shape.width * hidden_ND.element_size()
    else:
        kept += kept // shape.blocks  # gradients of the block that is at work
    return rows * kept, rows * hidden_ND.shape[0]


def _chunk_bytes(scored: int, vocabulary: int, device: torch.device) -> int:
    """Return the bytes of a chunk of logits, and of what is computed from a piece of it."""
    rows = max((here.stop - here.start for here in chunks(scored, vocabulary, device)), default=0)
    piece = min(SUB_CHUNK_BYTES.get(device.type, 4 * rows * vocabulary), 4 * rows * vocabulary)
    return 4 * rows * vocabulary + _OF_A_PIECE * piece


def estimated(recipe: RunRecipe) -> RunMemory:
    """Estimate the memory of a recipe's run, from a process that has not loaded a model before.

    Raises:
        DistillabError: what is raised before a run begins.
    """
    inputs = load_inputs(recipe)
    process = resident_bytes()
    source = RunTeacher(inputs, stored_signals(inputs))
    arm = Arm(recipe.method, inputs, source if recipe.teacher is not None else None)
    (setup,) = setups_of([arm], load_student(inputs), scratch=Path())
    weights = weights_of(inputs, teacher=recipe.teacher is not None and recipe.teacher.path is not None)
    return run_memory(setup, weights, process=process)
