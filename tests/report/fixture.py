"""A study that never happened: plausible figures under clearly invented names."""

from __future__ import annotations

import math
import random

from tests.figures import figures

from distillab.records import (
    AccessLevel,
    AnswerStoreCounts,
    ArmResult,
    Baseline,
    CacheUse,
    Comparison,
    CurvePoint,
    DataOverlap,
    EncodingCounts,
    EvaluationRecord,
    GenerationSample,
    Interval,
    Recovered,
    ReferenceLines,
    RunCost,
    SideBySide,
    SpanCounts,
    StudyResults,
    TeacherCost,
    TokenizerContract,
    TokenizerInfo,
    TokenView,
)

LOG_V = math.log(512)
SEEDS = (0, 1, 2)
TEACHER, OTHER = "imaginary-teacher-M", "imaginary-teacher-X"
STEPS = tuple(range(0, 601, 40))
TERMS = {
    "sft": {"cross_entropy": 1.62},
    "seqkd": {"cross_entropy": 1.12},
    "seqkd_other_teacher": {"cross_entropy": 1.21},
    "logits": {"cross_entropy": 1.66, "token_divergence": 0.21},
    "shifted_by_position": {"cross_entropy": 1.88},
    "index_by_index": {"cross_entropy": 2.4, "token_divergence": 0.55},
}
FINAL = {
    "sft": 1.7421,
    "seqkd": 1.7214,
    "seqkd_other_teacher": 1.7368,
    "logits": 1.6539,
    "shifted_by_position": 5.204,
    "index_by_index": 4.371,
}


def evaluation(nats: float, *, tokens: int = 9120, kl: float | None, skill: float) -> EvaluationRecord:
    """One model's figures; `skill` between 0 and 1 sets the shares."""
    return figures(
        rows=400,
        tokens=tokens,
        generated=200,
        nats_per_token=nats,
        bits_per_byte=nats * tokens / 23000 / math.log(2),
        token_accuracy=0.1 + 0.62 * skill,
        kl_from_teacher=kl,
        top1_agreement=None if kl is None else 0.12 + 0.7 * skill,
        acceptance=None if kl is None else 0.2 + 0.7 * skill,
        own_kl_from_teacher=None if kl is None else 1.2 * kl,
        own_top1_agreement=None if kl is None else 0.1 + 0.7 * skill,
        own_acceptance=None if kl is None else 0.18 + 0.7 * skill,
        exact_match=0.41 * skill**2,
        normalised_match=0.45 * skill**2,
        value_match=0.72 * skill**2,
        rouge_l=0.08 + 0.7 * skill,
        stopped_by_eos=min(1.0, 0.25 + 0.8 * skill),
        mean_tokens=32 - 14 * skill,
    )


def curve(name: str, final: float, rng: random.Random) -> tuple[CurvePoint, ...]:
    """Falls from log V to the final value; the demonstrations turn upwards after a short fall."""
    points = []
    for step in STEPS:
        left = math.exp(-step / 110)
        last = math.exp(-STEPS[-1] / 110)
        held = final + (LOG_V + 0.1 - final) * (left - last) / (1 - last)
        if final > 4:
            held -= 1.1 * math.exp(-(((step - 90) / 70) ** 2))
        held += rng.gauss(0, 0.01) if step not in (0, STEPS[-1]) else 0
        train = {} if step == 0 else {t: v + (5.9 - v) * left + rng.gauss(0, 0.012) for t, v in TERMS[name].items()}
        points.append(
            CurvePoint(step=step, train_nats=train, held_out_nats_per_token=held, supervised_tokens=step * 410)
        )
    return tuple(points)


