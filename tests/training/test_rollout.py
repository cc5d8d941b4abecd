"""Training on what the student writes: the step, its gradient, its counts, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from distillab.config.on_policy import HorizonConfig, StudentAnswersConfig, StudentSamplingConfig
from distillab.data.collation import Collator, IndexedRow
from distillab.data.encoding import EncodedRow, EncodedSplit
from distillab.errors import DataError
from distillab.training.rollout import repeated_share
from tests.training.conftest import (
    REVERSE,
    STOP,
    Train,
    first_rows,
    flat_parameters,
    ragged_split,
    rewritten,
    rollout,
    teacher,
    tiny_llama,
)

OWN = StudentAnswersConfig(fraction=0.75, max_new_tokens=10)
ALL = StudentAnswersConfig(fraction=1.0, max_new_tokens=10)


def test_a_teacher_equal_to_the_student_gives_no_loss_and_no_gradient(train: Train) -> None:
    _, (report,) = train(terms=REVERSE, own=ALL, source=teacher(tiny_llama(0)))
    assert abs(report.loss) < 1e-6 and report.grad_norm < 1e-5
    assert report.rollout is not None
    assert report.rollout["accept"] == pytest.approx(1.0, abs=1e-5) and report.rollout["top16_overlap"] == 1.0
    _, (other,) = train(terms=REVERSE, own=ALL)
    assert other.loss > 0.01 and other.grad_norm > 0.01


def test_the_update_is_that_of_a_step_on_the_same_ids_bit_for_bit(train: Train, tmp_path: Path) -> None:
    split = ragged_split(8)
    on_policy, (a,) = train(terms=REVERSE, own=OWN, split=split, folder=tmp_path / "own")
    written, order = _capture(split, OWN), first_rows()
    # so that the step reads them in the same order
    fixed = EncodedSplit([written[order.index(n)] for n in range(8)], split.examples, split.counts)
    stored, (b,) = train(terms=REVERSE, split=fixed, folder=tmp_path / "fixed")
    assert a.terms == b.terms and a.loss == b.loss and a.grad_norm == b.grad_norm
    assert torch.equal(flat_parameters(on_policy), flat_parameters(stored))
    assert a.supervised_tokens == sum(int(row.answer_mask.sum()) for row in written)


def _capture(split: EncodedSplit, own: StudentAnswersConfig) -> list[EncodedRow]:
    """The rows that the first step trains on, in its order."""
    (found,) = rewritten(rollout(own, split), first_rows(), tiny_llama(0))
    rows = []
    for place in range(8):
        here = found["attention_mask"][place].bool()
        mask = found["answer_mask"][place][here].numpy()
        ids = found["input_ids"][place][here].numpy().astype(np.int32)
        rows.append(EncodedRow(f"row{place}", ids, mask, int(mask.argmax())))
    return rows


@pytest.mark.parametrize("setting", [{"microbatch_size": 4}, {"microbatch_size": 1}, {"padding_side": "left"}])
def test_neither_microbatches_nor_padding_change_the_step(train: Train, setting: dict[str, Any]) -> None:
    start = flat_parameters(tiny_llama(0))
    whole, (a,) = train(terms=REVERSE, own=OWN)
    split, (b,) = train(terms=REVERSE, own=OWN, **setting)
    moved = flat_parameters(whole) - start
    assert (flat_parameters(split) - start - moved).norm() < 1e-4 * moved.norm()
    assert b.loss == pytest.approx(a.loss, rel=1e-5) and b.supervised_tokens == a.supervised_tokens
    assert a.rollout is not None and b.rollout is not None
    for name in ("tokens", "truncated", "length_p90", "nats", "nats_stored"):
        assert b.rollout[name] == pytest.approx(a.rollout[name], rel=1e-5)


def test_the_loss_is_the_naive_sum_over_all_scored_tokens_of_the_step(train: Train) -> None:
    split = ragged_split(8)
    student, source = tiny_llama(0), teacher()
    total, count = 0.0, 0
    for row in _capture(split, OWN):
        ids = torch.tensor(row.input_ids[None].astype("int64"))
        with torch.no_grad():
            q = student(input_ids=ids).logits[0].double().log_softmax(-1)
            p = source.model(input_ids=ids).logits[0].double().log_softmax(-1)
        for position in range(1, len(row)):
            if row.answer_mask[position]:
                total += float((q[position - 1].exp() * (q[position - 1] - p[position - 1])).sum())
                count += 1
    _, (report,) = train(terms=REVERSE, own=OWN, microbatch_size=2)
    assert report.loss == pytest.approx(total / count, rel=1e-5) and report.supervised_tokens == count


def test_exactly_the_share_of_rows_is_written_and_the_others_keep_their_answers() -> None:
    split = ragged_split(8)
    for step in (1, 2):
        (batch,) = rewritten(rollout(OWN, split), range(8), tiny_llama(0), step=step)
        own = batch["written"].any(dim=1)
        assert int(own.sum()) == 6
        for place in range(8):
            row = split.rows[int(batch["rows"][place].max())]
            ids = batch["input_ids"][place][batch["attention_mask"][place].bool()]
            assert ids[: row.prompt_length].tolist() == row.input_ids[: row.prompt_length].tolist()
            assert (ids.tolist() == row.input_ids.tolist()) == (not own[place])
    writing = rollout(OWN, split)
    assert writing.places(1) != writing.places(2) and writing.places(1) == rollout(OWN, split).places(1)


def test_an_answer_is_scored_with_its_end_token_and_a_cut_one_gets_none() -> None:
    split = ragged_split(8)
    model = tiny_llama(0)
    with torch.no_grad():
        model.lm_head.weight[STOP] *= 3  # so that some answers end
    writing = rollout(ALL, split)
    (batch,) = rewritten(writing, range(8), model)
    ended = cut = 0
    for place in range(8):
        mask = batch["answer_mask"][place]
        ids = batch["input_ids"][place][mask].tolist()
        assert STOP not in ids[:-1]
        if ids[-1] == STOP:
            ended += 1
        else:
            cut += 1
            assert len(ids) == ALL.longest
    assert ended and cut
    figures = writing.log.figures(lambda values: values, torch.device("cpu"))
    assert figures["truncated"] == cut / 8 and figures["tokens"] == int(batch["answer_mask"].sum())


def test_a_killed_run_resumes_with_the_same_samples_bit_for_bit(train: Train, tmp_path: Path) -> None:
    own = StudentAnswersConfig(fraction=0.5, max_new_tokens=HorizonConfig(start=4, end=12, over=0.5))
    settings: dict[str, Any] = {"steps": 8, "batch_size": 4, "checkpoint_every": 2, "split": ragged_split(10)}
    settings |= {"terms": REVERSE, "own": own}
    straight, reports = train(folder=tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "killed", stop_after=5, **settings)
    resumed, rest = train(folder=tmp_path / "killed", resume=str(tmp_path / "killed" / "checkpoint-4"), **settings)
    assert torch.equal(flat_parameters(resumed), flat_parameters(straight))
    assert [r.loss for r in rest] == [r.loss for r in reports[4:]]
    horizons = [r.rollout["max_new_tokens"] for r in reports if r.rollout is not None]
    assert horizons == [4, 6, 8, 10, 12, 12, 12, 12]


def test_the_guard_goes_on_after_a_resume(train: Train, tmp_path: Path) -> None:
    # a student that writes one token again and again
    loops = tiny_llama(0)
    with torch.no_grad():
        loops.lm_head.weight *= 0
        loops.lm_head.weight[7] += 1
        loops.lm_head.weight[8] -= 1
    own = StudentAnswersConfig(fraction=0.75, max_new_tokens=12, sampling=StudentSamplingConfig(temperature=0))
    settings: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "learning_rate": 1e-6, "terms": REVERSE, "own": own}
    state = loops.state_dict()

    def student() -> LlamaForCausalLM:
        model = tiny_llama(0)
        model.load_state_dict(state)
        return model

    with pytest.raises(KeyboardInterrupt):
        train(student=student(), folder=tmp_path, stop_after=3, **settings)
    _, rest = train(student=student(), folder=tmp_path, resume=str(tmp_path / "checkpoint-2"), **settings)
    assert [report.rollout["fraction"] for report in rest if report.rollout is not None] == [0.25, 0.25]


def test_every_process_has_its_own_rows_of_a_step() -> None:
    split, model = ragged_split(8), tiny_llama(0)
    own = StudentAnswersConfig(fraction=0.5, max_new_tokens=10)
    (whole,) = rewritten(rollout(own, split), range(8), model)
    expected = {_ids(whole, place) for place in range(8)}
    found = set()
    for process in (0, 1):
        batches = [
            Collator(0)([IndexedRow(index, split.rows[index]) for index in (at, at + 1)])
            for at in (2 * process, 4 + 2 * process)
        ]
        parts = rollout(own, split).rewritten(
            model,
            batches,
            step=1,
            position=1,
            process=(process, 2),
            device=torch.device("cpu"),
            over_processes=lambda values: values,
            joined=lambda values: values,
        )
        found |= {_ids(part, place) for part in parts for place in range(2)}
    assert found == expected


def _ids(batch: Any, place: int) -> tuple[int, ...]:
    return tuple(batch["input_ids"][place][batch["attention_mask"][place].bool()].tolist())


def test_repetition_above_a_fifth_leaves_a_quarter_until_it_ends() -> None:
    split = ragged_split(8)
    writing = rollout(OWN, split)
    writing.repeating.extend([(0, 6)] * 4 + [(4, 6)] * 2)
    assert writing.guarded and len(writing.places(1)) == 2
    again = rollout(OWN, split)
    again.restore(writing.state())
    assert again.guarded
    writing.repeating.extend([(0, 6)] * 4)
    assert not writing.guarded and len(writing.places(1)) == 6
    free = rollout(OWN.model_copy(update={"repetition_guard": False}), split)
    free.repeating.append((6, 6))
    assert len(free.places(1)) == 6
    assert repeated_share([1, 2, 3] * 30) > 0.5 > repeated_share([*range(60), 1, 2, 3, 4])


def test_a_row_without_a_prompt_is_refused() -> None:
    split = ragged_split(8)
    row = split.rows[3]
    split.rows[3] = EncodedRow(row.key, row.input_ids, row.answer_mask, 0)
    with pytest.raises(DataError, match="nothing to continue"):
        rollout(OWN, split)


def test_dropout_is_off_while_the_student_writes_and_on_again_afterwards() -> None:
    split, model = ragged_split(8), tiny_llama(0).train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    (with_dropout,) = rewritten(rollout(ALL, split), range(8), model)
    (without,) = rewritten(rollout(ALL, split), range(8), tiny_llama(0).eval())
    assert torch.equal(with_dropout["input_ids"], without["input_ids"]) and model.training


def test_the_figures_are_those_of_whole_distributions(train: Train) -> None:
    split = ragged_split(8)
    _, (report,) = train(terms=REVERSE, own=ALL)
    rows, student, source = _capture(split, ALL), tiny_llama(0), teacher()
    found: dict[str, list[float]] = {"accept": [], "student_entropy": [], "top16_mass_student": [], "nats": []}
    for row in rows:
        ids = torch.tensor(row.input_ids[None].astype("int64"))
        with torch.no_grad():
            q = student(input_ids=ids).logits[0].double().softmax(-1)
            p = source.model(input_ids=ids).logits[0].double().softmax(-1)
        for position in np.flatnonzero(row.answer_mask):
            q_V, p_V = q[position - 1], p[position - 1]
            found["accept"].append(float(torch.minimum(p_V, q_V).sum()))
            found["student_entropy"].append(float(-(q_V * q_V.log()).sum()))
            found["top16_mass_student"].append(float(q_V[p_V.argsort(descending=True)[:16]].sum()))
            found["nats"].append(float((q_V * (q_V.log() - p_V.log())).sum()))
    assert report.rollout is not None
    # at most 32 positions are inspected, evenly spaced
    every = -(-len(found["accept"]) // 32)
    for name in ("accept", "student_entropy", "top16_mass_student"):
        assert report.rollout[name] == pytest.approx(np.mean(found[name][::every]), rel=1e-4)
    assert report.rollout["nats"] == pytest.approx(np.mean(found["nats"]), rel=1e-4)
    assert report.rollout["nats_0_32"] == report.rollout["nats"] and "nats_stored" not in report.rollout
    assert report.rollout["student_entropy_0_32"] == report.rollout["student_entropy"]
    assert report.rollout["teacher_s"] > 0


def test_entropies_are_told_apart_by_place(train: Train) -> None:
    _, (report,) = train(
        terms=REVERSE, own=StudentAnswersConfig(fraction=0.25, max_new_tokens=34), split=ragged_split(8)
    )
    assert report.rollout is not None
    for name in ("student_entropy", "teacher_entropy"):
        early, late, whole = (report.rollout[name + place] for place in ("_0_32", "_32_128", ""))
        assert early != late and min(early, late) < whole < max(early, late)
