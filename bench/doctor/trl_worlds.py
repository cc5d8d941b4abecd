"""What the trainers of TRL are given: real tokenizers and texts, tiny models. Runs in the environment of the peers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distillab.demo.tokenizers import train_tokenizers
from distillab.files import read_json_lines
from distillab.pairing.loading import load_tokenizer

CHATML = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n{% else %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LLAMA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<s>[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }}</s>{% endif %}{% endfor %}"
)


class World:
    """The materials, as the trainers want them."""

    def __init__(self, materials: Path) -> None:
        self.materials = materials

    def tokenizer(self, name: str, pad: str, template: str | None = None) -> PreTrainedTokenizerFast:
        """A real tokenizer with a padding token, and a template where one is given."""
        tokenizer = load_tokenizer(str(self.materials / "tokenizers" / name)).tokenizer
        tokenizer.add_special_tokens({"pad_token": pad})
        if template is not None:
            tokenizer.chat_template = template
        return tokenizer

    def chatml(self) -> PreTrainedTokenizerFast:
        """GPT-2's tokenizer with ChatML's markers as tokens, of which the second ends an answer."""
        tokenizer = self.tokenizer("gpt2", "<|pad|>", CHATML)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
        return tokenizer

    def byte_level(self) -> PreTrainedTokenizerFast:
        """512 tokens of byte-level BPE, which GOLD wants, learned from the stories."""
        folder = Path(tempfile.mkdtemp())
        path, _ = train_tokenizers(self.stories(400)["text"], size=512, folder=folder)
        tokenizer = load_tokenizer(str(path)).tokenizer
        tokenizer.chat_template = PLAIN
        return tokenizer

    def rows(self, kind: str, count: int) -> list[dict[str, str]]:
        """The first rows of a text."""
        path = {
            "sums": self.materials / "text" / "gsm8k" / "train.jsonl",
            "tasks": self.materials / "text" / "dolly" / "dev.jsonl",
            "stories": self.materials / "text" / "tinystories" / "stories_dev.jsonl",
        }[kind]
        return read_json_lines(path)[:count]

    def sums(self, count: int) -> Dataset:
        """prompt and completion."""
        rows = self.rows("sums", count)
        return Dataset.from_list(
            [{"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"} for row in rows]
        )

    def chats(self, count: int, turns: int = 1) -> Dataset:
        """messages of a few turns."""
        rows = self.rows("sums", count * turns)
        talks = []
        for start in range(0, len(rows), turns):
            talk = []
            for row in rows[start : start + turns]:
                talk += [
                    {"role": "user", "content": row["question"]},
                    {"role": "assistant", "content": row["answer"]},
                ]
            talks.append({"messages": talk})
        return Dataset.from_list(talks)

    def stories(self, count: int, start: int = 0) -> Dataset:
        """text."""
        rows = self.rows("stories", start + count)[start:]
        return Dataset.from_list([{"text": row["text"][:400].replace("\n", " ")} for row in rows])

    def tales(self, count: int, start: int = 0) -> Dataset:
        """messages: the beginning of a story, and how it goes on."""
        texts = self.stories(count, start)["text"]
        return Dataset.from_list(
            [
                {"messages": [{"role": "user", "content": t[:60]}, {"role": "assistant", "content": t[60:200]}]}
                for t in texts
            ]
        )

    def teacher(self) -> LlamaForCausalLM:
        """The real small model of the 512 tokens."""
        return AutoModelForCausalLM.from_pretrained(self.materials / "models" / "stories260K-tok512")


def tiny(tokenizer: PreTrainedTokenizerFast, *, hidden: int = 16, layers: int = 1) -> LlamaForCausalLM:
    """A Llama with random weights for this tokenizer."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
