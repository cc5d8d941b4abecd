"""Show a row as the model reads it: token boundaries, special tokens, supervised tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from distillab.data.encoding import EncodedRow
from distillab.pairing.token_bytes import TokenMeaning

_OPEN, _CLOSE, _BORDER = "⟦", "⟧", "·"
# Two shades in turn show where one token ends and the next begins.
_LEARNED, _GIVEN, _SPECIAL = ("black on green", "black on bright_green"), ("dim", "dim underline"), "bold magenta"


def token_texts(ids: Sequence[int], meanings: Sequence[TokenMeaning]) -> list[str]:
    """Return the text of each token. Line ends are ↵, tabs ⇥, incomplete characters <0xNN>."""
    return [_text(meanings[number]) for number in ids]


def marked(row: EncodedRow, meanings: Sequence[TokenMeaning]) -> str:
    """Return the row in plain text: tokens separated by ·, supervised ones inside ⟦ ⟧."""
    texts = token_texts(row.input_ids.tolist(), meanings)
    parts = []
    for supervised, group in groupby(zip(row.answer_mask.tolist(), texts, strict=True), key=lambda pair: pair[0]):
        run = _BORDER.join(text for _, text in group)
        parts.append(f"{_OPEN}{run}{_CLOSE}" if supervised else run)
    return _BORDER.join(parts)


def coloured(row: EncodedRow, meanings: Sequence[TokenMeaning]) -> Text:
    """Return the row for a terminal: supervised tokens on green, in two shades; special tokens in magenta."""
    result = Text()
    ids = row.input_ids.tolist()
    for place, (number, supervised, text) in enumerate(
        zip(ids, row.answer_mask.tolist(), token_texts(ids, meanings), strict=True)
    ):
        style = (_LEARNED if supervised else _GIVEN)[place % 2]
        if meanings[number].kind == "special":
            style = f"{_SPECIAL} on green" if supervised else _SPECIAL
        result.append(text, style=style)
    return result


def _text(meaning: TokenMeaning) -> str:
    try:
        text = meaning.data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in meaning.data)
    text = text.replace("\n", "↵").replace("\t", "⇥")
    # Control characters are shown by their code.
    return "".join(character if character.isprintable() else f"<U+{ord(character):04X}>" for character in text)
