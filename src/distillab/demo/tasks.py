"""Questions and answers of the demo world: fourteen kinds of short question with exact answers.

Each kind has several question wordings and several answer wordings. Which answer wording is likely depends on
the question wording, so that the right next-token distribution has to be learned: one row shows one draw from
it, a teacher that has read many rows knows all of it. Countries and fruits are invented, so that no model can know
the facts from other data.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

ANSWER_WEIGHTS = (0.42, 0.26, 0.17, 0.10, 0.05)
"""Probabilities of the five answer wordings; question wording q uses them rotated by q places."""

OPENERS = (("", 0.40), ("Sure, ", 0.25), ("Well, ", 0.15), ("I think ", 0.12), ("Let me see, ", 0.08))
"""What can stand before the answer, with its probability, whatever the question."""

CAPITALS = {
    "Arvel": "Tosk", "Belmor": "Quill", "Candria": "Hode", "Dorvane": "Pelt", "Estoria": "Minsk", "Farlund": "Jarn",
    "Gorvia": "Lume", "Hestrand": "Okva", "Ilmara": "Drest", "Jovania": "Skell", "Korland": "Bryn", "Lusania": "Tarn",
    "Morvia": "Elk", "Nordell": "Vash", "Orlanth": "Fenn", "Pelagia": "Guld", "Questria": "Rime", "Rondova": "Zell",
    "Sarkand": "Holm", "Tervania": "Cairn",
}  # fmt: skip
COLOURS = {
    "plock": "red", "murf": "blue", "zindle": "green", "brame": "white", "quorn": "pink", "telk": "black",
    "vooma": "blue", "snarp": "green", "glim": "red", "drupe": "gold", "fenta": "white", "hobble": "pink",
    "jinto": "gold", "krell": "black", "lopa": "red", "wimble": "green",
}  # fmt: skip
KINDS = {
    "animal": ("cat", "horse", "goose", "tiger", "mouse", "wolf"),
    "tool": ("hammer", "saw", "drill", "spade", "rake", "pliers"),
    "food": ("bread", "cheese", "rice", "honey", "butter", "beans"),
    "garment": ("coat", "glove", "scarf", "shirt", "boot", "sock"),
}
WORDS = tuple(word for words in KINDS.values() for word in words)
LETTERS = "abdegiklmnoprstu"

Item = tuple[dict[str, str], str]
"""What fills a question's gaps, and the value of the answer."""


@dataclass(frozen=True)
class Task:
    """One kind of question.

    Attributes:
        name: in counts and tests.
        draw: draws an item. It is given the generator and whether the item must be one that the small labelled
            set may contain (only facts make a difference).
        questions: wordings of the question, with gaps in braces.
        answers: five wordings of the answer; `{value}` comes last, before the full stop.
    """

    name: str
    draw: Callable[[random.Random, bool], Item]
    questions: tuple[str, ...]
    answers: tuple[str, str, str, str, str]


def _add(rng: random.Random, known: bool) -> Item:
    a, b = rng.randint(1, 6), rng.randint(1, 6)
    return {"a": str(a), "b": str(b)}, str(a + b)


def _subtract(rng: random.Random, known: bool) -> Item:
    a, b = rng.randint(1, 6), rng.randint(1, 6)
    return {"a": str(a + b), "b": str(b)}, str(a)


def _multiply(rng: random.Random, known: bool) -> Item:
    a, b = rng.randint(1, 5), rng.randint(1, 5)
    return {"a": str(a), "b": str(b)}, str(a * b)


def _largest(rng: random.Random, known: bool) -> Item:
    numbers = rng.sample(range(21), 3)
    return _list(numbers), str(max(numbers))


def _smallest(rng: random.Random, known: bool) -> Item:
    numbers = rng.sample(range(21), 3)
    return _list(numbers), str(min(numbers))


def _list(parts: list[int] | list[str]) -> dict[str, str]:
    return {"list": ", ".join(str(part) for part in parts)}


def _first_letter(rng: random.Random, known: bool) -> Item:
    word = rng.choice(WORDS)
    return {"word": word}, word[0]


def _last_letter(rng: random.Random, known: bool) -> Item:
    word = rng.choice(WORDS)
    return {"word": word}, word[-1]


def _length(rng: random.Random, known: bool) -> Item:
    word = rng.choice(WORDS)
    return {"word": word}, str(len(word))


def _capitals(rng: random.Random, known: bool) -> Item:
    word = rng.choice(WORDS)
    return {"word": word}, word.upper()


def _reverse(rng: random.Random, known: bool) -> Item:
    letters = rng.sample(LETTERS, 2)
    return {"word": "-".join(letters)}, "-".join(reversed(letters))


def _kind(rng: random.Random, known: bool) -> Item:
    kind = rng.choice(sorted(KINDS))
    return {"word": rng.choice(KINDS[kind])}, kind


def _which(rng: random.Random, known: bool) -> Item:
    kind, other = rng.sample(sorted(KINDS), 2)
    right, wrong = rng.choice(KINDS[kind]), rng.choice(KINDS[other])
    first, second = rng.sample((right, wrong), 2)
    return {"kind": kind, "a": first, "b": second}, right


def _fact(table: dict[str, str]) -> Callable[[random.Random, bool], Item]:
    names = sorted(table)

    def draw(rng: random.Random, known: bool) -> Item:
        # The small labelled set has three facts of four; the teacher's set has all.
        name = rng.choice([n for i, n in enumerate(names) if i % 4 != 3] if known else names)
        return {"name": name}, table[name]

    return draw


