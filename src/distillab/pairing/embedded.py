"""Find tokens that a model has no embedding row for: added to the tokenizer without resizing the model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from distillab.errors import DataError
from distillab.pairing.loading import LoadedTokenizer

_SHOWN = 4
_ROLES = ("pad", "bos", "eos", "unk")


def require_embedded(loaded: LoadedTokenizer, *, width: int | None, role: str) -> None:
    """Check that the model has a row for every token that can be put into a batch.

    These are the padding, begin, end and unknown token, every token that text can produce, and those that the chat
    template writes. Other special tokens can lie beyond the rows (Gemma 3 has one for images): nothing writes them.

    Args:
        width: rows of the model's embeddings, as config.json states them; None if unknown.
        role: "teacher" or "student", for the message.
    Raises:
        DataError: a token has no row.
    """
    if width is None:
        return
    beyond = _beyond(loaded.tokenizer, width)
    if not beyond:
        return
    named = [f"{token!r} has id {number}" for number, token in sorted(beyond.items())]
    more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    padding = loaded.tokenizer.pad_token_id in beyond and len(beyond) == 1
    raise DataError(
        f"The {role}'s tokenizer has tokens that its model has no embedding for.",
        where=loaded.path,
        facts=[
            ", ".join(named[:_SHOWN]) + more,
            f"rows of the embeddings (vocab_size of config.json): {width}, so the highest id is {width - 1}",
        ],
        fix=("name a token that the model has as pad_token in tokenizer_config.json (EOS does); or " if padding else "")
        + "use the tokenizer that was saved with the model; or once: "
        "model.resize_token_embeddings(len(tokenizer)), save both, and use that folder",
    )


def _beyond(tokenizer: PreTrainedTokenizerFast, width: int) -> dict[int, str]:
    """Return id -> token for tokens that can be put into a batch and have an id of `width` or more."""
    outside = {number: token for token, number in tokenizer.get_vocab().items() if number >= width}
    if not outside:
        return {}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    roles = {getattr(tokenizer, f"{role}_token_id") for role in _ROLES}
    template = str(tokenizer.chat_template or "")
    return {
        number: token
        for number, token in outside.items()
        if number in roles or number not in special or token in template
    }
