"""Texts with escapes and damage of many kinds, and texts that hold the same signs rightly. Importing registers them."""

from __future__ import annotations

import html
import json
from urllib.parse import quote

from tests.doctor.data_faults import add, each, fault, mapped


@fault("text-escaped", "warning")
def numbered_entities_in_the_prompts(data):
    return mapped(data, lambda n, p, a: (p.replace(" ", "&#160;", 1) + " Isn&#39;t it?", a))


@fault("text-damaged", "warning")
def utf8_read_twice_as_windows(data):
    def twice(text):
        for _ in range(2):
            text = text.encode().decode("cp1252")
        return text

    return mapped(data, lambda n, p, a: (p, f"{twice('It’s so')}: {a}"))


# (prompt, answer) of rows in which such signs are meant
MEANT = [
    ("How do I write an ampersand in HTML?", "Write `&amp;`, as in Tom &amp; Jerry. For < write &lt;."),
    ("Write a small web page.", "<!DOCTYPE html>\n<html><body><p>Tom &amp; Jerry</p></body></html>"),
    ("Write a function that joins lines.", 'def join(lines):\n    return "\\n".join(lines)'),
    ("Print hello twice in C.", 'printf("Hello\\nHello\\n");'),
    (
        "What is the mean of the normal distribution?",
        "It is \\mu, its spread \\nu, the angle \\theta; \\neq is not equal.",
    ),
    ("Where is the folder?", "In C:\\new and C:\\temp\\reports, or \\\\Nas\\Readme."),
    ("Which firms merged?", "AT&T and R&D; P&G; Marks & Spencer."),
    ("Which is larger?", "a < b and b > c, so c is the smallest."),
    ("How do I search for a word?", "Open https://example.org/search?q=two%20words&amp;lang=en in the browser."),
    ("How much is off?", "50%20 is no number; 20% of 100 are 20."),
    ("What does \\u00e9 mean in JSON?", "\\u00e9 is the letter é."),
    ("Is it c'est or cest?", "C’est «bien», √π ≈ 1.77, “œuvre” and Ärger. Right?yes"),
    ("Сколько это?", "РСФСР, СССР и РФ: три названия."),
]


# fmt: off
add("html_entities", "text-escaped", "warning",
    each(lambda n, p, a: (p, html.escape(f'It\'s <so> & "right": {a}') if n % 5 == 0 else a)))
add("escaped_twice", "text-escaped", "warning", each(lambda n, p, a: (p, f"{a} R&amp;amp;D &lt;br&gt;")))
add("tags_left_over", "text-escaped", "warning",
    each(lambda n, p, a: (p, a.replace("\n", "<br />") + "<p>That is <b>all</b>.</p>")))
add("line_ends_as_two_characters", "text-escaped", "warning", each(lambda n, p, a: (p, a.replace("\n", "\\n"))))
add("written_as_json_twice", "text-escaped", "warning",
    each(lambda n, p, a: (p, json.dumps(f'He says "{p}" – café. {a}')[1:-1])))
add("quoted_like_an_address", "text-escaped", "warning", each(lambda n, p, a: (quote(p), a)))
add("utf8_read_as_mac_roman", "text-damaged", "warning",
    each(lambda n, p, a: (p, f"It’s so – the café: {a}".encode().decode("mac_roman"))))
add("russian_read_as_windows_1251", "text-damaged", "warning",
    each(lambda n, p, a: (p, f"Ответ на это: {a}".encode().decode("cp1251", "replace"))))
add("letters_that_became_question_marks", "text-damaged", "warning",
    each(lambda n, p, a: (p, f"It doesn’t matter, we’re right. {a}".encode("ascii", "replace").decode())))
add("byte_order_marks_inside", "text-damaged", "warning",
    each(lambda n, p, a: (p, f"{a}\ufeff" if n % 10 == 0 else a)))
add("answers_in_a_column_of_fixed_width", "texts-cut-at-length", "warning", each(lambda n, p, a: (p, a[:180])))
add("prompts_in_a_column_of_bytes", "texts-cut-at-length", "warning",
    each(lambda n, p, a: (f"Größe: {p}".encode()[:160].decode("utf-8", "ignore").strip(), a)))
add("the_transcript_goes_on_in_words", "markers-in-text", "warning",
    each(lambda n, p, a: (p, f"{a}\n\nUser: {p}\n\nAssistant: {a}" if n % 4 == 0 else a)))
# fmt: on
