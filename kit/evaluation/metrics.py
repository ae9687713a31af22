"""Grades -> a model's accuracy, length and truncation, each with its 95 % interval.

    accuracy (pass@1) = mean over problems of the share of a problem's responses that are correct, in percent
    length            = mean over problems of the mean length of a problem's responses, in tokens

Both as in the official evaluation; where a log has more responses to some problems, each problem counts the same all the same.
Problems are what is drawn at random, each with all its responses (evaluation/uncertainty). Means over data sets weigh each set
equally.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from kit.evaluation import uncertainty
from kit.reward import grading

Graded = dict[str, pd.DataFrame]  # data set -> its grades, a row per response (evaluation/evaluate)


def per_problem(grades: pd.DataFrame) -> pd.DataFrame:
    """A row per problem, in id order: accuracy (percent of its responses), mean length, truncated (percent), mean core.

    What a log does not tell of every response (length, truncated) is NaN.
    """
    g = grades.assign(accuracy=100.0 * (grades.verdict == "correct"), truncated=100.0 * (1.0 - grades.finished.astype(float)))
    return g.groupby("id", sort=True)[["accuracy", "length", "truncated", "core"]].mean(skipna=False)


def sets_and_mean(names: Iterable[str], seed: int) -> list[tuple[str, list[str], int]]:
    """The rows of a table as (title, data sets, seed of its bootstrap): one for each set, and `mean` when there are several."""
    rows = [(name, [name], seed + k) for k, name in enumerate(names)]
    return [*rows, ("mean", [name for name, _, _ in rows], seed)] if len(rows) > 1 else rows


def mean_of_sets(values: Sequence[np.ndarray]) -> float:
    """The mean over data sets of the mean over problems."""
    return float(np.mean([v.mean() for v in values]))


def measure(graded: Graded, resamples: int, seed: int) -> pd.DataFrame:
    """A row per data set, and `mean` over them when there are several.

    Columns: accuracy (percent), length (tokens), multiple (length / shortest correct chain), each with `_low` and
    `_high` (95 %; of lengths by `resamples` of the problems, 0 leaves them out); truncated (percent of responses); length of
    correct and of wrong responses; counts of verdicts; `forced` where budget forcing made them (percent of responses). What is
    not known of every response is NaN, in the mean over the sets too: a mean of some would look like one of all.
    """
    tables, rows = {name: per_problem(grades) for name, grades in graded.items()}, []
    for title, names, own_seed in sets_and_mean(graded, seed):
        grades = [graded[name] for name in names]
        samples = [len(graded[name]) / len(tables[name]) for name in names]
        accuracy, length, core, truncated = (
            [tables[name][c].to_numpy(dtype=float) for name in names] for c in ("accuracy", "length", "core", "truncated"))
        row = {"set": title, "problems": sum(map(len, accuracy)), "samples": float(np.mean(np.floor(samples)))}
        for column, value, (low, high) in (
            ("accuracy", mean_of_sets(accuracy), uncertainty.accuracy_interval(accuracy, samples)),
            ("length", mean_of_sets(length),
             uncertainty.ratio_interval(length, [np.ones_like(v) for v in length], resamples, own_seed)),
            ("multiple", mean_of_sets(length) / mean_of_sets(core),
             uncertainty.ratio_interval(length, core, resamples, own_seed)),
        ):
            row |= {column: value, f"{column}_low": low, f"{column}_high": high}
        row |= {"core": mean_of_sets(core), "truncated": mean_of_sets(truncated)}
        for column, right in (("length_correct", True), ("length_wrong", False)):
            row[column] = pd.Series([g.length[(g.verdict == "correct") == right].mean(skipna=False) for g in grades]).mean()
        row |= {f"n_{v.replace(' ', '_')}": sum(int((g.verdict == v).sum()) for g in grades) for v in grading.VERDICTS}
        if "forced" in grades[0]:
            row["forced"] = float(np.mean([100 * g.forced.mean() for g in grades]))
        rows.append(row)
    return pd.DataFrame(rows)
