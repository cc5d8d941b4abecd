"""The preflight on tiny real models: faults that are planted into recipe or model are found, good recipes are not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.preflight.preflight_world import Change, World
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.cache import CacheConfig
from distillab.doctor.clock import Clock
from distillab.doctor.pair.audit import PairSubject, run_pair_checks
from distillab.preflight.costs import Budget, Costs, check_costs, cost_findings
from distillab.preflight.first_steps import check_first_steps, first_step_findings
from distillab.preflight.machine import Machine, memory_limits, this_memory, weights_of
from distillab.preflight.memory import RunMemory, kept_by_student, resident_bytes, run_memory
from distillab.preflight.setup import Arm, Setup, by_tokens, few_rows
from distillab.preflight.stepping import Stepped
from distillab.preflight.stored import StoredTerm, cache_findings, check_cache
from distillab.records import CheckResult
from distillab.teachers.local import LocalTeacher
from distillab.training.step_report import StepReport

KL = {"kind": "token_divergence"}
CE = {"kind": "cross_entropy"}


@pytest.fixture
def world(tiny_world: dict[str, Any], tmp_path: Path) -> World:
    return World(tiny_world, tmp_path)


def _ids(*checks: CheckResult) -> set[str]:
    return {finding.id for one in checks for finding in one.findings}


def _at_body(change: Callable[[Tensor], Tensor]) -> Change:
    """Change what the model's last norm gives: its last hidden states."""
    return lambda model: model.model.norm.register_forward_hook(lambda module, args, output: change(output))


def test_good_recipes_of_every_kind_are_left_in_peace(world: World, stranger: str) -> None:
    temperatures = [{**KL, "divergence": "reverse_kl", "temperature": 2.0}, {"kind": "top_k_divergence", "k": 8}]
    same = [
        world.arm("white", method="white_box"),
        world.arm("drawn", method="logits", terms=[CE, *temperatures, {"kind": "sampled_divergence"}]),
    ]
    same = [Arm(arm.name, arm.inputs, same[0].source, arm.settings) for arm in same]
    kinds = ("vocabulary_projection", "span_likelihood", "sorted_probabilities", "merged_spans")
    states = ("contrastive", "dual_space", "span_hidden_states")
    other = [
        world.arm(
            name, method="merged_spans", teacher={"path": stranger}, terms=[CE, *({"kind": kind} for kind in every)]
        )
        for name, every in (("tokens", kinds), ("states", states))
    ]
    other = [Arm(arm.name, arm.inputs, other[0].source, arm.settings) for arm in other]
    setups = world.setups(*same, *other)
    assert [setup.name for setup in by_tokens(setups)] == ["white, drawn", "tokens, states"]
    assert [len(setup.terms) for setup in by_tokens(setups)] == [6, 7]
    clock = Clock(600.0)
    found = (check_cache(setups, clock), *check_first_steps(setups, clock))
    assert _ids(*found) == set() and [one.skipped for one in found] == [None, None, None]
    assert clock.unit_s > 0


def test_first_steps_of_good_recipes_lower_the_loss(world: World, stranger: str) -> None:
    arms = [
        world.arm("logits", method="logits"),
        world.arm("states", method="span_hidden_states", teacher={"path": stranger}),
    ]
    assert _ids(*check_first_steps(world.setups(*arms), Clock(600.0))) == set()


def test_terms_that_were_fitted_to_the_rows_do_not_count(world: World) -> None:
    def report(cross_entropy: float, hidden: float) -> StepReport:
        return StepReport(
            step=1,
            terms={"cross_entropy": (cross_entropy * 10, 10), "hidden_states": (hidden * 10, 10)},
            weights={"cross_entropy": 1.0, "hidden_states": 10.0},
            gradient_shares=None,
            gradient_cosines=None,
            loss=0.0,
            grad_norm=1.0,
            learning_rate=1e-3,
            supervised_tokens=10,
            tokens=20,
            teacher_tokens=20,
        )

    setup = world.setup(method="sft")
    reports = (report(6.0, 0.01), *[report(5.9, 0.6)] * 3)
    fitted = Stepped(reports, {}, (), (), frozenset({"hidden_states"}))
    assert first_step_findings(fitted, setup) == []
    assert {found.id for found in first_step_findings(Stepped(reports, {}, (), ()), setup)} == {
        "first-steps-raise-loss"
    }