def arm(
    name: str,
    method: str,
    access: AccessLevel,
    teacher: str | None,
    delta: Interval | None,
    shown_failure: str | None = None,
) -> ArmResult:
    """One arm over three seeds."""
    rng = random.Random(f"{name} of the fixture")
    finals = [FINAL[name] + rng.gauss(0, 0.006 if shown_failure is None else 0.05) for _ in SEEDS]
    skill = 0.14 if shown_failure else 0.74 + (1.75 - FINAL[name])
    kl = None if teacher == OTHER and not shown_failure else 0.42 * FINAL[name] - 0.43
    return ArmResult(
        name=name,
        method=method,
        access=access,
        teacher=teacher,
        across_tokenizers=teacher == OTHER,
        shown_failure=shown_failure,
        seeds=SEEDS,
        evaluations=tuple(
            evaluation(final, kl=None if kl is None else kl + rng.gauss(0, 0.004), skill=skill + rng.gauss(0, 0.006))
            for final in finals
        ),
        curves=tuple(curve(name, final, rng) for final in finals),
        costs=tuple(
            RunCost(
                steps=600,
                supervised_tokens=246_000,
                student_tokens=431_000,
                teacher_tokens=431_000 if method == "logits" else 0,
                wall_s=21.0 + 14 * (method == "logits") + rng.random(),
                peak_rss_bytes=int(0.9e9 + 2e8 * rng.random()),
            )
            for _ in SEEDS
        ),
        comparisons=() if delta is None else compared(delta, nearer=kl is not None),
        teacher_cost=TeacherCost(read_tokens=431_000, generated_tokens=75_000, seconds=12.5, stored_bytes=3 << 20)
        if teacher == TEACHER
        else None,
    )


def compared(difference: Interval, *, nearer: bool) -> tuple[Comparison, ...]:
    """The comparisons of an arm whose gap in likelihood is undefined where it is not nearer to its teacher either."""
    likelihood = Comparison(
        family="likelihood",
        metric="nats_per_token",
        label="held-out",
        unit="nats/token",
        difference=difference,
        recovered=Recovered(share=0.274, low=0.25, high=0.301) if nearer else None,
        undefined=None if nearer else "too few rows for an interval",
    )
    fidelity = Comparison(
        family="fidelity",
        metric="kl_from_teacher",
        label="KL from teacher",
        unit="nats/token",
        difference=Interval(mean=-0.04, low=-0.05, high=-0.03),
        recovered=Recovered(share=0.132, low=0.1, high=0.161),
    )
    return (likelihood, fidelity) if nearer else (likelihood,)


def side(name: str, family: str, tokens: int, fingerprint: str) -> TokenizerInfo:
    """One tokenizer."""
    return TokenizerInfo(
        name=name,
        family=family,
        tokens=tokens,
        logits_width=tokens,
        roles={"bos": 1, "eos": 2, "pad": 0},
        fingerprint=fingerprint * 8,
        chat_template_sha256=None,
    )


def contracts() -> tuple[TokenizerContract, ...]:
    """One identical pair, one different pair of the same size."""
    text = "How many apples are 3 and 4?"
    own = ("▁How", "▁many", "▁apple", "s", "▁are", "▁", "3", "▁and", "▁", "4", "?")
    own_ids = (287, 301, 344, 35, 270, 259, 71, 266, 259, 72, 83)
    other = ("▁How", "▁man", "y", "▁ap", "ples", "▁are", "▁3", "▁and", "▁4", "?")
    other_ids = (412, 277, 19, 388, 402, 291, 361, 268, 365, 61)
    student = side("imaginary-student-S", "SentencePiece BPE", 512, "5e1f77aa")
    same = TokenizerContract(
        verdict="identical",
        reason="All 512 ids mean the same bytes, the special tokens have the same roles.",
        teacher=side(TEACHER, "SentencePiece BPE", 512, "5e1f77aa"),
        student=student,
        equal_ids=512,
        equal_strings=512,
        equal_bytes=512,
        shared_width=512,
        example=SideBySide(text=text, teacher_ids=own_ids, student_ids=own_ids, teacher_tokens=own, student_tokens=own),
        data=_overlap(9120, boundaries=(1.0, 1.0), tokens=(1.0, 1.0), ids=1.0),
    )
    example = SideBySide(
        text=text,
        teacher_ids=other_ids,
        student_ids=own_ids,
        teacher_tokens=other,
        student_tokens=own,
        spans=((1, 1), (3, 2), (5, 4), (6, 5), (7, 7), (8, 8), (9, 10), (10, 11)),
    )
    different = TokenizerContract(
        verdict="different",
        reason="Both have 512 tokens, but only 9 ids mean the same: equal sizes prove nothing.",
        teacher=side(OTHER, "byte-level BPE", 512, "c0ffee42"),
        student=student,
        equal_ids=9,
        equal_strings=331,
        equal_bytes=340,
        shared_width=0,
        extra_tokens=("▁ap", "ples", "▁man"),
        example=example,
        probes_differ=(example,),
        data=_overlap(8411, boundaries=(0.871, 0.803), tokens=(0.622, 0.574), ids=0.0183),
        would_train=("after “▁How” the student would be taught “▁ple” where the teacher says “▁man”",),
        notes=("The teacher adds no BOS, the student does.",),
    )
    return same, different


