"""`distillab cache import`: files as DistillKit, axolotl and TRL write them, of a real small model.

The reference is a cache that distillab built of the same teacher and rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from distillab.cache.next_tokens import TopK
from distillab.cache.reader import CacheReader
from distillab.config import RunRecipe
from distillab.data.encoding import EncodedRow
from distillab.errors import TeacherError
from distillab.runs.inputs import load_inputs
from distillab.runs.run import execute
from distillab.teachers.signals import SignalRequest, Top
from distillab.teachers.stored.teacher import load_cached
from tests.cli.conftest import call

K, WIDTH = 16, 512
Floats = np.ndarray


class World(NamedTuple):
    """A recipe, the teacher's folder, the rows, the teacher's log-probabilities of each, and a cache of distillab's."""

    recipe: Path
    teacher: Path
    rows: list[EncodedRow]
    logp: list[Floats]
    built: Path


def _recipe(materials: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "student": {"path": str(materials / "models" / "stories260K-tok512")},
        "data": {
            "train": {"path": str(materials / "text/tinystories/stories_dev.jsonl"), "limit": 24},
            "max_tokens": 320,
            "prompt_share": 0.3,
            "held_out": {"fraction": 0.5},
        },
        "method": "logits",
        "terms": [{"kind": "top_k_divergence", "k": K}],
        "training": {"steps": 2, "batch_size": 4, "device": "cpu", "warmup_steps": 0},
        "evaluation": {"rows": 2, "curve_rows": 2, "generate_rows": 0},
        "cache": {"kinds": [{"kind": "top_k", "k": K, "values": "float16"}], "rows_per_shard": 5},
        "output": str(folder / "run"),
        **changes,
    }


@pytest.fixture(scope="module")
def world(materials: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("imported")
    teacher = materials / "models" / "bitllama-3M-tok512"
    values = _recipe(materials, folder, teacher={"path": str(teacher)})
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(values))
    code, _, err = call("cache", "build", str(recipe), f"cache.folder={folder / 'built'}")
    assert code == 0, err
    rows = list(load_inputs(RunRecipe(**values)).train.rows)
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor(row.input_ids[None].astype(np.int64))).logits[0] for row in rows]
    return World(recipe, teacher, rows, [one.double().log_softmax(-1).numpy() for one in logits], folder / "built")


def _top(logp: Floats, k: int = K) -> tuple[Floats, Floats]:
    ids = np.argsort(-logp, axis=-1, kind="stable")[..., :k]
    return ids, np.take_along_axis(logp, ids, -1)


