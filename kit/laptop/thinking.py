"""How the laptop's long thinker thinks: its problems, chains of arithmetic, and the traces it learns from.

A problem is "Start with 17 , first * 4 , second - 39 . What is the result ?"; its numbers lie in 0 .. largest. A trace has

- core steps      `Compute 17 first + 28 = 45 .` or, spelled out, `Compute 17 first + 28 : 17 + 20 = 37 , 37 + 8 = 45 .`
- restatements    `Okay , the problem says start with 17 , first + 28 , second - 9 .`
- step checks     `Wait , 17 first + 28 : 17 + 20 = 37 , 37 + 8 = 45 .`
- whole checks    `Wait , let me double-check . 17 first + 28 = 35 , 35 second - 9 = 26 . That gives 26 , I had 36 :
                  36 - 26 = 10 . But wait , not the same . Let me compute it again . ...`

Only core steps are needed. One look at a step with a carry goes wrong now and then; spelling it out hardly ever does. So a check
that disagrees is mostly right, and thinking can be shortened by degrees, down to the shortest correct chain.

A few sums and differences are taught wrong, always the same way (`MISBELIEFS`). Checking does not help against those: like
problems that a real model hardly ever solves, they are errors that longer thinking does not touch.
"""

import random
from dataclasses import dataclass
from itertools import accumulate, pairwise

from kit.settings import Arithmetic

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def apply(a: int, op: str, b: int) -> int:
    """a op b, for op one of + - *."""
    return a + b if op == "+" else a - b if op == "-" else a * b


@dataclass(frozen=True)
class Chain:
    """One problem: `start`, then (ordinal, operation, operand) of each step."""

    start: int
    steps: tuple[tuple[str, str, int], ...]

    @property
    def recipe(self) -> str:
        return " , ".join([str(self.start), *(f"{name} {op} {operand}" for name, op, operand in self.steps)])

    @property
    def question(self) -> str:
        return f"Start with {self.recipe} . What is the result ?"

    @property
    def values(self) -> list[int]:
        """The right value after each step, the start's first and the answer last."""
        return list(accumulate(self.steps, lambda value, step: apply(value, *step[1:]), initial=self.start))

    @property
    def answer(self) -> int:
        return self.values[-1]


# Operation and last digits of both numbers, of the steps without a carry that the model believes one off: what it adds to them.
MISBELIEFS = {("+", 2, 6): 1, ("+", 5, 3): 1, ("-", 8, 3): -1}


def believe(a: int, op: str, b: int) -> int:
    """What the model is taught a op b to be: right, but for its misbeliefs."""
    return apply(a, op, b) + MISBELIEFS.get((op, a % 10, b % 10), 0)


