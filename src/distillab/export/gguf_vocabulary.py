"""Write a tokenizer into a GGUF file, so that llama.cpp gives the ids of `tokenizer.json`.

llama.cpp has code for each kind of tokenizer, and no way to state another one. So the parts of `tokenizer.json` are
compared with what that code does (src/llama-vocab.cpp), and what differs is refused, or noted where it is small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from distillab.errors import ConfigError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_PREFIX = {"type": "Prepend", "prepend": "▁"}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def add_tokenizer(
    writer: GGUFWriter,
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int,
    stop_ids: list[int],
    adds_bos: bool,
    ids_alone: bool = False,
) -> tuple[str, ...]:
    """Add the vocabulary, its kind and the special ids; return what llama.cpp does differently.

    Args:
        width: rows of the embeddings; ids without a token get one that is never used.
        stop_ids: that end an answer; a file can name two.
        adds_bos: whether the begin token is put before a text.
        ids_alone: llama.cpp is given ids, and how it would split a text is not checked.
    Raises:
        ConfigError: llama.cpp would give other ids than the tokenizer.
    """
    stated = json.loads(tokenizer.backend_tokenizer.to_str())
    if stated["model"]["type"] != "BPE":
        raise _unlike("the model", stated["model"]["type"], "BPE")
    pieces = _pieces(tokenizer, width)
    if stated["model"].get("byte_fallback"):
        notes = _add_sentencepiece(writer, stated, pieces, ids_alone=ids_alone)
    else:
        notes = _add_byte_level(writer, stated)
    writer.add_token_list(pieces)
    writer.add_token_types(_types(tokenizer, stated, pieces))
    for name in ("bos", "eos", "unk", "pad"):
        id_ = stop_ids[0] if name == "eos" else getattr(tokenizer, f"{name}_token_id")
        if id_ is not None:
            getattr(writer, f"add_{name}_token_id")(id_)
    if len(stop_ids) > 1:
        writer.add_eot_token_id(stop_ids[1])
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
    more = (f"ids {stop_ids[2:]} end an answer too, and a GGUF file can state two",) if len(stop_ids) > 2 else ()
    return (*notes, *more)


def _pieces(tokenizer: PreTrainedTokenizerFast, width: int) -> list[str]:
    """Return the text of every id; where the embeddings have more rows than there are tokens, names for the rest."""
    known = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    if known and max(known) >= width:
        raise ConfigError(
            "The tokenizer has ids that the model has no embedding for.",
            facts=[f"highest id: {max(known)}, embeddings: {width}"],
        )
    return [known.get(id_, f"[PAD{id_}]") for id_ in range(width)]


def _types(tokenizer: PreTrainedTokenizerFast, stated: Mapping[str, Any], pieces: list[str]) -> list[int]:
    from gguf import TokenType

    added = {one["id"]: one for one in stated["added_tokens"]}
    known = set(tokenizer.get_vocab().values())
    of_bytes = bool(stated["model"].get("byte_fallback"))

    def kind(id_: int, piece: str) -> TokenType:
        if id_ not in known:
            return TokenType.UNUSED
        if of_bytes and piece == stated["model"]["unk_token"]:
            return TokenType.UNKNOWN
        if id_ in added:
            return TokenType.CONTROL if added[id_]["special"] else TokenType.USER_DEFINED
        return TokenType.BYTE if of_bytes and _BYTE.fullmatch(piece) else TokenType.NORMAL

    return [int(kind(id_, piece)) for id_, piece in enumerate(pieces)]


def _add_sentencepiece(
    writer: GGUFWriter, stated: Mapping[str, Any], pieces: list[str], *, ids_alone: bool
) -> tuple[str, ...]:
    """Add what llama.cpp needs to split as SentencePiece BPE: it merges the pair whose piece has the highest score."""
    prefix, notes = (True, ("it splits text otherwise: give it ids",)) if ids_alone else _spaces(stated)
    scores = {} if ids_alone else _scores(stated["model"])
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in stated["model"]["vocab"]]
    if missing:
        raise _unlike("the vocabulary", f"no piece for {len(missing)} bytes", "a piece for each of 256 bytes")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(prefix)
    writer.add_token_scores([scores.get(piece, 0.0) for piece in pieces])
    return notes


def _spaces(stated: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Return whether a text gets a space before it, and notes on spaces that only the tokenizer changes."""
    normalizer, before = stated["normalizer"], stated["pre_tokenizer"]
    steps = [normalizer] if normalizer and normalizer["type"] != "Sequence" else (normalizer or {"normalizers": []})
    steps = steps if isinstance(steps, list) else steps["normalizers"]
    if before is not None:
        whole = before["type"] == "Metaspace" and before["replacement"] == "▁" and before.get("split") is False
        if not whole or steps:
            raise _unlike("the pre-tokenizer", before["type"], "none, or Metaspace that does not split")
        scheme = before.get("prepend_scheme", "always")
        note = (
            "llama.cpp puts a space before text that follows a special token; the tokenizer does so at the start only"
        )
        return scheme != "never", (note,) if scheme == "first" else ()
    removed = [step for step in steps if step["type"] == "Replace" and step != _SPACES]
    if any("Regex" not in step["pattern"] or step["content"].strip() for step in removed):
        raise _unlike("the normalizer", json.dumps(removed, ensure_ascii=False), "one that changes nothing but spaces")
    if [step for step in steps if step not in removed] not in ([_PREFIX, _SPACES], [_SPACES]):
        raise _unlike("the normalizer", ", ".join(step["type"] for step in steps), "Prepend ▁ and Replace space by ▁")
    note = "the tokenizer removes some spaces (at the ends, or one of several) before it splits; llama.cpp keeps them"
    return _PREFIX in steps, (note,) if removed else ()


