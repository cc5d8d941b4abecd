"""A GGUF file in llama.cpp is the student in transformers: its ids, its text, its log-probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from distillab.errors import ConfigError
from distillab.export.finished import read_finished_run
from distillab.export.gguf_file import write_gguf
from distillab.export.modelfile import PromptForm, kind_of, modelfile, prompt_form
from distillab.gguf_header import read_header
from distillab.pairing.loading import load_tokenizer
from tests.cli.conftest import call
from tests.export.conftest import execute_tiny
from tests.export.llama_cpp import LlamaCpp, llama_cpp
from tests.gguf_files import CHATML, SPECIAL, Q, byte_level, tiny_llama

PROMPT = "Once upon a time there was a little dog."
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Lily and Ben: größe 🐶 𓀀 1,234!\n\nThey're 10 years old",
    "a = b<s>c</s> It's 2nd\tof\r\n\nthree",
    "1. one\n\n2. two   22\n\n10. ten  and 4,567",
)
SPACES = ("  two  and   three ", "\n\n  x\n   ", " ")
NOTE_OF_SPACES = "removes some spaces"


def written(
    file: Path, model: PreTrainedModel, tokenizer: Any, dtype: str = "f32", stop_ids: tuple[int, ...] = (2,)
) -> Any:
    begins = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return write_gguf(file, model, tokenizer, dtype=dtype, stop_ids=list(stop_ids), adds_bos=begins, name="test")


@torch.no_grad()
def largest_error(server: LlamaCpp, model: PreTrainedModel, ids: list[int], tokens: int = 20) -> float:
    """Compare greedy text, and the log-probabilities of the five most likely tokens at each place; in nats."""
    found, places = server.greedy(ids, tokens)
    whole = ids
    for _ in range(tokens):
        whole = [*whole, int(model(torch.tensor([whole])).logits[0, -1].argmax())]
    assert found == whole[len(ids) :]
    logp = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    errors = []
    for row, top in zip(logp[len(ids) - 1 :], places, strict=False):
        best = sorted(top.values(), reverse=True)
        errors += [abs(nats - float(row[id_])) for id_, nats in top.items()]
        errors += [abs(a - float(b)) for a, b in zip(best, row.topk(len(best)).values, strict=True)]
    assert len(errors) >= 5 * tokens  # of half of the places at least
    return max(errors)


def round_as_stored(model: PreTrainedModel, dtype: str) -> None:
    """Round the matrices to what the file holds."""
    kinds = {"f32": Q.F32, "f16": Q.F16, "q8_0": Q.Q8_0}
    for parameter in model.parameters():
        if parameter.ndim > 1:
            kind = kinds["f16" if dtype == "q8_0" and parameter.shape[-1] % 32 else dtype]
            stored = gguf.dequantize(gguf.quantize(parameter.detach().numpy(), kind), kind)
            parameter.data.copy_(torch.from_numpy(stored))


# llama.cpp rounds activations too, to f16 and to 8 bits
@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("stories260K-tok512", "f32", 1e-4),
        ("stories260K-tok512", "f16", 5e-3),
        ("smallmistral-stories", "f16", 5e-3),
        ("smallmistral-stories", "q8_0", 0.1),
    ],
)
def test_a_trained_model_writes_the_same_text(
    materials: Path, tmp_path: Path, name: str, dtype: str, most: float
) -> None:
    folder = materials / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(str(folder)).tokenizer
    notes = written(tmp_path / "model.gguf", model, tokenizer, dtype)
    assert [note for note in notes if NOTE_OF_SPACES in note] == [n for n in notes[:1] if "tok512" in name]
    with llama_cpp(tmp_path / "model.gguf") as server:
        assert server.ids(PROMPT) == tokenizer(PROMPT).input_ids
        before = largest_error(server, model, tokenizer(PROMPT).input_ids)
        round_as_stored(model, dtype)
        error = largest_error(server, model, tokenizer(PROMPT).input_ids)
    print(f"{name} {dtype}: {error:.1e} nats, {before:.1e} from the weights before they were rounded")
    assert error < most


@pytest.mark.parametrize("name", ["tinyllama-1.1b", "mistral-7b-v0.1", "gpt2", "smollm"])
def test_llama_cpp_splits_text_as_the_tokenizer(materials: Path, tmp_path: Path, name: str) -> None:
    if name == "smollm":
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_object=byte_level(single_digits=True), bos_token=SPECIAL[1], eos_token=SPECIAL[2]
        )
    else:
        tokenizer = load_tokenizer(str(materials / "tokenizers" / name)).tokenizer
    model = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(tokenizer) + 3, tie_word_embeddings=True))
    written(tmp_path / "model.gguf", model, tokenizer)
    with llama_cpp(tmp_path / "model.gguf") as server:
        for text in (*TEXTS, *SPACES):
            assert server.ids(text) == tokenizer(text).input_ids, text


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def random_model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": 320}
    made: PreTrainedModel
    if kind == "qwen2":
        made = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    elif kind == "llama 3":
        made = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=LLAMA_3))
    elif kind == "linear":
        rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
        made = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=rope))
    else:
        made = LlamaForCausalLM(LlamaConfig(**sizes, head_dim=32, attention_bias=True, mlp_bias=True))
    for parameter in made.parameters():  # so that each of them shows
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return made.eval()


@pytest.mark.parametrize("kind", ["qwen2", "llama 3", "linear", "biases and wide heads"])
def test_each_kind_of_model_is_the_same(tmp_path: Path, kind: str) -> None:
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=byte_level(single_digits=False), eos_token=SPECIAL[2])
    model = random_model(kind)
    written(tmp_path / "model.gguf", model, tokenizer)
    ids = torch.randint(3, 320, (100,), generator=torch.Generator().manual_seed(1)).tolist()
    with llama_cpp(tmp_path / "model.gguf") as server:
        assert largest_error(server, model, ids, tokens=8) < 1e-3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another activation": ({"hidden_act": "gelu"}, "activation gelu"),
    "another rotation": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
        "rotary positions: yarn",
    ),
    "a window": ({"sliding_window": 64}, "attention within 64 of 512 positions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_llama_cpp_has_not_is_refused(tmp_path: Path, case: str) -> None:
    changes, text = REFUSED[case]
    kind = MistralConfig if "sliding_window" in changes else LlamaConfig
    model = AutoModelForCausalLM.from_config(kind(**SIZES, vocab_size=320, **changes))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(single_digits=False), eos_token=SPECIAL[2])
    with pytest.raises(ConfigError, match="cannot be written as GGUF") as caught:
        written(tmp_path / "model.gguf", model, tokenizer)
    assert text in str(caught.value)


def unusual(kind: str) -> Tokenizer:
    """Tokenizers that look like those that llama.cpp knows, but split otherwise."""
    if kind == "Unigram":
        made = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
        made.decoder = decoders.Metaspace()
        return made
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "c", "ab", "bc", "abc"]
    merges = {
        "an unmerged pair": [("a", "b"), ("ab", "c"), ("b", "c")],
        "merges of one piece apart": [("a", "bc"), ("b", "c"), ("a", "b"), ("ab", "c")],
        "no bytes": [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")],
    }[kind]
    kept = pieces[:3] + pieces[-6:] if kind == "no bytes" else pieces
    vocabulary = {piece: id_ for id_, piece in enumerate(kept)}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Unigram", "the model: Unigram"),
        ("an unmerged pair", "1 pairs that are not merged"),
        ("merges of one piece apart", "merges of 1 pieces between"),
        ("no bytes", "no piece for 256 bytes"),
    ],
)
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tmp_path: Path, kind: str, text: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unusual(kind), eos_token="</s>")
    with pytest.raises(ConfigError, match="other tokens than this student") as caught:
        written(tmp_path / "model.gguf", tiny_llama(400), tokenizer)
    assert text in str(caught.value)


def test_another_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    backend = byte_level(single_digits=False)
    parts: list[Any] = [pre_tokenizers.Punctuation(), backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[2])
    with pytest.raises(ConfigError, match="other tokens than this student"):
        written(tmp_path / "model.gguf", tiny_llama(320), tokenizer)


def filled(form: PromptForm, turns: list[dict[str, str]]) -> str:
    """The text that Ollama makes, in the little of Go's templates that is used."""
    ranged = re.fullmatch(r"\{\{- range \.Messages \}\}(.*?)\{\{ end \}\}(.*)", form.template, re.DOTALL)
    if ranged is None:
        return form.template.replace("{{ .Prompt }}", turns[-1]["content"])
    if form.system and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": form.system}, *turns]
    each = (ranged[1].replace("{{ .Role }}", t["role"]).replace("{{ .Content }}", t["content"]) for t in turns)
    return "".join(each) + ranged[2]


