"""The self-test on tiny real models: faults that are planted into recipe or model are found, good recipes are not."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.doctor.selftest_world import Change, World
from torch import Tensor
from transformers import PreTrainedModel

from distillab.config.cache import CacheConfig
from distillab.config.terms import HiddenStatesConfig, TokenDivergenceConfig
from distillab.doctor.clock import Clock
from distillab.doctor.pair.audit import PairSubject, run_pair_checks
from distillab.doctor.selftest.costs import Budget, Costs, check_costs, cost_findings
from distillab.doctor.selftest.evaluation import check_evaluation
from distillab.doctor.selftest.first_steps import check_first_steps, first_step_findings
from distillab.doctor.selftest.head import check_head
from distillab.doctor.selftest.machine import Machine, weights_of
from distillab.doctor.selftest.memory import RunMemory, kept_by_student, resident_bytes, run_memory
from distillab.doctor.selftest.rounding import rounding_of
from distillab.doctor.selftest.setup import Arm, Setup, by_tokens, few_rows
from distillab.doctor.selftest.split import check_steps
from distillab.doctor.selftest.stepping import Stepped
from distillab.doctor.selftest.stored import StoredTerm, cache_findings, check_cache
from distillab.doctor.selftest.terms import check_terms, own_layers, teacher_as_student
from distillab.records import CheckResult
from distillab.teachers.local import LocalTeacher
from distillab.training.step_report import StepReport

KL = {"kind": "token_divergence"}
CE = {"kind": "cross_entropy"}


@pytest.fixture(autouse=True)
def _little_to_collect() -> Iterator[None]:
    """As in `run_arm_checks`: a trainer collects garbage whenever it begins, and that takes longer than its steps."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def world(tiny_world: dict[str, Any], tmp_path: Path) -> World:
    return World(tiny_world, tmp_path)


def _ids(*checks: CheckResult) -> set[str]:
    return {finding.id for one in checks for finding in one.findings}


def _at_body(change: Callable[[Tensor], Tensor]) -> Change:
    """Change what the model's last norm gives: its last hidden states."""
    return lambda model: model.model.norm.register_forward_hook(lambda module, args, output: change(output))


def _mixed(states: Tensor) -> Tensor:
    return states + states.mean(dim=0, keepdim=True)


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
    found = (
        check_terms(setups, clock),
        check_cache(setups, clock),
        check_head(setups, clock),
        *check_steps(setups, clock),
        check_evaluation(setups[0], clock),
    )
    assert _ids(*found) == set()
    assert clock.unit_s > 0
    # what cannot be said is named
    assert "dual_space" in str(found[0].skipped) and "drawn" in str(found[3].skipped)


def test_first_steps_of_good_recipes_lower_the_loss(world: World, stranger: str) -> None:
    arms = [
        world.arm("logits", method="logits"),
        world.arm("states", method="span_hidden_states", teacher={"path": stranger}),
    ]
    assert _ids(check_first_steps(world.setups(*arms), Clock(600.0))) == set()


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


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ({"kind": "top_k_divergence", "k": 1, "tail": "renormalise"}, {"term-blind-to-teacher"}),
        ({**KL, "temperature": 1e8}, {"term-blind-to-teacher"}),
        ({**KL, "temperature": 4.0, "rescale_by_temperature_squared": True}, set()),
    ],
)
def test_a_term_that_no_teacher_can_move_is_found(world: World, term: dict[str, Any], found: set[str]) -> None:
    setup = world.setup(method="logits", terms=[CE, term])
    assert _ids(check_terms([setup], Clock(600.0))) == found


def test_a_teacher_that_says_something_else_each_time_is_not_zero_at_itself(world: World) -> None:
    setup = world.setup(method="logits", terms=[KL])
    assert isinstance(setup.teacher, LocalTeacher)
    _at_body(lambda states: states + torch.randn_like(states))(setup.teacher.model)
    assert _ids(check_terms([setup], Clock(600.0))) == {"term-not-zero-at-teacher"}


def test_the_teacher_one_position_off_is_what_a_term_says_of_rolled_states(world: World) -> None:
    """Against a divergence that is made by hand from all logits."""
    setup = world.setup(method="logits", terms=[KL])
    teacher = setup.teacher
    assert isinstance(teacher, LocalTeacher)
    means = teacher_as_student(setup, teacher)["token_divergence"]
    total, count, said = 0.0, 0, []
    for row in setup.split.rows:
        with torch.no_grad():
            logits = teacher.model(torch.from_numpy(row.input_ids).long()[None]).logits[0].double()
        scored = [place for place in range(len(row) - 1) if row.answer_mask[place + 1]]
        said += [torch.log_softmax(logits[place], dim=-1) for place in scored]
    for here, before in zip(said, [said[-1], *said[:-1]], strict=True):
        total += float((before.exp() * (before - here)).sum())
        count += 1
    assert means.equal == pytest.approx(0.0, abs=1e-6)
    assert means.shifted == pytest.approx(total / count, rel=1e-3)


def test_layers_of_the_teacher_are_compared_with_themselves() -> None:
    assert getattr(own_layers(HiddenStatesConfig(layers=((1, 3), (2, 6)))), "layers", None) == ((3, 3), (6, 6))
    assert own_layers(TokenDivergenceConfig()) == TokenDivergenceConfig()


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


def test_a_student_whose_logits_are_not_those_of_its_head_is_found(world: World) -> None:
    def capped(model: PreTrainedModel) -> None:
        model.config.final_logit_softcapping = 0.05  # a Llama does nothing of the kind

    assert _ids(check_head([world.setup(method="sft", student=capped)], Clock(600.0))) == {"head-pass-differs"}