def _scores(model: Mapping[str, Any]) -> dict[str, float]:
    """Return the score of each piece: −rank of the first merge that makes it.

    Raises:
        ConfigError: no scores give the merges of the tokenizer: those of one piece lie between those of another, or a
            pair of pieces is not merged whose text is a piece.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    pairs = set()
    for rank, merge in enumerate(model["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        first.setdefault(left + right, rank)
        last[left + right] = rank
        pairs.add((left, right))
    order = sorted(first, key=first.__getitem__)
    between = [b for a, b in pairwise(order) if last[a] > first[b]]
    vocabulary = model["vocab"]
    unmerged = [
        piece
        for piece in first
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary and (piece[:cut], piece[cut:]) not in pairs
    ]
    if between or unmerged:
        shown = f"merges of {len(between)} pieces between those of others, {len(unmerged)} pairs that are not merged"
        raise _unlike("the merges", shown, "SentencePiece's: all pairs of a piece, piece by piece")
    return {piece: -float(rank) for piece, rank in first.items()}


def _add_byte_level(writer: GGUFWriter, stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Add what llama.cpp needs for byte-level BPE: the merges, and the name of how text is split before."""
    found = _pre_tokenizer(stated)
    nfc = {"type": "NFC"}
    if found is None or stated["normalizer"] not in (None, nfc):
        parts = {name: stated[name] for name in ("normalizer", "pre_tokenizer")}
        raise _unlike("its splitting", json.dumps(parts)[:200], "GPT-2's, SmolLM's, Llama 3's or Qwen 2's")
    # of Llama 3 alone llama.cpp takes a word that is a token whole, without merging
    if bool(stated["model"].get("ignore_merges")) != (found == "llama-bpe"):
        raise _unlike("ignore_merges", stated["model"].get("ignore_merges"), f"{found == 'llama-bpe'} for {found}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(found)
    merges = stated["model"]["merges"]
    writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
    note = "the tokenizer composes accents (NFC) before it splits; llama.cpp does not"
    return (note,) if stated["normalizer"] == nfc else ()


def _pre_tokenizer(stated: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of how a byte-level tokenizer splits text; None: it has none."""
    before = stated["pre_tokenizer"] or {}
    parts = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    *earlier, last = [{name: value for name, value in part.items() if name != "trim_offsets"} for part in parts]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    regex = last.get("use_regex", True)
    if not earlier:
        return "gpt-2" if regex else None
    if earlier == [{"type": "Digits", "individual_digits": True}]:
        return "smollm" if regex else None
    by_regex = {"type": "Split", "behavior": "Isolated", "invert": False}
    names = {_LLAMA_3: "llama-bpe", _QWEN_2: "qwen2"}
    found = earlier[0].get("pattern", {}).get("Regex") if len(earlier) == 1 and not regex else None
    same = found is not None and earlier[0] == {**by_regex, "pattern": {"Regex": found}}
    return names.get(str(found)) if same else None


def _unlike(part: str, found: Any, wanted: str) -> ConfigError:
    return ConfigError(
        "llama.cpp would split text into other tokens than this student's tokenizer.",
        facts=[f"{part}: {found}", f"llama.cpp: {wanted}"],
        fix="use --to merged, which transformers and vLLM read",
    )
