"""Model folders: weights, configs, tokenizers, architectures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    LlamaForCausalLM,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    RwkvConfig,
    T5Config,
)

from bench.broken.case import TRAIN, Case, both, changed, cut, file, removed, small_config, write_rows

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4f' * 32}\nsize 2200119664\n"
PAGE = "<!doctype html><html><body>Access to this model is restricted. Log in.</body></html>"
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
WEIGHTS, CONFIG, TOKENIZER = "model/model.safetensors", "model/config.json", "model/tokenizer.json"
CHECK = ("check", "./teacher", "./model")


def _renamed(prefix: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file({prefix + name: w for name, w in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})

    return make


def _sharded(folder: Path) -> Path:
    (folder / WEIGHTS).unlink()
    model = LlamaForCausalLM(small_config(_tokens(folder)))
    model.save_pretrained(folder / "model", max_shard_size="6KB")
    return sorted((folder / "model").glob("model-*.safetensors"))[-1]


def _shard_gone(folder: Path) -> None:
    _sharded(folder).unlink()


def _shard_pointer(folder: Path) -> None:
    _sharded(folder).write_text(POINTER)


def _no_index(folder: Path) -> None:
    _sharded(folder)
    (folder / "model/model.safetensors.index.json").unlink()


def _adapter(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model/adapter_model.safetensors")
    (folder / "model/adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')


def _adapter_alone(folder: Path) -> None:
    _adapter(folder)
    (folder / CONFIG).unlink()


def _gguf(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model/model-q4_k_m.gguf").write_bytes(b"GGUF" + bytes(64))


def _own_head(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.weight"] = torch.randn_like(weights["lm_head.weight"])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    changed(CONFIG, tie_word_embeddings=True)(folder)


def _added(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        change(tokenizer)
        tokenizer.save_pretrained(folder / "model")

    return make


_PAD = _added(lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}))


def _template(text: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        _added(lambda tokenizer: setattr(tokenizer, "chat_template", text))(folder)
        answer = {"role": "assistant", "content": "Hello."}
        rows = [{"messages": [{"role": "user", "content": f"Hello, {n}?"}, answer]} for n in range(12)]
        write_rows(folder / "rows.jsonl", rows)

    return make


def _built(config: Callable[[int], PreTrainedConfig]) -> Callable[[Path], object]:
    """Another architecture with random weights, in the model's folder."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(_tokens(folder)))
        model.save_pretrained(folder / "model")

    return make


def _tokens(folder: Path) -> int:
    return int(json.loads((folder / CONFIG).read_text())["vocab_size"])


def _t5(folder: Path) -> None:
    T5Config(vocab_size=_tokens(folder), d_model=16, num_layers=1, num_heads=2).save_pretrained(folder / "model")


