"""A phone book as a prompt: names and numbers, solved examples, and one name to look up.

As in the empirical study of Mamba-based language models (arXiv 2406.07887, section 3.3.3), where names may collide;
here every name stands once. In the reversed form the model is told the name before it reads the book. All is drawn from
a seed: the same seed, entries, depth and trial give the same text on every machine.
"""

import random
from dataclasses import dataclass
from itertools import product
from typing import Literal

from bamba_data.errors import UserError

Form = Literal["standard", "reversed"]

FIRST = """
Adam Alice Anna Arthur Beth Boris Carla Carl Clara Daniel Diana Edgar Elena Emil Emma Erik Fiona Frank George
Grace Hanna Hugo Ida Ivan Jack Jane Julia Karl Kate Laura Leon Linda Lucas Maria Mark Martin Mia Nina Nora Oscar
Paul Peter Rosa Ruth Sam Sara Simon Sofia Thomas Vera Victor Walter
"""
LAST = """
Adler Baker Barnes Becker Bell Berg Black Brown Carter Clark Cole Cook Cruz Dean Diaz Evans Fischer Ford Fox
Garcia Gray Green Hall Harris Hill Hoffman Hunt Jensen Jones Kaiser Keller King Klein Lang Larsen Lee Lopez
Marsh Meyer Miller Moore Morgan Nelson Novak Olsen Palmer Perez Porter Reed Rossi Schmidt Shaw Silva Stone
Turner Vogel Ward Weber White Wolf Wood Young
"""
NAMES = [f"{first} {last}" for first, last in product(FIRST.split(), LAST.split())]


@dataclass(frozen=True, slots=True)
class Question:
    """`prompt` ends before the answer; `answer` begins with a blank; `depth` is the place of the line that is asked
    for, 0 the first and 1 the last; `entries` is how many lines there are."""

    prompt: str
    answer: str
    depth: float
    entries: int


def question(form: Form, entries: int, depth: float, shots: int, seed: int, trial: int) -> Question:
    """One prompt and its answer.

    Args:
        entries: Lines of the book; at least one more than `shots`.
        depth: 0 to 1.
        shots: Solved examples, of lines spread evenly over the book, none of them the one that is asked for.

    Raises:
        UserError: More entries than there are names, or too few for the shots.
    """
    if entries > len(NAMES):
        raise UserError(f"a book of {entries:,} entries: there are {len(NAMES):,} names")
    if entries <= shots:
        raise UserError(f"a book of {entries} entries has no line left to ask for after {shots} shots")
    drawn = random.Random(f"{seed} {entries} {trial}")  # a text as a seed: the same in all versions of Python
    names = drawn.sample(NAMES, entries)
    phones = [f"{drawn.randrange(200, 1000)}-{drawn.randrange(10000):04d}" for _ in names]
    asked = round(depth * (entries - 1))
    free = [at for at in range(entries) if at != asked]
    solved = [free[(2 * shot + 1) * len(free) // (2 * shots)] for shot in range(shots)]
    book = "\n".join(f"{name}: {phone}" for name, phone in zip(names, phones, strict=True))
    examples = "".join(f"{_asks(names[at])} {phones[at]}\n\n" for at in solved)
    before = ""
    if form == "reversed":
        before = f"I will ask you for the phone number of {names[asked]} later. Here is the phone book.\n\n"
    return Question(f"{before}{book}\n\n{examples}{_asks(names[asked])}", f" {phones[asked]}", depth, entries)


def _asks(name: str) -> str:
    return f"What is the phone number for {name}?\nAnswer:"
