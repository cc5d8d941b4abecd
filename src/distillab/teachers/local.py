"""`LocalTeacher`: load a model in this process and use it as a signal source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import cast

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError, TeacherError
from distillab.models.activations import record_activations
from distillab.models.adapters import load_adapter
from distillab.models.attention import require_maps
from distillab.models.batch import TokenBatch
from distillab.models.generation import Generated, all_stop_ids, generate_batches
from distillab.models.gguf import quantization_of
from distillab.models.heads import OutputHead, require_separable_head, with_lm_head
from distillab.models.loading import load_model, pick_device, weights_sha256
from distillab.models.packable import require_packable
from distillab.models.projections import require_projections
from distillab.models.scoring import at_scored
from distillab.models.sharded import is_sharded, lockstep_group
from distillab.models.structure import head_module, model_shape
from distillab.paths import local_path
from distillab.records import TeacherProvenance
from distillab.teachers.lockstep import batches_of_all
from distillab.teachers.protocol import HeadSize, Prompt, Sampling, TeacherIdentity
from distillab.teachers.signals import HeadInputs, SignalRequest, TeacherSignal
from distillab.teachers.spec import teacher_name


class LocalTeacher:
    """A model in eval mode, without gradients, outside of the student's module tree.

    The signal is made under `no_grad`, not `inference_mode`: an inference tensor cannot be saved for the
    student's backward pass.
    """

    def __init__(self, model: PreTrainedModel, provenance: TeacherProvenance, revision: str | None = None) -> None:
        # A list keeps the model out of any module tree that this object might become part of.
        self._model = [model.eval().requires_grad_(False)]
        self._provenance, self._revision = provenance, revision

    @property
    def model(self) -> PreTrainedModel:
        """The weights, in eval mode and without gradients."""
        return self._model[0]

    @cached_property
    def identity(self) -> TeacherIdentity:
        """The model's sizes, its head and its engine; a model in this process gives everything."""
        model = self.model
        config, device = model.config.get_text_config(), model.device
        head = head_module(model)
        weight = cast(Tensor, head.weight)
        return TeacherIdentity(
            provenance=self._provenance,
            access="internals",
            revision=self._revision,
            shape=model_shape(model),
            dtype=str(model.dtype).removeprefix("torch."),
            input_ids=cast(Tensor, model.get_input_embeddings().weight).shape[0],
            vocab_size=int(config.vocab_size),
            head=HeadSize(
                rows=weight.shape[0],
                inputs=weight.shape[1],
                bytes=sum(part.numel() * part.element_size() for part in head.parameters()),
            ),
            stop_ids=tuple(all_stop_ids(model, ())),
            engine={
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "attention": str(config._attn_implementation),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            },
        )

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the model gives its activations, and keeps packed samples apart.

        Raises:
            ConfigError: it does not.
        """
        inside = request.activations.inside
        if inside and lockstep_group(self.model) is not None:
            raise ConfigError(
                "A tensor-parallel teacher has a part of the attention heads in each process.",
                facts=[f"attention of the blocks {sorted(inside)} is read"],
                fix="divide it by fsdp: teacher: {parallel: {fsdp: …}}",
            )
        require_maps(self.model, request.activations.maps)
        require_projections(self.model, request.activations.projections)
        if packing:
            require_packable(self.model, role="teacher")

    @torch.no_grad()
    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Return the last hidden states at the scored positions with the head, and the requested activations.

        Raises:
            TeacherError: the batch holds ids that the teacher has no embedding for.
        """
        group = lockstep_group(self.model)
        if group is None:
            return self._signal(batch, request)
        own = TeacherSignal()
        for mine, one in batches_of_all(batch, group, self.model.device):
            signal = self._signal(one, request)
            own = signal if mine else own
        return own

    def _signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        model = self.model
        if model.training:
            model.eval()  # a wrapper can have enabled dropout
        embeddings = cast(Tensor, model.get_input_embeddings().weight)
        top = int(batch["input_ids"].max())
        if top >= embeddings.shape[0]:
            raise TeacherError(
                "The batch holds a token id that the teacher has no embedding for.",
                facts=[f"largest id {top}", f"teacher embeddings {embeddings.shape[0]}"],
            )
        heads: list[OutputHead] = []

        def keep(hidden_BLD: Tensor, head: OutputHead) -> Tensor:
            heads.append(head)
            return at_scored(hidden_BLD, batch)

        with record_activations(model, request.activations) as activations:
            hidden_ND = with_lm_head(model, batch, keep, device=embeddings.device)
        return TeacherSignal(
            scores=HeadInputs(hidden_ND, heads[0]) if request.scores else None,
            activations=activations if request.activations else None,
        )

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Generated]:
        """Generate one answer a prompt, all in one batch.

        Raises:
            TeacherError: the teacher is divided over processes, each of which would need the same prompts.
        """
        if is_sharded(self.model):
            raise TeacherError(
                "A teacher that is divided over processes gives signals, and writes no answers.",
                facts=[f"{self._provenance.name}: teacher.parallel"],
                fix="let a server write them (teacher: {server: …}), or leave out teacher.parallel for them",
            )
        torch.manual_seed(sampling.seed)
        ids = [prompt.ids for prompt in prompts]
        for batch in generate_batches(
            self.model, ids, decoding=sampling.decoding, stop_ids=sampling.stop_ids, batch_size=len(ids)
        ):
            yield from batch


def load_local(settings: TeacherConfig, *, student_device: torch.device, template_sha256: str) -> LocalTeacher:
    """Load a teacher from its folder or hub id.

    Args:
        student_device: where it goes unless the settings name another device.
        template_sha256: of the template by which it reads rows, for its provenance.
    Raises:
        TeacherError: no weights are named, or they are missing or do not fit the configuration.
    """
    path = settings.path
    if path is None:
        raise TeacherError(
            "The teacher's weights are needed, and the recipe names only a cache.",
            where=f"teacher.cache: {settings.cache}",
            fix="add the teacher's folder: teacher: {path: …, cache: …}",
        )
    model = load_model(
        path,
        dtype=settings.dtype,
        device=student_device if settings.device == "auto" else pick_device(settings.device),
        device_map=settings.device_map,
        revision=settings.revision,
        role="teacher",
        quantization=settings.quantization,
        parallel=settings.parallel,
    )
    if settings.adapter is not None:
        model = load_adapter(model, local_path(settings.adapter), error=TeacherError).eval()
    provenance = TeacherProvenance(
        name=teacher_name(settings),
        weights_sha256=weights_sha256(path),
        parameters=model.num_parameters(),  # of quantised weights, those that they stand for
        dtype=str(model.dtype).removeprefix("torch."),
        template_sha256=template_sha256,
        quantization=quantization_of(path, settings.quantization),
        adapter_sha256=None if settings.adapter is None else weights_sha256(settings.adapter),
    )
    require_separable_head(model, role="teacher")
    return LocalTeacher(model, provenance, settings.revision)
