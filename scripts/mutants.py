"""Wrong versions of the code, each of which a named test must catch. `make prove` runs it.

    python scripts/mutants.py [WORD …]      all, or those whose file or text holds a word

Each mutant changes one place in a copy of the package and runs one test against the copy. Exit code 1 where a
mutant survives, or where its line is no longer in the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One wrong version: in `file`, `right` becomes `wrong`; `test` must fail then."""

    file: str
    right: str
    wrong: str
    test: str


_DIVERGENCES = "tests/divergences/test_contract.py"
_TERMS = "tests/objectives/test_terms.py"
_TRAINER = "tests/training/test_trainer.py"
_EVALUATION = "tests/evaluation/test_evaluation.py"

MUTANTS = (
    # directions swapped
    Mutant("divergences/kl.py", "return _kl(teacher, student)", "return _kl(student, teacher)", _DIVERGENCES),
    Mutant("divergences/kl.py", "return _kl(student, teacher)", "return _kl(teacher, student)", _DIVERGENCES),
    # the mixture weighted the wrong way round: invisible at 0.5
    Mutant("divergences/mixture.py", "math.log(teacher_weight)", "math.log1p(-teacher_weight)", _DIVERGENCES),
    Mutant(
        "divergences/mixture.py",
        "teacher_weight * from_teacher + (1.0 - teacher_weight) * from_student",
        "(1.0 - teacher_weight) * from_teacher + teacher_weight * from_student",
        _DIVERGENCES,
    ),
    # tokens without mass
    Mutant("divergences/kl.py", ".masked_fill(absent, 0.0)", "", _DIVERGENCES),
    # the shift dropped, on either side
    Mutant(
        "models/scoring.py", "output.logits[:, :-1]", "output.logits[:, 1:]", f"{_TRAINER}::test_the_loss_is_the_naive"
    ),
    Mutant(
        "models/scoring.py",
        'batch["labels"][:, 1:]',
        'batch["labels"][:, :-1]',
        f"{_TRAINER}::test_the_loss_is_the_naive",
    ),
    # the mask dropped: prompts in the loss
    Mutant(
        "models/scoring.py",
        'return batch["answer_mask"][:, 1:]',
        'return batch["attention_mask"][:, 1:].bool()',
        f"{_TRAINER}::test_the_loss_is_the_naive",
    ),
    # mean of means
    Mutant(
        "training/trainer.py",
        "weighted.weight * total / counts[name].clamp(min=1)",
        "weighted.weight * values.mean() / self.args.gradient_accumulation_steps",
        f"{_TRAINER}::test_batch_split",
    ),
    # the gradient divided by the number of processes once too often
    Mutant(
        "training/trainer.py",
        "return loss * self.args.world_size",
        "return loss",
        "tests/training/test_processes.py",
    ),
    # accumulation divided twice
    Mutant(
        "training/trainer.py",
        "self.loss_is_scaled_for_ga = True",
        "self.loss_is_scaled_for_ga = False",
        f"{_TRAINER}::test_batch_split",
    ),
    # temperature: on one side only; T² dropped, or always there
    Mutant(
        "objectives/token_divergence.py",
        "teacher_logp = self._logp(signal.logits_NW)",
        "teacher_logp = signal.logits_NW[:, : self.shared_width].float().log_softmax(-1)",
        f"{_TERMS}::test_temperature",
    ),
    Mutant(
        "objectives/token_divergence.py",
        "value * self.settings.temperature**2",
        "value * self.settings.temperature",
        f"{_TERMS}::test_temperature",
    ),
    Mutant(
        "objectives/token_divergence.py",
        "if self.settings.rescale_by_temperature_squared:",
        "if self.settings.temperature:",
        f"{_TERMS}::test_temperature",
    ),
    # unused rows of a padded vocabulary take probability
    Mutant("objectives/token_divergence.py", "logits[:, : self.shared_width]", "logits", f"{_TERMS}::test_padded_rows"),
    # NaN goes on
    Mutant(
        "training/trainer.py", "if not bool(torch.isfinite(total)):", "if False:", f"{_TRAINER}::test_a_nan_loss_stops"
    ),
    # a run that starts again instead of resuming
    Mutant(
        "study/learning.py",
        "resume_from_checkpoint=str(last[0]) if last else None",
        "resume_from_checkpoint=None",
        "tests/study/test_interruption.py::test_ctrl_c_while_training_loses_nothing",
    ),
    # sampled answers that depend on what was there before a kill
    Mutant(
        "teachers/answers.py",
        "torch.manual_seed(settings.seed * 1_000_003 + start)",
        "pass",
        "tests/teachers/test_answers.py::test_a_killed_store",
    ),
    # the pair is judged by nothing
    Mutant(
        "pairing/admission.py",
        'method.tokens == "any" or contract.verdict != "different"',
        "True",
        "tests/study/test_study.py::test_a_mismatched_pair",
    ),
    # evaluation
    Mutant("evaluation/likelihood.py", "nats / math.log(2) / answer_bytes", "nats / answer_bytes", _EVALUATION),
    Mutant(
        "evaluation/likelihood.py",
        "forward_kl(student_logp=student.log_softmax(-1), teacher_logp=teacher.log_softmax(-1))",
        "forward_kl(student_logp=teacher.log_softmax(-1), teacher_logp=student.log_softmax(-1))",
        f"{_EVALUATION}::test_figures_equal",
    ),
    Mutant("models/generation.py", "width - len(prompt) :]", ": len(prompt)]", f"{_EVALUATION}::test_left_padding"),
    # intervals that forget one source of variance
    Mutant(
        "study/statistics.py",
        "parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))",
        "pass",
        "tests/study/test_statistics.py",
    ),
    Mutant("study/statistics.py", "    if rows > 1:", "    if rows < 1:", "tests/study/test_statistics.py"),
)


def survives(mutant: Mutant) -> str | None:
    """Why a mutant is not caught, or None where it is."""
    source = ROOT / "src" / "distillab"
    if mutant.right not in (source / mutant.file).read_text(encoding="utf-8"):
        return "its line is no longer in the code"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "distillab"
        shutil.copytree(source, copy)
        path = copy / mutant.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutant.right, mutant.wrong), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "OMP_NUM_THREADS": "1"}
        file, _, name = mutant.test.partition("::")
        chosen = ["-k", name] if name else []
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, *chosen]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return f"{mutant.test} passes"
    # 1: tests failed; anything else means that they did not run
    return None if done.returncode == 1 else done.stdout[-500:] + done.stderr[-500:]


def main(words: list[str]) -> int:
    """Run the mutants; returns the exit code."""
    chosen = [m for m in MUTANTS if not words or any(word in m.file or word in m.right for word in words)]
    alive = 0
    for number, mutant in enumerate(chosen, start=1):
        reason = survives(mutant)
        alive += reason is not None
        print(
            f"{number}/{len(chosen)} {mutant.file}: {mutant.right!r}: {'SURVIVES, ' + reason if reason else 'caught'}"
        )
    print(f"{len(chosen) - alive} of {len(chosen)} mutants caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