_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2}
_ATTENTION: dict[str, Any] = {"num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 128}
_BERT = _built(lambda n: BertConfig(vocab_size=n, **_SMALL, **_ATTENTION))
_MAMBA = _built(lambda n: MambaConfig(vocab_size=n, state_size=4, eos_token_id=0, pad_token_id=0, **_SMALL))
_RWKV = _built(lambda n: RwkvConfig(vocab_size=n, context_length=128, **_SMALL))
_MIXTRAL = _built(
    lambda n: MixtralConfig(
        vocab_size=n, num_local_experts=2, output_router_logits=True, num_key_value_heads=2, **_SMALL, **_ATTENTION
    )
)


def _quantised(method: str, **settings: Any) -> Callable[[Path], object]:
    return changed(CONFIG, quantization_config={"quant_method": method, **settings})


def _taught(folder: Path) -> None:
    """Make the model the teacher."""
    (folder / "teacher").rename(folder / "sound")
    (folder / "model").rename(folder / "teacher")
    (folder / "sound").rename(folder / "model")


TEACH = (*TRAIN, "method=logits", "teacher.path=./teacher")
_GPTQ = _quantised("gptq", bits=4, group_size=128)
_AWQ = _quantised("awq", bits=4, group_size=128, version="gemm", zero_point=True)

WEIGHT_CASES = (
    Case("weights", "a git-LFS pointer", file(WEIGHTS, POINTER), TRAIN, ("git-LFS pointer", "git lfs pull")),
    Case("weights", "a web page", file(WEIGHTS, PAGE), TRAIN, ("web page",)),
    Case("weights", "empty", file(WEIGHTS, b""), TRAIN, ("it is empty",)),
    Case("weights", "random bytes", file(WEIGHTS, b"\xff" * 500), TRAIN, ("damaged, or cut off",)),
    Case("weights", "cut off", cut(WEIGHTS), TRAIN, ("damaged, or cut off",)),
    Case("weights", "missing", removed(WEIGHTS), TRAIN, ("has no weights",)),
    Case(
        "weights",
        "a .bin that is a pointer",
        both(removed(WEIGHTS), file("model/pytorch_model.bin", POINTER)),
        TRAIN,
        ("git-LFS pointer",),
    ),
    Case(
        "weights",
        "a .bin that torch did not write",
        both(removed(WEIGHTS), file("model/pytorch_model.bin", b"\x80nothing")),
        TRAIN,
        ("cannot be loaded",),
    ),
    Case("weights", "a part is missing", _shard_gone, TRAIN, ("A part of the student's weights is missing",)),
    Case("weights", "a part is a pointer", _shard_pointer, TRAIN, ("git-LFS pointer",)),
    Case("weights", "parts without their index", _no_index, TRAIN, ("index",)),
    Case("weights", "saved through torch.compile", _renamed("_orig_mod."), TRAIN, ("torch.compile", "removeprefix")),
    Case("weights", "saved through DDP", _renamed("module."), TRAIN, ("DDP", "removeprefix")),
    Case("weights", "an adapter beside a config", _adapter, TRAIN, ("merge_and_unload",)),
    Case("weights", "an adapter alone", _adapter_alone, TRAIN, ("merge_and_unload",)),
    Case("weights", "a folder of GGUF files", _gguf, TRAIN, ("to use a GGUF file, give its path",)),
    Case("weights", "a damaged GGUF file", _gguf, (*TRAIN, "student.path=model/model-q4_k_m.gguf"), ("damaged",)),
    Case(
        "weights", "a teacher's pointer", file("teacher/model.safetensors", POINTER), TEACH, ("The teacher's weight",)
    ),
    Case("weights", "a head beside tied embeddings", _own_head, TRAIN, ("held-out ",), works=True),
)

CONFIG_CASES = (
    Case("config", "fewer layers than the weights", changed(CONFIG, num_hidden_layers=1), TRAIN, ("no place for",)),
    Case("config", "more layers than the weights", changed(CONFIG, num_hidden_layers=3), TRAIN, ("lack parameters",)),
    Case("config", "another width", changed(CONFIG, intermediate_size=32), TRAIN, ("other shapes",)),
    Case("config", "more tokens than embeddings", changed(CONFIG, vocab_size=400), TRAIN, ("other shapes",)),
    Case("config", "no heads", changed(CONFIG, num_attention_heads=0), TRAIN, ("config.json cannot be used",)),
    Case("config", "a negative width", changed(CONFIG, hidden_size=-16), TRAIN, ("cannot be",)),
    Case(
        "config",
        "a count as text",
        changed(CONFIG, vocab_size="many"),
        TRAIN,
        ("config.json cannot be used", "vocab_size"),
    ),
    Case("config", "an unknown model_type", changed(CONFIG, model_type="llamma"), TRAIN, ("cannot be used",)),
    Case("config", "missing", removed(CONFIG), TRAIN, ("has no config.json",)),
    Case("config", "empty", file(CONFIG, ""), TRAIN, ("config.json",)),
    Case("config", "a list", file(CONFIG, "[]"), TRAIN, ("config.json",)),
    Case("config", "100,000 deep", file(CONFIG, DEEP), TRAIN, ("config.json",)),
    Case("config", "an encoder", _BERT, TRAIN, ("reads ahead",)),
    Case("config", "an encoder-decoder", _t5, TRAIN, ("cannot be loaded",)),
    Case("config", "a quantised student", _quantised("bitsandbytes", load_in_4bit=True), TRAIN, ("cannot be trained",)),
    Case("config", "a GPTQ teacher, package missing", both(_GPTQ, _taught), TEACH, ("optimum",)),
    Case("config", "an AWQ teacher, package missing", both(_AWQ, _taught), TEACH, ("gptqmodel",)),
    Case("config", "a teacher quantised by an unknown method", both(_quantised("exl2"), _taught), TEACH, ("exl2",)),
    Case("architecture", "Mamba", _MAMBA, TRAIN, ("held-out ",), works=True),
    Case("architecture", "RWKV", _RWKV, TRAIN, ("held-out ",), works=True),
    Case("architecture", "Mamba, packed", _MAMBA, (*TRAIN, "training.packing=true"), ("cannot be packed",)),
    Case("architecture", "RWKV, padded left", _RWKV, (*TRAIN, "training.padding_side=left"), ("padding_side: right",)),
    Case(
        "architecture",
        "attention of a teacher that has none",
        both(_MAMBA, _taught),
        (*TRAIN, "method=attention", "teacher.path=./teacher"),
        ("compares attention",),
    ),
    Case("architecture", "experts with router logits", _MIXTRAL, TRAIN, ("held-out ",), works=True),
)

TOKENIZER_CASES = (
    Case("tokenizer", "a git-LFS pointer", file(TOKENIZER, POINTER), CHECK, ("git-LFS pointer",)),
    Case("tokenizer", "a web page", file(TOKENIZER, PAGE), CHECK, ("web page",)),
    Case("tokenizer", "empty", file(TOKENIZER, ""), CHECK, ("not JSON",)),
    Case("tokenizer", "cut off", cut(TOKENIZER), CHECK, ("not JSON",)),
    Case("tokenizer", "an empty object", file(TOKENIZER, "{}"), CHECK, ("not a tokenizer",)),
    Case("tokenizer", "100,000 deep", file(TOKENIZER, DEEP), CHECK, ("tokenizer.json",)),
    Case("tokenizer", "missing", removed(TOKENIZER), CHECK, ("no tokenizer files",)),
    Case("tokenizer", "settings that are not JSON", file("model/tokenizer_config.json", "{"), CHECK, ("tokenizer",)),
    Case("tokenizer", "[PAD] beyond the embeddings, check", _PAD, CHECK, ("'[PAD]' has id",)),
    Case("tokenizer", "[PAD] beyond the embeddings, train", _PAD, TRAIN, ("'[PAD]' has id",)),
    Case(
        "tokenizer",
        "[PAD] beyond the embeddings, preflight",
        _PAD,
        ("doctor", "preflight", "recipe.yaml"),
        ("'[PAD]'",),
    ),
    Case(
        "tokenizer",
        "added tokens beyond the embeddings",
        _added(lambda tokenizer: tokenizer.add_tokens(["plus", "sum"])),
        ("data", "rows.jsonl", "--tokenizer", "./model"),
        ("'plus' has id",),
    ),
    Case(
        "tokenizer",
        "no EOS",
        both(file("model/special_tokens_map.json", "{}"), changed("model/tokenizer_config.json", eos_token=None)),
        TRAIN,
        ("no EOS token",),
    ),
    Case("tokenizer", "an invalid template", _template("{% for m in %}"), TRAIN, ("template",)),
    Case(
        "tokenizer",
        "a template without an end",
        _template("{% for i in range(10**9) %}x{% endfor %}"),
        TRAIN,
        ("template",),
    ),
    Case(
        "tokenizer",
        "a template that raises an error",
        _template("{{ raise_exception('no such role') }}"),
        TRAIN,
        ("no such role",),
    ),
)
CASES = (*WEIGHT_CASES, *CONFIG_CASES, *TOKENIZER_CASES)
