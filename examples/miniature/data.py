"""The miniature's problems, made in code: prompt, answer and how to check it.

What decides an answer (operands, values, words in their order) is a problem's *key*; names and things are
not part of it. A hash of the key puts a problem into the training split or into the held-out one, so no
wording of a held-out problem is ever trained on. The single facts it rests on (7*8, 56-9) are trained on: a
held-out problem asks for a new combination of known facts.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["TASKS", "WORDS", "Problem", "held_out", "main", "make", "problem_file"]

Split = Literal["train", "test"]
Key = tuple[object, ...]

NAMES = ("Ada", "Ben", "Carl", "Dora", "Ella", "Finn", "Hugo", "Ida", "Luis", "Mona", "Nina", "Tom")
THINGS = ("eggs", "books", "coins", "cookies", "stamps", "shells", "cards", "pears", "balls", "keys")
BOXES = ("boxes", "bags", "trays", "shelves", "baskets")
CITIES = ("Berlin", "Cairo", "Lima", "Oslo", "Paris", "Tokyo")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")  # fmt: skip
GAINS = ("buys", "finds", "gets")
LOSSES = ("sells", "loses", "eats")
FIXED = (
    "Question", "Answer", "has", "with", "each", "more", "of", "them", "shares", "among", "friends", "How",
    "many", "does", "have", "now", "friend", "get", "Then", "and", "gives", "The", "answer", "is", "Compute",
    "Sort", "Copy", "Write", "JSON", "date", "days", "later", "plus", "year", "month", "day",
)  # fmt: skip
FIELDS = ("name", "city", "age", "code")

# Vocabulary beyond single bytes: with a leading space in running text, without one at the start of a line and
# in JSON.
WORDS = (
    *(f" {word}" for word in (*NAMES, *THINGS, *BOXES, *CITIES, *MONTHS, *GAINS, *LOSSES, *FIXED, *FIELDS)),
    "Question",
    "Answer",
    *NAMES,
    *CITIES,
    *FIELDS,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        task: a name of `TASKS`.
        prompt: ends with "Answer:".
        text: what the model should write, the only right continuation.
        answer: what a checker compares.
        check: "answer" (what follows "The answer is " up to "."), "exact" or "json".
        key: what decides the answer.
    """

    task: str
    prompt: str
    text: str
    answer: str
    check: str
    key: Key


def held_out(key: Key) -> bool:
    """Whether a problem with this key belongs to the held-out tenth."""
    return hashlib.sha256(repr(key).encode()).digest()[0] < 26


def make(rng: random.Random, split: Split, task: str | None = None) -> Problem:
    """A problem of a split; the task by its share in training unless given."""
    if task is None:
        task = rng.choices(list(TASKS), [share for _, share in TASKS.values()])[0]
    while True:
        problem = TASKS[task][0](rng)
        if held_out(problem.key) == (split == "test"):
            return problem


def problem_file() -> str:
    """The held-out problems that everything is measured on, as JSON lines: no prompt twice, tasks mixed."""
    rng = random.Random(2026)
    lines: dict[str, str] = {}
    for task in TASKS:
        wanted = len(lines) + (500 if task == "word" else 50)
        while len(lines) < wanted:
            fields = asdict(make(rng, "test", task))
            del fields["key"]
            lines.setdefault(fields["prompt"], json.dumps(fields))
    chosen = list(lines.values())
    rng.shuffle(chosen)
    return "\n".join(chosen) + "\n"


# The tasks.