def test_kinds_that_do_not_serve_a_term_are_found_before_all_rows_are_read(world: World) -> None:
    few = CacheConfig.model_validate({"kinds": [{"kind": "top_k", "k": 4}]})
    setup = world.setup(method="logits", terms=[CE, KL], settings=few)
    found = check_cache([setup], Clock(600.0))
    assert _ids(found) == {"cache-does-not-serve"} and "top_k" in " ".join(found.findings[0].evidence)


def test_a_cache_that_holds_another_teacher_is_found(world: World) -> None:
    """Rows are recorded one by one here, and this teacher says of a row what depends on the others of its batch."""
    alone = CacheConfig(batch_size=1)
    setup = world.setup(method="logits", terms=[KL], settings=alone)
    assert _ids(check_cache([setup], Clock(600.0))) == set()
    assert isinstance(setup.teacher, LocalTeacher)
    _at_body(lambda states: states + 3 * states.mean(dim=0, keepdim=True).roll(1, -1))(setup.teacher.model)
    changed = setup.with_terms(setup.terms)
    assert _ids(check_cache([Setup(*_fields(changed, "again"))], Clock(600.0))) == {"cached-differs-from-live"}


def _fields(setup: Setup, scratch: str) -> tuple[Any, ...]:
    return setup.arms, setup.inputs, setup.split, setup.original, setup.scratch / scratch


def test_how_far_a_cache_may_be_off_depends_on_how_it_is_stored(world: World) -> None:
    setup = world.setup(method="logits", terms=[KL])

    def found(kind: dict[str, Any], cached: float, error: float = 0.0) -> bool:
        kinds = CacheConfig.model_validate({"kinds": [kind]}).kinds
        assert kinds is not None
        return bool(cache_findings("token_divergence", StoredTerm(1.0, cached, error), kinds, setup))

    assert not found({"kind": "full"}, 1.001) and found({"kind": "full"}, 1.01)
    assert not found({"kind": "full", "store": "bfloat16"}, 1.01) and found({"kind": "full", "store": "bfloat16"}, 1.05)
    assert not found({"kind": "top_k"}, 1.05) and found({"kind": "top_k"}, 1.3)
    assert not found({"kind": "hidden_states", "layers": [1], "store": "int8"}, 0.9)
    assert not found({"kind": "sampled"}, 1.2, error=0.05) and found({"kind": "sampled"}, 1.5, error=0.05)
    assert found({"kind": "full"}, math.nan)


def _rounds_otherwise_alone(states: Tensor) -> Tensor:
    """As kernels do that are chosen by the shape: a row alone differs by the last two bits of bfloat16."""
    other = (1 + 2**-6 * (torch.arange(states.shape[-1]) % 2)).to(states)
    return states * other if states.shape[0] == 1 else states


def _rounding_teacher(world: World, dtype: str, **more: Any) -> Setup:
    teacher = {"path": world.teacher, "dtype": dtype}
    setup = world.setup(method="logits", terms=[KL], teacher=teacher, **more)
    assert isinstance(setup.teacher, LocalTeacher)
    _at_body(_rounds_otherwise_alone)(setup.teacher.model)
    return setup


@pytest.mark.parametrize(("dtype", "found"), [("float32", {"cached-differs-from-live"}), ("bfloat16", set())])
def test_a_cache_rounds_as_its_teacher_does(world: World, dtype: str, found: set[str]) -> None:
    setup = _rounding_teacher(world, dtype, settings=CacheConfig(batch_size=1))
    assert _ids(check_cache([setup], Clock(600.0))) == found


def test_parameters_that_no_term_reaches_are_named(world: World) -> None:
    setup = world.setup(method="hidden_states", terms=[{"kind": "hidden_states", "layers": "embeddings"}])
    _, reach = check_first_steps([setup], Clock(600.0))
    assert _ids(reach) == {"parameters-without-gradient"}
    assert reach.findings[0].severity == "warning" and "layers.0" in " ".join(reach.findings[0].evidence)


def test_a_term_that_fades_in_reaches_what_it_will_reach(world: World) -> None:
    setup = world.setup(method="logits", terms=[{**KL, "weight": {"start": 0.0, "end": 1.0}}])
    assert _ids(*check_first_steps([setup], Clock(600.0))) == set()


