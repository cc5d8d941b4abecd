"""What a student learns where some positions have a teacher's distribution and the others the text.

`python -m bench.mixed_targets`, after `python -m bench.across_tokenizers --pair mistral-tok512 --teachers-only`: its
teachers, one with the student's 512 tokens, one with Mistral's. Students are trained in a plain torch loop, without a
term of the package, in as many steps as there. The target of a position is the token of the text, the distribution of
the teacher with the same tokens, or that of the other one, carried over as counted. *Starts* are the positions of the
answers at which both tokenisations begin a token; the table has held-out nats/token there, inside, and of all. The
held-out rows and the seed are others than those of the study.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.across_steps import examples_of
from bench.across_tokenizers import HELD_OUT_ROWS, PAIRS, TEACHER_ROWS, shape, write_rows
from bench.commands import OUTPUT
from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.paired import PairedRow
from distillab.data.reading import load_reader
from distillab.data.transport import count_transport
from distillab.data.vocabularies import vocabularies
from distillab.models.loading import load_model
from distillab.objectives.carried import Carrier

PAIR = "mistral-tok512"
TARGETS = {
    "text / text": ("text", "text"),
    "same tokens / same tokens": ("same", "same"),
    "same tokens / text": ("same", "text"),
    "text / same tokens": ("text", "same"),
    "other tokens, carried / text": ("other", "text"),
}
_STEPS, _WARMUP, _BATCH, _RATE, _CLIP = 150, 20, 8, 6e-3, 1.0
_JUDGED = 120
_CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = _parser().parse_args(arguments)
    source = options.materials / "text" / "gsm8k" / "train.jsonl"
    files = write_rows(source, options.shared / "rows")
    judged = options.shared / "rows" / "judged.jsonl"
    first = TEACHER_ROWS + HELD_OUT_ROWS
    judged.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[first : first + _JUDGED]))
    teacher, student = (
        load_reader(
            str(options.materials / "tokenizers" / name), revision=None, template="auto", kind="pair", max_tokens=640
        )
        for name in PAIRS[PAIR]
    )
    train, held_out = (
        pair_rows(
            *(reader.encoder.encode_all(list(examples_of(file)), source="rows").rows for reader in (student, teacher)),
            aligner=span_aligner(student, teacher),
        )[0]
        for file in (files["train"], judged)
    )
    both = vocabularies(student, teacher, student_width=len(student.tokenizer), teacher_width=len(teacher.tokenizer))
    both = replace(both, counts=count_transport(train, student=student, teacher=teacher, vocabularies=both))
    kernel = both.kernel(None)
    assert kernel is not None
    teachers = {
        kind: _load(options.shared / "teachers" / name / "student")
        for kind, name in zip(("other", "same"), PAIRS[PAIR], strict=True)
    }
    config = shape(options.shared / "shapes" / "student", width=64, layers=2, ids=len(student.tokenizer))
    print("| target at starts / inside | starts | inside | all |\n|---|---|---|---|")
    for name in options.only:
        torch.manual_seed(options.seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(config)))
        _train(model, train, TARGETS[name], teachers, Carrier(kernel, _CPU), options)
        starts, inside = (torch.cat(part) for part in zip(*(_judged(model, row) for row in held_out), strict=True))
        means = [float(values.mean()) for values in (starts, inside, torch.cat([starts, inside]))]
        print(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |", flush=True)


def _load(folder: Path) -> PreTrainedModel:
    return load_model(str(folder), dtype="float32", device=_CPU, revision=None, role="teacher").eval()


def _train(
    model: PreTrainedModel,
    rows: Sequence[PairedRow],
    kinds: tuple[str, str],
    teachers: dict[str, PreTrainedModel],
    carrier: Carrier,
    options: argparse.Namespace,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.0)
    generator = np.random.default_rng(options.seed)
    order = np.concatenate([generator.permutation(len(rows)) for _ in range(1 + _STEPS * _BATCH // len(rows))])
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * min((step + 1) / _WARMUP, (_STEPS - step) / (_STEPS - _WARMUP), 1.0)
        batch = [rows[place] for place in order[step * _BATCH : (step + 1) * _BATCH]]
        scored = sum(int(row.student.answer_mask.sum()) for row in batch)
        for row in batch:
            (_values(model, row, kinds, teachers, carrier, options.weight).sum() / scored).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()


def _values(
    model: PreTrainedModel,
    row: PairedRow,
    kinds: tuple[str, str],
    teachers: dict[str, PreTrainedModel],
    carrier: Carrier,
    weight: float,
) -> Tensor:
    """Return the values of the scored positions of a row: −Σ target · log q, by the kinds of starts and inside.

    Args:
        weight: factor of those that have a teacher's distribution.
    """
    logp = _logp(model, row.student.input_ids)
    targets = _ids(row.student.input_ids)[1:]
    values = -logp.gather(1, targets[:, None])[:, 0]
    ours, theirs = _starts(row)
    is_start = torch.zeros(len(targets), dtype=torch.bool)
    is_start[ours] = True
    if "same" in kinds:
        with torch.no_grad():
            prob = _logp(teachers["same"], row.student.input_ids).exp()
        soft = torch.where(is_start, kinds[0] == "same", kinds[1] == "same")
        values = torch.where(soft, -weight * (prob * logp).sum(dim=-1), values)
    if "other" in kinds:
        with torch.no_grad():
            carried = carrier.prob(_logp(teachers["other"], row.teacher.input_ids)[theirs].exp())
        carried = carried / carried.sum(dim=-1, keepdim=True)
        values = values.index_put((ours,), -weight * (carried * logp[ours]).sum(dim=-1))
    return values[_scored(row)]


@torch.no_grad()
def _judged(model: PreTrainedModel, row: PairedRow) -> tuple[Tensor, Tensor]:
    """Return −log q of the scored tokens that begin where both begin one, and of the others."""
    values = -_logp(model, row.student.input_ids).gather(1, _ids(row.student.input_ids)[1:, None])[:, 0]
    is_start = torch.zeros(len(values), dtype=torch.bool)
    is_start[_starts(row)[0]] = True
    return values[_scored(row) & is_start], values[_scored(row) & ~is_start]


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
    parser.add_argument("--weight", type=float, default=1.0, help="of the positions that have a teacher's distribution")
    parser.add_argument("--only", choices=TARGETS, nargs="+", default=list(TARGETS), help="targets; default: all")
    return parser


if __name__ == "__main__":
    main()