TURNS = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]
LLAMA_3_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
)
OWN = "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[Q] ' + m['content'] + ' [A]' }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "turns", "begins", "note"),
    [
        (CHATML, TURNS, False, "as ChatML does"),
        (WITH_SYSTEM, TURNS, False, "as ChatML does"),
        (LLAMA_3_CHAT, TURNS, True, "as Llama 3 does"),
        (OWN, TURNS[:1], False, "the form of one question"),
    ],
)
def test_ollama_prompts_as_the_chat_template(whole: Path, template: str, turns: Any, begins: bool, note: str) -> None:
    run = read_finished_run(whole)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(single_digits=True), bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    tokenizer.chat_template = template
    if begins:  # as Llama 3's tokenizer, and unlike SmolLM2's, whose begin token begins every turn
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[1]} $A", special_tokens=[(SPECIAL[1], 1)]
        )
    form = prompt_form(run, tokenizer)
    wanted: Any = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert (SPECIAL[1] if begins else "") + filled(form, turns) == wanted
    assert form.adds_bos is begins and note in form.note


def test_a_run_is_exported_and_answers_as_in_transformers(whole: Path, tmp_path: Path) -> None:
    code, out, err = call("export", str(whole), "--to", "gguf", "--dtype", "q8_0", "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "note: prompts have the run's template: plain" in out
    file = tmp_path / "out" / "tiny-q8_0.gguf"
    header = read_header(file, error=ConfigError)
    assert {tensor.kind for tensor in header.tensors} == {"F32", "Q8_0", "F16"}
    assert "no multiple of 32 numbers: matrices: 1" in out
    assert header.metadata["general.name"] == "tiny"
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./tiny-q8_0.gguf\n" in text and 'TEMPLATE """{{ .Prompt }}\n"""' in text
    assert 'PARAMETER stop "</s>"' in text and "PARAMETER num_ctx 128" in text
    assert "llama-cli -m tiny-q8_0.gguf" in (tmp_path / "out" / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(whole / "student", dtype=torch.float32).eval()
    round_as_stored(model, "q8_0")
    with llama_cpp(file) as server:
        ids = load_tokenizer(str(whole / "student")).tokenizer("Which apples\n").input_ids
        assert server.ids("Which apples\n") == ids
        found, places = server.greedy(ids, 1)
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    # llama.cpp rounds activations to 8 bits too
    assert all(abs(nats - float(logp[id_])) < 5e-2 for id_, nats in places[0].items()), found


def test_a_student_of_plain_text_gets_the_raw_prompt(tiny_world: dict[str, Any], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "The house is red and old."}\n' * 20)
    data = {"train": {"path": str(rows)}, "held_out": {"first": 4}, "max_tokens": 64}
    run = read_finished_run(execute_tiny(tiny_world, tmp_path / "run", data=data, method="sft"))
    assert kind_of(run) == "text"
    assert prompt_form(run, load_tokenizer(str(run.student)).tokenizer).template == "{{ .Prompt }}"


def test_a_text_that_a_modelfile_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="Modelfile"):
        modelfile("a.gguf", PromptForm('say """ {{ .Prompt }}', "", False, "note"), stops=["</s>"], context=64)
