"""Write a student as a GGUF file, which llama.cpp and Ollama read.

The package gguf has the container, the names of tensors and the quantisation; here is what llama.cpp expects of a model
of the Llama family (src/llama-model.cpp). The conversion script of llama.cpp is in no package that its authors publish.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from distillab.errors import ConfigError
from distillab.export.finished import FinishedRun
from distillab.export.gguf_vocabulary import add_tokenizer
from distillab.export.modelfile import modelfile, prompt_form
from distillab.export.weights import stop_ids, student_tokenizer, whole_student
from distillab.files import write_text

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
_ROPES = ("default", "linear", "llama3")
_QUANTISED_BLOCK = 32


def write_gguf_folder(run: FinishedRun, folder: Path, *, dtype: str) -> tuple[str, tuple[str, ...]]:
    """Write the GGUF file and a Modelfile; return how they are run, and what is not as in transformers.

    Args:
        dtype: of the matrices: f32, f16 or q8_0.
    Raises:
        ConfigError: llama.cpp has no such model, or would split text otherwise.
    """
    tokenizer, stops = student_tokenizer(run), stop_ids(run)
    form = prompt_form(run, tokenizer)
    model = whole_student(run)
    name = f"{run.record.name}-{dtype}.gguf"
    notes = write_gguf(
        folder / name, model, tokenizer, dtype=dtype, stop_ids=stops, adds_bos=form.adds_bos, name=run.record.name
    )
    stop_texts = [str(tokenizer.convert_ids_to_tokens(id_)) for id_ in stops]
    context = int(model.config.max_position_embeddings)
    write_text(folder / "Modelfile", modelfile(name, form, stops=stop_texts, context=context))
    use = f"llama-cli -m {name}\n\nollama create {run.record.name} -f Modelfile\nollama run {run.record.name}"
    return use, (*notes, form.note)


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    dtype: str,
    stop_ids: list[int],
    adds_bos: bool,
    name: str,
    ids_alone: bool = False,
) -> tuple[str, ...]:
    """Write one GGUF file; return notes on what llama.cpp does differently.

    Args:
        dtype: of the matrices; vectors are float32. A matrix whose rows are no multiple of 32 wide is f16 in q8_0.
        stop_ids: that end an answer.
        adds_bos: whether the begin token is put before a text.
        ids_alone: the program that reads it is given ids, and never splits a text.
    Raises:
        ConfigError: see `write_gguf_folder`; or the package gguf is not installed.
    """
    gguf = _gguf()
    config = model.config
    _require_convertible(config)
    writer = gguf.GGUFWriter(file, ARCHITECTURES[config.model_type])
    _add_sizes(writer, config, name)
    notes = add_tokenizer(
        writer,
        tokenizer,
        width=int(config.vocab_size),
        stop_ids=stop_ids,
        adds_bos=adds_bos,
        ids_alone=ids_alone,
    )
    kinds = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
    kinds["q8_0"] = gguf.GGMLQuantizationType.Q8_0
    file_types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
    writer.add_file_type(file_types.get(dtype, gguf.LlamaFileType.MOSTLY_Q8_0))
    narrow = 0
    for called, tensor in _tensors(model):
        kind = kinds[dtype] if tensor.ndim > 1 else kinds["f32"]
        if kind == kinds["q8_0"] and tensor.shape[-1] % _QUANTISED_BLOCK:
            kind, narrow = kinds["f16"], narrow + 1
        if kind == kinds["f16"] and np.abs(tensor).max() > np.finfo(np.float16).max:
            raise ConfigError("A weight is beyond the range of f16.", where=called, fix="use --dtype f32")
        writer.add_tensor(called, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    few = f"f16 instead of q8_0, because their rows are no multiple of {_QUANTISED_BLOCK} numbers: matrices: {narrow}"
    return (*notes, few) if narrow else notes


def _require_convertible(config: PreTrainedConfig) -> None:
    rope = _rope(config)
    window, positions = getattr(config, "sliding_window", None), config.max_position_embeddings
    if not getattr(config, "use_sliding_window", True):
        window = None
    wrong = {
        f"model_type {config.model_type}": config.model_type not in ARCHITECTURES,
        f"activation {config.hidden_act}": config.hidden_act != "silu",
        f"rotary positions: {rope['rope_type']}": rope["rope_type"] not in _ROPES,
        f"attention within {window} of {positions} positions": window is not None and window < positions,
        "rotary positions on a part of each head": float(rope.get("partial_rotary_factor", 1.0)) != 1.0,
    }
    found = [fact for fact, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ConfigError(
            "A student of this kind cannot be written as GGUF.",
            facts=found,
            fix=f"model types that can: {', '.join(ARCHITECTURES)}; or use --to merged, which vLLM reads",
        )


def _rope(config: PreTrainedConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "default", **(getattr(config, "rope_parameters", None) or {})}
    return found


def _head_width(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_sizes(writer: GGUFWriter, config: PreTrainedConfig, name: str) -> None:
    from gguf import RopeScalingType

    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(_head_width(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights in float32 under llama.cpp's names."""
    gguf = _gguf()
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    if _rope(config)["rope_type"] == "llama3":
        yield "rope_freqs.weight", _rope_factors(config)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise ConfigError("llama.cpp has no place for a weight of this student.", where=name)
        weight = tensor.float()
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            weight = _interleaved(weight, heads)
        yield called, weight.contiguous().numpy()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return the rows of each head in llama.cpp's order: 0, d/2, 1, d/2 + 1, …

    transformers rotates row i with row i + d/2, and llama.cpp with its neighbour.
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _rope_factors(config: PreTrainedConfig) -> np.ndarray:
    """Return by how much Llama 3.1 slows down each frequency: (head width / 2,)."""
    width = _head_width(config)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = _rope(config)["rope_theta"] ** -(torch.arange(0, width, 2).float() / width)
    return (plain / slowed).numpy()


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "A GGUF file is written by the package gguf, which is not installed.", fix='pip install "distillab[gguf]"'
        ) from error
    return gguf