def _write(file: Path, rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> Path:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    pq.write_table(pa.table(columns), file)
    return file


IDS, NESTED = pa.list_(pa.uint64()), pa.list_(pa.list_(pa.int64()))
VALUES, BYTES = pa.list_(pa.list_(pa.float32())), pa.list_(pa.list_(pa.uint8()))


def distillkit(world: World, folder: Path) -> tuple[Path, list[str]]:
    """Raw top-k rows: entry j is of token j + 1; one token of padding more."""
    rows = []
    for row, logp in zip(world.rows, world.logp, strict=True):
        ids, values = _top(logp)
        rows.append({"input_ids": [*row.input_ids.tolist(), 0], "token_ids": ids.tolist(), "top_values": values})
        rows[-1]["top_values"] = values.tolist()
    types = {"input_ids": IDS, "token_ids": NESTED, "top_values": VALUES}
    return _write(folder / "data_0.parquet", rows[::-1], types), ["--format", "distillkit"]


def distillkit_packed(world: World, folder: Path) -> tuple[Path, list[str]]:
    """Ids of nine bits, highest first; exact float32 values; the settings beside the file."""
    rows = []
    for row, logp in zip(world.rows, world.logp, strict=True):
        ids, values = _top(logp[:-1])
        text = ["".join(f"{token:09b}" for token in at) for at in ids]
        packed = [int(bits, 2).to_bytes(len(bits) // 8, "big") for bits in text]
        raw = [at.astype("<f4").tobytes() for at in values]
        rows.append(
            {
                "input_ids": row.input_ids.tolist(),
                "bytepacked_indices": [list(at) for at in packed],
                "compressed_logprobs": [list(at) for at in raw],
            }
        )
    settings = f"d: {WIDTH}\nk: {K}\nexact_k: {K}\nexact_dtype: float32\npolynomial_terms: null\nresidual_bins: []\n"
    (folder / "compression_config.yaml").write_text(settings)
    types = {"input_ids": IDS, "bytepacked_indices": BYTES, "compressed_logprobs": BYTES}
    _write(folder / "data_0.parquet", rows[:6], types)
    _write(folder / "data_1.parquet", rows[6:], types)
    return folder, ["--format", "distillkit"]


def _axolotl(world: World, folder: Path, *, same: bool) -> tuple[Path, list[str]]:
    rows = []
    for row, logp in zip(world.rows, world.logp, strict=True):
        ids, values = _top(logp)
        if same:  # the version that fills the beginning, and shifts in its trainer
            ids = np.concatenate([np.arange(K)[None], ids[:-1]])
            values = np.concatenate([np.full((1, K), -np.inf), values[:-1]])
        rows.append(
            {"input_ids": row.input_ids.tolist(), "target_token_ids": ids.tolist(), "target_logprobs": values.tolist()}
        )
    types = {"input_ids": IDS, "target_token_ids": NESTED, "target_logprobs": VALUES}
    file = _write(folder / "rows.parquet", rows, types)
    return file, ["--format", "axolotl", "--predicts", "same" if same else "next"]


def axolotl_same(world: World, folder: Path) -> tuple[Path, list[str]]:
    return _axolotl(world, folder, same=True)


def axolotl_next(world: World, folder: Path) -> tuple[Path, list[str]]:
    return _axolotl(world, folder, same=False)


def trl(world: World, folder: Path, *, actual: bool = True) -> tuple[Path, list[str]]:
    """Of the completion's tokens: the k most likely, one more where the actual token is none of them."""
    rows = []
    for row, logp in zip(world.rows, world.logp, strict=True):
        first = int(np.flatnonzero(row.answer_mask)[0])
        tokens = row.input_ids[first:].astype(int)
        of_tokens = logp[first - 1 : -1]
        ids, values = (one.tolist() for one in _top(of_tokens))
        actuals = of_tokens[np.arange(len(tokens)), tokens]
        for at, token in enumerate(tokens.tolist()):
            if token not in ids[at]:
                ids[at].append(token)
                values[at].append(float(actuals[at]))
        rows.append(
            {
                "prompt_ids": row.input_ids[:first].tolist(),
                "completion_ids": tokens.tolist(),
                "logprob_token_ids": ids,
                "logprobs": values,
                "actual_logprobs": actuals[:, None].tolist(),
            }
        )
    types = {"prompt_ids": IDS, "completion_ids": IDS, "logprob_token_ids": NESTED, "logprobs": VALUES}
    types |= {"actual_logprobs": VALUES} if actual else {}
    return _write(folder / "rows.parquet", rows, types), ["--format", "trl"]


Tool = Callable[..., tuple[Path, list[str]]]


def _import(world: World, given: tuple[Path, list[str]], folder: Path, *more: str) -> tuple[int, str, str]:
    file, words = given
    words = ["--from", str(file), "--teacher-tokenizer", str(world.teacher), *words, *more]
    return call("cache", "import", str(world.recipe), f"cache.folder={folder / 'cache'}", *words)


@pytest.mark.parametrize("tool", [distillkit, distillkit_packed, axolotl_same, axolotl_next, trl])
def test_the_content_is_that_of_a_cache_of_our_own(world: World, tool: Tool, tmp_path: Path) -> None:
    code, out, err = _import(world, tool(world, tmp_path), tmp_path)
    assert code == 0, err
    assert f"{K} ids a position" in out and f"teacher: {{cache: {tmp_path / 'cache'}}}" in out
    ours, other = CacheReader(world.built), CacheReader(tmp_path / "cache")
    other.require_complete()
    numbers = range(len(world.rows))
    assert ours.identity.rows_sha256 == other.identity.rows_sha256
    for one, two in zip(ours.read(numbers, ["top_k"]), other.read(numbers, ["top_k"]), strict=True):
        a, b = one.sections["top_k"], two.sections["top_k"]
        assert isinstance(a, TopK) and isinstance(b, TopK)
        assert one.key == two.key and (a.ids == b.ids).mean() > 0.999  # ties
        assert np.allclose(a.logp, b.logp, atol=5e-3) and np.allclose(a.tail_logmass, b.tail_logmass, atol=2e-2)
        kept = (a.ids == one.input_ids[one.answer_mask][:, None]).any(axis=1)
        known = np.ones_like(kept) if tool is trl else kept
        assert np.allclose(a.actual_logp[known], b.actual_logp[known], atol=5e-3)
    assert call("cache", "verify", str(tmp_path / "cache"))[0] == 0


def test_the_loss_of_a_run_is_that_with_a_cache_of_our_own(world: World, materials: Path, tmp_path: Path) -> None:
    assert _import(world, distillkit(world, tmp_path), tmp_path)[0] == 0
    curves = []
    for name, location in (("ours", world.built), ("other", tmp_path / "cache")):
        values = _recipe(materials, tmp_path, teacher={"cache": str(location)}, output=str(tmp_path / name))
        record = execute(RunRecipe(**{**values, "cache": None}))
        assert record.teacher_signals == "cached"
        assert record.contract is not None and record.contract.verdict == "identical"
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["terms"]["top_k_divergence"] for line in lines if "terms" in line])
    assert len(curves[0]) >= 2 and curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_actual_tokens_beyond_the_kept_ones_are_not_known(world: World, tmp_path: Path) -> None:
    """The record has room for them, so that a reader must refuse what would be a wrong number."""
    for name, tool, known in (("a", distillkit, False), ("b", trl, True)):
        folder = tmp_path / name
        folder.mkdir()
        assert _import(world, tool(world, folder), folder)[0] == 0
        reader = CacheReader(folder / "cache")
        identity = reader.identity
        teacher = load_cached(
            folder / "cache",
            device=torch.device("cpu"),
            tokenizer_fingerprint=identity.tokenizer,
            template_sha256=identity.template_sha256,
            width=WIDTH,
        )
        scores = teacher._scores.read(
            reader, [0], SignalRequest(scores=frozenset({Top(K, WIDTH, 1.0)})), torch.device("cpu")
        )
        if known:
            assert scores.actual(torch.zeros(scores.positions), WIDTH, 1.0).shape == (scores.positions,)
        else:
            with pytest.raises(TeacherError):
                scores.actual(torch.zeros(scores.positions), WIDTH, 1.0)


def _edited(given: tuple[Path, list[str]], column: str, edit: Callable[[list[Any]], None]) -> tuple[Path, list[str]]:
    table = pq.read_table(given[0])
    values = table[column].to_pylist()
    edit(values)
    place = table.schema.get_field_index(column)
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(values, table.schema.types[place])), given[0]
    )
    return given