@pytest.mark.parametrize(
    ("rate", "found"),
    [(1e-3, set()), (1e-9, {"first-steps-change-nothing"}), (5.0, {"first-steps-raise-loss"})],
)
def test_the_learning_rate_is_tried(world: World, rate: float, found: set[str]) -> None:
    setup = world.setup(method="logits", training={"learning_rate": rate})
    assert _ids(*check_first_steps([setup], Clock(600.0))) == found


def test_weights_that_overflow_are_found(world: World) -> None:
    def huge(model: PreTrainedModel) -> None:
        with torch.no_grad():
            model.model.norm.weight.mul_(1e38)

    found = check_first_steps([world.setup(method="sft", student=huge)], Clock(600.0))
    assert _ids(*found) == {"first-steps-not-finite"}


def test_the_student_is_never_changed(world: World) -> None:
    setup = world.setup(method="white_box")
    before = {name: tensor.clone() for name, tensor in setup.original.state_dict().items()}
    check_first_steps([setup], Clock(600.0))
    check_cache([setup], Clock(600.0))
    after = setup.original.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_terms_draw_for_themselves_is_the_same_each_time(world: World, stranger: str) -> None:
    setup = world.setup(method="contrastive", teacher={"path": stranger})
    heads = []
    for _ in range(2):
        projector = setup.objective(setup.student()).state_terms["contrastive"].projector
        assert projector is not None
        heads.append(torch.cat([parameter.flatten() for parameter in projector.parameters()]))
    assert torch.equal(heads[0], heads[1]) and heads[0].numel() > 0


def test_arms_that_train_alike_are_tried_once(world: World) -> None:
    sft, seqkd = world.arm("sft", method="sft"), world.arm("seqkd", method="seqkd")
    logits, heavy = (
        world.arm("logits", method="logits"),
        world.arm("heavy", method="logits", terms=[{**KL, "weight": 9}]),
    )
    setups = world.setups(sft, seqkd, logits, heavy)
    assert [setup.names for setup in setups] == [("sft", "seqkd"), ("logits",), ("heavy",)]


