r"""Training problems that are also in a validation or evaluation set: found, listed in a CSV, dropped from training.

Texts are compared as sets of word triples (numbers and single letters of formulas are words; LaTeX's spacing, `\left`, `\dfrac`
and drawings do not count), and two problems count as one when their sets' Jaccard overlap, shared / all, is at least
`data.near_duplicate`. Measured on the 975 AIME problems of 1983 to 2023 against 1,305 of five sets: copies and rewordings have
0.56 to 1.00, other problems at most 0.31; two AIME problems of one pattern with other numbers can reach 0.5. Problems the laptop
generates (those with a `core`) are all alike, so only equal ones count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from kit.data import problems
from kit.data.problems import Problem
from kit.runs import files, paths
from kit.settings import Config

WORDS = 3  # words per shingle

_NOISE = re.compile(
    r"\[asy\].*?\[/asy\]"
    r"|\\(?:left|right|displaystyle|text|textbf|textit|emph|mathrm|mathbf|[bB]igg?[lr]?|q?quad|begin|end)(?![a-zA-Z])",
    re.DOTALL,
)


@dataclass(frozen=True)
class Overlap:
    """A training problem that is also in a held-out set; `similarity` is the Jaccard overlap of word triples, 0 to 1."""

    train_id: str
    set: str
    id: str
    similarity: float


def shingles(problem: Problem) -> frozenset[tuple[str, ...]]:
    """The set of word triples of a question; of a short one, and of one that the laptop generated, the whole is one shingle."""
    if problem.core is not None:
        return frozenset([(problems.plain(problem.question),)])
    text = _NOISE.sub(" ", unicodedata.normalize("NFKC", problem.question))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").lower()
    words = re.findall(r"[^\W\d_]+|\d+", text)
    return frozenset(tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1)))


def overlaps(train: Sequence[Problem], held_out: Iterable[tuple[str, Problem]], threshold: float) -> list[Overlap]:
    """Every pair of a training and a held-out problem (set, problem) that overlaps by at least `threshold`, in training order.

    An index from shingle to held-out problems keeps this far below all pairs: about a second for 2,470 x 1,300.
    """
    others = [(name, p.id, shingles(p)) for name, p in held_out]
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for k, (_, _, theirs) in enumerate(others):
        for shingle in theirs:
            index[shingle].append(k)
    found = []
    for p in train:
        own = shingles(p)
        for k, shared in sorted(Counter(k for shingle in own for k in index.get(shingle, ())).items()):
            name, other, theirs = others[k]
            similarity = shared / (len(own) + len(theirs) - shared)
            if similarity >= threshold:
                found.append(Overlap(p.id, name, other, round(similarity, 3)))
    return found


def training_problems(config: Config) -> list[Problem]:
    """The training set without what is also in a validation or evaluation set; says in a line what was dropped.

    Writes data/contamination.csv of the run: a row per pair, with both ids and the similarity.
    """
    got = problems.open_set(config.data.train, config)
    held_out = [(name, p) for name in (config.data.validation, *config.data.evaluation) for p in problems.load(name, config)]
    found = overlaps(got.problems, held_out, config.data.near_duplicate)
    path = paths.of(config).contamination
    files.write_csv(path, pd.DataFrame(found, columns=list(Overlap.__dataclass_fields__)))
    dropped = {o.train_id for o in found}
    if got.origin != "generated" or dropped:
        by_set = Counter(name for name in {(o.train_id, o.set): o.set for o in found}.values())
        also = ", ".join(f"{count} in {name}" for name, count in by_set.items())
        print(f"{config.data.train}: {len(got.problems) - len(dropped)} problems for training; dropped were {got.duplicates} "
              f"duplicates and {len(dropped)} that are also held out ({also or 'none'}; listed in {path.name})")
    return [p for p in got.problems if p.id not in dropped]
