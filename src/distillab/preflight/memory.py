"""What a run takes of its device at once, from its parts, before it is trained.

Shape letters: L positions of the longest row, V vocabulary, W the teacher's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers import PreTrainedConfig, PreTrainedModel

from distillab.config.run import RunRecipe
from distillab.data.collation import IndexedRow
from distillab.errors import ConfigError
from distillab.library_errors import library_errors
from distillab.models.chunking import SUB_CHUNK_BYTES, chunks
from distillab.models.heads import output_head
from distillab.models.inputs import model_inputs
from distillab.models.loading import load_config
from distillab.models.pruning import student_config
from distillab.models.structure import config_shape, decoder_body, model_shape
from distillab.models.visibility import is_packed
from distillab.objectives.build import build_objective
from distillab.preflight.machine import (
    Weights,
    parts_of,
    size,
    unloaded_model,
    weights_of,
    width_of,
)
from distillab.runs.environment import peak_rss_bytes
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.parallel import processes_of
from distillab.runs.stored_signals import stored_signals
from distillab.training.arguments import microbatch_size

_MIB = 1 << 20
# kernels, thread pools and the trainer's modules, which are loaded when a model is first trained
_FIRST_USE_BYTES = 60 * _MIB
# tensors of a piece of a chunk that a divergence holds at once for each model: four of both, by the peaks of runs with
# pieces of 8 and of 32 MiB
_OF_A_PIECE = 2


@dataclass(frozen=True)
class RunMemory:
    """Bytes of one run, in one of its processes.

    Attributes:
        process: interpreter, libraries, tokenizers and rows; 0 on a GPU.
        student, gradients, optimizer: the student's weights, the gradients of those that learn, AdamW's moments; of a
            student that is divided over processes, the part of one.
        gathered: what a divided student has whole at once.
        activations: what the student keeps of the largest microbatch until its gradients are made, without what is
            free again when they are.
        logits: chunks of both models' logits, and the sum of the head's gradients over them.
        teacher: its weights, where they are loaded.
        teacher_activations: what the terms read of it, and what it needs for a forward pass above the student's.
    """

    process: int
    student: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    teacher: int
    teacher_activations: int
    gathered: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{size(part)} {name}" for name, part in self.named if part)

    @property
    def named(self) -> tuple[tuple[str, int], ...]:
        """The parts with their names for people."""
        return (
            ("interpreter, libraries and rows", self.process),
            ("the student's weights", self.student),
            ("gradients", self.gradients),
            ("AdamW's moments", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("the teacher's weights", self.teacher),
            ("the teacher's activations", self.teacher_activations),
            ("gathered weights", self.gathered),
        )

    @property
    def total(self) -> int:
        """All together."""
        return sum(part for _, part in self.named)


def resident_bytes() -> int:
    """Return the bytes of this process in memory now; where the system does not give them, the peak so far."""
    table = Path("/proc/self/statm")
    if sys.platform != "linux" or not table.is_file():
        return peak_rss_bytes()
    import resource

    return int(table.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


def run_memory(
    inputs: RunInputs,
    student: PreTrainedModel,
    weights: Weights,
    *,
    process: int,
    device: torch.device,
    cached: bool = False,
    processes: int = 1,
) -> RunMemory:
    """Return the memory of a run.

    Args:
        student: as it will be trained; also one without memory, see `no_memory`.
        weights: of its models.
        process: of this process with its rows, before a model was loaded.
        device: of the run.
        cached: the teacher's signals are read from a cache.
        processes: over which DeepSpeed divides it, if the recipe has it.
    """
    training, view, settings = inputs.recipe.training, inputs.teacher, inputs.recipe.student
    rows = microbatch_size(training, max(processes, processes_of(inputs.recipe)))
    zero = (training.deepspeed, processes) if training.deepspeed is not None and processes > 1 else None
    kept, scored = kept_by_student(inputs, student, rows)
    head = output_head(student).weight_VD
    vocabularies, of_teacher = [head.shape[0]], 0
    if view is not None and inputs.method.reads_signals:
        config = load_config(view.spec.config, revision=view.spec.revision)
        vocabularies.append(int(config.get_text_config().vocab_size))
        width = 2 if training.precision == "bfloat16" else width_of(view.spec.settings.dtype, config)
        with unset_fake_temporarily():  # terms on two tokenisations read values
            held, passing = _teacher_floats(inputs, student, config, rows)
        of_teacher = width * held + (0 if cached else max(0, width * passing - kept))
    parts = parts_of(weights, student_config(settings), settings.parallel, zero, on_cpu=device.type == "cpu")
    several = rows * max(processes, processes_of(inputs.recipe)) < training.batch_size
    # where a step has one microbatch, the gradients come while the activations go
    activations = kept if several or zero is not None else max(0, kept - parts.gradients)
    logits = sum(_chunk_bytes(scored, each, device) for each in vocabularies) + 4 * head.numel() * head.requires_grad
    return RunMemory(
        process=0 if device.type == "cuda" else process + _FIRST_USE_BYTES,
        student=parts.student,
        gradients=parts.gradients,
        optimizer=parts.optimizer,
        gathered=parts.gathered + max(0, parts.for_file - activations - logits),
        activations=activations,
        logits=logits,
        teacher=0 if cached else weights.teacher,
        teacher_activations=of_teacher,
    )


def kept_by_student(inputs: RunInputs, student: PreTrainedModel, rows: int) -> tuple[int, int]:
    """Return the bytes kept of so many of the longest rows for the backward pass, and how many positions are scored.

    The longest row is read once, and every tensor that the graph saves is counted once; other rows of a microbatch are
    padded to it. Autocast's copies of weights are kept once for all rows.
    """
    training, kind = inputs.recipe.training, next(student.parameters()).device.type
    longest = max(inputs.train.rows, key=len)
    with unset_fake_temporarily():  # a batch has values, also where the model has none
        batch = inputs.student.collator(training.padding_side)([IndexedRow(0, longest)])
        # from tensors without values transformers makes a mask of all pairs of positions, from one row itself none
        no_mask = (1, 1, len(longest), len(longest)) if rows == 1 and not is_packed(batch) else None
        if rows > 1:
            batch["attention_mask"][:, -1] = 0  # shorter rows are padded, and then there is a mask
        arguments = model_inputs(batch, next(student.parameters()).device, model=student)
    student.train()
    own = {parameter.untyped_storage()._cdata for parameter in student.parameters()}
    shapes = {shape for parameter in student.parameters() for shape in (parameter.shape, parameter.shape[::-1])}
    found: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()
        if place._cdata not in own and tensor.shape != no_mask:
            found[tensor.dim() == 2 and tensor.shape in shapes][place._cdata] = place.nbytes()
        return tensor

    # the graph holds what it saves until here, so that no two tensors have one place
    with (
        torch.autocast(kind, dtype=torch.bfloat16, enabled=training.precision == "bfloat16"),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        hidden = decoder_body(student)(**arguments)[0]
    shape = model_shape(student)
    kept, copies = (sum(part.values()) for part in found)
    if training.gradient_checkpointing:
        # what a block reads is kept of all of them, and everything of the one that is made again
        kept = kept // shape.blocks + shape.blocks * len(longest) * shape.width * hidden.element_size()
    else:
        kept += kept // shape.blocks  # gradients of the block that is at work
    return copies + rows * kept, rows * int(longest.answer_mask[1:].sum())


def _on_cpu(student: PreTrainedModel) -> None:
    """Give the tensors of a model the CPU as their device, in place; under FakeTensorMode they have no memory there."""
    made: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        return made.setdefault(id(tensor), torch.empty_like(tensor, device="cpu"))

    for module in student.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, torch.nn.Parameter(moved(parameter), parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(module, name, moved(buffer))


def _teacher_floats(
    inputs: RunInputs, student: PreTrainedModel, config: PreTrainedConfig, rows: int
) -> tuple[int, int]:
    """Return how many numbers the terms hold of the teacher, and how many one of its blocks has at once."""
    view, shape = inputs.require_teacher(), config_shape(config)
    length = max(map(len, view.rows(inputs.train)))
    objective = build_objective(
        inputs.method.terms,
        shared_width=view.compared_width,
        student=model_shape(student),
        teacher=shape,
        vocabularies=view.vocabularies,
    )
    read = objective.request.activations
    projections = shape.head_width * (shape.heads + 2 * shape.key_value_heads)
    each = shape.width * (1 + len(read.hidden)) + projections * len(read.projections)
    inner = int(getattr(config.get_text_config(), "intermediate_size", None) or 4 * shape.width)
    held = each + shape.heads * length * len(read.maps)
    return rows * length * held, rows * length * (4 * shape.width + 3 * inner)


def _chunk_bytes(scored: int, vocabulary: int, device: torch.device) -> int:
    """Return the bytes of a chunk of logits, and of what is computed from a piece of it."""
    rows = max((here.stop - here.start for here in chunks(scored, vocabulary, device)), default=0)
    piece = min(SUB_CHUNK_BYTES.get(device.type, 4 * rows * vocabulary), 4 * rows * vocabulary)
    return 4 * rows * vocabulary + _OF_A_PIECE * piece


def estimated(recipe: RunRecipe, *, processes: int = 1) -> RunMemory:
    """Estimate the memory of a recipe's run, from a process that has not loaded a model before. No weights are read.

    Raises:
        DistillabError: what is raised before a run begins.
    """
    inputs = load_inputs(recipe, weights=False)
    cached = stored_signals(inputs).train is not None
    return unloaded_memory(inputs, process=resident_bytes(), device=inputs.device, cached=cached, processes=processes)


def unloaded_memory(
    inputs: RunInputs, *, process: int, device: torch.device, cached: bool, processes: int = 1
) -> RunMemory:
    """Return the memory of a run from the configurations of its models; the arguments as in `run_memory`.

    Raises:
        ConfigError: a forward pass of the student depends on values, not on shapes alone (mixtures of experts).
    """
    settings = inputs.recipe.student
    weights = weights_of(inputs, teacher=True)
    needed = inputs.method.access != "none" or inputs.shared_width > 0
    config, rule = student_config(settings), "The student's activations cannot be counted without its weights."
    student = unloaded_model(config, settings.adapter, dtype=settings.dtype)
    with (
        library_errors(ConfigError, rule, where=settings.path, fix="run `distillab doctor preflight` on the recipe"),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        _on_cpu(student)
        whole = run_memory(inputs, student, weights, process=process, device=device, cached=cached, processes=processes)
    return whole if needed else replace(whole, teacher=0)