def test_the_few_rows_are_short_ones_of_different_lengths(world: World) -> None:
    inputs = world.arm().inputs
    lengths = [len(row) for row in few_rows(inputs).rows]
    every = sorted(len(row) for row in inputs.train.rows)
    assert len(set(lengths)) > 1 and max(lengths) <= every[len(every) // 2]


def test_what_takes_too_long_is_left_out_and_named(world: World) -> None:
    setup, clock = world.setup(method="logits"), Clock(1.0, unit_s=3.0)
    found = (
        check_cache([setup], clock),
        *check_first_steps([setup], clock),
        check_costs([setup], [weights_of(setup.inputs, teacher=True)], Budget(), clock),
    )
    assert _ids(*found) == set() and all("--seconds" in str(one.skipped) for one in found)


def test_a_step_is_guessed_until_it_was_measured() -> None:
    clock = Clock(10.0)
    clock.guess_unit(1e12, "cpu")
    assert "distillab doctor preflight --seconds 60" in str(clock.refuses(1)) and clock.refuses(0.1) is None
    # what is refused before is part of the limit that would be enough
    assert "--seconds 110" in str(clock.refuses(1))
    clock.measure_unit(0.5)
    assert clock.unit_s == 0.5 and clock.refuses(1) is None
    clock.measure_unit(0.2)
    assert clock.unit_s == 0.5


def test_no_model_is_asked_for_what_takes_too_long(world: World) -> None:
    setup = world.setup(method="logits")
    teacher = setup.teacher
    assert isinstance(teacher, LocalTeacher) and setup.inputs.contract is not None
    assert setup.inputs.teacher is not None
    teacher.model.register_forward_hook(lambda *_: pytest.fail("it is asked"))
    subject = PairSubject(
        contract=setup.inputs.contract,
        teacher=setup.inputs.teacher.reader,
        student=setup.inputs.student,
        teacher_model=teacher.model,
        student_model=setup.original,
        student_is_random=True,
        examples=tuple(setup.inputs.train.examples),
        compares_by_index=True,
    )
    first, *others = run_pair_checks(subject, Clock(0.0))
    assert first.check == "tokenizers" and first.skipped is None
    assert len(others) == 7 and all("--seconds" in str(one.skipped) for one in others)


def test_weights_are_counted_before_they_are_loaded(world: World) -> None:
    setup = world.setup(method="logits")
    assert isinstance(setup.teacher, LocalTeacher)
    found = weights_of(setup.inputs, teacher=True)
    assert found.student == found.trained == sum(p.numel() * 4 for p in setup.original.parameters())
    assert found.teacher == sum(p.numel() * 4 for p in setup.teacher.model.parameters())
    assert weights_of(setup.inputs, teacher=False).teacher == 0


def test_the_memory_of_a_run_has_parts_that_follow_from_its_settings(world: World) -> None:
    def of(*, cached: bool = False, **changes: Any) -> RunMemory:
        setup = world.setup(method="logits", **changes)
        weights = weights_of(setup.inputs, teacher=True)
        student = setup.student()
        return run_memory(setup.inputs, student, weights, process=1 << 30, device=setup.device, cached=cached)

    whole, half, one = of(), of(training={"microbatch_size": 4}), of(training={"microbatch_size": 1})
    assert whole.process > 1 << 30 and whole.teacher > 0
    assert [whole.student, whole.gradients, whole.optimizer] == [whole.teacher, whole.teacher, 2 * whole.teacher]
    # in a step of one microbatch the gradients come while the activations go
    assert whole.activations + whole.gradients == 2 * half.activations > 8 * one.activations > 0, (
        "one row is not padded"
    )
    assert whole.logits > one.logits > 0
    assert of(cached=True).teacher == 0
    assert of(training={"gradient_checkpointing": True}).activations < whole.activations
    assert of(cached=True).total == whole.total - whole.teacher


def test_what_the_student_keeps_is_what_its_graph_saves(world: World) -> None:
    """Against all tensors of one layer, counted by hand: at the least what every matrix product reads."""
    setup = world.setup(method="sft")
    kept, scored = kept_by_student(setup.inputs, setup.student(), 1)
    longest = max(setup.inputs.train.rows, key=len)
    assert scored == int(longest.answer_mask[1:].sum())
    width, inner = 32, 48
    # inputs of q, k, v and of gate and up, of o and of down; the queries, keys and values; the gate and its sigmoid
    least = 4 * len(longest) * (3 * width + 3 * width + 3 * inner)
    assert least < kept < 6 * least


def test_costs_grow_with_the_runs_and_are_held_against_the_machine(world: World) -> None:
    setup = world.setup(method="logits")
    weights = [weights_of(setup.inputs, teacher=True)]
    found = check_costs([setup], weights, Budget(seeds=3, process_bytes=resident_bytes()), Clock(600.0))
    assert found.scope.startswith("3 runs: about") and found.findings == ()
    assert "interpreter, libraries and rows" in found.scope and "activations" in found.scope
    run = RunMemory(*(1 << 30 for _ in range(8)))
    assert run.total == 8 << 30 and "1.0 GiB logits" in str(run)
    costs = Costs(memory_bytes=8 << 30, run=run, together=1, disk_bytes=5 << 30, hours=2.0, runs=3, measured=True)
    assert {f.id for f in cost_findings(costs, Machine(4 << 30, 6 << 30))} == {"memory-too-small"}
    assert {f.id for f in cost_findings(costs, Machine(9 << 30, 4 << 30))} == {"disk-too-small"}
    assert cost_findings(costs, Machine(9 << 30, 6 << 30)) == []


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/\n", {"memory.max": "1000"}, [1000]),  # a container
        ("0::/slurm/job_1/step_0\n", {"slurm/job_1/memory.max": "700", "slurm/job_1/step_0/memory.max": "max"}, [700]),
        (
            "5:cpuset:/\n4:memory:/slurm/job_1\n0::/\n",
            {"memory/slurm/job_1/memory.limit_in_bytes": "600", "memory/memory.limit_in_bytes": "9223372036854771712"},
            [600, 9223372036854771712],
        ),
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "500"}, [500]),  # it sees its own alone
        ("4:memory:/\n0::/x\n", {}, []),
    ],
)
def test_the_memory_is_what_a_container_or_a_job_may_use(
    groups: str, files: dict[str, str], limits: list[int], tmp_path: Path
) -> None:
    mounted = tmp_path / "cgroup"
    for name, text in (files | {"../memory.max": "1"}).items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text + "\n")
    assert list(memory_limits(groups, mounted)) == limits
    assert 0 < this_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
