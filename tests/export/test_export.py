"""What `distillab export` writes: the student, a card made from the records, a recipe, and an upload of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from huggingface_hub import ModelCard, constants
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillab.config.loader import load_recipe
from distillab.config.methods import METHODS
from distillab.config.run import RunRecipe
from distillab.config.term_base import Divergence
from distillab.config.terms import TermConfig
from distillab.export.finished import read_finished_run
from distillab.export.formulas import DIVERGENCES, TERMS, formula_of
from distillab.files import file_sha256
from distillab.records import Record, RunRecord, read_record, write_record
from tests.cli.conftest import call
from tests.export.hub_server import hub
from tests.report.fixture import study

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT reads it
IDS = torch.arange(3, 12)[None]


def exported(run: Path, out: Path, *words: str) -> Path:
    code, _, err = call("export", str(run), "--out", str(out), *words)
    assert code == 0, err
    return out


def test_the_student_its_card_and_its_recipe(whole: Path, tiny_world: dict[str, Any], tmp_path: Path) -> None:
    folder = exported(whole, tmp_path / "out", "--to", "safetensors", "--license", "mit")
    record = read_record(RunRecord, whole / "run.json")
    written = {f"student/{file.name}": file_sha256(file) for file in folder.iterdir()}
    assert {name: written[name] for name in record.files if name in written} == {
        name: digest for name, digest in record.files.items() if name.startswith("student/")
    }
    card = ModelCard.load(folder / "README.md")  # huggingface_hub reads its metadata
    found = {one.metric_type: one.metric_value for one in card.data.eval_results or ()}
    assert found["nats_per_token"] == record.evaluation.nats_per_token
    assert (card.data.license, card.data.library_name, card.data.base_model) == ("mit", "transformers", None)
    assert record.teacher is not None and record.contract is not None
    facts = (
        record.teacher.weights_sha256,
        record.fingerprints["train_rows"],
        f"{record.contract.verdict}: ",
        "Σ p (log p − log q)",
        "2 steps of 8 sequences",
        f"{record.references.unigram_nats:.3f}",
        "no finished study",
    )
    assert [fact for fact in facts if fact not in card.text] == []
    places = (whole.parents[2], Path(tiny_world["data"]["train"]["path"]).parent)
    assert not any(str(place) in card.text + (folder / "recipe.json").read_text() for place in places)
    recipe = load_recipe(RunRecipe, folder / "recipe.json")
    assert (recipe.method, recipe.terms, recipe.seed) == ("logits", RunRecipe(**record.config).terms, record.seed)


def test_the_interval_is_over_the_rows(whole: Path, tmp_path: Path) -> None:
    """As a bootstrap over the held-out rows gives it, within a fifth of its width."""
    lines = [json.loads(line) for line in (whole / "held_out.jsonl").read_text().splitlines()]
    nats, tokens = (torch.tensor([line[name] for line in lines], dtype=torch.float64) for name in ("nats", "tokens"))
    drawn = torch.randint(len(lines), (4000, len(lines)), generator=torch.Generator().manual_seed(0))
    means = nats[drawn].sum(1) / tokens[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    text = (exported(whole, tmp_path / "out", "--to", "safetensors") / "README.md").read_text()
    cell = text.partition("| held-out ↓ | nats/token | ")[2].partition("\\]")[0]
    shown = [float(number) for number in cell.partition("\\[")[2].split(", ")]
    assert shown == pytest.approx([low, high], abs=0.2 * (high - low))


def test_a_study_gives_baselines_and_the_recovered_gap(whole: Path, tmp_path: Path) -> None:
    record, results = read_record(RunRecord, whole / "run.json"), study()
    arms = [
        arm
        if arm.name != "logits"
        else arm.model_copy(update={"evaluations": (record.evaluation, *arm.evaluations[1:])})
        for arm in results.arms
    ]
    assert _in_study(whole, results.model_copy(update={"arms": tuple(arms)})).arm is not None
    text = (exported(whole, tmp_path / "out", "--to", "merged") / "README.md").read_text()
    facts = ("imaginary-teacher-M", "| sft |", "+27 % of the gap to the teacher recovered", "\\[+25, +30\\]")
    assert [fact for fact in facts if fact not in text] == []
    assert _in_study(whole, results).study is None  # its arm has another figure: another run
    (whole.parents[2] / "results.json").unlink()


def _in_study(run: Path, results: Record) -> Any:
    write_record(results, run.parents[2] / "results.json")
    return read_finished_run(run)


def test_adapters_are_exported_as_they_are_or_merged(adapted: Path, tmp_path: Path) -> None:
    alone = exported(adapted, tmp_path / "alone", "--to", "safetensors")
    merged = exported(adapted, tmp_path / "merged", "--to", "merged")
    assert ModelCard.load(alone / "README.md").data.library_name == "peft"
    assert "AutoPeftModelForCausalLM" in (alone / "README.md").read_text()
    assert not (merged / "adapter_config.json").exists()
    by_peft = AutoPeftModelForCausalLM.from_pretrained(alone).eval()
    by_transformers = AutoModelForCausalLM.from_pretrained(merged).eval()
    with torch.no_grad():
        wanted = by_peft(IDS).logits
        torch.testing.assert_close(by_transformers(IDS).logits, wanted, rtol=0, atol=1e-5)
        by_peft.base_model.disable_adapter_layers()
        assert (by_peft(IDS).logits - wanted).abs().max() > 1e-4
    assert AutoTokenizer.from_pretrained(merged)("one").input_ids
    generation = [json.loads((place / "generation_config.json").read_text()) for place in (alone, merged)]
    assert generation[0]["eos_token_id"] == generation[1]["eos_token_id"]


def test_the_hub_gets_the_folder(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_aGoodTokenOfTheTest"
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)
        out = tmp_path / "out"
        words = ("export", str(whole), "--to", "hub", "--repo", "someone/tiny", "--private", "--out", str(out))
        code, printed, err = call(*words)
        assert code == 0, err
        assert f"{server.address}/someone/tiny" in printed
        assert server.files == {file.name: file.read_bytes() for file in out.iterdir()}
        assert (server.created["name"], server.created["visibility"]) == ("tiny", "private")
        assert server.tokens == {f"Bearer {token}"}
        assert token not in printed + err and all(token.encode() not in content for content in server.files.values())
        shutil.rmtree(out)
        monkeypatch.setenv("HF_TOKEN", "hf_anotherToken")
        code, printed, err = call(*words)
    assert code == 1 and "could not be uploaded" in err and "hf_anotherToken" not in printed + err
    assert (out / "README.md").is_file()  # the folder is whole


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--to", "safetensors", "--dtype", "f16"), "--dtype is for --to gguf"),
        (("--to", "merged", "--repo", "a/b"), "--repo is not for --to merged"),
        (("--to", "hub", "--repo", "a"), "OWNER/NAME"),
        (("--to", "hub", "--private"), "no effect without --repo"),
    ],
)
def test_options_without_effect_are_refused(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    code, _, err = call("export", str(tmp_path), *words)
    assert code == 2 and text in err


def test_folders_that_are_no_finished_run_are_refused(whole: Path, tmp_path: Path) -> None:
    code, _, err = call("export", str(tmp_path / "nowhere"), "--to", "hub")
    assert code == 1 and "no finished run" in err
    code, _, err = call("export", str(whole.parents[2]), "--to", "hub")
    assert code == 1 and f"name one run of this study: {whole}" in err
    changed = tmp_path / "changed"
    shutil.copytree(whole, changed)
    (changed / "student" / "config.json").write_text("{}")
    code, _, err = call("export", str(changed), "--to", "safetensors")
    assert code == 1 and "student/config.json has changed" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    code, _, err = call("export", str(whole), "--to", "safetensors", "--out", str(tmp_path / "full"))
    assert code == 2 and "must be new" in err


def test_adapters_that_nobody_else_could_load_are_refused(adapted: Path, tmp_path: Path) -> None:
    code, _, err = call("export", str(adapted), "--to", "hub", "--out", str(tmp_path / "out"))
    assert code == 2 and "--to merged" in err and not (tmp_path / "out").exists()
    record = read_record(RunRecord, adapted / "run.json")
    other = tmp_path / "run"
    shutil.copytree(adapted, other)
    wrong = record.model_copy(update={"fingerprints": record.fingerprints | {"student": "0" * 64}})
    write_record(wrong, other / "run.json")
    code, _, err = call("export", str(other), "--to", "merged", "--out", str(tmp_path / "out"))
    assert code == 1 and "not the one that they were trained on" in err and not (tmp_path / "out").exists()


def test_every_term_and_divergence_has_a_formula() -> None:
    assert set(DIVERGENCES) == set(get_args(Divergence))
    for method in METHODS.values():
        for term in (*method.terms, *(method.pretrained or ())):
            text = formula_of(term.model_dump(mode="json"))
            assert text and "{" not in text and "None" not in text
    kinds = {option.model_fields["kind"].default for option in get_args(get_args(TermConfig)[0])}
    assert set(TERMS) - {"custom_loss", "custom_divergence"} == kinds