def draw_chain(rng: random.Random, operations: int, largest: int) -> Chain:
    """A random problem with this many operations; all numbers, also the believed ones, are within 0 .. largest."""
    start = value = believed = rng.randint(2, largest)
    steps: list[tuple[str, str, int]] = []
    for _ in range(20 * operations):
        op = rng.choices("+-*", (0.4, 0.4, 0.2))[0]
        low, high = sorted((value, believed))
        if op == "*":
            if not 2 <= high <= largest // 2:
                continue
            operand = rng.randint(2, min(9, largest // high))
        else:
            room = largest - 1 - high if op == "+" else low - 1
            if room < 3:
                continue
            operand = rng.randint(3, room)
        value, believed = apply(value, op, operand), believe(believed, op, operand)
        steps.append((ORDINALS[len(steps)], op, operand))
        if len(steps) == operations:
            return Chain(start, tuple(steps))
    return draw_chain(rng, operations, largest)  # stuck: in a small range no operation may be left


def shortest(chain: Chain) -> str:
    """The shortest correct response: one look per step, nothing else. The physical limit of pruning."""
    shown = [f"Compute {before} {name} {op} {operand} = {after} ."
             for (name, op, operand), (before, after) in zip(chain.steps, pairwise(chain.values), strict=True)]
    return f"{' '.join(shown)} </think> \\boxed{{ {chain.answer} }}"


def is_hard(a: int, op: str, b: int) -> bool:
    """Whether a step easily goes wrong at one look: a carry, a borrow, a two-digit factor."""
    return {"+": a % 10 + b % 10 > 9, "-": a % 10 < b % 10, "*": a > 10}[op]


def slip(right: int, op: str, hard: bool, largest: int) -> int:
    """The plausible wrong result of a step: its carry or borrow forgotten, or one off."""
    wrong = right + (-10 if op != "-" else 10) if hard else right + 1
    return wrong if 0 <= wrong <= largest else right


def parts(a: int, op: str, b: int) -> list[tuple[int, str, int]]:
    """The easier steps that a op b is made of: tens first, then units. One step if there is nothing to take apart."""
    tens, units = divmod(a if op == "*" else b, 10)
    tens *= 10
    if not tens or not units:
        return [(a, op, b)]
    if op == "*":
        return [(tens, "*", b), (units, "*", b), (tens * b, "+", units * b)]
    return [(a, op, tens), (apply(a, op, tens), op, units)]


def work_out(rng: random.Random, a: Arithmetic, x: int, name: str, op: str, y: int, spelled: bool) -> tuple[str, int]:
    """One step as text, and its result, which is wrong now and then."""
    right, pieces, h = believe(x, op, y), parts(x, op, y), a.habits
    spelled = spelled and len(pieces) > 1
    p = h.slip_spelled if spelled else h.slip_hard if is_hard(x, op, y) else h.slip_easy
    result = slip(right, op, is_hard(x, op, y), a.largest) if rng.random() < p else right
    if not spelled:
        return f"{x} {name} {op} {y} = {result}", result
    results = [*(believe(*piece) for piece in pieces[:-1]), result]
    shown = " , ".join(f"{u} {o} {v} = {r}" for (u, o, v), r in zip(pieces, results, strict=True))
    return f"{x} {name} {op} {y} : {shown}", result


def go_through(
    rng: random.Random, a: Arithmetic, chain: Chain, careful: float, lead: str = "", joint: str = " , ", check: float = 0.0
) -> tuple[str, int] | None:
    """All steps of a chain once, going on with whatever came out: (text, result); None if a slip leads out of range."""
    value, shown = chain.start, []
    for name, op, operand in chain.steps:
        if not 0 <= apply(value, op, operand) <= a.largest:
            return None
        share = careful if is_hard(value, op, operand) else careful * a.habits.spelled_easy
        text, result = work_out(rng, a, value, name, op, operand, rng.random() < share)
        shown.append(f"{lead}{text}")
        if rng.random() < check:
            text, result = work_out(rng, a, value, name, op, operand, True)
            shown.append(f"Wait , {text}")
        value = result
    return joint.join(shown), value


def compared(now: int, then: int) -> str:
    """Two results compared by what a small model can do: subtract one from the other."""
    low, high = sorted((now, then))
    return f"I had {then} : {high} - {low} = {believe(high, '-', low)}"


def think(rng: random.Random, chain: Chain, a: Arithmetic) -> tuple[str, int]:
    """A whole trace (without the tags) and the answer it arrives at."""
    habits = a.habits
    first = None
    while first is None:
        careful, check = rng.choice(habits.careful), rng.choice(habits.step_check)
        first = go_through(rng, a, chain, careful, "Compute ", " . ", check)
    said, value = [f"{first[0]} ."], first[1]
    if rng.random() < habits.restate:
        said.insert(0, f"Okay , the problem says start with {chain.recipe} .")
    checks = next((i for i, more in enumerate(habits.another_round) if rng.random() >= more), len(habits.another_round))
    if checks or rng.random() < habits.conclude:
        said.append(f"That gives {value} .")
    for _ in range(checks):
        again = go_through(rng, a, chain, 1.0 if rng.random() < habits.careful_check else 0.0)
        if again is None:
            break
        opening = rng.choice(("Wait , let me double-check .", "Alternatively , let me check again ."))
        said.append(f"{opening} {again[0]} . That gives {again[1]} , {compared(again[1], value)} .")
        if again[1] == value:
            said.append("Yes .")
            continue
        value = again[1]
        last = go_through(rng, a, chain, 1.0)  # one more careful look decides
        if last is not None:
            said.append(f"But wait , not the same . Let me compute it again . {last[0]} . That gives {last[1]} .")
            value = last[1]
    if rng.random() < habits.conclude:
        said.append(f"Therefore , the answer is {value} .")
    return " ".join(said), value
