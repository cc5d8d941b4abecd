"""A teacher whose weights are in this process."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.models import TeacherConfig
from distillab.errors import TeacherError
from distillab.models.activations import record_activations
from distillab.models.attention import require_maps
from distillab.models.batch import TokenBatch
from distillab.models.heads import OutputHead, require_separable_head, with_lm_head
from distillab.models.loading import load_model, model_name, pick_device, weights_sha256
from distillab.models.packable import require_packable
from distillab.models.projections import require_projections
from distillab.models.scoring import at_scored
from distillab.models.structure import ModelShape, model_shape
from distillab.records import TeacherProvenance
from distillab.teachers.protocol import TeacherCapabilities
from distillab.teachers.signals import HeadInputs, SignalRequest, TeacherSignal


class LocalTeacher:
    """Runs a model in eval mode, without gradients, outside of the student's module tree.

    The signal is made under `no_grad`, not `inference_mode`: an inference tensor cannot be saved for the
    student's backward pass.
    """

    def __init__(self, model: PreTrainedModel, provenance: TeacherProvenance) -> None:
        # A list keeps the model out of any module tree that this object might become part of.
        self._model = [model.eval().requires_grad_(False)]
        self._capabilities = TeacherCapabilities(access="internals", provenance=provenance)

    @property
    def model(self) -> PreTrainedModel:
        """The weights, in eval mode and without gradients."""
        return self._model[0]

    @property
    def capabilities(self) -> TeacherCapabilities:
        """Everything: a model in this process hides nothing."""
        return self._capabilities

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        return model_shape(self.model)

    def require(self, request: SignalRequest, *, packing: bool) -> None:
        """Check that the model gives its inner states, and keeps packed samples apart.

        Raises:
            ConfigError: it does not.
        """
        require_maps(self.model, request.activations.maps)
        require_projections(self.model, request.activations.projections)
        if packing:
            require_packable(self.model, role="teacher")

    @torch.no_grad()
    def signal(self, batch: TokenBatch, request: SignalRequest) -> TeacherSignal:
        """Last hidden states at the scored positions with the head, and the inner states that are asked for.

        Raises:
            TeacherError: the batch holds ids that the teacher has no embedding for.
        """
        model = self.model
        if model.training:
            model.eval()  # a wrapper may have switched dropout on
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


def load_local(settings: TeacherConfig, *, student_device: torch.device, template_sha256: str) -> LocalTeacher:
    """A teacher from its folder or hub id.

    Args:
        student_device: where it goes unless the settings say otherwise.
        template_sha256: of the template by which it reads rows, for its provenance.
    Raises:
        TeacherError: no weights are named, or they are missing or do not fit the configuration.
    """
    path = settings.path
    if path is None:
        raise TeacherError(
            "This needs the teacher's weights, and the recipe names a cache alone.",
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
    )
    provenance = TeacherProvenance(
        name=model_name(path),
        weights_sha256=weights_sha256(path),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(model.dtype).removeprefix("torch."),
        template_sha256=template_sha256,
    )
    require_separable_head(model, role="teacher")
    return LocalTeacher(model, provenance)
