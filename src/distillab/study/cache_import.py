"""`distillab cache import`: a cache of the training rows from the log-probabilities that another tool has stored.

Nothing in such a file says which tokenizer made its ids. So the teacher's tokenizer is given, the recipe's rows are
encoded with it, and only rows of exactly these ids are taken. Shape letters: N scored tokens of a row, K kept ids.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distillab.cache.bits import bits_for
from distillab.cache.identity import CacheIdentity
from distillab.cache.next_tokens import MASS_SLACK, TopK
from distillab.cache.other_tools import GivenRow, Predicts, Tool, files_of, hits, read_rows
from distillab.cache.rows import CachedRow
from distillab.cache.values import ROUNDING_SLACK
from distillab.cache.writer import CacheWriter
from distillab.config.cache import CacheConfig, TopKKind
from distillab.config.run import RunRecipe
from distillab.config.teacher import TeacherConfig
from distillab.data.encoding import EncodedRow
from distillab.errors import CacheMismatch, DataError, TokenizerMismatch
from distillab.files import file_sha256
from distillab.models.loading import load_config, model_name
from distillab.models.structure import config_shape
from distillab.records import TeacherProvenance
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.lock import held
from distillab.runs.teacher_view import TokenView
from distillab.teachers.protocol import TeacherIdentity
from distillab.teachers.stored.kept_tokens import ACTUAL_LOGP
from distillab.teachers.stored.location import keep_tokenizer
from distillab.teachers.stored.writing import identity_of

Array = npt.NDArray[Any]

_CLEAR = 0.05  # share of entries by which another order must fit better, to be the right one


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        location: of the cache.
        rows: of the recipe, all of them in the cache.
        unused: rows of the files that are none of the recipe's.
        k: ids of a position.
        whole: scored positions whose kept probabilities sum to one: most likely renormalised by the tool.
        scored: all scored positions.
    """

    location: Path
    rows: int
    unused: int
    k: int
    whole: int
    scored: int


def import_cache(
    recipe: RunRecipe,
    files: Sequence[Path],
    *,
    tool: Tool,
    tokenizer: str,
    predicts: Predicts | None,
    temperature: float,
) -> Imported:
    """Write a cache (kind top_k) of the recipe's training rows from files of another tool.

    Args:
        tokenizer: folder or hub id with the teacher's tokenizer and config.json; its weights are not read.
        predicts: for axolotl, which token an entry is of: the one at its place (same), or the next.
        temperature: at which the log-probabilities were computed.
    Raises:
        TokenizerMismatch: the student's ids mean other tokens to the teacher.
        DataError: files that cannot be read, values that are no log-probabilities, ids outside the vocabulary, or
            entries that belong to other tokens.
        CacheMismatch: rows of the recipe are not in the files; or the folder holds another cache.
    """
    settings = recipe.cache or CacheConfig()
    teacher = TeacherConfig(path=tokenizer)
    inputs = load_inputs(recipe.model_copy(update={"teacher": teacher, "teachers": None}), weights=False)
    inputs.admit()
    if inputs.shared_width == 0:
        raise TokenizerMismatch(
            "The student's ids mean other tokens to the teacher, so its log-probabilities are of other texts.",
            facts=[inputs.require_teacher().contract.reason],
            fix="give the tokenizer with which the file was made, or a student with the same tokens",
        )
    view = inputs.require_teacher().train_view
    found = files_of(files)
    matched = _Matched(list(inputs.train.rows), found, tool, predicts or "same", view.width)
    _require_order(matched, given=predicts, tool=tool)
    smallest, whole, known = matched.surveyed()
    identity = _identity(inputs, view, found, settings, tool=tool, k=smallest, temperature=temperature, known=known)
    location = Path(settings.folder) if settings.folder else Path(recipe.output) / "cache"
    with held(location):
        writer = CacheWriter(location, identity)
        spec = inputs.require_teacher().spec
        keep_tokenizer(
            location, inputs.require_teacher().reader.tokenizer, load_config(spec.config, revision=spec.revision)
        )
        _write(writer, matched, k=smallest)
    scored = sum(int(row.answer_mask.sum()) for row in matched.rows)
    return Imported(location, len(matched.rows), matched.unused, smallest, whole, scored)