def _overlap(
    teacher_tokens: int, *, boundaries: tuple[float, float], tokens: tuple[float, float], ids: float
) -> DataOverlap:
    return DataOverlap(
        source="held-out answers",
        rows=400,
        rows_not_comparable=0,
        teacher_tokens=teacher_tokens,
        student_tokens=9120,
        teacher_boundaries_shared=boundaries[0],
        student_boundaries_shared=boundaries[1],
        teacher_tokens_identical=tokens[0],
        student_tokens_identical=tokens[1],
        teacher_tokens_known=boundaries[0],
        equal_ids_by_position=ids,
    )


def samples() -> tuple[GenerationSample, ...]:
    """Twelve prompts, so that two are left out."""
    words = ("apples", "pears", "kites", "coins", "shells", "stamps")
    found = []
    for i in range(12):
        a, b, word = 3 + i, 4 + 2 * i, words[i % len(words)]
        total = a + b
        found.append(
            GenerationSample(
                prompt=f"Mira has {a} {word} and finds {b} more. How many {word} are there now?",
                reference=f"There are now {total} {word}.",
                answers={
                    "undistilled student": "qu the the sk the the the the the the the the",
                    "sft": f"There are {total if i % 3 else total - 1} {word} now.",
                    "seqkd": f"Mira now has {total} {word}.",
                    "seqkd_other_teacher": f"In all: {total if i % 4 else total + 10} {word}.",
                    "logits": f"There are now {total} {word}.",
                    TEACHER: f"There are now {total} {word}.",
                    OTHER: f"In all there are {total} {word}.",
                    "shifted_by_position": "There There There are are now now now" if i % 2 else "",
                    "index_by_index": "▁ap▁ap 3y ples?? now▁",
                },
            )
        )
    return tuple(found)


