"""How well each map between two vocabularies says what the student's tokenizer writes. `python -m bench.transport PAIR`

No student is trained. At positions of held-out stories where both tokenisations begin a token, the teacher writes on,
many times, and the student's tokenizer cuts what was written: the shares of its next tokens are the truth. Each map
carries the teacher's distribution over, and the table shows KL(truth ‖ carried), in nats. The entropy of the truth is
corrected for the number of draws (Miller and Madow), so that a perfect map has 0; differences between maps do not
depend on it. All carried distributions are mixed with 0.1 % of the uniform one, because a map can leave a token without
any mass. The counts are made on other stories. `counting` in place of a pair prints how many tokens a CPU second
counts, `partners` the shares of places at which one tokenizer's token does not say which the other writes, and
`neighbours` what the token before would add. Needs the materials (DISTILLAB_MATERIALS).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student_t
from torch import Tensor
from transformers import PreTrainedModel

from bench.across_steps import examples_of
from distillab.alignment.projection import HOWS, VocabularyProjection
from distillab.alignment.transport import PRIOR
from distillab.data.aligning import pair_rows, paired, span_aligner
from distillab.data.examples import Example, text_example
from distillab.data.paired import PairedRow
from distillab.data.reading import Reader, load_reader
from distillab.data.transport import count_transport
from distillab.data.vocabularies import Vocabularies, vocabularies
from distillab.models.loading import load_model
from distillab.objectives.carried import Carrier

# teacher's model, student's tokenizer, tokens that are written on
PAIRS = {
    "mistral-tinyllama": ("smallmistral-stories", "tinyllama-1.1b", 3),
    "mistral-gpt2": ("smallmistral-stories", "gpt2", 3),
    "mistral-tok512": ("smallmistral-stories", "tok512", 3),
    "tok512-mistral": ("stories260K-tok512", "mistral-7b-v0.1", 10),
    # one tokenizer, whose map is right: what is left is that of the draws, and of tokens that it would not write itself
    "mistral-mistral": ("smallmistral-stories", "mistral-7b-v0.1", 3),
}
COUNTED, HELD_OUT = slice(0, 1200), slice(1420, None)
TUNED = slice(1200, 1420)
PRIORS = (0.5, 2.0, 8.0)
_FLOOR, _CONTEXT_BYTES, _CONTEXT_TOKENS, _MAX_TOKENS = 1e-3, 60, 64, 400


@dataclass(frozen=True, eq=False)
class Place:
    """A position where both begin a token.

    Attributes:
        context: the teacher's tokens before it.
        text: the last words of the text before it.
        targets: how often the student's tokenizer wrote each of its tokens there.
        prob: (W,) the teacher's distribution.
    """

    context: list[int]
    text: bytes
    targets: Counter[int]
    prob: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one pair."""
    options = _parser().parse_args(arguments)
    if options.pair in WITHOUT_MODEL:
        WITHOUT_MODEL[options.pair](options.materials)
        return
    torch.manual_seed(options.seed)
    teacher_name, _, further = PAIRS[options.pair]
    folder = options.materials / "models" / teacher_name
    model = load_model(str(folder), dtype="float32", device=torch.device("cpu"), revision=None, role="teacher")
    model.eval()
    student, teacher = _readers(options.materials, options.pair)
    both = vocabularies(
        student, teacher, student_width=len(student.tokenizer), teacher_width=int(model.config.vocab_size)
    )
    stories = _stories(options.materials)
    counted = _paired(student, teacher, stories[COUNTED])
    both = replace(both, counts=count_transport(counted, student=student, teacher=teacher, vocabularies=both))
    chosen = _places(_paired(student, teacher, stories[TUNED if options.tune else HELD_OUT]), teacher, options)
    places = [
        found
        for ids, text in chosen
        if (found := _written_on(model, teacher, student, ids, text, further, options.continuations)) is not None
    ]
    print(f"{options.pair}: {len(places)} positions, {options.continuations} continuations each")
    _print_table(_maps(both, PRIORS if options.tune else (2.0,)), places)


