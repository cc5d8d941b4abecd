"""Read the header of a GGUF file: its metadata, and the names, sizes and types of its tensors.

The file can come from anywhere. Every length in it is checked before it is used, and no tensor is read.
"""

from __future__ import annotations

import math
import mmap
import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from distillab.downloads import START_BYTES, not_downloaded
from distillab.errors import ConfigError, DistillabError
from distillab.library_errors import library_errors

SUFFIX = ".gguf"
_ARCHITECTURE = "general.architecture"
TOKENS = "tokenizer.ggml.tokens"
_KEPT_LISTS = (TOKENS,)  # of the other lists, the length
_LONGEST_HEADER = 1 << 26  # a vocabulary of 260,000 tokens with its merges takes 2^24 bytes
_VERSIONS = (2, 3)
_STRING, _LIST = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NOT_QUANTISED = ("F32", "F16", "BF16", "F64")


class GgufTensor(NamedTuple):
    """A tensor of a GGUF file.

    Attributes:
        elements: their number.
        kind: ggml's name of the storage type: F32, Q4_1, Q6_K, …
        stored_bytes: in the file.
    """

    name: str
    elements: int
    kind: str
    stored_bytes: int


class GgufHeader(NamedTuple):
    """What a GGUF file states of itself.

    Attributes:
        metadata: values by key; of most lists, only the length.
        tensors: in the order of the file.
    """

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it: llama, qwen2, …"""
        return str(self.metadata[_ARCHITECTURE])

    @property
    def vocab_size(self) -> int:
        """Rows of the embeddings, as transformers reads them: as stated, else the number of tokens."""
        return int(self.metadata.get(f"{self.architecture}.vocab_size", len(self.metadata[TOKENS])))

    @property
    def quantization(self) -> str | None:
        """How the weights are quantised: `GGUF Q4_1 and Q8_0, 5.8 bits a weight`; None where they are not."""
        elements: dict[str, int] = {}
        for tensor in self.tensors:
            elements[tensor.kind] = elements.get(tensor.kind, 0) + tensor.elements
        kinds = [kind for kind in sorted(elements, key=lambda kind: -elements[kind]) if kind not in _NOT_QUANTISED]
        bits = 8 * sum(tensor.stored_bytes for tensor in self.tensors) / max(1, sum(elements.values()))
        return f"GGUF {' and '.join(kinds)}, {bits:.1f} bits a weight" if kinds else None


def read_header(file: Path, *, error: type[DistillabError]) -> GgufHeader:
    """Read the header of a GGUF file, and check that all of its tensors are in the file.

    Args:
        error: the class to raise.
    Raises:
        DistillabError: of the class `error`: there is no such file, it is no GGUF file, it is damaged, cut off, or one
            part of several; ConfigError: the package gguf is not installed.
    """
    if not file.is_file():
        raise error(
            "There is no such GGUF file.",
            where=str(file),
            fix="give the path of a file on this machine; `hf download ORGANISATION/MODEL NAME.gguf` fetches one",
        )
    with file.open("rb") as stream:
        start = stream.read(START_BYTES)
    found = not_downloaded(start)
    if found is None and not start.startswith(b"GGUF"):
        found = f"it starts with {start[:16]!r}, and not with b'GGUF'", "give a GGUF file, or the model's folder"
    if found is not None:
        raise error("The file is no GGUF file.", where=str(file), facts=[found[0]], fix=found[1])
    _require_package(file)
    rule, fix = "The GGUF file is damaged, or cut off.", "download the file again; compare its size with the hub's"
    with library_errors(error, rule, where=str(file), fix=fix):
        header = _walked(file, file.stat().st_size, file.stat().st_mtime_ns)
    if (parts := header.metadata.get("split.count", 0)) > 1:
        raise error(
            "The GGUF file is one part of several.",
            where=str(file),
            facts=[f"parts: {parts}"],
            fix="join them: `llama-gguf-split --merge FIRST_PART JOINED.gguf`",
        )
    return header


def _require_package(file: Path) -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as missing:
        raise ConfigError(
            "A GGUF file can only be read with the package gguf, which is not installed.",
            where=str(file),
            fix='install it: pip install "distillab[gguf]", or pip install gguf',
        ) from missing


@cache
def _walked(file: Path, size: int, changed_ns: int) -> GgufHeader:
    from gguf import GGML_QUANT_SIZES

    kinds = {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), min(size, _LONGEST_HEADER), access=mmap.ACCESS_READ) as data,
    ):
        return _Walk(data, kinds).header(size)


class _Walk:
    """Reads a header from its first byte to its last; a length beyond the end is a ValueError or a struct.error."""

    def __init__(self, data: mmap.mmap, kinds: dict[int, tuple[str, int, int]]) -> None:
        self.data, self.kinds, self.at = data, kinds, 4

    def header(self, file_bytes: int) -> GgufHeader:
        version, tensors, entries = self.number("I"), self.number("Q"), self.number("Q")
        if version not in _VERSIONS:
            raise ValueError(f"GGUF version {version}; versions 2 and 3 are read")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.text()
            if key in metadata:
                raise ValueError(f"{key} stands there twice")
            metadata[key] = self.value(self.number("I"), kept=key in _KEPT_LISTS)
        metadata = {"general.alignment": 32, TOKENS: [], **metadata}
        expected = {_ARCHITECTURE: str, TOKENS: list, "general.alignment": int, "split.count": int}
        expected[f"{metadata.get(_ARCHITECTURE)}.vocab_size"] = int
        for key, kind in expected.items():
            if not isinstance(metadata.get(key, kind()), kind):
                raise ValueError(f"{key} is {metadata[key]!r}")
        alignment = metadata["general.alignment"]
        if alignment < 1 or _ARCHITECTURE not in metadata:
            raise ValueError(f"general.alignment is {alignment}, {_ARCHITECTURE} {metadata.get(_ARCHITECTURE)}")
        places = [self.tensor() for _ in range(tensors)]
        end = -(-self.at // alignment) * alignment + max((at + t.stored_bytes for t, at in places), default=0)
        if places and end > file_bytes:
            raise ValueError(f"its tensors end at byte {end:,}, and the file has {file_bytes:,}")
        return GgufHeader(metadata, tuple(tensor for tensor, _ in places))

    def tensor(self) -> tuple[GgufTensor, int]:
        """Return a tensor, and where its data begin."""
        name, dimensions = self.text(), self.number("I")
        if dimensions > 8:
            raise ValueError(f"{name} has {dimensions} dimensions")
        elements = math.prod(self.number("Q") for _ in range(dimensions))
        kind = self.number("I")
        if kind not in self.kinds:
            raise ValueError(f"{name} has the storage type {kind}, which the package gguf does not know")
        called, block, block_bytes = self.kinds[kind]
        return GgufTensor(name, elements, called, elements // block * block_bytes), self.number("Q")

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def text(self) -> str:
        return self.taken(self.number("Q")).decode()

    def taken(self, length: int) -> bytes:
        """Return the next bytes."""
        begin, end = self.at, self.at + length
        if end > len(self.data):
            raise ValueError(f"a length of {length:,} bytes at byte {begin:,}, beyond the header's end")
        self.at = end
        return self.data[begin:end]

    def value(self, kind: int, *, kept: bool) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _LIST:
            raise ValueError(f"a value of the type {kind}, which GGUF does not have")
        of, length = self.number("I"), self.number("Q")
        if of in _NUMBERS:
            self.taken(length * struct.calcsize(f"<{_NUMBERS[of]}"))
        elif of == _STRING:
            texts = (self.text() for _ in range(length))
            return list(texts) if kept else sum(1 for _ in texts)
        else:
            raise ValueError(f"a list of values of the type {of}, which is not read")
        return length
