"""Writes conversations.jsonl: short conversations whose every answer is computed, so that all of it is ours and right.

Run from the root of the repo after a change: ``python -m trainers.data.example.generate_conversations``. The same
generator always gives the same file; a test compares them.
"""

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from fractions import Fraction
from math import gcd
from pathlib import Path
from random import Random

Turn = tuple[str, str]
"""What the user asks, and the answer."""

NUM_CONVERSATIONS = 2048
SEED = 20240229

NAMES = [
    "Ada", "Bruno", "Chidi", "Dalia", "Emre", "Farah", "Goran", "Hana", "Ines", "Jonas", "Kiri", "Lucia", "Milan",
    "Nadia", "Omar", "Priya", "Rosa", "Sven", "Tomas", "Yuki",
]  # fmt: skip
GOODS = [
    "apples", "pears", "notebooks", "candles", "tickets", "mugs", "bulbs", "batteries", "stamps", "towels", "kites",
    "magnets",
]  # fmt: skip
ADJECTIVES = [
    "old", "quiet", "green", "narrow", "bright", "heavy", "early", "small", "crooked", "warm", "distant", "wooden",
]  # fmt: skip
NOUNS = [
    "bridge", "garden", "river", "lantern", "kettle", "harbour", "orchard", "staircase", "market", "violin",
    "window", "meadow",
]  # fmt: skip
VERBS = [
    "faces", "hides", "follows", "crosses", "needs", "guards", "outlasts", "mirrors",
]  # fmt: skip
CITIES = {
    "Norway": "Oslo", "Kenya": "Nairobi", "Peru": "Lima", "Japan": "Tokyo", "Portugal": "Lisbon", "Egypt": "Cairo",
    "Canada": "Ottawa", "Chile": "Santiago", "Greece": "Athens", "Thailand": "Bangkok", "Cuba": "Havana",
    "Austria": "Vienna", "Poland": "Warsaw", "Ghana": "Accra", "Nepal": "Kathmandu", "Finland": "Helsinki",
    "Uruguay": "Montevideo", "Vietnam": "Hanoi", "Iceland": "Reykjavik", "Jordan": "Amman", "Hungary": "Budapest",
    "Ireland": "Dublin", "Senegal": "Dakar", "Mongolia": "Ulaanbaatar", "Australia": "Canberra", "Bulgaria": "Sofia",
}  # fmt: skip
ELEMENTS = {
    "hydrogen": ("H", 1), "helium": ("He", 2), "lithium": ("Li", 3), "carbon": ("C", 6), "nitrogen": ("N", 7),
    "oxygen": ("O", 8), "neon": ("Ne", 10), "sodium": ("Na", 11), "magnesium": ("Mg", 12), "aluminium": ("Al", 13),
    "silicon": ("Si", 14), "sulfur": ("S", 16), "chlorine": ("Cl", 17), "potassium": ("K", 19), "calcium": ("Ca", 20),
    "titanium": ("Ti", 22), "iron": ("Fe", 26), "nickel": ("Ni", 28), "copper": ("Cu", 29), "zinc": ("Zn", 30),
    "silver": ("Ag", 47), "tin": ("Sn", 50), "tungsten": ("W", 74), "gold": ("Au", 79), "lead": ("Pb", 82),
}  # fmt: skip
UNITS = [
    ("kilometres", "metres", Fraction(1000)), ("hours", "minutes", Fraction(60)), ("days", "hours", Fraction(24)),
    ("inches", "centimetres", Fraction(254, 100)), ("kilograms", "grams", Fraction(1000)),
    ("weeks", "days", Fraction(7)), ("miles", "kilometres", Fraction(1609344, 1000000)),
    ("feet", "inches", Fraction(12)),
    ("litres", "millilitres", Fraction(1000)), ("pounds", "kilograms", Fraction(45359237, 100000000)),
]  # fmt: skip
SYSTEM_PROMPTS = [
    "You are a patient tutor. Show each step.",
    "Answer briefly.",
    "You help people check their sums. If something is unclear, say so.",
    "You are the assistant of a small shop: polite, exact, no more words than needed.",
]
NEXT = ["Thanks! {}", "Good. {}", "And another one: {}", "OK, next: {}", "{}", "That helps. {}", "Now this: {}"]


