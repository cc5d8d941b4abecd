"""A version's files never change: today's writer makes them, today's reader reads them, and so does the page's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from distillab.cache.layout import FORMAT_VERSION
from distillab.cache.reader import CacheReader
from distillab.cache.verify import verify
from tests.cache import page_reader
from tests.cache.cache_samples import ALL, sample_head, sample_rows, tree
from tests.cache.make_golden import GOLDEN, NUMBERS, content, make

VERSIONS = sorted(path.name for path in GOLDEN.iterdir())
# Probabilities are made to sum to one after reading, in whatever exp and log a machine has.
ROUNDED = {"logp", "tail_logmass"}


def assert_same(found: Any, wanted: Any, name: str = "") -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key], key)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for left, right in zip(found, wanted, strict=True):
            assert_same(left, right, name)
    elif name in ROUNDED:
        assert math.isclose(found, wanted, rel_tol=2e-6)
    else:
        assert found == wanted


def expected(version: str) -> Any:
    text = (GOLDEN / version / NUMBERS).read_text("utf-8")
    return json.loads(text.replace('"own_nats"', '"entropy_estimate"'))  # the field's name when version 1 was written


def test_this_version_is_golden() -> None:
    assert f"v{FORMAT_VERSION}" in VERSIONS


def test_todays_writer_makes_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "cache")
    made, golden = tree(tmp_path / "cache"), tree(GOLDEN / f"v{FORMAT_VERSION}" / "cache")
    assert made.keys() == golden.keys()
    assert [name for name in made if made[name] != golden[name]] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_todays_reader_finds_the_same_numbers(version: str) -> None:
    assert_same(content(GOLDEN / version / "cache"), expected(version))
    assert verify(GOLDEN / version / "cache").complete


def test_a_reader_made_from_the_page_finds_the_same_numbers() -> None:
    assert_same(page_reader.read_cache(GOLDEN / "v1" / "cache"), expected("v1"))


def test_the_numbers_are_those_that_were_written() -> None:
    for row, found in zip(sample_rows(5), expected("v1"), strict=True):
        assert (row.key, row.input_ids.tolist(), row.answer_mask.tolist()) == (
            found["key"],
            found["input_ids"],
            found["answer_mask"],
        )
        for kind in ALL:
            section = row.sections[kind]
            for name, array in getattr(section, "arrays", vars(section)).items():
                if kind == "text":
                    assert found[kind][name] == array
                else:
                    loss = {"logp": 0.03, "tail_logmass": 0.02, "actual_logp": 1e-3, "layer.0": 0.01}.get(name, 0.0)
                    np.testing.assert_allclose(np.array(found[kind][name]), array, rtol=0, atol=loss)


def test_the_safetensors_library_opens_what_is_written() -> None:
    cache = GOLDEN / "v1" / "cache"
    for path in sorted((cache / "shards").iterdir()):
        metadata, arrays = page_reader.arrays(path.read_bytes())
        with safe_open(path, "np") as opened:
            assert opened.metadata() == metadata
            assert set(opened.keys()) == set(arrays)
        for name, array in load_file(path).items():
            facts, data, _ = arrays[name]
            assert list(array.shape) == facts["shape"]
            assert array.tobytes() == data


def test_the_safetensors_library_reads_the_head() -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_tensors

    tensors = load_tensors(GOLDEN / "v1" / "cache" / "head.safetensors")
    head, written = CacheReader(GOLDEN / "v1" / "cache").head(), sample_head()
    for name in ("weight", "bias"):
        assert tensors[name].dtype == torch.bfloat16
        bits = tensors[name].view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(bits, getattr(head, name))
        np.testing.assert_array_equal(bits, getattr(written, name))
    assert (head.multiplier, head.cap) == (written.multiplier, written.cap)
