"""The identity of a source that is composed of others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from distillab.records import ACCESS_ORDER, TeacherProvenance
from distillab.teachers.protocol import NO_LAYERS, TeacherIdentity


def composed_identity(parts: Mapping[str, tuple[float | None, TeacherIdentity]]) -> TeacherIdentity:
    """Return the identity of several sources together: what all of them give, and a hash over all and their weights.

    Args:
        parts: name -> weight in a mixture (None: its rows are its own), and identity.
    """
    each = [identity for _, identity in parts.values()]
    mixed = any(weight is not None for weight, _ in parts.values())
    access = min((one.access for one in each), key=ACCESS_ORDER.index)
    same = not mixed and len({one.shape for one in each}) == 1
    return TeacherIdentity(
        provenance=composed_provenance({name: (weight, one.provenance) for name, (weight, one) in parts.items()}),
        access=min(access, "logits", key=ACCESS_ORDER.index) if mixed else access,
        revision=None,
        shape=each[0].shape if same else NO_LAYERS,
        dtype=each[0].dtype,
        input_ids=min(one.input_ids for one in each),
        vocab_size=min(one.vocab_size for one in each),
        engine=each[0].engine,
    )


def composed_provenance(parts: Mapping[str, tuple[float | None, TeacherProvenance]]) -> TeacherProvenance:
    """Return the provenance of several sources together; `weights_sha256` covers theirs, their names and weights."""
    each = [provenance for _, provenance in parts.values()]
    content = {name: (weight, one.model_dump(mode="json")) for name, (weight, one) in sorted(parts.items())}
    quantised = sorted({one.quantization for one in each if one.quantization is not None})
    return TeacherProvenance(
        name=composed_name({name: (weight, one.name) for name, (weight, one) in parts.items()}),
        weights_sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        parameters=sum(one.parameters for one in each),
        dtype=", ".join(dict.fromkeys(one.dtype for one in each)),
        template_sha256=", ".join(dict.fromkeys(one.template_sha256 for one in each)),
        quantization=", ".join(quantised) or None,
    )


def composed_name(parts: Mapping[str, tuple[float | None, str]]) -> str:
    """Return the name of several teachers together.

    >>> composed_name({"math": (None, "A"), "chat": (None, "B")}), composed_name({"a": (0.7, "A"), "b": (0.3, "B")})
    ('math: A, chat: B', '0.7 A + 0.3 B')
    """
    if all(weight is None for weight, _ in parts.values()):
        return ", ".join(f"{name}: {teacher}" for name, (_, teacher) in parts.items())
    return " + ".join(f"{weight:g} {teacher}" for weight, teacher in parts.values())