TASKS: tuple[Task, ...] = (
    Task(
        "add", _add,
        ("What is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?", "How much is {a} and {b} together?",
         "Give me the sum of {a} and {b}."),
        ("the sum is {value}.", "that makes {value}.", "together they are {value}.", "we get {value}.",
         "adding them gives {value}."),
    ),
    Task(
        "subtract", _subtract,
        ("What is {a} minus {b}?", "Take {b} from {a}.", "{a} - {b} = ?", "How much is left of {a} without {b}?",
         "Give me the difference of {a} and {b}."),
        ("the difference is {value}.", "that leaves {value}.", "what is left is {value}.", "we are down to {value}.",
         "taking it away gives {value}."),
    ),
    Task(
        "multiply", _multiply,
        ("What is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b} = ?", "How much is {a} rows of {b}?",
         "Give me the product of {a} and {b}."),
        ("the product is {value}.", "that comes to {value}.", "multiplied they are {value}.", "we end at {value}.",
         "the result must be {value}."),
    ),
    Task(
        "largest", _largest,
        ("Which is the largest of {list}?", "Pick the biggest number: {list}.", "Out of {list}, name the maximum.",
         "What is the greatest among {list}?", "Of {list}, which one is highest?"),
        ("the largest is {value}.", "the biggest one here is {value}.", "nothing is above {value}.",
         "the top number is {value}.", "the maximum must be {value}."),
    ),
    Task(
        "smallest", _smallest,
        ("Which is the smallest of {list}?", "Pick the least number: {list}.", "Out of {list}, name the minimum.",
         "What is the lowest among {list}?", "Of {list}, which one is at the bottom?"),
        ("the smallest is {value}.", "the least one here is {value}.", "nothing is below {value}.",
         "the bottom number is {value}.", "the minimum must be {value}."),
    ),
    Task(
        "first_letter", _first_letter,
        ("What is the first letter of {word}?", "With which letter does {word} begin?", "Name the initial of {word}.",
         "Which letter starts the word {word}?", "Take {word}: first letter?"),
        ("the first letter is {value}.", "it begins with {value}.", "the initial is {value}.",
         "the word starts with {value}.", "in front stands {value}."),
    ),
    Task(
        "last_letter", _last_letter,
        ("What is the last letter of {word}?", "With which letter does {word} end?", "Name the final of {word}.",
         "Which letter closes the word {word}?", "Take {word}: last letter?"),
        ("the last letter is {value}.", "it ends with {value}.", "the final is {value}.",
         "the word closes with {value}.", "at the end stands {value}."),
    ),
    Task(
        "length", _length,
        ("How many letters has {word}?", "Count the letters of {word}.", "How long is the word {word}?",
         "Tell me the length of {word}.", "Take {word}: number of letters?"),
        ("the count is {value}.", "its length is {value}.", "the number of letters is {value}.", "I count {value}.",
         "all in all it has {value}."),
    ),
    Task(
        "capitals", _capitals,
        ("Write {word} in capitals.", "Make {word} uppercase.", "Shout the word {word}.",
         "What is {word} in big letters?", "Turn {word} into capitals."),
        ("in capitals it is {value}.", "it becomes {value}.", "here you are: {value}.", "one writes {value}.",
         "in big letters that is {value}."),
    ),
    Task(
        "reverse", _reverse,
        ("Reverse {word}.", "What is {word} backwards?", "Turn {word} around.", "Read {word} from the right.",
         "Give me {word} in the other direction."),
        ("reversed it is {value}.", "backwards it reads {value}.", "turned around that is {value}.",
         "from the right we read {value}.", "the other way it is {value}."),
    ),
    Task(
        "kind", _kind,
        ("What kind of thing is {word}?", "Which group does {word} belong to?", "Sort {word} into its group.",
         "Under which heading is {word}?", "Say in one word what {word} is."),
        ("it is a kind of {value}.", "the group is {value}.", "it belongs under {value}.", "the heading is {value}.",
         "that is some {value}."),
    ),
    Task(
        "which", _which,
        ("Which is a {kind}: {a} or {b}?", "Find the {kind}: {a}, {b}.", "{a} and {b}: which one is a {kind}?",
         "Of {a} and {b}, pick the {kind}.", "One of {a} and {b} is a {kind}. Which?"),
        ("the right one is {value}.", "take {value}.", "what fits is {value}.", "it must be {value}.",
         "the one to pick is {value}."),
    ),
    Task(
        "capital_of", _fact(CAPITALS),
        ("What is the capital of {name}?", "Name the capital city of {name}.", "Which city rules {name}?",
         "{name} has which capital?", "Where is the seat of {name}?"),
        ("the capital is {value}.", "its capital city is {value}.", "the seat is {value}.", "it is ruled from {value}.",
         "the main city is called {value}."),
    ),
    Task(
        "colour_of", _fact(COLOURS),
        ("What colour is a ripe {name}?", "Name the colour of the {name} fruit.", "A {name} has which colour?",
         "How does a {name} look when ripe?", "Tell me the colour of a {name}."),
        ("its colour is {value}.", "a ripe one is {value}.", "the fruit is {value}.", "it turns {value}.",
         "the skin looks {value}."),
    ),
)  # fmt: skip