def test_a_student_that_mixes_the_rows_of_a_batch_is_found(world: World) -> None:
    split, reach = check_steps([world.setup(method="sft", student=_at_body(_mixed))], Clock(600.0))
    assert _ids(split) == {"split-changes-step"} and _ids(reach) == set()
    assert "cross_entropy" in " ".join(split.findings[0].evidence)


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


@pytest.mark.parametrize(("dtype", "found"), [("float32", {"split-changes-step"}), ("bfloat16", set())])
def test_the_rounding_of_the_teachers_number_format_is_no_dependence_on_the_split(
    world: World, dtype: str, found: set[str]
) -> None:
    split, _ = check_steps([_rounding_teacher(world, dtype)], Clock(600.0))
    assert _ids(split) == found
    if found:
        assert "everything is float32" in " ".join(split.findings[0].evidence)


def test_the_message_names_whose_number_format_it_is(world: World) -> None:
    def of(**changes: Any) -> str:
        return str(rounding_of(world.setup(method="logits", **changes)))

    assert of() == "rounding: 0.5%, everything is float32"
    assert of(teacher={"path": world.teacher, "dtype": "bfloat16"}).endswith(
        "10.0%, the teacher's weights are bfloat16"
    )
    assert of(teacher={"path": world.teacher, "dtype": "float16"}).endswith("5.0%, the teacher's weights are float16")
    assert of(training={"precision": "bfloat16"}).endswith("10.0%, training.precision is bfloat16")
    # what no term reads rounds nothing
    unread = world.setup(method="sft", teacher={"path": world.teacher, "dtype": "bfloat16"})
    assert str(rounding_of(unread)).endswith("everything is float32")


@pytest.mark.parametrize(("dtype", "found"), [("float32", {"cached-differs-from-live"}), ("bfloat16", set())])
def test_a_cache_rounds_as_its_teacher_does(world: World, dtype: str, found: set[str]) -> None:
    setup = _rounding_teacher(world, dtype, settings=CacheConfig(batch_size=1))
    assert _ids(check_cache([setup], Clock(600.0))) == found


def test_dropout_is_no_dependence_on_the_split(world: World) -> None:
    def dropping(model: PreTrainedModel) -> None:
        model.model.layers[0].self_attn.attention_dropout = 0.5

    setup = world.setup(method="sft", student=dropping)
    assert _ids(*check_steps([setup], Clock(600.0))) == set()
    assert setup.original.model.layers[0].self_attn.attention_dropout == 0.5


def test_parameters_that_no_term_reaches_are_named(world: World) -> None:
    setup = world.setup(method="hidden_states", terms=[{"kind": "hidden_states", "layers": "embeddings"}])
    _, reach = check_steps([setup], Clock(600.0))
    assert _ids(reach) == {"parameters-without-gradient"}
    assert reach.findings[0].severity == "warning" and "layers.0" in " ".join(reach.findings[0].evidence)


def test_a_term_that_fades_in_reaches_what_it_will_reach(world: World) -> None:
    setup = world.setup(method="logits", terms=[{**KL, "weight": {"start": 0.0, "end": 1.0}}])
    assert _ids(*check_steps([setup], Clock(600.0))) == set()


@pytest.mark.parametrize(
    ("rate", "found"),
    [(1e-3, set()), (1e-9, {"first-steps-change-nothing"}), (5.0, {"first-steps-raise-loss"})],
)
def test_the_learning_rate_is_tried(world: World, rate: float, found: set[str]) -> None:
    setup = world.setup(method="logits", training={"learning_rate": rate})
    assert _ids(check_first_steps([setup], Clock(600.0))) == found


def test_weights_that_overflow_are_found(world: World) -> None:
    def huge(model: PreTrainedModel) -> None:
        with torch.no_grad():
            model.model.norm.weight.mul_(1e38)

    found = check_first_steps([world.setup(method="sft", student=huge)], Clock(600.0))
    assert _ids(found) == {"first-steps-not-finite"}


def test_an_evaluation_that_draws_or_does_not_look_is_found(world: World) -> None:
    noisy = world.setup(method="sft", student=_at_body(lambda states: states + torch.randn_like(states)))
    assert _ids(check_evaluation(noisy, Clock(600.0))) == {"evaluation-not-repeatable"}
    blind = world.setup(method="sft", student=_at_body(torch.zeros_like))
    assert _ids(check_evaluation(blind, Clock(600.0))) == {"evaluation-blind-to-weights"}


def test_the_student_is_never_changed(world: World) -> None:
    setup = world.setup(method="white_box")
    before = {name: tensor.clone() for name, tensor in setup.original.state_dict().items()}
    clock = Clock(600.0)
    check_steps([setup], clock)
    check_first_steps([setup], clock)
    check_evaluation(setup, clock)
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
        check_terms([setup], clock),
        check_cache([setup], clock),
        check_head([setup], clock),
        *check_steps([setup], clock),
        check_first_steps([setup], clock),
        check_evaluation(setup, clock),
        check_costs([setup], [weights_of(setup.inputs, teacher=True)], Budget(), clock),
    )
    assert _ids(*found) == set() and all("--seconds" in str(one.skipped) for one in found)


def test_a_step_is_guessed_until_it_was_measured() -> None:
    clock = Clock(10.0)
    clock.guess_unit(1e12, "cpu")
    assert "distillab doctor selftest --seconds 60" in str(clock.refuses(1)) and clock.refuses(0.1) is None
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
        teacher=setup.inputs.teacher,
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
    assert whole.activations == 2 * half.activations > 8 * one.activations > 0, "one row is not padded"
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
