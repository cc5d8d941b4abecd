"""Instructions in plain English with exact answers, for `make real`: a pretrained model can answer some of them.

Fifteen kinds of task: word problems, lists, units, the calendar, words, grammar, extraction, classification. An answer
follows from its prompt and common knowledge. It ends with its value (`The answer is 19.`) or is the value (a rewritten
sentence, a sorted list); `evaluation.value_pattern` of `recipes/real-smollm2.yaml` captures it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from distillab.errors import ConfigError, DataError

_PATIENCE = 200  # draws for a new prompt before a kind of task counts as exhausted

_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Lena", "Omar")
_THINGS = ("apples", "books", "stamps", "pencils", "marbles", "shells", "cards", "coins", "stickers", "buttons")
_CITIES = ("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Dublin", "Cairo", "Lima", "Prague", "Perth")
_JOBS = ("baker", "nurse", "pilot", "teacher", "farmer", "painter", "lawyer", "carpenter", "cook", "driver")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "February", "March", "April", "May", "June",
           "July", "August", "September", "October", "November", "December")  # fmt: skip
_GROUPS = {
    "animals": ("cat", "horse", "tiger", "wolf", "rabbit", "goat", "bear", "duck"),
    "tools": ("hammer", "saw", "drill", "spade", "rake", "wrench", "chisel", "ladder"),
    "fruits": ("apple", "banana", "cherry", "grape", "lemon", "mango", "peach", "plum"),
    "clothes": ("coat", "glove", "scarf", "shirt", "boot", "sock", "hat", "belt"),
}
_WORDS = tuple(word for words in _GROUPS.values() for word in words)
_PLURALS = {
    "box": "boxes", "city": "cities", "child": "children", "knife": "knives", "mouse": "mice", "tooth": "teeth",
    "leaf": "leaves", "potato": "potatoes", "woman": "women", "bus": "buses", "baby": "babies", "foot": "feet",
    "wolf": "wolves", "glass": "glasses", "story": "stories", "man": "men", "table": "tables", "house": "houses",
}  # fmt: skip
_OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("open", "closed"), ("wet", "dry"),
    ("happy", "sad"), ("rich", "poor"), ("strong", "weak"), ("full", "empty"), ("old", "young"), ("high", "low"),
    ("dark", "light"), ("easy", "difficult"), ("near", "far"), ("loud", "quiet"), ("clean", "dirty"), ("first", "last"),
)  # fmt: skip
_SUBJECTS = ("The boy", "The girl", "My sister", "Our teacher", "The old man", "The farmer", "Her brother", "The cook")
_VERBS = (  # base form, third person, past, the rest of the sentence
    ("walk", "walks", "walked", "to the market"), ("go", "goes", "went", "to the lake"),
    ("write", "writes", "wrote", "a letter"), ("buy", "buys", "bought", "fresh bread"),
    ("eat", "eats", "ate", "a red apple"), ("open", "opens", "opened", "the window"),
    ("sing", "sings", "sang", "an old song"), ("carry", "carries", "carried", "a heavy bag"),
    ("find", "finds", "found", "a lost key"), ("drink", "drinks", "drank", "cold water"),
    ("clean", "cleans", "cleaned", "the kitchen"), ("drive", "drives", "drove", "to the city"),
    ("teach", "teaches", "taught", "the children"), ("wash", "washes", "washed", "the green cup"),
)  # fmt: skip
_UNITS = (
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("weeks", "days", 7), ("days", "hours", 24),
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("kilograms", "grams", 1000),
    ("centimetres", "millimetres", 10), ("litres", "millilitres", 1000), ("dozens", "pieces", 12),
)  # fmt: skip
_REVIEWS = {
    "positive": ("we loved every minute of it", "the staff were friendly and quick", "it works perfectly",
                 "we would buy it again at once", "the room was clean and bright", "the food was delicious"),
    "negative": ("it broke after two days", "the waiter was rude", "the soup was cold", "we want our money back",
                 "the room was dirty and loud", "it was a waste of time"),
}  # fmt: skip
_TOPICS = {
    "sport": ("The team scored twice in the last ten minutes", "She won the race by half a second",
              "The coach praised the young goalkeeper"),
    "weather": ("Heavy rain is expected in the north tonight", "Tomorrow will be sunny with a light wind",
                "The storm brought snow to the hills"),
    "cooking": ("Stir the sauce until it is thick", "Bake the bread for forty minutes",
                "Add two eggs and a pinch of salt to the flour"),
    "music": ("The band played three new songs", "Her first album has twelve tracks",
              "The violinist practised for the concert"),
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One task with its answer.

    Attributes:
        kind: of task, in counts and tests.
        instruction: what to do.
        given: the text or list that it is about; empty if the instruction is complete.
        output: the answer.
        value: the part of the answer that decides whether it is right.
    """

    kind: str
    instruction: str
    given: str
    output: str
    value: str

    @property
    def prompt(self) -> str:
        """The instruction, and after an empty line what it is about."""
        return f"{self.instruction}\n\n{self.given}" if self.given else self.instruction


