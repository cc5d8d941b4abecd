"""What carrying a teacher over costs it, as a predictor of the text. `python -m bench.carried_text demo-output`

The folder is one of `distillab demo`: its teacher with other tokens, the student's tokenizer, the rows. No student is
trained. At the answers' spans whose first byte both tokenisations begin a token at, and that are one token of the
student, the table has −log of the probability of that text: the teacher's own, by the chain rule, and that of the
student's token where the teacher's next-token distribution is carried over by each map. It is divided by whether the
counted rows have one token of the student in place of the teacher's, or several. Carried distributions are mixed with
0.1 % of the uniform one. Rows are drawn as the demo's held-out ones, and are others than these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from distillab.data.aligning import pair_rows, span_aligner
from distillab.data.examples import pair_example
from distillab.data.paired import PairedRow
from distillab.data.reading import Reader, load_reader
from distillab.data.transport import count_transport
from distillab.data.vocabularies import Vocabularies, vocabularies
from distillab.demo.replay import HELD_OUT_ROWS
from distillab.demo.world import draw_rows
from distillab.files import read_json_lines
from distillab.models.loading import load_model
from distillab.objectives.carried import Carrier

_FLOOR = 1e-3
Rows = Sequence[PairedRow]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.carried_text", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of `distillab demo`")
    folder = parser.parse_args(arguments).folder
    student, teacher = (_reader(folder / "tokenizers" / name) for name in ("tokenizer-a", "tokenizer-b"))
    model = load_model(
        str(folder / "teacher-other-tokens" / "student"),
        dtype="float32",
        device=torch.device("cpu"),
        revision=None,
        role="teacher",
    ).eval()
    widths = [len(reader.tokenizer) for reader in (student, teacher)]
    both = vocabularies(student, teacher, student_width=widths[0], teacher_width=widths[1])
    counted = _paired(student, teacher, read_json_lines(folder / "world" / "train.jsonl"))
    both = replace(both, counts=count_transport(counted, student=student, teacher=teacher, vocabularies=both))
    other_rows = draw_rows("held_out", 2 * HELD_OUT_ROWS, seed=0)[HELD_OUT_ROWS:]
    _print_table(list(_places(model, _paired(student, teacher, other_rows), both)))


def _reader(folder: Path) -> Reader:
    return load_reader(str(folder), revision=None, template="auto", kind="pair", max_tokens=128)


def _paired(student: Reader, teacher: Reader, rows: Sequence[dict[str, str]]) -> Rows:
    examples = [
        pair_example(str(n), str(n), instruction=row["prompt"], context="", answer=row["answer"])
        for n, row in enumerate(rows)
    ]
    ours, theirs = (reader.encoder.encode_all(examples, source="rows").rows for reader in (student, teacher))
    return pair_rows(ours, theirs, aligner=span_aligner(student, teacher))[0]


@torch.no_grad()
def _places(model: PreTrainedModel, rows: Rows, both: Vocabularies) -> Iterator[tuple[bool, list[float]]]:
    """Yield for each span whether the teacher's token has several of the student's, and nats: its own, of each map."""
    kernel = both.kernel(None)
    assert kernel is not None
    assert both.prefixes is not None
    carriers = [Carrier(of, torch.device("cpu")) for of in (kernel, both.projection, both.prefixes)]
    several = np.diff(kernel.row_ends) > 1
    for row in rows:
        ids = row.teacher.input_ids.astype(np.int64)
        logp = model(torch.from_numpy(ids)[None]).logits[0].float().log_softmax(-1)
        for span in range(int(row.student_spans.max()) + 1):
            mine, its = np.flatnonzero(row.student_spans == span), np.flatnonzero(row.teacher_spans == span)
            if len(mine) > 1 or not (row.student.answer_mask[mine].all() and row.teacher.answer_mask[its].all()):
                continue
            nats = [-float(logp[its - 1, ids[its]].sum())]
            for carrier in carriers:
                carried = carrier.prob(logp[its[0] - 1].exp()[None])[0]
                mixed = (1 - _FLOOR) * carried / carried.sum() + _FLOOR / len(carried)
                nats.append(-float(mixed[int(row.student.input_ids[mine[0]])].log()))
            yield bool(several[ids[its[0]]]), nats


def _print_table(places: Sequence[tuple[bool, list[float]]]) -> None:
    print("| student's tokens in place of the teacher's | spans | teacher | measured | first piece | longest prefix |")
    print("|---|---|---|---|---|---|")
    for name, kept in (("one", (False,)), ("several", (True,)), ("all", (False, True))):
        nats = np.array([of for is_several, of in places if is_several in kept])
        print(f"| {name} | {len(nats):,} | {' | '.join(f'{mean:.3f}' for mean in nats.mean(axis=0))} |")


if __name__ == "__main__":
    main()
