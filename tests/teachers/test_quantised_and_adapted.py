"""A teacher that is quantised while it is loaded, or that has adapters: its logits, its record, and the refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillab.config.run import RunRecipe
from distillab.config.student import AdapterConfig
from distillab.config.study import StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.errors import CacheMismatch, DistillabError, TeacherError
from distillab.models.adapters import add_adapter, merged, save_adapter
from distillab.models.loading import load_model, weights_sha256
from distillab.report.build import write_report
from distillab.runs.run import execute
from distillab.study.study import Study
from distillab.teachers.local import LocalTeacher, load_local
from distillab.teachers.spec import teacher_name, teacher_spec
from tests.models.decoders import tiny_model
from tests.quantised import INT8

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT reads it
CPU = torch.device("cpu")
IDS = torch.arange(3, 35).view(2, 16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_model("llama", hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """With every tensor away from zero."""
    model = load_model(str(base), dtype="float32", device=CPU, revision=None, role="student")
    adapted = add_adapter(model, AdapterConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(folder, adapted, dtype=torch.float32, base_sha256=weights_sha256(str(base)))
    return folder


def _load(base: Path, **settings: Any) -> LocalTeacher:
    return load_local(TeacherConfig(path=str(base), **settings), student_device=CPU, template_sha256="")


def _logits(teacher: LocalTeacher) -> torch.Tensor:
    with torch.no_grad():
        return teacher.model(input_ids=IDS).logits


@pytest.mark.quantised
@pytest.mark.parametrize(("kind", "near"), [("int8", 0.03), ("nf4", 0.5)])
def test_a_quantised_teacher_is_near_its_weights_and_says_what_it_is(base: Path, kind: Any, near: float) -> None:
    whole, quantised = _load(base), _load(base, quantization=kind)
    expected, found = _logits(whole), _logits(quantised)
    moved = float((found - expected).norm() / (expected - expected.mean(-1, keepdim=True)).norm())
    assert 1e-4 < moved < near
    assert torch.equal(_logits(quantised), found)
    provenance, plain = quantised.identity.provenance, whole.identity.provenance
    assert (provenance.name, provenance.quantization, plain.quantization) == (f"model-{kind}", kind, None)
    assert provenance.parameters == plain.parameters
    assert provenance.model_dump_json() != plain.model_dump_json()
    assert not {"quantization", "adapter_sha256"} & plain.model_dump().keys()  # caches keep their fingerprints
    assert quantised.identity.head == whole.identity.head


@pytest.mark.quantised
def test_rows_are_rounded_to_whole_steps_of_their_largest_weight(base: Path) -> None:
    weight = _load(base).model.model.layers[0].mlp.up_proj.weight.double()
    found = _load(base, quantization="int8").model.model.layers[0].mlp.up_proj.weight.dequantize().double()
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    assert float(((found - weight).abs() / steps).max()) < 0.52


@pytest.mark.parametrize("quantization", [None, INT8])
def test_adapters_are_on_the_teacher_and_in_its_record(base: Path, adapter: Path, quantization: Any) -> None:
    settings = {"adapter": str(adapter), "quantization": quantization}
    found = _load(base, **settings)
    model = load_model(str(base), dtype="float32", device=CPU, revision=None, role="student", quantization=quantization)
    again = add_adapter(model, AdapterConfig(rank=2), seed=1)
    tensors = load_file(adapter / "adapter_model.safetensors")
    own = dict(again.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name.replace(".weight", ".default.weight")].copy_(tensor)
        expected = merged(again)(input_ids=IDS).logits
    torch.testing.assert_close(_logits(found), expected, atol=1e-5, rtol=1e-4)
    assert found.identity.provenance.adapter_sha256 == weights_sha256(str(adapter))
    spec = teacher_spec(TeacherConfig(path=str(base), **settings))
    assert spec.fingerprints["teacher_adapter"] == weights_sha256(str(adapter))
    assert spec.name == "model-adapter" + ("-int8" if quantization else "")


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _tensors(change: Callable[[dict[str, torch.Tensor]], None], metadata: bool = True) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"} if metadata else None)

    return run


def _no_hash_and_other_name(folder: Path) -> None:
    _tensors(lambda tensors: None)(folder)
    _config(base_model_name_or_path="organisation/other")(folder)


def _other_shape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name] = torch.zeros(7, 2)


def _other_hash(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "base_weights_sha256": "0" * 64})


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "other weights": (_other_hash, "their weights differ"),
    "another base": (_no_hash_and_other_name, "organisation/other"),
    "a pickle": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "missing: adapter_model.safetensors",
    ),
    "cut off": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x10"), "damaged"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "JSON"),
    "another kind": (_config(peft_type="PREFIX_TUNING"), "settings cannot be used|PREFIX_TUNING"),
    "a huge rank": (_config(r=10**9), "rank 1000000000, and 2 in the file"),
    "a regular expression": (_config(target_modules="(a+)+b"), "regular expression"),
    "copied layers": (_config(layer_replication=[[0, 2], [1, 3]]), "layer_replication"),
    "a tensor too few": (_tensors(lambda tensors: dict.popitem(tensors) and None), "does not fit"),
    "another shape": (_tensors(_other_shape), "does not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_are_not_those_of_the_teacher(base: Path, adapter: Path, case: str) -> None:
    change, text = REFUSED[case]
    change(adapter)
    settings = TeacherConfig(path=str(base), adapter=str(adapter))

    def use() -> None:
        teacher_spec(settings)
        load_local(settings, student_device=CPU, template_sha256="")

    with pytest.raises(DistillabError, match=text):
        use()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cache": "c", "quantization": "int8"}, "no effect without path"),
        ({"cache": "c", "adapter": "a"}, "no effect without path"),
        ({"path": "p", "measure_full_precision": False}, "no effect without quantization"),
        ({"path": "p", "quantization": "int4"}, "int8"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TeacherConfig(**settings)


@pytest.mark.quantised
def test_weights_that_are_quantised_already_are_not_quantised_again(base: Path, tmp_path: Path) -> None:
    _load(base, quantization="nf4").model.save_pretrained(tmp_path / "nf4")
    assert _load(tmp_path / "nf4").model.hf_quantizer is not None
    with pytest.raises(TeacherError, match="quantised already"):
        _load(tmp_path / "nf4", quantization="int8")


@pytest.mark.quantised
def test_a_study_states_what_quantisation_costs_its_teacher(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    teacher = {**tiny_world["teacher"], "quantization": "nf4"}
    values = {
        **tiny_world,
        "teacher": teacher,
        "arms": ["sft", "logits"],
        "seeds": [0],
        "output": str(tmp_path / "study"),
    }
    results = Study(StudyRecipe(**values), reproduce="").run()
    points = {point.name: point for point in results.baselines}
    assert list(points) == ["undistilled", "teacher-nf4", "teacher"]
    quantised, full = points["teacher-nf4"], points["teacher"]
    difference = quantised.against_full_precision
    assert difference is not None and full.against_full_precision is None
    assert difference.mean == pytest.approx(
        quantised.evaluation.nats_per_token - full.evaluation.nats_per_token, abs=1e-6
    )
    assert "quantised weights: nf4" in quantised.note and "against teacher in full precision" in quantised.note
    assert quantised.note.split("; ")[-1] in write_report(results, tmp_path / "study")[0].read_text()
    assert [arm.teacher for arm in results.arms] == [None, "teacher-nf4"]

    location = str(next((tmp_path / "study" / "cache").iterdir()))
    with pytest.raises(CacheMismatch, match="quantization: in the cache nf4; teacher"):
        teacher_spec(TeacherConfig(**tiny_world["teacher"], cache=location))
    alone = StudyRecipe(**{**values, "teacher": {**teacher, "measure_full_precision": False}})
    assert teacher_name(alone.teacher) == "teacher-nf4"
    run = {name: value for name, value in tiny_world.items() if name != "seeds"} | {
        "teacher": teacher | {"cache": location}
    }
    record = execute(RunRecipe(**run, method="logits", output=str(tmp_path / "run")))
    assert record.teacher is not None and record.teacher.quantization == "nf4"