_Drawn = tuple[str, str, str, str]  # instruction, given, output, value


def _solved(question: str, working: str, value: object) -> _Drawn:
    return question, "", f"{working} The answer is {value}.", str(value)


def _bare(question: str, value: str, given: str = "") -> _Drawn:
    return question, given, value, value


def _add(rng: random.Random) -> _Drawn:
    name, thing, a, b = rng.choice(_NAMES), rng.choice(_THINGS), rng.randint(3, 40), rng.randint(2, 30)
    more = rng.choice(("buys {} more", "gets {} more from a friend", "finds {} more")).format(b)
    question = f"{name} has {a} {thing} and {more}. How many {thing} does {name} have now?"
    return _solved(question, f"{name} has {a} + {b} = {a + b} {thing}.", a + b)


def _subtract(rng: random.Random) -> _Drawn:
    name, thing, b, left = rng.choice(_NAMES), rng.choice(_THINGS), rng.randint(2, 20), rng.randint(2, 30)
    less = rng.choice(("gives away {}", "loses {}", "sells {}")).format(b)
    question = f"{name} has {left + b} {thing} and {less}. How many {thing} does {name} have left?"
    return _solved(question, f"{name} has {left + b} - {b} = {left} {thing} left.", left)


def _multiply(rng: random.Random) -> _Drawn:
    thing, a, b = rng.choice(_THINGS), rng.randint(2, 12), rng.randint(2, 12)
    question = f"There are {a} boxes with {b} {thing} in each. How many {thing} are there in all?"
    return _solved(question, f"There are {a} * {b} = {a * b} {thing}.", a * b)


def _change(rng: random.Random) -> _Drawn:
    name, count, price = rng.choice(_NAMES), rng.randint(2, 6), rng.randint(2, 9)
    total = count * price
    paid = rng.choice([note for note in (20, 50, 100) if note > total])
    question = f"{name} buys {count} tickets for {price} dollars each and pays {paid} dollars. How much is the change?"
    working = f"The tickets cost {count} * {price} = {total} dollars. {paid} - {total} = {paid - total}."
    return _solved(question, working, paid - total)


def _sort_numbers(rng: random.Random) -> _Drawn:
    numbers, down = rng.sample(range(1, 100), rng.randint(3, 5)), rng.random() < 0.5
    order = "from largest to smallest" if down else "from smallest to largest"
    return _bare(f"Sort the numbers {order}.", _joined(sorted(numbers, reverse=down)), _joined(numbers))


def _sort_words(rng: random.Random) -> _Drawn:
    words = rng.sample(_WORDS, rng.randint(3, 5))
    return _bare("Put the words in alphabetical order.", _joined(sorted(words)), _joined(words))


def _extreme(rng: random.Random) -> _Drawn:
    numbers, which = rng.sample(range(1, 500), 5), rng.choice(("largest", "smallest"))
    value = max(numbers) if which == "largest" else min(numbers)
    return f"What is the {which} number in the list?", _joined(numbers), f"The {which} number is {value}.", str(value)


def _members(rng: random.Random) -> _Drawn:
    group, other = rng.sample(sorted(_GROUPS), 2)
    right = rng.sample(_GROUPS[group], rng.randint(2, 3))
    words = rng.sample([*right, *rng.sample(_GROUPS[other], 2)], len(right) + 2)
    return _bare(f"List only the {group}.", _joined([word for word in words if word in right]), _joined(words))


def _units(rng: random.Random) -> _Drawn:
    (big, small, factor), count = rng.choice(_UNITS), rng.randint(2, 20)
    value = count * factor
    return _solved(f"Convert {count} {big} to {small}.", f"{count} * {factor} = {value}.", value)


