"""The rows of a store of answers: made from what a source gives, and read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from distillab.cache.rows import CachedRow
from distillab.cache.text import Finish, Text
from distillab.errors import CacheMismatch
from distillab.models.generation import Generated, GeneratedText
from distillab.teachers.protocol import Prompt
from distillab.teachers.reasoning import AnswerText


@dataclass(frozen=True)
class Answer:
    """The teacher's answer to a prompt.

    Attributes:
        key: of the prompt.
        number: of the answer, among those to its prompt.
        answer: the text.
        finish: how it ended.
        tokens: number of tokens, without the stop token; of a source that gives text, by the tokenizer of the store.
        reasoned: it has reasoning, or had it before that was removed.
        unfinished: the reasoning has no end.
    """

    key: str
    number: int
    answer: str
    finish: Finish
    tokens: int
    reasoned: bool = False
    unfinished: bool = False


@dataclass(frozen=True)
class AnswerRows:
    """Makes rows of a store from what a source gives, and reads them.

    Attributes:
        tokenizer: of the prompts' ids. text: finds reasoning. stop_ids: the first one stands for the end of a text.
    """

    tokenizer: PreTrainedTokenizerBase
    text: AnswerText
    stop_ids: tuple[int, ...] = ()

    def row(self, prompt: Prompt, number: int, output: Generated | GeneratedText) -> CachedRow:
        """Return the row of an answer."""
        if isinstance(output, GeneratedText):
            whole = self.text.whole(output)
            written = tuple(self.tokenizer.encode(whole, add_special_tokens=False))
            written += self.stop_ids[:1] if output.finish == "stop" else ()
            section = Text(self.text.read_text(whole).answer, output.finish)
        else:
            # the stop token is generated too, so an answer of only that token is a row like any other
            written = output.scored_ids
            answer = self.text.read(prompt.ids, output.ids).answer
            section = Text(answer, "length" if output.stop_id is None else "stop")
        mask = np.zeros(len(prompt.ids) + len(written), dtype=np.bool_)
        mask[len(prompt.ids) :] = True
        ids = np.asarray([*prompt.ids, *written], dtype=np.int32)
        return CachedRow(key=key_of(prompt, number), input_ids=ids, answer_mask=mask, sections={"text": section})

    def answer(self, row: CachedRow, prompt: Prompt, number: int, *, where: str) -> Answer:
        """Return the answer of a row.

        Raises:
            CacheMismatch: it belongs to another prompt.
        """
        prompt_ids, written = np.split(row.input_ids, [len(prompt.ids)])
        if row.key != key_of(prompt, number) or not np.array_equal(prompt_ids, prompt.ids):
            raise CacheMismatch(
                "A stored answer belongs to another prompt.",
                where=where,
                facts=[
                    f"stored {row.key}: {prompt_ids.tolist()[:20]}",
                    f"this run {key_of(prompt, number)}: {prompt.ids[:20]}",
                ],
                fix="use another folder, or delete this one",
            )
        stored = row.sections["text"]
        assert isinstance(stored, Text)
        tokens = int(row.answer_mask.sum()) - (stored.finish == "stop")
        found = self.text.read(prompt.ids, written[:tokens].tolist())
        return Answer(
            key=prompt.key,
            number=number,
            answer=stored.answer,
            finish=stored.finish,
            tokens=tokens,
            reasoned=found.reasoned,
            unfinished=found.unfinished,
        )


def key_of(prompt: Prompt, number: int) -> str:
    """Return the key of an answer's row."""
    return f"{prompt.key}/{number}"
