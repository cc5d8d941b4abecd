"""Find the reasoning in an answer by its markers, and keep or remove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from distillab.config.reasoning import ReasoningSettings
from distillab.models.generation import GeneratedText, continuation_text


@dataclass(frozen=True)
class Written:
    """The text that a model generated after a prompt.

    Attributes:
        answer: the text, with or without its reasoning, by the settings.
        reasoned: it holds reasoning, between markers.
        unfinished: the reasoning has no end, so no answer follows it.
    """

    answer: str
    reasoned: bool = False
    unfinished: bool = False


class AnswerText:
    """Extract the answer from the text that a model generated.

    Special tokens are no text and are left out, except in an answer whose reasoning markers are special tokens: without
    them the reasoning could not be separated from the answer.

    Args:
        tokenizer: the model's.
        settings: whether reasoning is kept, and its markers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ReasoningSettings) -> None:
        self._tokenizer = tokenizer
        self._markers = settings.reasoning_markers
        self._strips = settings.reasoning == "strip"
        self._in_markers = frozenset(
            number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special and any(token.content in marker for pair in self._markers for marker in pair)
        )

    def read(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> Written:
        """Return the answer that `ids` are, without the token that ended it."""
        special = not self._in_markers.isdisjoint(ids)
        text = continuation_text(self._tokenizer, prompt_ids, ids, special_tokens=special)
        return self.read_text(text, continuation_text(self._tokenizer, (), prompt_ids, special_tokens=True))

    def read_text(self, text: str, prompt: str = "") -> Written:
        """Return the answer that a text is; `prompt`: before it, where the reasoning can begin."""
        opened = next((pair for pair in self._markers if prompt.rstrip().endswith(pair[0])), None)
        rest, reasoned, unfinished = without_reasoning(text, self._markers, opened=opened)
        if self._strips:
            return Written(rest, reasoned, unfinished)
        # the start of the reasoning in the prompt is part of it
        begun = "" if opened is None or not text.strip() else prompt[prompt.rindex(opened[0]) :]
        return Written(begun + text, reasoned, unfinished)

    def whole(self, given: GeneratedText) -> str:
        """Return the text with the reasoning that was given apart, between the first pair of markers."""
        if not given.reasoning:
            return given.text
        begin, end = self._markers[0]
        if given.finish == "length" and not given.text:
            return f"{begin}\n{given.reasoning}"
        return f"{begin}\n{given.reasoning}\n{end}\n\n{given.text}"


def without_reasoning(
    text: str, markers: Sequence[tuple[str, str]], *, opened: tuple[str, str] | None = None
) -> tuple[str, bool, bool]:
    """Return a text without its reasoning and the spaces after it, whether it has any, and whether that has no end.

    Text before an end marker without a begin marker is reasoning too: some templates begin it in the prompt.

    >>> without_reasoning("<think>2 + 2</think> 4", [("<think>", "</think>")])
    ('4', True, False)
    >>> without_reasoning("2 + 2</think> 4", [("<think>", "</think>")])
    ('4', True, False)
    >>> without_reasoning("<think>2 + 2 is", [("<think>", "</think>")])
    ('', True, True)

    Args:
        markers: pairs of beginning and end.
        opened: the pair whose begin marker is in the prompt.
    """
    pair = opened or _only_ended(text, markers)
    kept, rest, reasoned = "", text, False
    while True:
        if pair is None:
            starts = [(at, found) for found in markers if (at := rest.find(found[0])) >= 0]
            if not starts:
                return kept + rest, reasoned, False
            at, pair = min(starts)
            kept, rest = kept + rest[:at], rest[at + len(pair[0]) :]
        reasoned = True
        _, end, rest = rest.partition(pair[1])
        if not end:
            return "", True, True
        pair, kept, rest = None, kept.rstrip(), rest.lstrip()


def _only_ended(text: str, markers: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the pair whose end marker is in the text before any begin marker."""
    first = min((at for begin, _ in markers if (at := text.find(begin)) >= 0), default=len(text))
    ends = [(at, pair) for pair in markers if 0 <= (at := text.find(pair[1])) < first]
    return min(ends)[1] if ends else None