def size(rng: Random, smallest: int = 3) -> int:
    """Return a number of rows, words or numbers: mostly small, now and then thirty times as many."""
    scale = rng.choices([1, 2, 4, 8, 16], weights=[70, 19, 7, 3, 1])[0]
    return smallest + rng.randrange(smallest * scale)


def decimal(value: Fraction) -> str:
    """Write a number with at most two decimals and no trailing zeros."""
    cents = round(value * 100)
    text = f"{cents // 100}.{cents % 100:02d}".rstrip("0").rstrip(".")
    return text


def sentence(rng: Random) -> str:
    """Make up a sentence."""
    return (
        f"The {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(VERBS)} "
        f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}."
    )


def purchase(rng: Random) -> Turn:
    """Prices, change and sharing."""
    name, good, other = rng.choice(NAMES), *rng.sample(GOODS, 2)
    count, price, more, other_price = (rng.randrange(2, 20) for _ in range(4))
    total = count * price
    kind = rng.randrange(4)
    if kind == 0:
        ask = rng.choice(["How much is that?", "What does {n} pay?", "What is the total?"]).format(n=name)
        return f"{name} buys {count} {good} at ${price} each. {ask}", f"{count} x ${price} = ${total}."
    if kind == 1:
        both = total + more * other_price
        return (
            f"{count} {good} cost ${price} each and {more} {other} cost ${other_price} each. What is the total?",
            f"The {good} cost {count} x {price} = {total} dollars. The {other} cost {more} x {other_price} = "
            f"{more * other_price} dollars. Together that is {total} + {more * other_price} = {both} dollars.",
        )
    if kind == 2:
        note = -(-total // 50) * 50
        return (
            f"{name} pays for {count} {good} at ${price} each with ${note}. How much change is there?",
            f"{count} x {price} = {total} dollars, so the change is {note} - {total} = {note - total} dollars.",
        )
    friends = rng.randrange(2, 8)
    each, left = divmod(total, friends)
    rest = f" with {left} left over" if left else ", and nothing is left"
    return (
        f"{name} shares {total} {good} equally among {friends} friends. How many does each get?",
        f"{total} / {friends} = {each}{rest}.",
    )


def conversion(rng: Random) -> Turn:
    """Units."""
    big, small, factor = rng.choice(UNITS)
    amount = rng.randrange(2, 90)
    if factor.denominator == 1 and rng.random() < 0.4:
        total = amount * factor
        return f"How many {big} are {total} {small}?", f"{total} {small} are {amount} {big}."
    ask = rng.choice(["Convert {a} {b} to {s}.", "How many {s} are {a} {b}?", "{a} {b} in {s}, please."])
    about = "" if (amount * factor * 100).denominator == 1 else "about "
    return (
        ask.format(a=amount, b=big, s=small),
        f"{amount} x {float(factor):g} is {about}{decimal(amount * factor)} {small}.",
    )


def calendar(rng: Random) -> Turn:
    """Days of the week and distances between dates."""
    start = date(1990, 1, 1) + timedelta(days=rng.randrange(20000))
    days = rng.randrange(3, 400)
    end = start + timedelta(days=days)
    kind = rng.randrange(3)
    if kind == 0:
        return f"What day of the week was {start.isoformat()}?", f"{start:%A}."
    if kind == 1:
        return f"What is the date {days} days after {start.isoformat()}?", f"It is {end.isoformat()}, a {end:%A}."
    return f"How many days are there from {start.isoformat()} to {end.isoformat()}?", f"{days} days."


def ordering(rng: Random) -> Turn:
    """Sorting numbers and names."""
    count = size(rng, 4)
    down = rng.random() < 0.5
    if rng.random() < 0.6:
        numbers = [rng.randrange(1000) for _ in range(count)]
        ask = f"Sort these numbers, {'largest' if down else 'smallest'} first: {', '.join(map(str, numbers))}"
        return ask, ", ".join(map(str, sorted(numbers, reverse=down)))
    words = rng.sample(NAMES + GOODS, min(count, 32))
    ask = rng.choice(["Put these in alphabetical order: {}", "Alphabetise: {}"])
    return ask.format(", ".join(words)), ", ".join(sorted(words, key=str.lower))


def text_edit(rng: Random) -> Turn:
    """Small changes to a text."""
    text = " ".join(sentence(rng) for _ in range(size(rng, 1)))
    words = text.rstrip(".").split()
    word = rng.choice([word for word in words if word.lower() != "the"]).rstrip(".")
    other = rng.choice(["bakery", "lighthouse", "tunnel", "library"])
    letter = rng.choice("aeiorst")
    count = text.lower().count(letter)
    edits = [
        (f"Write this in capitals: {text}", text.upper()),
        (f"How many words are in this text? {text}", f"{len(words)} words."),
        (f"Replace '{word}' by '{other}': {text}", text.replace(word, other)),
        (f"How often does the letter {letter} occur here? {text}", f"{count} time{'s' * (count != 1)}."),
        (f"Give me the words of this in reverse order: {text}", " ".join(reversed(text.replace(".", "").split()))),
    ]
    return rng.choice(edits)


def program(rng: Random) -> Turn:
    """What a few lines of Python print, and why."""
    numbers = [rng.randrange(1, 60) for _ in range(size(rng))]
    k = rng.randrange(2, 6)
    word = rng.choice(NOUNS)
    snippets = [
        (f"print(sum(x for x in {numbers} if x % {k} == 0))", str(sum(x for x in numbers if x % k == 0)),
         f"it adds the numbers that {k} divides"),
        (f"print([x * {k} for x in {numbers}])", str([x * k for x in numbers]), f"every number is multiplied by {k}"),
        (f"values = {numbers}\nvalues.sort()\nprint(values[-{k - 1 if k <= 3 else 1}])",
         str(sorted(numbers)[-(k - 1 if k <= 3 else 1)]), "negative indices count from the end of the sorted list"),
        (f"print('{word}'[::-1])", word[::-1], "a step of -1 walks the string backwards"),
        (f"print('{word}'.replace('{word[0]}', '{k}'))", word.replace(word[0], str(k)),
         f"every '{word[0]}' becomes '{k}'"),
        (f"total = 0\nfor i in range({k * 3}):\n    if i % {k}:\n        total += i\nprint(total)",
         str(sum(i for i in range(k * 3) if i % k)), f"multiples of {k} are left out of the sum"),
    ]  # fmt: skip
    code, output, why = rng.choice(snippets)
    ask = rng.choice(["What does this print?", "What is the output of this Python code?", "Predict the output:"])
    return f"{ask}\n```python\n{code}\n```", f"It prints `{output}`: {why}."


def table(rng: Random) -> Turn:
    """Look-ups in a table."""
    names = rng.sample(NAMES, min(size(rng), 20))
    rows = [(name, rng.choice(list(CITIES.values())), rng.randrange(18, 80), rng.randrange(5, 500)) for name in names]
    text = "name,city,age,points\n" + "\n".join(",".join(map(str, row)) for row in rows)
    name, city, age, _ = rng.choice(rows)
    best = max(rows, key=lambda row: row[3])
    tie = " (the first of several)" if sum(row[3] == best[3] for row in rows) > 1 else ""
    asks = [
        (f"In which city does {name} live?", f"{name} lives in {city}."),
        (f"How old is {name}?", f"{age}."),
        ("Who has the most points?", f"{best[0]}, with {best[3]} points{tie}."),
        ("What is the sum of the points?", f"{' + '.join(str(row[3]) for row in rows)} = {sum(r[3] for r in rows)}."),
        (f"List everyone younger than {age + 5}.", ", ".join(row[0] for row in rows if row[2] < age + 5) + "."),
    ]
    ask, answer = rng.choice(asks)
    return f"{ask}\n\n{text}", answer


def fact(rng: Random) -> Turn:
    """Capitals and chemical elements."""
    if rng.random() < 0.5:
        country, city = rng.choice(list(CITIES.items()))
        return rng.choice(
            [
                (f"What is the capital of {country}?", f"{city}."),
                (f"{city} is the capital of which country?", f"Of {country}."),
                (f"Capital of {country}?", f"The capital of {country} is {city}."),
            ]
        )
    element, (symbol, number) = rng.choice(list(ELEMENTS.items()))
    return rng.choice(
        [
            (f"What is the chemical symbol of {element}?", f"{symbol}."),
            (f"Which element has the symbol {symbol}?", f"{element.capitalize()}, atomic number {number}."),
            (f"How many protons does an atom of {element} have?", f"{number}, its atomic number."),
        ]
    )


def number(rng: Random) -> Turn:
    """Divisors, primes, fractions and percentages."""
    a, b = rng.randrange(6, 200), rng.randrange(6, 200)
    kind = rng.randrange(4)
    if kind == 0:
        steps, x, y = [], a, b
        while y:
            steps.append(f"{x} = {x // y} x {y} + {x % y}")
            x, y = y, x % y
        return f"What is the greatest common divisor of {a} and {b}?", "; ".join(steps) + f". So it is {gcd(a, b)}."
    if kind == 1:
        divisor = next((d for d in range(2, a) if a % d == 0), a)
        verdict = "Yes" if divisor == a else f"No, {a} = {divisor} x {a // divisor}"
        return f"Is {a} a prime number?", f"{verdict}."
    if kind == 2:
        ratio = Fraction(a, b)
        lowest = str(ratio)
        return f"Reduce the fraction {a}/{b}.", f"{lowest}." if gcd(
            a, b
        ) > 1 else f"{a}/{b} is in lowest terms already."
    percent = rng.randrange(1, 20) * 5
    return f"What is {percent}% of {a}?", f"{decimal(Fraction(percent * a, 100))}."


def schedule(rng: Random) -> Turn:
    """A plan for a day, from durations."""
    tasks = [
        f"{rng.choice(['clean', 'paint', 'measure', 'visit'])} the {noun}"
        for noun in rng.sample(NOUNS, min(size(rng), 12))
    ]
    minutes = [rng.randrange(1, 13) * 5 for _ in tasks]
    clock = rng.randrange(7, 11) * 60
    lines = []
    asked = "; ".join(f"{task} ({duration} min)" for task, duration in zip(tasks, minutes, strict=True))
    begin = f"{clock // 60:02d}:{clock % 60:02d}"
    for task, duration in zip(tasks, minutes, strict=True):
        lines.append(f"{clock // 60:02d}:{clock % 60:02d} {task}")
        clock += duration
    lines.append(f"{clock // 60:02d}:{clock % 60:02d} done")
    return f"I start at {begin} and do one thing after the other: {asked}. Write my schedule.", "\n".join(lines)


def record(rng: Random) -> Turn:
    """A sentence as JSON."""
    name, city, age = rng.choice(NAMES), rng.choice(list(CITIES.values())), rng.randrange(18, 90)
    hobbies = rng.sample(NOUNS, rng.randrange(1, 4))
    text = f"{name}, {age}, lives in {city} and likes the {' and the '.join(hobbies)}."
    return f"Turn this into JSON: {text}", json.dumps({"name": name, "age": age, "city": city, "likes": hobbies})


# Facts and short sums are asked far more often than tables are pasted.
TOPICS: dict[Callable[[Random], Turn], int] = {
    fact: 20, purchase: 16, conversion: 16, number: 14, calendar: 14, ordering: 6, text_edit: 6, program: 5,
    record: 3, table: 3, schedule: 2,
}  # fmt: skip
TURNS = [1, 2, 3, 4, 6, 9, 14, 24]
TURN_WEIGHTS = [860, 85, 28, 12, 7, 4, 3, 1]


def conversation(rng: Random) -> list[dict[str, str]]:
    """Make one conversation: a few turns, most often on one topic, seldom on several."""
    messages = []
    if rng.random() < 0.08:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    (topic,) = rng.choices(list(TOPICS), weights=list(TOPICS.values()))
    for turn in range(rng.choices(TURNS, weights=TURN_WEIGHTS)[0]):
        if turn and rng.random() < 0.3:
            (topic,) = rng.choices(list(TOPICS), weights=list(TOPICS.values()))
        ask, answer = topic(rng)
        messages.append({"role": "user", "content": rng.choice(NEXT).format(ask) if turn else ask})
        messages.append({"role": "assistant", "content": answer})
    return messages


def generate(count: int = NUM_CONVERSATIONS, seed: int = SEED) -> Iterator[str]:
    """Yield ``count`` different conversations as lines of JSON, each with its line break."""
    rng = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        line = json.dumps({"messages": conversation(rng)}, ensure_ascii=False, separators=(",", ":")) + "\n"
        if line not in seen:
            seen.add(line)
            yield line


if __name__ == "__main__":
    Path(__file__).with_name("conversations.jsonl").write_text("".join(generate()), encoding="utf-8")