def _next(rng: random.Random) -> _Drawn:
    what, names = rng.choice((("day", _DAYS), ("month", _MONTHS)))
    at, (where, step) = rng.randrange(len(names)), rng.choice((("after", 1), ("before", -1)))
    question = rng.choice(("Which {} comes {} {}?", "Name the {} that comes {} {}.", "What is the {} {} {}?"))
    before, value = names[at], names[(at + step) % len(names)]
    return question.format(what, where, before), "", f"The {what} {where} {before} is {value}.", value


def _word(rng: random.Random) -> _Drawn:
    plural, opposite = rng.choice(sorted(_PLURALS.items())), rng.sample(rng.choice(_OPPOSITES), 2)
    what, (word, value) = rng.choice((("plural", plural), ("opposite", opposite)))
    question = rng.choice(("What is the {} of '{}'?", "Give the {} of the word '{}'."))
    return question.format(what, word), "", f"The {what} of '{word}' is {value}.", value


def _sentence(rng: random.Random) -> _Drawn:
    subject, (base, third, past, rest) = rng.choice(_SUBJECTS), rng.choice(_VERBS)
    wanted, changed = rng.choice((
        ("in the past tense", f"{subject} {past} {rest}."),
        ("as a negative sentence", f"{subject} does not {base} {rest}."),
        ("as a question", f"Does {subject.lower()} {base} {rest}?"),
        ("with the verb 'will'", f"{subject} will {base} {rest}."),
    ))  # fmt: skip
    return _bare(f"Rewrite the sentence {wanted}.", changed, f"{subject} {third} {rest}.")


def _extract(rng: random.Random) -> _Drawn:
    name, city, job, year = rng.choice(_NAMES), rng.choice(_CITIES), rng.choice(_JOBS), rng.randint(1940, 2004)
    text = f"{name} was born in {city} in {year} and works as a {job}."
    asked, value = rng.choice((("city was {} born in", city), ("year was {} born in", year), ("job does {} have", job)))
    return f"Which {asked.format(name)}?", text, f"The {asked.split()[0]} is {value}.", str(value)


def _review(rng: random.Random) -> _Drawn:
    mood = rng.choice(sorted(_REVIEWS))
    first, second = rng.sample(_REVIEWS[mood], 2)
    return "Is the review positive or negative?", f"{first.capitalize()}, and {second}.", f"The review is {mood}.", mood


def _topic(rng: random.Random) -> _Drawn:
    topic, other = rng.sample(sorted(_TOPICS), 2)
    first, second = rng.sample(_TOPICS[topic], 2)
    question = f"Is the topic of the text {' or '.join(rng.sample((topic, other), 2))}?"
    return question, f"{first}. {second}.", f"The topic is {topic}.", topic


def _joined(parts: list[int] | list[str]) -> str:
    return ", ".join(str(part) for part in parts)


KINDS: dict[str, Callable[[random.Random], _Drawn]] = {
    "add": _add, "subtract": _subtract, "multiply": _multiply, "change": _change, "sort_numbers": _sort_numbers,
    "sort_words": _sort_words, "extreme": _extreme, "members": _members, "units": _units, "next": _next, "word": _word,
    "sentence": _sentence, "extract": _extract, "review": _review, "topic": _topic,
}  # fmt: skip


def draw_instructions(count: int, *, seed: int) -> list[Instruction]:
    """Draw instructions, the kinds in turn; no prompt is there twice. The same arguments give the same rows.

    Raises:
        ConfigError: `count` is below 1.
        DataError: a kind has too few different prompts for `count` rows.
    """
    if count < 1:
        raise ConfigError("There must be at least one instruction.", facts=[f"count: {count}"])
    rng, found, seen = random.Random(seed), list[Instruction](), set[tuple[str, str]]()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        for _ in range(_PATIENCE):
            instruction, given, output, value = KINDS[kind](rng)
            if (instruction, given) not in seen:
                break
        else:
            raise DataError(
                f"There are too few different instructions of the kind {kind}.",
                facts=[f"drawn so far: {number} of {count}"],
                fix="use fewer rows",
            )
        seen.add((instruction, given))
        found.append(Instruction(kind, instruction, given, output, value))
    return found
