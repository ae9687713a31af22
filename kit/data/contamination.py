r"""Training problems that are also in a validation or evaluation set: found, listed in a CSV, dropped from training.

Texts are compared as sets of word triples; two problems count as one when the Jaccard overlap of their sets, shared / all, is at
least `data.near_duplicate`. Measured on the 975 AIME problems of 1983 to 2023 against 1,305 of five sets: copies and rewordings
have 0.56 to 1.00, other problems at most 0.31; two AIME problems of one pattern with other numbers can reach 0.5. Problems the
laptop generates (those with a `core`) are all alike, so only equal ones count.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from kit.data import problems
from kit.data.problems import Problem
from kit.runs import files, paths
from kit.settings import HELD_OUT, Config

WORDS = 3  # words per shingle

_NOISE = re.compile(  # LaTeX's spacing and fonts, and drawings
    r"\[asy\].*?\[/asy\]"
    r"|\\(?:left|right|displaystyle|text|textbf|textit|emph|mathrm|mathbf|[bB]igg?[lr]?|q?quad|begin|end)(?![a-zA-Z])",
    re.DOTALL,
)


def shingles(problem: Problem) -> frozenset[tuple[str, ...]]:
    """The word triples of a question; numbers and single letters are words, too. Of a short question, and of one that the laptop
    generated, the whole is one shingle."""
    if problem.core is not None:
        return frozenset([(problems.plain(problem.question),)])
    text = _NOISE.sub(" ", unicodedata.normalize("NFKC", problem.question))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").lower()
    words = re.findall(r"[^\W\d_]+|\d+", text)
    return frozenset(tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1)))


def overlaps(train: Sequence[Problem], held_out: Iterable[tuple[str, Problem]], threshold: float) -> pd.DataFrame:
    """A row per pair of a training and a held-out problem (set, problem) that overlap by at least `threshold`, in training order:
    train_id, set, id, similarity (0 to 1)."""
    others = [(name, p.id, shingles(p)) for name, p in held_out]
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)  # shingle -> the held-out problems with it; far below all pairs
    for k, (_, _, theirs) in enumerate(others):
        for shingle in theirs:
            having[shingle].append(k)
    rows = []
    for p in train:
        own = shingles(p)
        shared = Counter(k for shingle in own for k in having.get(shingle, ()))
        for k in sorted(shared):
            name, other, theirs = others[k]
            rows.append((p.id, name, other, shared[k] / (len(own) + len(theirs) - shared[k])))
    table = pd.DataFrame(rows, columns=["train_id", "set", "id", "similarity"])
    return table[table.similarity >= threshold].round({"similarity": 3})


def training_problems(config: Config) -> list[Problem]:
    """The training set without what is also in a validation or evaluation set (official: with it; `data.near_duplicate: null`);
    says in a line what was dropped. Writes data/contamination.csv of the run, the rows of `overlaps`."""
    train, facts = problems.open_set(config.data.train, config)
    if config.data.validation == HELD_OUT:
        own = {p.id for p in problems.load(HELD_OUT, config)}
        train = [p for p in train if p.id not in own]
    if config.data.near_duplicate is None:
        print(f"{config.data.train}: all {len(train)} rows are trained on, also what is held out (data.near_duplicate: null)")
        return train
    held_out = [(name, p) for name in (config.data.validation, *config.data.evaluation) for p in problems.load(name, config)]
    found, path = overlaps(train, held_out, config.data.near_duplicate), paths.of(config).contamination
    files.write_csv(path, found)
    dropped = set(found.train_id)
    if facts["origin"] != "generated" or dropped:
        by_set = found.groupby("set", sort=False).train_id.nunique()
        also = ", ".join(f"{count} in {name}" for name, count in by_set.items())
        other = f" ({facts['conflicts']} with another answer)" if facts["conflicts"] else ""
        print(f"{config.data.train}: {len(train) - len(dropped)} problems for training; dropped were {facts['duplicates']} "
              f"duplicates{other} and {len(dropped)} that are also held out ({also or 'none'}; listed in {path.name})"
              + "; data.near_duplicate: 1 drops equal ones only" * (len(dropped) > len(train) / 2))
    return [p for p in train if p.id not in dropped]