def word(rng: random.Random) -> Problem:
    """A story of two or three computations: tables to 9 × 9, a digit more or less, sharing."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    key: list[object] = ["word"]
    if rng.random() < 0.6:
        boxes, a, b = rng.choice(BOXES), rng.randint(2, 9), rng.randint(2, 9)
        have = a * b
        story, work = f"{name} has {a} {boxes} with {b} {thing} each.", f" {name} has {a}*{b}={have} {thing}."
        key += ["*", a, b]
        changes = rng.randint(1, 2)
    else:
        have = rng.randint(5, 80)
        story, work = f"{name} has {have} {thing}.", f" {name} has {have} {thing}."
        key += ["=", have]
        changes = 2
    question = f"How many {thing} does {name} have now?"
    for i in range(changes):
        friends = [k for k in range(2, 10) if have % k == 0 and have // k < 10]
        if i == changes - 1 and friends and rng.random() < 0.6:
            k = rng.choice(friends)
            story += f" {name} shares them among {k} friends."
            work += f" Then {name} shares them and gives {have}/{k}={have // k} {thing} to each."
            question = f"How many {thing} does each friend get?"
            key += ["/", k]
            have //= k
        elif (rng.random() < 0.5 and have <= 90) or have < 4:
            d, verb = rng.randint(2, 9), rng.choice(GAINS)
            story += f" {name} {verb} {d} more."
            work += f" Then {name} {verb} {d} and has {have}+{d}={have + d} {thing}."
            key += ["+", d]
            have += d
        else:
            d, verb = rng.randint(2, min(9, have - 1)), rng.choice(LOSSES)
            story += f" {name} {verb} {d} of them."
            work += f" Then {name} {verb} {d} and has {have}-{d}={have - d} {thing}."
            key += ["-", d]
            have -= d
    return _problem("word", f"{story} {question}", f"{work} The answer is {have}.", "answer", key, str(have))


def drill(rng: random.Random) -> Problem:
    """Three computations in a row."""
    sums = [_sum(rng) for _ in range(3)]
    text = " " + ", ".join(f"{left}={right}" for left, right in sums) + "."
    lefts = [left for left, _ in sums]
    return _problem("drill", f"Compute {', '.join(lefts)}.", text, "exact", ["drill", *sorted(lefts)])


def sort(rng: random.Random) -> Problem:
    """Four numbers of two digits, ascending."""
    numbers = rng.sample(range(10, 100), 4)
    text = " " + ", ".join(map(str, sorted(numbers))) + "."
    prompt = f"Sort {', '.join(map(str, numbers))}."
    return _problem("sort", prompt, text, "exact", ["sort", *sorted(numbers)])


def copy(rng: random.Random) -> Problem:
    """Four to twelve letters and digits, once more."""
    symbols = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=rng.randint(4, 12)))
    return _problem("copy", f"Copy {symbols}.", f" {symbols}.", "exact", ["copy", symbols])


def record(rng: random.Random) -> Problem:
    """A JSON object from named values, in the order given."""
    values: dict[str, object] = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "age": rng.randint(10, 99),
        "code": "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=3)),
    }
    order = rng.sample(FIELDS, 4)
    chosen = {field: values[field] for field in order}
    answer = json.dumps(chosen, separators=(",", ":"))
    prompt = f"Write JSON: {', '.join(f'{field} {value}' for field, value in chosen.items())}."
    return _problem("json", prompt, f" {answer}", "json", ["json", *chosen.items()], answer)


def date(rng: random.Random) -> Problem:
    """A date as year-month-day, and some days later in the same month."""
    day, month, year, d = rng.randint(1, 26), rng.randint(1, 12), rng.randint(1950, 2049), rng.randint(2, 9)
    d = min(d, 28 - day)
    stem = f"{year}-{month:02}"
    prompt = f"Write {day} {MONTHS[month - 1]} {year} plus {d} days."
    text = f" The date is {stem}-{day:02} and {day}+{d}={day + d}. The answer is {stem}-{day + d:02}."
    return _problem("date", prompt, text, "answer", ["date", day, month, year, d], f"{stem}-{day + d:02}")


# Task → its maker and its share in training.
TASKS: dict[str, tuple[Callable[[random.Random], Problem], float]] = {
    "word": (word, 0.47),
    "drill": (drill, 0.13),
    "sort": (sort, 0.09),
    "json": (record, 0.15),
    "date": (date, 0.06),
    "copy": (copy, 0.10),
}


def _problem(
    task: str, prompt: str, text: str, check: str, key: Sequence[object], answer: str | None = None
) -> Problem:
    prompt = f"Question: {prompt}\nAnswer:"
    return Problem(task, prompt, text, text.strip() if answer is None else answer, check, tuple(key))


def _sum(rng: random.Random) -> tuple[str, int]:
    """A computation of the kinds that stories use, and its result."""
    kind = rng.choice("*/++--")
    if kind in "*/":
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        return (f"{a}*{b}", a * b) if kind == "*" else (f"{a * b}/{b}", a)
    a, d = rng.randint(3, 90), rng.randint(2, 9)
    if kind == "+":
        return f"{a}+{d}", a + d
    return f"{a + d}-{d}", a


def main() -> None:
    """Write the held-out problems: `python -m examples.miniature.data FILE`."""
    parser = argparse.ArgumentParser(description="Write the held-out problems of the miniature.")
    parser.add_argument("file", type=Path)
    parser.parse_args().file.write_text(problem_file(), encoding="utf-8")


if __name__ == "__main__":
    main()