@dataclass(eq=False)
class _Matched:
    """The rows of a recipe with their entries in the files, which are read anew in every pass."""

    rows: list[EncodedRow]
    files: list[Path]
    tool: Tool
    predicts: Predicts
    width: int
    unused: int = 0
    _places: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for place, row in enumerate(self.rows):
            self._places[_key(row.input_ids)].append(place)

    def given(self) -> Iterator[GivenRow]:
        """Yield every row of the files."""
        for file in self.files:
            yield from read_rows(file, self.tool, predicts=self.predicts)

    def pairs(self) -> Iterator[tuple[int, GivenRow]]:
        """Yield the place of each row of the recipe, once, with the row of the files that has its ids.

        DistillKit writes one token more, of padding. A teacher's entries do not depend on later tokens.

        Raises:
            CacheMismatch: rows of the recipe are not in the files.
        """
        left = set(range(len(self.rows)))
        self.unused = 0
        for given in self.given():
            ids = given.input_ids
            places = self._places.get(_key(ids)) or self._places.get(_key(ids[:-1])) or []
            self.unused += not places
            for place in left.intersection(places):
                yield place, given
            left.difference_update(places)
        if left:
            first = [self.rows[place] for place in sorted(left)[:3]]
            raise CacheMismatch(
                f"{len(left)} of {len(self.rows)} training rows are not in the files.",
                where=", ".join(map(str, self.files[:3])),
                facts=[
                    *(f"row {row.key}: {len(row)} tokens, {row.input_ids[:8].tolist()} …" for row in first),
                    f"rows of the files that are none of the recipe's: {self.unused}",
                ],
                fix="give the tokenizer, the template and the rows with which the files were made",
            )

    def surveyed(self) -> tuple[int, int, bool]:
        """Check all values; return the fewest ids of a position, positions of whole mass, and whether each actual
        token's log-probability is known."""
        smallest, whole, known = 2**24, 0, True
        for place, given in self.pairs():
            chosen = chosen_entries(given, self.rows[place], width=self.width)
            smallest = min(smallest, int(chosen.counts.min()))
            whole += int((chosen.mass > 1 - MASS_SLACK).sum())
            known &= chosen.known
        return smallest, whole, known


@dataclass(frozen=True, eq=False)
class ChosenEntries:
    """The entries of a row's scored tokens.

    Attributes:
        ids, logp: (N, most ids) most likely first; −inf beyond a position's own ids.
        counts, mass, actual: (N,) ids of a position, their probabilities' sum, the actual token's log-probability.
        known: whether every one of these is known; else it is at most the mass of all others.
    """

    ids: Array
    logp: Array
    counts: Array
    mass: Array
    actual: Array
    known: bool

    def section(self, k: int) -> TopK:
        """Return the k most likely ids, all others in the tail."""
        logp = self.logp[:, :k]
        rest = 1 - np.exp(logp).sum(axis=1)
        tail = np.where(rest > 0, np.log(np.maximum(rest, 1e-300)), -np.inf)
        arrays = (logp, tail, self.actual)
        return TopK(self.ids[:, :k].astype(np.int32), *(one.astype(np.float32) for one in arrays))


def chosen_entries(given: GivenRow, row: EncodedRow, *, width: int) -> ChosenEntries:
    """Return the entries of the scored tokens of a row, checked.

    Raises:
        DataError: a scored token has no entry; a value is no log-probability, a position's sum is above one, an id is
            outside the vocabulary or there twice.
    """
    scored = np.flatnonzero(row.answer_mask)
    entries = scored - given.first
    if entries.min() < 0 or entries.max() >= len(given.counts):
        raise DataError(
            "A scored token has no entry.",
            where=given.where,
            facts=[f"scored: tokens {scored[0]} to {scored[-1]}", f"entries: of token {given.first} on"],
            fix="score only what the teacher was asked for: data.prompt_share, or the template's answer",
        )
    counts_N = given.counts[entries]
    starts = np.cumsum(given.counts) - given.counts
    inside = np.arange(max(1, int(counts_N.max()))) < counts_N[:, None]
    at = np.where(inside, starts[entries][:, None] + np.arange(inside.shape[1]), 0)
    empty = not len(given.ids)
    logp = np.where(inside, given.logp[at] if not empty else -np.inf, -np.inf)
    ids = np.where(inside, given.ids[at] if not empty else 0, 0)
    real = inside & (logp != -np.inf)
    _require(~(real & ~(logp <= ROUNDING_SLACK)), "A value is no log-probability: above 0, or NaN.", logp, given)
    _require(~real | ((ids >= 0) & (ids < width)), f"An id is outside the {width} ids that are compared.", ids, given)
    order = np.argsort(-logp, axis=1, kind="stable")
    logp, ids = np.minimum(np.take_along_axis(logp, order, 1), 0.0), np.take_along_axis(ids, order, 1)
    kept = np.isfinite(logp)
    by_id = np.sort(np.where(kept, ids, -1 - np.arange(ids.shape[1])), axis=1)
    _require(by_id[:, 1:] != by_id[:, :-1], "An id is twice at one position.", by_id[:, 1:], given)
    mass = np.exp(logp).sum(axis=1)
    _require((mass <= 1 + MASS_SLACK)[:, None], "The probabilities of a position sum to more than one.", mass, given)
    counts = kept.sum(axis=1)
    _require((counts > 0)[:, None], "A scored token has no id with a probability.", counts, given)
    is_actual = kept & (ids == row.input_ids[scored][:, None])
    rest = np.log(np.maximum(1 - mass, 1e-30))
    actual = np.where(is_actual.any(axis=1), np.where(is_actual, logp, -np.inf).max(axis=1), np.minimum(rest, 0.0))
    known = bool(is_actual.any(axis=1).all())
    if given.actual is not None:
        actual, known = given.actual[entries], True
        _require((actual <= ROUNDING_SLACK)[:, None], "A value is no log-probability: above 0, or NaN.", actual, given)
        actual = np.minimum(actual, 0.0)
    return ChosenEntries(ids, logp, counts, mass, actual, known)


