"""What a student learns where some positions have a teacher's distribution and the others the text.

`python -m bench.mixed_targets`, after `python -m bench.across_tokenizers --pair mistral-tok512 --teachers-only`: its
teachers, one with the student's 512 tokens, one with Mistral's; other pairs by --pair. Students are trained in a plain
torch loop, without a term of the package, in as many steps as there. The target of a position is the token of the text,
the distribution of the teacher with the same tokens, or that of the other one, carried over as counted: where both
begin a token, or also inside of the teacher's tokens. *Starts* are the positions of the answers at which both
tokenisations begin a token; the table has held-out nats/token there, inside, and of all. *By chance*: as many positions
as there are starts, drawn anew each time. The first lines are the teachers' own. The held-out rows and the seed are
others than those of the study.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.across_steps import examples_of
from bench.across_tokenizers import HELD_OUT_ROWS, PAIRS, TEACHER_ROWS, shape, write_rows
from bench.commands import OUTPUT
from distillab.alignment.tables import TokenTable
from distillab.alignment.transport import PRIOR, TokensOfSpans, TransportCounts, beginnings
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.paired import PairedRow
from distillab.data.pieces import canonical_pieces
from distillab.data.reading import Reader, load_reader
from distillab.data.transport import count_transport
from distillab.data.vocabularies import vocabularies
from distillab.models.loading import load_model
from distillab.objectives.carried import Carrier

CHANCE = "same tokens / text, by chance"
TARGETS = {
    "text / text": ("text", "text"),
    "same tokens / same tokens": ("same", "same"),
    "same tokens / text": ("same", "text"),
    "text / same tokens": ("text", "same"),
    CHANCE: ("same", "text"),
    "other tokens, carried / text": ("starts", "text"),
    "other tokens, carried / carried": ("starts", "inside"),
}
_STEPS, _WARMUP, _BATCH, _CLIP = 150, 20, 8, 1.0
_JUDGED = 120
_CPU = torch.device("cpu")
_LEAST = 1e-9  # of a probability in a logarithm


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = _parser().parse_args(arguments)
    source = options.materials / "text" / "gsm8k" / "train.jsonl"
    files = write_rows(source, options.shared / "rows")
    judged = options.shared / "rows" / "judged.jsonl"
    first = TEACHER_ROWS + HELD_OUT_ROWS
    judged.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[first : first + _JUDGED]))
    student_name = PAIRS[options.pair][1]
    teacher, student = (
        load_reader(
            str(options.materials / "tokenizers" / name), revision=None, template="auto", kind="pair", max_tokens=640
        )
        for name in PAIRS[options.pair]
    )
    train, held_out = (
        pair_rows(
            *(reader.encoder.encode_all(list(examples_of(file)), source="rows").rows for reader in (student, teacher)),
            aligner=span_aligner(student, teacher),
        )[0]
        for file in (files["train"], judged)
    )
    models = [_load(options.shared / "teachers" / name / "student") for name in PAIRS[options.pair]]
    targets = _Targets(student, teacher, train, *models)
    config = shape(
        options.shared / "shapes" / f"student-{student_name}", width=64, layers=2, ids=len(student.tokenizer)
    )
    print("| target at starts / inside | starts | inside | all |\n|---|---|---|---|")
    for name, kinds in (("same", ("same", "same")), ("other, carried", ("starts", "inside"))):
        _print_line(f"the teacher, {name} tokens", [targets.judged(row, kinds) for row in held_out])
    for name in options.only:
        torch.manual_seed(options.seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(config)))
        _train(model, train, name, targets, options)
        _print_line(name, [_judged(model, row) for row in held_out])


class _Targets:
    """Distributions over the student's tokens at positions of a row, by kind: same, starts, inside.

    Args:
        other, same: models of the teachers, with the teacher's and with the student's tokens.
    """

    def __init__(
        self,
        student: Reader,
        teacher: Reader,
        rows: Sequence[PairedRow],
        other: PreTrainedModel,
        same: PreTrainedModel,
    ) -> None:
        both = vocabularies(
            student, teacher, student_width=len(student.tokenizer), teacher_width=len(teacher.tokenizer)
        )
        counts = count_transport(rows, student=student, teacher=teacher, vocabularies=both)
        kernel = counts.kernel(both.projection, prior=PRIOR)
        self._other, self._same, self._carrier = other, same, Carrier(kernel, _CPU)
        self._inside = _Inside(student, teacher, counts)

    @torch.no_grad()
    def at(self, row: PairedRow, kind: str) -> tuple[Tensor, Tensor]:
        """Return (n,) positions and (n, V) what follows there."""
        if kind == "same":
            prob = _logp(self._same, row.student.input_ids).exp()
            return torch.arange(len(prob)), prob
        prob = _logp(self._other, row.teacher.input_ids).exp()
        if kind == "inside":
            return self._inside.at(row, prob)
        ours, theirs = _starts(row)
        return ours, _normalised(self._carrier.prob(prob[theirs]))

    def judged(self, row: PairedRow, kinds: tuple[str, str]) -> tuple[Tensor, Tensor]:
        """Return −log of what it gives the scored tokens, at starts and inside."""
        follows, is_start, parts = _ids(row.student.input_ids)[1:], _is_start(row), []
        for kind, among in zip(kinds, (is_start, ~is_start), strict=True):
            places, prob = self.at(row, kind)
            values = -prob.gather(1, follows[places, None])[:, 0].clamp(min=_LEAST).log()
            parts.append(values[(among & _scored(row))[places]])
        return parts[0], parts[1]


class _Inside:
    """The student's next token k bytes inside of a teacher's token v: K(u | v, k) over all v with the same beginning.

    p(u) = Σ_v p(v) K(u | v, k) / Σ_v p(v), over the v that begin with the k bytes and are longer.
    """

    def __init__(self, student: Reader, teacher: Reader, counts: TransportCounts) -> None:
        self._counts, self._width = counts, len(student.tokenizer)
        self._tables = [TokenTable.of(reader.loaded.meanings) for reader in (student, teacher)]
        texts = [meaning.data if meaning.kind in ("text", "byte") else b"" for meaning in teacher.loaded.meanings]
        self._texts, self._begin = texts, defaultdict[bytes, list[int]](list)
        for id_, text in enumerate(texts):
            for k in range(1, len(text)):
                self._begin[text[:k]].append(id_)
        rests = sorted({text[k:] for text in texts for k in range(1, len(text))})
        pieces = canonical_pieces(student.tokenizer, student.loaded.meanings)(rests)
        self._first = {rest: ids[0] for rest, ids in zip(rests, pieces, strict=True) if ids}
        self._map = cache(self._map_of)

    def at(self, row: PairedRow, prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n,) positions of the student inside of the teacher's tokens, and (n, V) what follows there."""
        sides = (row.student, row.student_spans), (row.teacher, row.teacher_spans)
        ours, theirs, offsets = beginnings(
            *(
                TokensOfSpans(of.input_ids.astype(np.int64), spans, table)
                for (of, spans), table in zip(sides, self._tables, strict=True)
            )
        )
        kept = (offsets > 0) & (theirs > 0)
        found = prob.new_zeros(int(kept.sum()), self._width)
        for line, at, k in zip(found, theirs[kept], offsets[kept], strict=True):
            teachers, students, shares = self._map(self._texts[int(row.teacher.input_ids[at])][:k])
            line.index_add_(0, students, prob[at - 1][teachers] * shares)
        return torch.from_numpy(ours[kept] - 1), _normalised(found)

    def _map_of(self, beginning: bytes) -> tuple[Tensor, Tensor, Tensor]:
        k, entries = len(beginning), []
        for id_ in self._begin[beginning]:
            fallback = self._first.get(self._texts[id_][k:])
            counted = self._counts.row(id_, k, fallback=fallback, prior=PRIOR)
            entries += [(id_, one.student_id, one.share) for one in counted]
        teachers, students, shares = zip(*entries, strict=True)
        return torch.tensor(teachers), torch.tensor(students), torch.tensor(shares)