def _put(value: Any, *, at: int = 30) -> Callable[[list[Any]], None]:
    def edit(rows: list[Any]) -> None:
        rows[0][at][1] = value

    return edit


def _cut(rows: list[Any]) -> None:
    rows[0][30] = rows[0][30][:-1]


def _twice(rows: list[Any]) -> None:
    rows[0][30][1] = rows[0][30][0]


def _other(rows: list[Any]) -> None:
    rows[0][3] = (rows[0][3] + 1) % WIDTH


@pytest.mark.parametrize(
    ("column", "edit", "message"),
    [
        ("top_values", _put(0.5), "no log-probability"),
        ("top_values", _put(float("nan")), "no log-probability"),
        ("top_values", _put(0.0), "sum to more than one"),
        ("token_ids", _put(WIDTH), "outside the 512 ids"),
        ("token_ids", _put(-1), "outside the 512 ids"),
        ("token_ids", _twice, "twice at one position"),
        ("token_ids", _cut, "differ in their numbers"),
        ("top_values", lambda rows: rows[0].pop(), "differ in their numbers"),
        ("input_ids", _other, "not in the files"),
        ("input_ids", lambda rows: rows[0].clear(), "do not fit to its tokens"),
    ],
)
def test_values_that_are_none_are_refused(
    world: World, column: str, edit: Callable[[list[Any]], None], message: str, tmp_path: Path
) -> None:
    code, _, err = _import(world, _edited(distillkit(world, tmp_path), column, edit), tmp_path)
    assert code == 1 and message in err and "fix:" in err and "Traceback" not in err, err
    assert not (tmp_path / "cache").exists()


