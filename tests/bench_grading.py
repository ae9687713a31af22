r"""How fast is the grader? `make bench` runs this: python tests/bench_grading.py [--out results/bench/grading.csv]

10,000 answers like those of a training step (80 % integers, 15 % fractions and radicals, 5 % polynomials and tuples;
30 % of them repeats; responses of 200 to 30,000 characters) are graded three ways in one run, so that what else the
machine does falls on all three alike: by `kit.reward.grading`, by TRL's `accuracy_reward`, and by one forked process per
answer with a join, as the official code does it (that one on a sample). What is compared is answers per second.
"""

import argparse
import csv
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.reward import grading

ANSWERS, FORKED_SAMPLE, TRL_SAMPLE, CHUNKS = 10_000, 300, 2_000, 5
FILLER = "Wait, let me double-check: since $a_{n+1} = 2a_n + 3$ and $a_1 = 1$, we have $a_2 = 5$, so \\(x = 4\\) holds. "


def answer_and_gold(draw: random.Random) -> tuple[str, str]:
    """One fresh pair; about half are right, and of the right ones half are spelled differently."""
    kind, right, respelled = draw.random(), draw.random() < 0.5, draw.random() < 0.5
    a, b, c = draw.randint(2, 999), draw.randint(2, 99), draw.choice([2, 3, 5, 6, 7, 10, 11])
    off = 0 if right else draw.randint(1, 5)
    if kind < 0.80:
        return str(a + off), f"{a:03d}" if respelled else str(a)
    if kind < 0.875:
        return (rf"\dfrac{{{2 * a}}}{{{2 * (b + off)}}}" if respelled else rf"\frac{{{a}}}{{{b + off}}}"), rf"\frac{{{a}}}{{{b}}}"
    if kind < 0.95:
        return (rf"\sqrt{{{(b + off) ** 2 * c}}}" if respelled else rf"{b + off}\sqrt{{{c}}}"), rf"{b}\sqrt{{{c}}}"
    if kind < 0.975:
        return (rf"{c}+x^2+{b + off}x" if respelled else rf"x^2+{b + off}x+{c}"), rf"x^{{2}}+{b}x+{c}"
    return rf"\left({a},\frac{{{b + off}}}{{{c}}}\right)", rf"({a},\frac{{{b}}}{{{c}}})"


def mixed_set(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Responses and golds; three in ten repeat an earlier pair of answer and gold in a response of its own."""
    draw = random.Random(seed)
    pairs: list[tuple[str, str]] = []
    for _ in range(count):
        pairs.append(draw.choice(pairs) if pairs and draw.random() < 0.3 else answer_and_gold(draw))
    responses = []
    for answer, _ in pairs:
        length = int(200 * 150 ** draw.random())  # 200 to 30,000 characters, log-uniform
        responses.append((FILLER * (length // len(FILLER) + 1))[:length] + f"</think>\n\nThe answer is $\\boxed{{{answer}}}$.")
    return responses, [gold for _, gold in pairs]


def _official_child(response: str, gold: str, queue: multiprocessing.SimpleQueue) -> None:
    from math_verify import parse, verify

    answer = grading.extract_answer(response)
    queue.put(
        verify(
            parse(rf"\boxed{{{gold}}}", parsing_timeout=None),
            parse(rf"\boxed{{{answer}}}", parsing_timeout=None),
            timeout_seconds=None,
        )
    )


def forked(responses: list[str], golds: list[str]) -> list[bool]:
    """The official scheme: a process for every answer, forked, waited for at most a second."""
    context = multiprocessing.get_context("fork")
    verdicts = []
    for response, gold in zip(responses, golds, strict=True):
        queue = context.SimpleQueue()
        process = context.Process(target=_official_child, args=(response, gold, queue))
        process.start()
        process.join(timeout=5)
        verdicts.append(process.exitcode == 0 and queue.get())
    return verdicts


def trl_reward(responses: list[str], golds: list[str]) -> list[bool]:
    from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": response}] for response in responses]
    return [reward == 1.0 for reward in accuracy_reward(completions, [f"${gold}$" for gold in golds])]


def ours(responses: list[str], golds: list[str]) -> list[bool]:
    return [grade.correct for grade in grading.grade_many(responses, golds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    arguments = parser.parse_args()
    import logging

    import math_verify  # noqa: F401  (so that every forked child has it, as in the official code)
    import trl.rewards  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    responses, golds = mixed_set(ANSWERS)
    ways: dict[str, tuple[Callable[[list[str], list[str]], list[bool]], int]] = {
        "forked process per answer (official scheme)": (forked, FORKED_SAMPLE),
        "TRL accuracy_reward": (trl_reward, TRL_SAMPLE),
        "kit.reward.grading": (ours, ANSWERS),
    }
    grading.grade(r"\boxed{x+1}", "1+x")  # workers started, as they are in every step but the first
    seconds, graded, right = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
    for chunk in range(CHUNKS):  # in turns, so that the machine's mood is shared
        for way, (function, sample) in ways.items():
            rows = range(chunk * ANSWERS // CHUNKS, chunk * ANSWERS // CHUNKS + sample // CHUNKS)
            start = time.perf_counter()
            verdicts = function([responses[row] for row in rows], [golds[row] for row in rows])
            seconds[way] += time.perf_counter() - start
            graded[way] += len(rows)
            right[way] += sum(verdicts)
    speed = {way: graded[way] / seconds[way] for way in ways}
    table = [
        {
            "way": way,
            "answers": graded[way],
            "answers_per_second": round(speed[way], 1),
            "share_correct": round(right[way] / graded[way], 3),
            "kit_is_faster_by": round(speed["kit.reward.grading"] / speed[way], 1),
        }
        for way in ways
    ]
    print(f"{'grading, answers per second':<45} {'answers':>8} {'per s':>9} {'correct':>8} {'kit faster by':>14}")
    for row in table:
        way, count, rate, share, factor = row.values()
        print(f"{way:<45} {count:>8} {rate:>9} {share:>8} {factor:>13}x")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