def _print_rate(materials: Path) -> None:
    """Count 3,000 rows of GSM8K in the tokens of Mistral-7B and TinyLlama."""
    teacher, student = (
        load_reader(str(materials / "tokenizers" / name), revision=None, template="auto", kind="pair", max_tokens=512)
        for name in ("mistral-7b-v0.1", "tinyllama-1.1b")
    )
    examples = list(islice(examples_of(materials / "text/gsm8k/train.jsonl"), 3000))
    both = vocabularies(student, teacher, student_width=32_000, teacher_width=32_000)
    times = [time.process_time()]
    ours, theirs = (reader.encoder.encode_all(examples, source="rows").rows for reader in (student, teacher))
    times.append(time.process_time())
    rows, _ = pair_rows(ours, theirs, aligner=span_aligner(student, teacher))
    times.append(time.process_time())
    counts = count_transport(rows, student=student, teacher=teacher, vocabularies=both)
    times.append(time.process_time())
    tokens = int(counts.counts.sum())
    encoding, aligning, counting = np.diff(times)
    print(
        f"{tokens:,} tokens of the student, CPU seconds: encoding {encoding:.2f}, aligning {aligning:.2f}, counting "
        f"{counting:.2f}: {tokens / counting:,.0f} a second, with the aligning {tokens / (aligning + counting):,.0f}"
    )


def _print_partners(materials: Path) -> None:
    """Print how often, where both begin a token, one of them is not the most frequent partner of the other."""
    print("| pair | student's, given the teacher's | teacher's, given the student's |\n|---|---|---|")
    for pair in PAIRS:
        student, teacher = _readers(materials, pair)
        widths = [len(reader.tokenizer) for reader in (student, teacher)]
        both = vocabularies(student, teacher, student_width=widths[0], teacher_width=widths[1])
        rows = _paired(student, teacher, _stories(materials)[COUNTED])
        counts = count_transport(rows, student=student, teacher=teacher, vocabularies=both)
        begins = counts.offsets == 0
        shares = [
            _others(ids[begins], counts.counts[begins], width)
            for ids, width in ((counts.teacher_ids, widths[1]), (counts.student_ids, widths[0]))
        ]
        print(f"| {pair} | {shares[0]:.1%} | {shares[1]:.1%} |")


def _print_neighbours(materials: Path) -> None:
    """Print −log of the counted share of one tokenizer's token, given the other's, then also the one before that."""
    print("| pair | student's, given the teacher's | and the one before | teacher's, given the student's | and |")
    print("|---|---|---|---|---|")
    stories = _stories(materials)
    for pair in PAIRS:
        student, teacher = _readers(materials, pair)
        counted, read = (_beginnings(_paired(student, teacher, stories[part])) for part in (COUNTED, HELD_OUT))
        nats = [
            _nats([row[:depth] for row in counted[side]], [row[:depth] for row in read[side]])
            for side in ("student", "teacher")
            for depth in (2, 3)
        ]
        print(f"| {pair} | {' | '.join(f'{of:.3f}' for of in nats)} |")


def _beginnings(rows: Sequence[PairedRow]) -> dict[str, list[tuple[int, ...]]]:
    """Return for each span the token that begins it, the other tokenizer's, and that one's token before."""
    found: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for row in rows:
        sides = []
        for ids, spans in ((row.student.input_ids, row.student_spans), (row.teacher.input_ids, row.teacher_spans)):
            places = np.unique(spans, return_index=True)[1][int(spans.min() == -1) :]
            sides.append((ids[places].tolist(), np.append(ids, -1)[places - 1].tolist()))  # -1: nothing is before it
        (ours, ours_before), (theirs, theirs_before) = sides
        found["student"] += zip(ours, theirs, theirs_before, strict=True)
        found["teacher"] += zip(theirs, ours, ours_before, strict=True)
    return found


