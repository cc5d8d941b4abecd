"""Templates that cut answers or write into them: what is learned is what is counted, asked for and compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.models.chat_students import chat_reader, sums, trained

from distillab.config.data import DataConfig
from distillab.config.evaluation import EvaluationConfig
from distillab.data.encoding import Dropped, EncodedRow
from distillab.data.examples import Example, Message, conversation_example, pair_example
from distillab.data.reading import Reader, load_reader
from distillab.data.splits import load_examples
from distillab.data.supervised_text import SupervisedText, supervised_text
from distillab.errors import ConfigError, DataError
from distillab.evaluation.protocol import evaluate
from distillab.runs.held_out import held_out_for

OPEN = (
    "{% for m in messages %}{% if m['role'] != 'assistant' %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% else %}"
)
CLOSE = "{% endif %}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
ASK_THINKING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
KEEP = "{{ '<|im_start|>assistant\n' + m['content'] + '<|im_end|>\n' }}"
TRIM = "{{ '<|im_start|>assistant\n' + m['content'] | trim + '<|im_end|>\n' }}"
# as R1's: reasoning is dropped
CUT = (
    "{% set c = m['content'] %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>assistant\n' + c + '<|im_end|>\n' }}"
)
# as Qwen3's: the last answer has its reasoning, or an empty one
EMPTY = (
    "{% set c = m['content'] %}{% set r = '' %}{% if '</think>' in c %}"
    "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% if loop.last %}"
    "{{ '<|im_start|>assistant\n<think>\n' + r + '\n</think>\n\n' + c + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>assistant\n' + c + '<|im_end|>\n' }}{% endif %}"
)
# as gpt-oss's: a header of special tokens and a word stands before the answer
CHANNEL = "{{ '<|im_start|>assistant<|channel|>final<|message|>' + m['content'] + '<|im_end|>\n' }}"
ASK_CHANNEL = "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>")
THOUGHT = "<think>\nTwo and two.\n</think>\n\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"


def _pair(answer: str) -> Example:
    return pair_example("k", "f:1", instruction="2+2?", context="", answer=answer)


def _reader(folder: Path, answer: str, ask: str = ASK) -> Reader:
    return chat_reader(folder, OPEN + answer + CLOSE + ask, special=SPECIAL)


def _row(reader: Reader, answer: str) -> EncodedRow:
    row = reader.encoder.encode(_pair(answer))
    assert isinstance(row, EncodedRow)
    return row


@pytest.mark.parametrize(
    ("answer", "rendered", "expected"),
    [
        ("4", "4", SupervisedText("4")),
        ("4", f"{NO_THOUGHT}4", SupervisedText("4", before=NO_THOUGHT, added=19)),
        (f"{THOUGHT}4", "\n\n4", SupervisedText("\n\n4", removed=len(THOUGHT) - 2)),
        ("  4\n", "4", SupervisedText("4", removed=3)),
        ("4\n", f"{NO_THOUGHT}4", SupervisedText("4", before=NO_THOUGHT, removed=1, added=19)),
        ("4", "4\n", SupervisedText("4", behind="\n", added=1)),
        ("think", f"{NO_THOUGHT}think", SupervisedText("think", before=NO_THOUGHT, added=19)),
        ("<think>a</think>4", "<think>b</think>4", SupervisedText("<think>b</think>4", removed=1, added=1)),
        (f"{THOUGHT}", "", SupervisedText("", removed=len(THOUGHT))),
    ],
)
def test_what_a_template_made_of_an_answer(answer: str, rendered: str, expected: SupervisedText) -> None:
    assert supervised_text(answer, rendered) == expected


@pytest.mark.parametrize(
    ("template", "answer", "removed", "added"),
    [
        (KEEP, f"{THOUGHT}4.", 0, 0),
        (CUT, f"{THOUGHT}4.", len(THOUGHT) - 2, 0),
        (CUT, "4.", 0, 0),
        (TRIM, "    4.\n\n", 6, 0),
        (EMPTY, "4.", 0, 19),
        (EMPTY, f"{THOUGHT}4.", 0, 0),
        (CHANNEL, "4.", 0, len("final")),
    ],
)
def test_cut_and_added_characters_are_counted(
    template: str, answer: str, removed: int, added: int, tmp_path: Path
) -> None:
    reader = _reader(tmp_path, template, ASK_CHANNEL if template == CHANNEL else ASK)
    counts = reader.encoder.encode_all([_pair(answer), _pair(answer)], source="rows").counts
    assert (counts.rows_cut_by_template, counts.characters_cut_by_template) == (2 * (removed > 0), 2 * removed)
    assert (counts.rows_added_to_by_template, counts.characters_added_by_template) == (2 * (added > 0), 2 * added)


@pytest.mark.parametrize(
    ("template", "answer"),
    [(KEEP, f"{THOUGHT}4."), (CUT, f"{THOUGHT}4."), (EMPTY, "4."), (EMPTY, f"{THOUGHT}4."), (TRIM, " é\n")],
)
def test_the_bytes_are_those_of_what_is_learned(template: str, answer: str, tmp_path: Path) -> None:
    reader = _reader(tmp_path, template)
    row = _row(reader, answer)
    taught = [int(i) for i, marked in zip(row.input_ids, row.answer_mask, strict=True) if marked]
    text = reader.tokenizer.decode(taught).removesuffix("<|im_end|>")
    assert held_out_for(reader, (_pair(answer),)).scored_bytes == (len(text.encode()),)


def test_the_reference_is_what_is_learned(tmp_path: Path) -> None:
    held_out = held_out_for(_reader(tmp_path, CUT), (_pair(f"{THOUGHT}4."),))
    assert held_out.references == ("\n\n4.",)


@pytest.mark.parametrize(("template", "ask"), [(EMPTY, ASK), (EMPTY, ASK_THINKING), (CHANNEL, ASK_CHANNEL)])
def test_an_answer_is_compared_without_what_the_template_writes(template: str, ask: str, tmp_path: Path) -> None:
    reader, rows = _reader(tmp_path, template, ask), sums()
    settings = EvaluationConfig(rows=4, generate_rows=4, max_new_tokens=40, batch_size=4)
    model = trained(reader, rows, steps=240)  # until every answer is known by heart
    judged = evaluate(model, held_out_for(reader, rows), settings, reader=reader, shared=None, label="it")
    assert judged.record.value("exact_match") == 1.0
    assert judged.answers == tuple(row.answer for row in rows)
    # and the figures are of that text
    learned_bytes = sum(map(reader.encoder.scored_bytes, rows))
    ends = judged.record.value("eos_nats")
    assert ends is not None
    nats = judged.record.nats_per_token * judged.record.tokens - ends * judged.record.n("held-out rows")
    assert judged.record.value("bits_per_byte") == pytest.approx(nats / math.log(2) / learned_bytes)


def test_an_answer_of_which_the_template_leaves_nothing_is_dropped(tmp_path: Path) -> None:
    assert _reader(tmp_path, CUT).encoder.encode(_pair(THOUGHT)) == Dropped("k", "empty_answer")


@pytest.mark.parametrize(("template", "answer"), [(CUT, f"{THOUGHT}4."), (KEEP, "4.")])
def test_a_prompt_that_opens_a_thought_is_not_called_a_rewritten_turn(
    template: str, answer: str, tmp_path: Path
) -> None:
    reader = _reader(tmp_path, template, ASK_THINKING)
    with pytest.raises(DataError, match=r"starts answers with other text(.|\n)*f:1(.|\n)*<think>(.|\n)*\{prompt\}"):
        reader.encoder.encode(_pair(answer))


def test_an_answer_that_goes_on_from_an_opened_thought_is_learned(tmp_path: Path) -> None:
    reader = _reader(tmp_path, KEEP, ASK_THINKING)
    assert _row(reader, f"{THOUGHT}4.").removed == len("<think>\n")
    assert reader.encoder.supervised_texts(_pair(f"{THOUGHT}4."))[-1].text == "Two and two.\n</think>\n\n4."


def test_a_teacher_is_asked_as_its_template_asks_and_scored_as_it_writes(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    _reader(folder, CUT, ASK_THINKING)
    teacher = load_reader(
        str(folder), revision=None, template="auto", kind="pair", max_tokens=160, requires_generation_prompt=False
    )
    prompt = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    asked = teacher.encoder.encode_prompt(_pair(f"{THOUGHT}4."))
    assert teacher.tokenizer.decode(asked) == f"{prompt}<think>\n"
    row = _row(teacher, f"{THOUGHT}4.")
    assert teacher.tokenizer.decode(row.input_ids) == f"{prompt}\n\n4.<|im_end|>"
    assert teacher.tokenizer.decode(row.input_ids[: row.prompt_length]) == prompt


TALK = conversation_example(
    "k",
    "f:1",
    (Message("user", "2+2?"), Message("assistant", "4."), Message("user", "And doubled?"), Message("assistant", "8.")),
)


def test_a_template_that_drops_earlier_thoughts_learns_the_last_answer(tmp_path: Path) -> None:
    encoder = chat_reader(tmp_path, OPEN + EMPTY + CLOSE + ASK, special=SPECIAL, kind="messages").encoder
    with pytest.raises(DataError, match=r"rewrites earlier turns(.|\n)*supervised_answers: last"):
        encoder.encode(TALK)
    given, taught = encoder.template.render(TALK.with_last_answer_alone())
    asked = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>\n"
    assert given.text == f"{asked}<|im_start|>user\nAnd doubled?<|im_end|>\n<|im_start|>assistant\n"
    assert taught.text == f"{NO_THOUGHT}8.<|im_end|>"
    assert [answer.text for answer in encoder.supervised_texts(TALK.with_last_answer_alone())] == ["8."]


def test_earlier_answers_are_read_and_not_learned(tmp_path: Path) -> None:
    """In the turns template: the same ids, of which the last answer's alone are marked."""
    reader = chat_reader(tmp_path, None, special=SPECIAL, kind="messages", form="turns")
    whole, last = (reader.encoder.encode(talk) for talk in (TALK, TALK.with_last_answer_alone()))
    assert isinstance(whole, EncodedRow) and isinstance(last, EncodedRow)
    assert whole.input_ids.tolist() == last.input_ids.tolist()
    assert reader.tokenizer.decode(last.input_ids[last.answer_mask]) == "8.<|endoftext|>"
    assert reader.tokenizer.decode(whole.input_ids[whole.answer_mask]) == "4.<|endoftext|>8.<|endoftext|>"


def test_the_setting_is_of_conversations(tmp_path: Path) -> None:
    turns = [{"role": turn.role, "content": turn.content} for turn in TALK.messages]
    talks = tmp_path / "talks.jsonl"
    talks.write_text(
        "".join(
            json.dumps({"messages": [*turns[:-2], *({**turn, "content": t} for turn in turns[-2:])]}) + "\n"
            for t in "ab"
        )
    )
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": t, "completion": t}) + "\n" for t in "ab"))

    def config(path: Path) -> DataConfig:
        return DataConfig(train={"path": str(path)}, held_out={"fraction": 0.5}, supervised_answers="last")

    splits = load_examples(config(talks))
    assert sorted(example.answers for example in (*splits.train, *splits.held_out)) == [("a",), ("b",)]
    with pytest.raises(ConfigError, match="is for conversations only"):
        load_examples(config(pairs))
