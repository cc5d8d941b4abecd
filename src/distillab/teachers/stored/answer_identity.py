"""The identity of a teacher's answers: everything that decides them."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity
from distillab.cache.layout import TokensLayout
from distillab.cache.text import TextLayout
from distillab.config.teacher import TeacherAnswersConfig
from distillab.errors import CacheMismatch, DataError
from distillab.teachers.protocol import Prompt, TeacherIdentity
from distillab.teachers.stored.kinds import teacher_sizes


def answers_identity(
    teacher: TeacherIdentity,
    *,
    tokenizer: str,
    stop_ids: Sequence[int],
    prompts: Sequence[Prompt],
    settings: TeacherAnswersConfig,
    source: str,
    rows_per_shard: int = 32,
    compression: str = "none",
    template_date: datetime.date | None = None,
) -> CacheIdentity:
    """Return everything that decides the answers. Two stores of equal identity hold equal answers.

    Args:
        tokenizer: fingerprint of the tokenizer that made the prompts' ids.
        stop_ids: ids at which an answer ends, in addition to the teacher's.
        source: name of the prompts, for messages.
        rows_per_shard: answers a file, at least: rounded up to whole batches, because a batch is generated at once.
        compression: of the stored answers: none or zstd.
        template_date: the day of the teacher's template, if it writes one.
    Raises:
        DataError: a prompt has no token, so there is nothing to continue.
    """
    for prompt in prompts:
        if not prompt.ids:
            raise DataError(
                "A prompt has no token, so the teacher cannot continue it.", where=f"{source}, row {prompt.key}"
            )
    batches = -(-rows_per_shard // settings.batch_size)
    return CacheIdentity(
        teacher=teacher.provenance,
        revision=teacher.revision,
        sizes=teacher_sizes(teacher.shape),
        tokenizer=tokenizer,
        template_sha256=teacher.provenance.template_sha256,
        template_date=template_date,
        width=teacher.vocab_size,
        source=source,
        rows=len(prompts) * settings.answers_per_prompt,
        rows_sha256=prompts_sha256(prompts),
        tokens=TokensLayout(id_bits=bits_for(max(teacher.vocab_size, teacher.input_ids))),
        layouts=(TextLayout(),),
        compression=compression,
        seed=settings.seed,
        rows_per_shard=batches * settings.batch_size,
        batch_size=settings.batch_size,
        decoding={**_decoding(settings), "stop_ids": sorted({*stop_ids, *teacher.stop_ids})},
        engine=teacher.engine,
    )


def require_answers_to(
    identity: CacheIdentity,
    *,
    prompts: Sequence[Prompt],
    settings: TeacherAnswersConfig,
    tokenizer: str,
    weights_sha256: str | None,
    where: str,
) -> None:
    """Check that a store answers these prompts with these settings, without the teacher's weights.

    Not compared: how the shards are cut, and on which engine the answers were generated.

    Raises:
        CacheMismatch: it does not; every difference is shown, with both values.
    """
    stored, requested = identity.decoding or {}, _decoding(settings)
    compared: list[tuple[str, object, object]] = [
        ("kind", [layout.kind for layout in identity.layouts], ["text"]),
        ("tokenizer", identity.tokenizer, tokenizer),
        ("prompts", identity.rows_sha256, prompts_sha256(prompts)),
        ("answers", identity.rows, len(prompts) * settings.answers_per_prompt),
        # without the stop ids: they follow from the template and the model, which are compared
        *((f"decoding.{name}", stored.get(name), value) for name, value in requested.items()),
        ("seed", identity.seed, settings.seed),
        ("batch_size", identity.batch_size, settings.batch_size),
    ]
    if weights_sha256 is not None:
        compared.append(("teacher's weights", identity.teacher.weights_sha256, weights_sha256))
    facts = [f"{name}: the cache {there}, this run {here}" for name, there, here in compared if there != here]
    if facts:
        raise CacheMismatch(
            "The stored answers belong to another teacher, other prompts or other settings.",
            where=where,
            facts=facts,
            fix="use another folder, or delete this one",
        )


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Hash keys and ids, in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.key, list(prompt.ids)]).encode())
    return digest.hexdigest()


def _decoding(settings: TeacherAnswersConfig) -> dict[str, object]:
    # seed and batch_size are fields of the identity; keep_cut_off is applied later
    return settings.model_dump(mode="json", exclude={"seed", "batch_size", "keep_cut_off"})
