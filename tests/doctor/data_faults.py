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


def fault(id: str, severity: str) -> Callable[[Spoil], Spoil]:
    def keep(spoil: Spoil) -> Spoil:
        FAULTS.append(Fault(spoil.__name__, id, severity, spoil))
        return spoil

    return keep


def mapped(data: Data, change: Callable[[int, str, str], tuple[str, str]]) -> DataSubject:
    return data.subject([change(number, prompt, answer) for number, (prompt, answer) in enumerate(data.rows)])


@fault("answers-empty", "error")
def the_answers_are_in_another_column(data):
    return mapped(data, lambda n, p, a: (p, ""))


@fault("answers-empty", "warning")
def some_answers_are_blank(data):
    return mapped(data, lambda n, p, a: (p, " \n" if n % 10 == 0 else a))


@fault("answers-cut-off", "warning")
def rows_longer_than_max_tokens(data):
    return data.subject(student=data.reader(max_tokens=300))


@fault("prompts-fill-rows", "warning")
def long_prompts(data):
    return mapped(data, lambda n, p, a: (p * 12 if n % 20 == 0 else p, a))


@fault("prompts-fill-rows", "error")
def no_prompt_fits(data):
    return data.subject(student=data.reader(max_tokens=30))


@fault("answers-one-token", "note")
def labels_of_one_token(data):
    return mapped(data, lambda n, p, a: (p, "ab"[n % 2]))


@fault("answers-equal", "warning")
def a_default_instead_of_answers(data):
    return mapped(data, lambda n, p, a: (p, "No answer found." if n % 5 else a))


@fault("duplicated-rows", "warning")
def rows_twice(data):
    return data.subject([*data.rows, *data.rows[:20]])


@fault("duplicated-rows", "warning")
def rows_twice_in_other_case(data):
    return data.subject([*data.rows, *((p.upper(), f" {a.lower()}") for p, a in data.rows[:20])])


@fault("prompts-with-several-answers", "warning")
def labels_contradict(data):
    asked = [(p, "yes" if n % 2 else "no") for n, (p, _) in enumerate(data.rows)]
    return data.subject([*asked, *((p, "no" if a == "yes" else "yes") for p, a in asked[:30])])


@fault("prompts-with-several-answers", "note")
def several_samples_a_prompt(data):
    return data.subject([*data.rows, *((p, f"So: {a}") for p, a in data.rows[:60])])


@fault("lowest-loss", "note")
def sampled_answers_have_a_floor(data):
    return data.subject([(p, f"{word} {p[:40]}") for p, _ in data.rows[:60] for word in ("I think", "Well,", "It is")])


@fault("lowest-loss", "warning")
def prompts_without_content(data):
    return data.subject([("Continue.", answer) for _, answer in data.rows])


@fault("lowest-loss", "warning")
def labels_at_random(data):
    return data.subject([(p, str(n * 7 % 100)) for n, (p, _) in enumerate(data.rows[:4] * 30)])


@fault("train-held-out-overlap", "error")
def held_out_rows_are_training_rows(data):
    return data.subject(held_out=pairs(data.rows[:40], first=10_000))


@fault("train-held-out-overlap", "error")
def held_out_rows_in_other_case(data):
    return data.subject(held_out=pairs([(p.lower(), a.upper()) for p, a in data.rows[:40]], first=10_000))


@fault("train-held-out-overlap", "warning")
def some_held_out_rows_are_training_rows(data):
    return data.subject(held_out=pairs([*data.rows[:4], *data.judged], first=10_000))


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


@fault("text-damaged", "warning")
def utf8_read_as_windows(data):
    return mapped(data, lambda n, p, a: (p, f"It’s so – the café: {a}".encode().decode("cp1252")))


@fault("text-damaged", "warning")
def characters_lost(data):
    return mapped(data, lambda n, p, a: (p, a.replace("e", "\ufffd", 1) if n % 9 == 0 else a))


@fault("text-damaged", "warning")
def control_characters(data):
    return mapped(data, lambda n, p, a: (p + "\x00", a))


@fault("markers-in-text", "warning")
def end_of_turn_in_words(data):
    return mapped(data, lambda n, p, a: (p, f"{a}<|im_end|>"))


@fault("markers-in-text", "warning")
def next_turn_in_the_answer(data):
    return mapped(data, lambda n, p, a: (p, f"{a}\n\n### Instruction:\nAnother one" if n % 4 == 0 else a))


@fault("prompts-already-rendered", "warning")
def a_template_inside_of_a_template(data):
    rows = [(f"### Instruction:\n{p}\n\n### Response:\n", a) for p, a in data.rows]
    return data.subject(rows, student=data.reader("alpaca"))


@fault("prompts-contain-answers", "warning")
def the_prompt_column_holds_both(data):
    return mapped(data, lambda n, p, a: (f"{p}\n{a}", a))


@fault("prompts-contain-answers", "note")
def extraction(data):
    return mapped(data, lambda n, p, a: (f"{p} What is asked?", p))


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


@fault("teacher-answers-cut-off", "warning")
def a_third_is_cut(data):
    return data.taught(finished=[n % 3 > 0 for n in range(len(data.rows))])


@fault("teacher-answers-cut-off", "error")
def nothing_ends(data):
    return data.taught(finished=[False] * len(data.rows))


@fault("teacher-answers-empty", "error")
def the_teacher_is_silent(data):
    return data.taught([""] * len(data.rows))


@fault("teacher-answers-empty", "warning")
def the_teacher_is_silent_now_and_then(data):
    return data.taught([" " if n % 8 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-answers-loop", "warning")
def the_teacher_repeats_a_sentence(data):
    return data.taught([text[:30] * 12 if n % 6 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-answers-loop", "warning")
def the_teacher_repeats_a_number(data):
    return data.taught([text + "0" * 90 if n % 6 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-refuses", "warning")
def the_teacher_refuses(data):
    said = "I’m sorry, but as an AI language model I can't help with that."
    return data.taught([said if n % 9 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-answers-same", "warning")
def the_teacher_does_not_read(data):
    return data.taught(["Please ask me a question." if n % 4 else text for n, text in enumerate(data.written)])


@fault("teacher-repeats-prompt", "error")
def the_prompt_was_not_cut_off(data):
    return data.taught([f"{p}\n{text}" for (p, _), text in zip(data.rows, data.written, strict=True)])


@fault("teacher-repeats-prompt", "warning")
def the_teacher_repeats_questions(data):
    both = enumerate(zip(data.rows, data.written, strict=True))
    return data.taught([f"{p.upper()} {text}" if n % 5 == 0 else text for n, ((p, _), text) in both])


@fault("teacher-template-markers", "warning")
def the_teacher_goes_on_with_a_turn(data):
    return data.taught([f"{text}<|im_end|>\n<|im_start|>user\nAnd then?" for text in data.written])


@fault("teacher-changes-language", "warning")
def the_teacher_changes_the_script(data):
    said = "我们先把所有的数字加起来,然后再除以二。"
    return data.taught([said if n % 10 == 0 else text for n, text in enumerate(data.written)])


@fault("teacher-copies-reference", "warning")
def the_references_were_stored(data):
    return data.taught([answer for _, answer in data.rows])


@fault("teacher-copies-reference", "warning")
def half_of_the_references_were_stored(data):
    good = data.taught()
    texts = [
        TeacherText(text.prompt, example.answer, True) if n % 2 else text
        for n, (text, example) in enumerate(zip(good.teacher_texts, good.train, strict=True))
    ]
    return replace(good, teacher_texts=tuple(texts))