def _load(folder: Path) -> PreTrainedModel:
    return load_model(str(folder), dtype="float32", device=_CPU, revision=None, role="teacher").eval()


def _train(
    model: PreTrainedModel, rows: Sequence[PairedRow], name: str, targets: _Targets, options: argparse.Namespace
) -> None:
    rate = options.rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    generator = np.random.default_rng(options.seed)
    order = np.concatenate([generator.permutation(len(rows)) for _ in range(1 + _STEPS * _BATCH // len(rows))])
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / _WARMUP, (_STEPS - step) / (_STEPS - _WARMUP), 1.0)
        batch = [rows[place] for place in order[step * _BATCH : (step + 1) * _BATCH]]
        scored = sum(int(row.student.answer_mask.sum()) for row in batch)
        for row in batch:
            (_values(model, row, name, targets, options.weight).sum() / scored).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()


def _values(model: PreTrainedModel, row: PairedRow, name: str, targets: _Targets, weight: float) -> Tensor:
    """Return the values of the scored positions of a row: −Σ target · log q, by the kinds of starts and inside.

    Args:
        weight: factor of those that have a teacher's distribution.
    """
    logp, kinds = _logp(model, row.student.input_ids), TARGETS[name]
    values = -logp.gather(1, _ids(row.student.input_ids)[1:, None])[:, 0]
    scored, is_start = _scored(row), _is_start(row)
    if name == CHANCE:
        is_start[scored] = is_start[scored][torch.randperm(int(scored.sum()))]
    soft = {kind: targets.at(row, kind) for kind in sorted({*kinds} - {"text"})}
    for kind, among in zip(kinds, (is_start, ~is_start), strict=True):
        if kind != "text":
            places, prob = (of[among[soft[kind][0]]] for of in soft[kind])
            values = values.index_put((places,), -weight * (prob * logp[places]).sum(dim=-1))
    return values[scored]


@torch.no_grad()
def _judged(model: PreTrainedModel, row: PairedRow) -> tuple[Tensor, Tensor]:
    """Return −log q of the scored tokens that begin where both begin one, and of the others."""
    values = -_logp(model, row.student.input_ids).gather(1, _ids(row.student.input_ids)[1:, None])[:, 0]
    return values[_scored(row) & _is_start(row)], values[_scored(row) & ~_is_start(row)]


def _print_line(name: str, judged: Sequence[tuple[Tensor, Tensor]]) -> None:
    starts, inside = (torch.cat(part) for part in zip(*judged, strict=True))
    means = [float(values.mean()) for values in (starts, inside, torch.cat([starts, inside]))]
    print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |", flush=True)


def _normalised(prob: Tensor) -> Tensor:
    return prob / prob.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(prob.dtype).tiny)


def _is_start(row: PairedRow) -> Tensor:
    """Return (T - 1,) bool, whether both models predict the first token of a span there."""
    found = torch.zeros(len(row.student.input_ids) - 1, dtype=torch.bool)
    found[_starts(row)[0]] = True
    return found


def _starts(row: PairedRow) -> tuple[Tensor, Tensor]:
    """Return the positions of both models that predict the first token of a span of the answers."""
    sides = (row.student, row.student_spans), (row.teacher, row.teacher_spans)
    firsts = [dict(zip(*np.unique(spans, return_index=True), strict=True)) for _, spans in sides]
    places = [[first[span] for first in firsts] for span in firsts[0] if span >= 0]
    kept = [
        [at - 1 for at in both]
        for both in places
        if all(at > 0 and side.answer_mask[at] for at, (side, _) in zip(both, sides, strict=True))
    ]
    ours, theirs = torch.tensor(kept).T
    return ours, theirs


def _scored(row: PairedRow) -> Tensor:
    return torch.from_numpy(row.student.answer_mask.astype(bool))[1:]


def _ids(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def _logp(model: PreTrainedModel, ids: np.ndarray) -> Tensor:
    """Return (T - 1, V) log-probabilities of the next tokens."""
    return model(_ids(ids)[None]).logits[0, :-1].float().log_softmax(dim=-1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed_targets", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=OUTPUT / "across-shared", help="folder of rows and teachers")
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
    parser.add_argument("--materials", type=Path, default=materials, help="folder with tokenizers/ and text/")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--rate", type=float, default=6e-3, help="learning rate")
    parser.add_argument("--weight", type=float, default=1.0, help="of the positions that have a teacher's distribution")
    parser.add_argument("--pair", choices=PAIRS, default="mistral-tok512", help="tokenizers of teacher and student")
    parser.add_argument("--only", choices=TARGETS, nargs="*", default=list(TARGETS), help="targets; default: all")
    return parser


if __name__ == "__main__":
    main()