def _nats(counted: Sequence[tuple[int, ...]], read: Sequence[tuple[int, ...]]) -> float:
    """Return the mean of −log P(token | condition): the longer the condition, the further it falls back.

    P(u | c) = (N(c, u) + λ P(u | c without its last)) / (N(c) + λ), P(u) = (N(u) + 1) / (N + ids)
    """
    times = Counter(row[:depth] for row in counted for depth in range(1, len(row) + 1))
    conditions = Counter(row[1:depth] for row in counted for depth in range(1, len(row) + 1))
    ids = 1 + max(row[0] for row in (*counted, *read))
    total = 0.0
    for row in read:
        prob = (times[row[:1]] + 1) / (len(counted) + ids)
        for depth in range(2, len(row) + 1):
            prob = (times[row[:depth]] + PRIOR * prob) / (conditions[row[1:depth]] + PRIOR)
        total -= np.log(prob)
    return total / len(read)


def _others(ids: NDArray[np.int64], counts: NDArray[np.int64], width: int) -> float:
    """Return the share of the counts that are not the largest of their id."""
    largest = np.zeros(width, dtype=np.int64)
    np.maximum.at(largest, ids, counts)
    return float(1.0 - largest.sum() / counts.sum())


def _stories(materials: Path) -> list[str]:
    return (materials / "text/tinystories/stories_dev.jsonl").read_text(encoding="utf-8").splitlines()


def _readers(materials: Path, pair: str) -> list[Reader]:
    """Return those of the student and of the teacher."""
    teacher, student, _ = PAIRS[pair]
    return [
        load_reader(str(folder), revision=None, template="auto", kind="text", max_tokens=_MAX_TOKENS)
        for folder in (materials / "tokenizers" / student, materials / "models" / teacher)
    ]


def _paired(student: Reader, teacher: Reader, lines: Sequence[str]) -> list[PairedRow]:
    examples: list[Example] = [
        text_example(str(n), str(n), text=json.loads(line)["text"], prompt_share=0.5) for n, line in enumerate(lines)
    ]
    ours, theirs = (reader.encoder.encode_all(examples, source="stories").rows for reader in (student, teacher))
    others = {row.key: row for row in theirs}
    pairs = [(place, row, others[row.key]) for place, row in enumerate(ours) if row.key in others]
    return paired(pairs, aligner=span_aligner(student, teacher))[0]


def _places(rows: Sequence[PairedRow], teacher: Reader, options: argparse.Namespace) -> list[tuple[list[int], bytes]]:
    """Return the teacher's tokens, and the last words, before positions drawn among all that both begin a token at."""
    generator = np.random.default_rng(options.seed)
    found: list[tuple[list[int], bytes]] = []
    while len(found) < options.positions:
        row = rows[generator.integers(len(rows))]
        starts = np.flatnonzero(np.diff(row.teacher_spans) == 1) + 1
        starts = starts[(starts > 20) & (starts < len(row.teacher) - 2)]
        if not len(starts):
            continue
        end = int(generator.choice(starts))
        ids = row.teacher.input_ids[max(0, end - _CONTEXT_TOKENS) : end].tolist()
        text = b"".join(teacher.loaded.meanings[id_].data for id_ in ids[1:])[-_CONTEXT_BYTES:]
        found.append((ids, text[text.index(b" ") :]))
    return found


@torch.no_grad()
def _written_on(
    model: PreTrainedModel,
    teacher: Reader,
    student: Reader,
    context: list[int],
    text: bytes,
    further: int,
    continuations: int,
) -> Place | None:
    """Let the teacher write on, and cut what it wrote with the student's tokenizer; None if nothing could be read."""
    prob = model(torch.tensor([context])).logits[0, -1].float().softmax(-1)
    written: Counter[tuple[int, ...]] = Counter(
        (id_,) for id_ in torch.multinomial(prob, continuations, replacement=True).tolist()
    )
    for _ in range(further - 1):
        # what begins alike is read once
        prefixes = list(written)
        probs = []
        for some in (prefixes[n : n + 256] for n in range(0, len(prefixes), 256)):
            ids = torch.tensor([context + list(prefix) for prefix in some])
            probs.append(model(ids, logits_to_keep=1).logits[:, -1].float().softmax(-1))
        longer: Counter[tuple[int, ...]] = Counter()
        for prefix, row in zip(prefixes, torch.cat(probs), strict=True):
            for id_ in torch.multinomial(row, written[prefix], replacement=True).tolist():
                longer[(*prefix, id_)] += 1
        written = longer
    texts: Counter[str] = Counter()
    for ids, times in written.items():
        meanings = [teacher.loaded.meanings[id_] for id_ in ids]
        said = b"".join(meaning.data for meaning in meanings if meaning.kind in ("text", "byte"))
        texts[(text + said).decode("utf-8", "ignore")] += times
    targets: Counter[int] = Counter()
    for (_, times), ids in zip(
        texts.items(), student.tokenizer(list(texts), add_special_tokens=False)["input_ids"], strict=True
    ):
        token = _token_at(student, ids, text)
        if token is not None:
            targets[token] += times
    # where the student's tokens run over the place in most texts, it does not begin a token there
    return Place(context, text, targets, prob) if sum(targets.values()) > continuations / 2 else None


