"""Rows and answers that are spoiled in one way each, and the id under which that has to be found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.doctor.data_samples import Data, pairs

from distillab.doctor.data.subject import DataSubject, TeacherText

Spoil = Callable[[Data], DataSubject]


@dataclass(frozen=True)
class Fault:
    name: str
    id: str
    severity: str
    spoil: Spoil


FAULTS: list[Fault] = []


def add(name: str, id: str, severity: str, spoil: Spoil) -> None:
    FAULTS.append(Fault(name, id, severity, spoil))


def fault(id: str, severity: str) -> Callable[[Spoil], Spoil]:
    """The same where a fault takes several lines."""

    def keep(spoil: Spoil) -> Spoil:
        add(spoil.__name__, id, severity, spoil)
        return spoil

    return keep


def each(change: Callable[[int, str, str], tuple[str, str]]) -> Spoil:
    """Every row changed, by its number, prompt and answer."""
    return lambda data: mapped(data, change)


def mapped(data: Data, change: Callable[[int, str, str], tuple[str, str]]) -> DataSubject:
    return data.subject([change(number, prompt, answer) for number, (prompt, answer) in enumerate(data.rows)])


@fault("prompts-with-several-answers", "warning")
def labels_contradict(data):
    asked = [(p, "yes" if n % 2 else "no") for n, (p, _) in enumerate(data.rows)]
    return data.subject([*asked, *((p, "no" if a == "yes" else "yes") for p, a in asked[:30])])


@fault("lowest-loss", "note")
def sampled_answers_have_a_floor(data):
    return data.subject([(p, f"{word} {p[:40]}") for p, _ in data.rows[:60] for word in ("I think", "Well,", "It is")])


@fault("train-held-out-overlap", "warning")
def near_copies(data):
    rows = [(p.replace("How ", "Tell me how ", 1), a + " Done.") for p, a in data.rows[:10]]
    return data.subject(held_out=pairs([*rows, *data.judged], first=10_000))


@fault("held-out-prompts-in-train", "warning")
def the_same_prompts_with_other_answers(data):
    rows = [(p, " ".join(reversed(a.split()))) for p, a in data.rows[:40]]
    return data.subject(held_out=pairs(rows, first=10_000))


@fault("held-out-answers-in-train", "warning")
def paraphrased_prompts(data):
    rows = [(f"Question {n}: {' '.join(reversed(p.split()))}", a) for n, (p, a) in enumerate(data.rows[:20])]
    return data.subject(held_out=pairs(rows, first=10_000))


@fault("prompts-already-rendered", "warning")
def a_template_inside_of_a_template(data):
    rows = [(f"### Instruction:\n{p}\n\n### Response:\n", a) for p, a in data.rows]
    return data.subject(rows, student=data.reader("alpaca"))


@fault("answers-of-other-prompts", "warning")
def answers_shifted_by_one(data):
    answers = [answer for _, answer in data.rows]
    return data.subject([(p, answers[n - 1]) for n, (p, _) in enumerate(data.rows)])


@fault("answers-of-other-prompts", "warning")
def answers_shuffled(data):
    answers = [answer for _, answer in data.rows]
    random.Random(0).shuffle(answers)
    return data.subject([(p, answers[n]) for n, (p, _) in enumerate(data.rows)])


@fault("language-change", "warning")
def some_answers_in_another_script(data):
    russian = "Ответ на этот вопрос можно найти, если сложить все числа из условия задачи."
    return mapped(data, lambda n, p, a: (p, russian if n % 12 == 0 else a))


@fault("language-change", "warning")
def some_answers_in_another_language(data):
    german = "Das ist nicht so schwer, denn die Zahlen werden zuerst addiert und dann mit der anderen Zahl verglichen."
    return mapped(data, lambda n, p, a: (p, german if n % 12 == 0 else a))


@fault("teacher-refuses", "warning")
def the_teacher_refuses(data):
    said = "I’m sorry, but as an AI language model I can't help with that."
    return data.taught([said if n % 9 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-repeats-prompt", "warning")
def the_teacher_repeats_questions(data):
    both = enumerate(zip(data.rows, data.written, strict=True))
    return data.taught([f"{p.upper()} {text}" if n % 5 == 0 else text for n, ((p, _), text) in both])


@fault("teacher-changes-language", "warning")
def the_teacher_changes_the_script(data):
    said = "我们先把所有的数字加起来,然后再除以二。"
    return data.taught([said if n % 10 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-copies-reference", "warning")
def half_of_the_references_were_stored(data):
    good = data.taught()
    texts = [
        TeacherText(text.prompt, example.answer, True) if n % 2 else text
        for n, (text, example) in enumerate(zip(good.teacher_texts, good.train, strict=True))
    ]
    return replace(good, teacher_texts=tuple(texts))


# fmt: off
add("the_answers_are_in_another_column", "answers-empty", "error", each(lambda n, p, a: (p, "")))
add("some_answers_are_blank", "answers-empty", "warning", each(lambda n, p, a: (p, " \n" if n % 10 == 0 else a)))
add("rows_longer_than_max_tokens", "answers-cut-off", "warning",
    lambda data: data.subject(student=data.reader(max_tokens=300)))
add("long_prompts", "prompts-fill-rows", "warning", each(lambda n, p, a: (p * 12 if n % 20 == 0 else p, a)))
add("no_prompt_fits", "prompts-fill-rows", "error", lambda data: data.subject(student=data.reader(max_tokens=30)))
add("labels_of_one_token", "answers-one-token", "note", each(lambda n, p, a: (p, "ab"[n % 2])))
add("a_default_instead_of_answers", "answers-equal", "warning",
    each(lambda n, p, a: (p, "No answer found." if n % 5 else a)))
add("rows_twice", "duplicated-rows", "warning", lambda data: data.subject([*data.rows, *data.rows[:20]]))
add("rows_twice_in_other_case", "duplicated-rows", "warning",
    lambda data: data.subject([*data.rows, *((p.upper(), f" {a.lower()}") for p, a in data.rows[:20])]))
add("several_samples_a_prompt", "prompts-with-several-answers", "note",
    lambda data: data.subject([*data.rows, *((p, f"So: {a}") for p, a in data.rows[:60])]))
add("prompts_without_content", "lowest-loss", "warning",
    lambda data: data.subject([("Continue.", answer) for _, answer in data.rows]))
add("labels_at_random", "lowest-loss", "warning",
    lambda data: data.subject([(p, str(n * 7 % 100)) for n, (p, _) in enumerate(data.rows[:4] * 30)]))
add("held_out_rows_are_training_rows", "train-held-out-overlap", "error",
    lambda data: data.subject(held_out=pairs(data.rows[:40], first=10_000)))
add("held_out_rows_in_other_case", "train-held-out-overlap", "error",
    lambda data: data.subject(held_out=pairs([(p.lower(), a.upper()) for p, a in data.rows[:40]], first=10_000)))
add("some_held_out_rows_are_training_rows", "train-held-out-overlap", "warning",
    lambda data: data.subject(held_out=pairs([*data.rows[:4], *data.judged], first=10_000)))
add("utf8_read_as_windows", "text-damaged", "warning",
    each(lambda n, p, a: (p, f"It’s so – the café: {a}".encode().decode("cp1252"))))
add("characters_lost", "text-damaged", "warning",
    each(lambda n, p, a: (p, a.replace("e", "\ufffd", 1) if n % 9 == 0 else a)))
add("control_characters", "text-damaged", "warning", each(lambda n, p, a: (p + "\x00", a)))
add("end_of_turn_in_words", "markers-in-text", "warning", each(lambda n, p, a: (p, f"{a}<|im_end|>")))
add("next_turn_in_the_answer", "markers-in-text", "warning",
    each(lambda n, p, a: (p, f"{a}\n\n### Instruction:\nAnother one" if n % 4 == 0 else a)))
add("the_prompt_column_holds_both", "prompts-contain-answers", "warning", each(lambda n, p, a: (f"{p}\n{a}", a)))
add("extraction", "prompts-contain-answers", "note", each(lambda n, p, a: (f"{p} What is asked?", p)))
add("a_third_is_cut", "teacher-answers-cut-off", "warning",
    lambda data: data.taught(finished=[n % 3 > 0 for n in range(len(data.rows))]))
add("nothing_ends", "teacher-answers-cut-off", "error", lambda data: data.taught(finished=[False] * len(data.rows)))
add("the_teacher_is_silent", "teacher-answers-empty", "error", lambda data: data.taught([""] * len(data.rows)))
add("the_teacher_is_silent_now_and_then", "teacher-answers-empty", "warning",
    lambda data: data.taught([" " if n % 8 == 0 else text for n, text in enumerate(data.written)]))
add("the_teacher_repeats_a_sentence", "teacher-answers-loop", "warning",
    lambda data: data.taught([text[:30] * 12 if n % 6 == 0 else text for n, text in enumerate(data.written)]))
add("the_teacher_repeats_a_number", "teacher-answers-loop", "warning",
    lambda data: data.taught([text + "0" * 90 if n % 6 == 0 else text for n, text in enumerate(data.written)]))
add("the_teacher_does_not_read", "teacher-answers-same", "warning",
    lambda data: data.taught(["Please ask me a question." if n % 4 else text for n, text in enumerate(data.written)]))
add("the_prompt_was_not_cut_off", "teacher-repeats-prompt", "error",
    lambda data: data.taught([f"{p}\n{text}" for (p, _), text in zip(data.rows, data.written, strict=True)]))
add("the_teacher_goes_on_with_a_turn", "teacher-template-markers", "warning",
    lambda data: data.taught([f"{text}<|im_end|>\n<|im_start|>user\nAnd then?" for text in data.written]))
add("the_references_were_stored", "teacher-copies-reference", "warning",
    lambda data: data.taught([answer for _, answer in data.rows]))
# fmt: on