def _require(good: Array, rule: str, values: Array, given: GivenRow) -> None:
    if not good.all():
        place = np.argwhere(~good)[0]
        value = values[tuple(place[: values.ndim])]
        raise DataError(
            rule,
            where=given.where,
            facts=[f"{value} at scored token {place[0]}"],
            fix="the file is damaged, or of another teacher, format or tokenizer",
        )


def _require_order(matched: _Matched, *, given: Predicts | None, tool: Tool) -> None:
    """Check that entries belong to the tokens that the format states, by how often they hold these."""
    shifts = (-1, 0, 1)
    totals = np.zeros((3, 2))
    for _, row in matched.pairs():
        totals += [hits(row, shift) for shift in shifts]
    share = dict(zip(shifts, totals[:, 0] / np.maximum(totals[:, 1], 1), strict=True))
    facts = [f"token {at:+d} of each entry's own is among its ids: {share[at]:.0%}" for at in shifts]
    if tool == "axolotl" and given is None:
        raise DataError(
            "Versions of axolotl differ in which token an entry is of, and the file does not say it.",
            facts=facts,
            fix=f"--predicts {'next' if share[1] > share[0] else 'same'}, if that is what its version does",
        )
    if max(share[-1], share[1]) > share[0] + _CLEAR:
        raise DataError(
            "The entries of the files are of other tokens than the format states: they are shifted.",
            facts=facts,
            fix="--predicts same or next (axolotl), or make the file again",
        )


def _identity(
    inputs: RunInputs,
    view: TokenView,
    files: Sequence[Path],
    settings: CacheConfig,
    *,
    tool: Tool,
    k: int,
    temperature: float,
    known: bool,
) -> CacheIdentity:
    spec = inputs.require_teacher().spec
    shape = config_shape(load_config(spec.config, revision=spec.revision))
    digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
    template = view.reader.encoder.template
    provenance = TeacherProvenance(
        name=model_name(spec.config),
        weights_sha256=f"not known; files {digest}",
        parameters=0,
        dtype="float32",
        template_sha256=template.sha256,
    )
    engine = {"imported from": tool, "files": digest} | ({} if known else {ACTUAL_LOGP: "not known"})
    teacher = TeacherIdentity(
        provenance, "top_k", spec.revision, shape, "float32", 1 << bits_for(view.width), view.width, engine=engine
    )
    return identity_of(
        teacher,
        list(inputs.train.rows),
        settings,
        kinds=(TopKKind(k=k, temperature=temperature, values="float16"),),
        width=view.width,
        tokenizer=view.fingerprint,
        template_sha256=template.sha256,
        template_date=template.date,
        source=inputs.splits.sources[0],
    )


def _write(writer: CacheWriter, matched: _Matched, *, k: int) -> None:
    """Write the missing shards, each when its last row is read."""
    size, todo = writer.identity.rows_per_shard, set(writer.todo())
    waiting: dict[int, dict[int, CachedRow]] = defaultdict(dict)
    for place, given in matched.pairs():
        number, row = place // size, matched.rows[place]
        if number not in todo:
            continue
        section = chosen_entries(given, row, width=matched.width).section(k)
        waiting[number][place] = CachedRow(row.key, row.input_ids, row.answer_mask, {"top_k": section})
        if len(waiting[number]) == min(size, len(matched.rows) - number * size):
            shard = waiting.pop(number)
            writer.write(number, [shard[place] for place in sorted(shard)])


def _key(ids: Array) -> bytes:
    return np.ascontiguousarray(ids, dtype="<i8").tobytes()