def study() -> StudyResults:
    """Six arms of three seeds, two of them demonstrations; two teachers, one of them with other tokens."""
    return StudyResults(
        title="What does access to imaginary-teacher-M buy a student of 0.3 M parameters?",
        question="Same prompts, same 600 steps, three seeds: which access to the teacher lowers the held-out loss?",
        headline="Beyond SFT, on the data set's answers: its logits (logits) buy 0.088 nats per token.",
        verdict="Logits buy 0.088 nats per token over supervised fine-tuning (95 % interval 0.081 to 0.095); "
        "the teacher’s texts alone buy 0.021.",
        budget="600 optimizer steps of 16 rows",
        references=ReferenceLines(uniform_nats=LOG_V, unigram_nats=4.1173),
        baselines=(
            Baseline(
                name="undistilled student",
                role="undistilled student",
                evaluation=evaluation(6.3127, kl=4.911, skill=0.0),
                note="random weights, seed 0",
            ),
            Baseline(name=TEACHER, role="teacher", evaluation=evaluation(1.4212, kl=0.0, skill=0.99)),
            Baseline(name=OTHER, role="teacher", evaluation=evaluation(1.5873, tokens=8411, kl=None, skill=0.97)),
        ),
        arms=(
            arm("logits", "logits", "logits", TEACHER, Interval(mean=-0.0882, low=-0.0951, high=-0.0813)),
            arm("sft", "sft", "none", None, None),
            arm("seqkd", "seqkd", "text", TEACHER, Interval(mean=-0.0207, low=-0.0281, high=-0.0133)),
            arm("seqkd_other_teacher", "seqkd", "text", OTHER, Interval(mean=-0.0053, low=-0.0124, high=0.0018)),
            arm(
                "shifted_by_position",
                "sft",
                "none",
                None,
                Interval(mean=3.4619, low=3.391, high=3.5328),
                "predicts the answer’s n-th token at the prompt’s n-th position",
            ),
            arm(
                "index_by_index",
                "logits",
                "logits",
                OTHER,
                Interval(mean=2.6289, low=2.561, high=2.6968),
                "compares distributions by index with a teacher of another tokenizer of the same size",
            ),
        ),
        samples=samples(),
        token_view=TokenView(
            prompt="How many apples are 3 and 4?",
            tokens=("There", " are", " 7", " ap", "ples", ".", "</s>"),
            probs={
                TEACHER: (0.4, 0.99, 0.97, 0.9, 1.0, 0.9, 1.0),
                "logits": (0.35, 0.9, 0.6, 0.8, 1.0, 0.95, 1.0),
                "sft": (0.2, 0.9, 0.104, 0.8, 1.0, 0.9, 1.0),
            },
        ),
        contracts=contracts(),
        train_counts=(
            EncodingCounts(
                source="world/train.jsonl",
                rows=3000,
                kept=2991,
                dropped_empty_answer=7,
                dropped_no_room=2,
                truncated=4,
                tokens=104_310,
                supervised_tokens=59_211,
            ),
        ),
        held_out_counts=EncodingCounts(
            source="world/held_out.jsonl", rows=400, kept=400, tokens=14_022, supervised_tokens=9120
        ),
        spans=(
            SpanCounts(
                source="world/train.jsonl, and imaginary-teacher-X",
                rows=2991,
                teacher_lacks=3,
                student_tokens=59_211,
                teacher_tokens=61_002,
                student_in_spans=59_000,
                teacher_in_spans=60_900,
                spans=48_000,
                one_to_one=41_000,
                straddling=2,
            ),
        ),
        answer_stores=(
            AnswerStoreCounts(
                path="answers/imaginary-teacher-M.jsonl",
                prompts=3000,
                generated=3000,
                kept=2942,
                teacher_tokens=180_000,
                generated_tokens=75_000,
                dropped_cut_off=58,
            ),
            AnswerStoreCounts(
                path="answers/imaginary-teacher-X.jsonl",
                prompts=3000,
                generated=3000,
                kept=2907,
                teacher_tokens=190_000,
                generated_tokens=81_000,
                dropped_empty=3,
                dropped_cut_off=90,
            ),
        ),
        caches=(
            CacheUse(
                path="cache/imaginary-teacher-M",
                fingerprint="0" * 64,
                teacher="imaginary-teacher-M",
                source="world/train.jsonl",
                kinds=("full", "hidden_states"),
                rows=2991,
                tokens=104_310,
                scored_tokens=59_211,
                stored_bytes=3 << 20,
                teacher_s=12.5,
            ),
            CacheUse(
                path="s3://imaginary/cache",
                fingerprint="1" * 64,
                teacher="imaginary-teacher-X",
                source="world/train.jsonl",
                kinds=("top_k",),
                rows=2991,
                tokens=104_310,
                scored_tokens=59_211,
            ),
        ),
        reproduce="distillab compare recipes/imaginary.yaml seeds=[0,1,2]",
        environment={"distillab": "0.0.0", "python": "3.11", "torch": "2.13.0+cpu", "processor": "2 imaginary cores"},
        wall_s=497.3,
    )