def _token_at(student: Reader, ids: Sequence[int], text: bytes) -> int | None:
    """Return the token that begins behind the text; None if none does."""
    spelled = b"".join(student.loaded.meanings[id_].data for id_ in ids)
    # one more space in front, of the tokenizer
    place = -int(spelled.startswith(b" " + text))
    for id_ in ids:
        if place == len(text):
            return id_
        place += len(student.loaded.meanings[id_].data)
    return None


def _maps(both: Vocabularies, priors: Sequence[float]) -> dict[str, VocabularyProjection]:
    assert both.prefixes is not None
    assert both.counts is not None
    same = both.projection
    kept = np.isin(same.how, [HOWS.index("exact"), HOWS.index("role")])
    sizes = np.diff(same.row_ends)
    strings = VocabularyProjection(
        row_ends=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes * kept)]),
        student_ids=same.student_ids[np.repeat(kept, sizes)],
        weights=same.weights[np.repeat(kept, sizes)],
        how=same.how,
        student_width=same.student_width,
        teacher_fingerprint=same.teacher_fingerprint,
        student_fingerprint=same.student_fingerprint,
    )
    measured = {f"measured, λ = {prior:g}": both.counts.kernel(same, prior=prior) for prior in priors}
    return {"same string": strings, "first piece": same, "longest prefix (BPM)": both.prefixes, **measured}


def _print_table(maps: dict[str, VocabularyProjection], places: Sequence[Place]) -> None:
    excess = {name: _excess(Carrier(kernel, torch.device("cpu")), places) for name, kernel in maps.items()}
    last = list(excess)[-1]
    print(f"| map | KL from the truth, nats [95 %] | {last}, less this map [95 %] |\n|---|---|---|")
    for name, nats in excess.items():
        against = "" if name == last else _interval(excess[last] - nats, sign="+")
        print(f"| {name} | {_interval(nats)} | {against} |")


def _excess(carrier: Carrier, places: Sequence[Place]) -> NDArray[np.float64]:
    found = []
    for place in places:
        carried = carrier.prob(place.prob[None])[0].double()
        carried = (1 - _FLOOR) * carried / carried.sum() + _FLOOR / len(carried)
        times = np.array(list(place.targets.values()), dtype=np.float64)
        share = times / times.sum()
        entropy = -(share * np.log(share)).sum() + (len(share) - 1) / (2 * times.sum())
        found.append(-(share * carried[list(place.targets)].log().numpy()).sum() - entropy)
    return np.array(found)


def _interval(values: NDArray[np.float64], sign: str = "") -> str:
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return f"{mean:{sign}.3f} [{mean - half:{sign}.3f}, {mean + half:{sign}.3f}]"


WITHOUT_MODEL = {"counting": _print_rate, "partners": _print_partners, "neighbours": _print_neighbours}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.transport", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", choices=[*PAIRS, *WITHOUT_MODEL])
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--continuations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="other stories than the reported ones, and several λ")
    materials = Path(os.environ.get("DISTILLAB_MATERIALS", "../shared/data"))
    parser.add_argument("--materials", type=Path, default=materials)
    return parser


if __name__ == "__main__":
    main()