def test_further_rows_are_counted_and_missing_ones_named(world: World, tmp_path: Path) -> None:
    whole = world.rows[0]
    part = replace(whole, input_ids=whole.input_ids[:-20], answer_mask=whole.answer_mask[:-20])
    more = world._replace(rows=[*world.rows, part], logp=[*world.logp, world.logp[0][:-20]])
    code, out, err = _import(world, trl(more, tmp_path), tmp_path)
    assert code == 0 and "1 row of the files not used" in out, err
    fewer = world._replace(rows=world.rows[1:], logp=world.logp[1:])
    code, _, err = _import(world, trl(fewer, tmp_path), tmp_path / "b")
    assert code == 1 and f"1 of {len(world.rows)} training rows are not in the files" in err
    assert f"row {world.rows[0].key}" in err


def test_a_position_that_sums_to_one_is_counted(world: World, tmp_path: Path) -> None:
    """As axolotl leaves it: renormalised over the kept ids."""
    logp = [one - np.logaddexp.reduce(_top(one)[1], axis=-1)[:, None] for one in world.logp]
    code, out, err = _import(world, axolotl_next(world._replace(logp=logp), tmp_path), tmp_path)
    scored = sum(int(row.answer_mask.sum()) for row in world.rows)
    assert code == 0 and f"at {scored} of {scored} scored positions" in out, err


def test_shifted_entries_are_found_by_the_tokens_themselves(world: World, tmp_path: Path) -> None:
    file, words = axolotl_next(world, tmp_path)
    code, _, err = _import(world, (file, [*words[:2], "--predicts", "same"]), tmp_path)
    assert code == 1 and "they are shifted" in err
    code, _, err = _import(world, (file, words[:2]), tmp_path)
    assert code == 1 and "--predicts next" in err


def test_files_that_are_no_such_files(world: World, tmp_path: Path) -> None:
    good, words = distillkit(world, tmp_path)

    def error(file: Path, *more: str, tokenizer: Path = world.teacher) -> str:
        call_words = ["--from", str(file), *words, *more, "--teacher-tokenizer", str(tokenizer)]
        code, _, err = call("cache", "import", str(world.recipe), f"cache.folder={tmp_path / 'cache'}", *call_words)
        assert code and "fix:" in err and "Traceback" not in err, err
        return err

    broken = tmp_path / "broken.parquet"
    broken.write_bytes(good.read_bytes()[:-200])
    assert "no Parquet file" in error(broken)
    middle = bytearray(good.read_bytes())
    middle[200:260] = bytes(60)
    broken.write_bytes(middle)
    assert error(broken)
    assert "There is no Parquet file" in error(tmp_path / "none.parquet")
    assert "Only axolotl's versions" in error(good, "--predicts", "next")
    _write(broken, [{"input_ids": [1], "text": "a"}], {"input_ids": IDS, "text": pa.string()})
    assert "no column of distillkit's" in error(broken)
    text = {"input_ids": ["a"], "token_ids": [[1]], "top_values": [[0.0]]}
    _write(broken, [text], {"input_ids": pa.list_(pa.string()), "token_ids": NESTED, "top_values": VALUES})
    assert "no numbers" in error(broken)
    # a polynomial through the values
    packed = tmp_path / "packed"
    packed.mkdir()
    distillkit_packed(world, packed)
    (packed / "compression_config.yaml").write_text("d: 512\nk: 16\nexact_k: 4\npolynomial_terms: [0, 1]\n")
    assert "approximations" in error(packed)
    code, _, err = call("cache", "import", str(world.recipe), "--from", str(good), "--format", "distillkit")
    assert code == 2 and "--teacher-tokenizer" in err
    assert not (tmp_path / "cache").exists()


def test_another_tokenizer_is_refused(world: World, materials: Path, tmp_path: Path) -> None:
    file, words = distillkit(world, tmp_path)
    other = materials / "models" / "smallmistral-stories"
    call_words = ["--from", str(file), *words, "--teacher-tokenizer", str(other)]
    code, _, err = call("cache", "import", str(world.recipe), f"cache.folder={tmp_path / 'cache'}", *call_words)
    assert code and "Traceback" not in err
    assert "token" in err.splitlines()[0]
    assert not (tmp_path / "cache").exists()
