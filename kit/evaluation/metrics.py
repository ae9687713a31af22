"""Grades -> a model's accuracy, length and truncation, each with its 95 % interval.

    accuracy (pass@1) = mean over problems of the share of a problem's responses that are correct, in percent
    length            = mean over problems of the mean length of a problem's responses, in tokens

Both as in the official evaluation; where a log has more responses to some problems, each problem counts the same all the same.
Means over data sets weigh each set equally.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.evaluation.uncertainty import accuracy_interval, columns, ratio_interval

Graded = dict[str, pd.DataFrame]  # data set -> its grades, a row per response (evaluation/evaluate)


def per_problem(grades: pd.DataFrame) -> pd.DataFrame:
    """A row per problem, in id order: accuracy (percent of its responses), mean length, truncated (percent), mean core, and how
    many samples it has. What a log does not tell of every response (length, truncated) is NaN."""
    g = grades.assign(accuracy=100.0 * (grades.verdict == "correct"), truncated=100.0 * (1.0 - grades.finished.astype(float)))
    by_problem = g.groupby("id", sort=True)
    return by_problem[["accuracy", "length", "truncated", "core"]].mean(skipna=False).assign(samples=by_problem.size())


def sets_and_mean(names: Iterable[str], seed: int) -> list[tuple[str, list[str], int]]:
    """The rows of a table as (title, data sets, seed of its bootstrap): one for each set, and `mean` when there are several."""
    rows = [(name, [name], seed + k) for k, name in enumerate(names)]
    return [*rows, ("mean", [name for name, _, _ in rows], seed)] if len(rows) > 1 else rows


def mean_of_sets(values: Sequence[np.ndarray]) -> float:
    """The mean over data sets of the mean over problems."""
    return float(np.mean([v.mean() for v in values]))


def share(label: str, tables: Sequence[pd.DataFrame], column: Any, k: int = 1) -> dict[str, float]:
    """`label`, `label_low` and `label_high` of the mean over data sets of a column of percentages, as of an accuracy. `tables`: a
    row per problem, with its number of `samples`, of which `k` make one observation."""
    parts = [table[column].to_numpy(dtype=float) for table in tables]
    return columns(label, mean_of_sets(parts), accuracy_interval(parts, [table.samples.mean() / k for table in tables]))


def measure(graded: Graded, resamples: int, seed: int) -> pd.DataFrame:
    """A row per data set, and `mean` over them when there are several.

    Columns: accuracy (percent), length (tokens), multiple (length / shortest correct chain), each with `_low` and
    `_high` (95 %; of lengths by `resamples` of the problems, 0 leaves them out); truncated (percent of responses); length of
    correct and of wrong responses; counts of verdicts; `forced` where budget forcing made them (percent of responses). What is
    not known of every response is NaN, in the mean over the sets too: a mean of some would look like one of all.
    """
    from kit.reward.grading import VERDICTS  # figures use this file without a grader

    tables, rows = {name: per_problem(grades) for name, grades in graded.items()}, []
    for title, names, own_seed in sets_and_mean(graded, seed):
        grades, own = [graded[name] for name in names], [tables[name] for name in names]
        length, core, truncated = ([table[c].to_numpy(dtype=float) for table in own] for c in ("length", "core", "truncated"))
        ones = [np.ones_like(v) for v in length]
        row = {
            "set": title, "problems": sum(map(len, own)), "samples": np.mean([np.floor(table.samples.mean()) for table in own]),
            **share("accuracy", own, "accuracy"),
            **columns("length", mean_of_sets(length), ratio_interval(length, ones, resamples, own_seed)),
            **columns("multiple", mean_of_sets(length) / mean_of_sets(core), ratio_interval(length, core, resamples, own_seed)),
            "core": mean_of_sets(core), "truncated": mean_of_sets(truncated)}
        for column, right in (("length_correct", True), ("length_wrong", False)):
            row[column] = float(np.mean([g.length[(g.verdict == "correct") == right].mean(skipna=False) for g in grades]))
        row |= {f"n_{v.replace(' ', '_')}": sum(int((g.verdict == v).sum()) for g in grades) for v in VERDICTS}
        if "forced" in grades[0]:
            row["forced"] = float(np.mean([100 * g.forced.mean() for g in grades]))
        rows.append(row)
    return pd.DataFrame(rows)


def efficiency_score(accuracy: Any, length: Any, base_accuracy: Any, base_length: Any) -> Any:
    """The accuracy-efficiency score, AES (O1-Pruner, arXiv 2501.12570, section on metrics; used by later papers).

        AES = dL + 3 |dA|   if dA >= 0, else   dL - 5 |dA|

    with dL = (base length - length) / base length, dA = (accuracy - base accuracy) / base accuracy: accuracy lost weighs
    more than accuracy gained, and both more than length saved. 0 is the base itself.
    """
    shorter, better = (base_length - length) / base_length, (accuracy - base_accuracy) / base_accuracy
    return shorter + np.where(better >= 0, 3.0, 5.0) * better
