"""Known tokenizers by fingerprint, with larger models that use the same one."""

from __future__ import annotations

_TEACHERS: dict[str, tuple[str, ...]] = {
    # Llama 2, also TinyLlama-1.1B
    "d66f5133f536547449203285b72d29f8c8b657814d30984744e0e8b3de2add56": (
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-2-13b-hf",
    ),
    # Mistral 7B v0.1
    "5733eca659c4c41352e4c2a3fb60838a1d9c06c64b26eac276cd223fe41a6289": ("mistralai/Mistral-7B-v0.1",),
    # GPT-2
    "e03ce99a4e2809923449e8f5f085328098eecbd2207fab393290ecd497d550a5": (
        "openai-community/gpt2-large",
        "openai-community/gpt2-xl",
    ),
}


def teachers_with_tokenizer(fingerprint: str) -> tuple[str, ...]:
    """Return hub ids of models with the tokenizer of this fingerprint; empty if none is known.

    >>> teachers_with_tokenizer("no such fingerprint")
    ()
    """
    return _TEACHERS.get(fingerprint, ())
