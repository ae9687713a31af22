"""Grades -> accuracy, length and their changes between models, each with its 95 % interval (kit.evaluation.uncertainty).

Accuracy is pass@1: the mean over problems of the mean over samples; length is the mean over all responses, in tokens: both as
in the official evaluation. Problems are what is drawn at random, each with all its samples; means over data sets weigh each set
equally.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kit.evaluation import uncertainty
from kit.reward import grading
from kit.settings import KitError


def per_problem(grades: pd.DataFrame) -> pd.DataFrame:
    """A row per problem, in id order: accuracy (percent over its samples), mean length, truncated (percent), mean core.

    What a log does not tell of every response (length, truncated) is NaN.
    """
    g = grades.assign(correct=100.0 * (grades.verdict == "correct"), truncated=100.0 * (1.0 - grades.finished.astype(float)))
    columns = ["correct", "length", "truncated", "core"]
    g[["length", "core"]] = g[["length", "core"]].apply(pd.to_numeric)
    return g.groupby("id", sort=True)[columns].mean(skipna=False).rename(columns={"correct": "accuracy"})


def metrics(graded: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """A row per data set, and `mean` over them when there are several.

    Columns: accuracy (percent), length (tokens), multiple (length / shortest correct chain), each with `_low` and
    `_high` (95 %); truncated (percent of responses); length of correct and of wrong responses; counts of verdicts. What is not
    known of every response is NaN, in the mean over the sets too: a mean of some would look like one of all.
    """
    rows, tables, samples = [], [], []
    for k, (name, grades) in enumerate(graded.items()):
        table = per_problem(grades)
        tables.append(table)
        samples.append(len(grades) / len(table))
        right, lengths = grades.verdict == "correct", pd.to_numeric(grades.length)
        rows.append({
            "set": name, "problems": len(table), "samples": len(grades) // len(table),
            **_estimates([table], samples[-1:], resamples, seed + k),
            "truncated": table.truncated.mean(skipna=False),
            "length_correct": lengths[right].mean(skipna=False), "length_wrong": lengths[~right].mean(skipna=False),
            **{f"n_{v.replace(' ', '_')}": int((grades.verdict == v).sum()) for v in grading.VERDICTS},
        })
    if len(rows) > 1:
        mean = pd.DataFrame(rows).mean(numeric_only=True)
        for column in ("length", "truncated", "core"):
            mean[column] = np.mean([row[column] for row in rows])
        counts = {c: int(sum(r[c] for r in rows)) for c in rows[0] if c.startswith("n_") or c == "problems"}
        rows.append({**mean, **counts, **_estimates(tables, samples, resamples, seed), "set": "mean"})
    return pd.DataFrame(rows)


def _estimates(tables: list[pd.DataFrame], samples: list[float], resamples: int, seed: int) -> dict[str, float]:
    """Accuracy, length and multiple, means over the sets, with their intervals."""
    accuracy, length, core = ([t[c].to_numpy(dtype=float) for t in tables] for c in ("accuracy", "length", "core"))
    found = {}
    for name, value, (low, high) in (
        ("accuracy", _mean(accuracy), uncertainty.accuracy_interval(accuracy, samples)),
        ("length", _mean(length), uncertainty.ratio_interval(length, list(map(np.ones_like, length)), resamples, seed)),
        ("multiple", _mean(length) / _mean(core), uncertainty.ratio_interval(length, core, resamples, seed)),
    ):
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {**found, "core": _mean(core)}


def accuracy_intervals(graded: dict[str, pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """The 95 % interval of the accuracy (percent) on each data set, and of their `mean` when there are several."""
    values = {name: per_problem(grades).accuracy.to_numpy() for name, grades in graded.items()}
    samples = {name: len(grades) / len(values[name]) for name, grades in graded.items()}
    found = {name: uncertainty.accuracy_interval([values[name]], [samples[name]]) for name in graded}
    if len(graded) > 1:
        found["mean"] = uncertainty.accuracy_interval(list(values.values()), list(samples.values()))
    return found


def _mean(values: list[np.ndarray]) -> float:
    return float(np.mean([v.mean() for v in values]))


def compare(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """b minus a, paired on problems: change of accuracy (points) and of length (percent), 95 % intervals, per set and mean.

    `p_value` is two-sided, of the change of accuracy; `detectable` (points) is the smallest true change of accuracy that so
    many problems of this kind would show four times out of five (kit.uncertainty.Change).
    """
    pairs: list[tuple[str, pd.DataFrame, pd.DataFrame]] = []
    for name in a:
        left, right = per_problem(a[name]), per_problem(b[name])
        if not left.index.equals(right.index):
            raise KitError(f"{name}: the two models were not evaluated on the same problems")
        pairs.append((name, left, right))
    rows = [_change(name, [(left, right)], resamples, seed + k) for k, (name, left, right) in enumerate(pairs)]
    if len(pairs) > 1:
        rows.append(_change("mean", [pair[1:] for pair in pairs], resamples, seed))
    return pd.DataFrame(rows)


def _change(name: str, pairs: list[tuple[pd.DataFrame, pd.DataFrame]], resamples: int, seed: int) -> dict[str, float | str]:
    change = uncertainty.paired_change([(right.accuracy - left.accuracy).to_numpy() for left, right in pairs])
    before, after = ([t.length.to_numpy(dtype=float) for t in side] for side in zip(*pairs, strict=True))
    low, high = uncertainty.ratio_interval(after, before, resamples, seed)
    return {"set": name, "problems": sum(len(left) for left, _ in pairs),
            "accuracy_change": change.mean, "accuracy_change_low": change.low, "accuracy_change_high": change.high,
            "p_value": change.p_value, "detectable": change.detectable,
            "length_change": 100 * (_mean(after) / _mean(before) - 1), "length_change_low": 100 * (low - 1),
            "length_change_high": 100 * (high - 1)}
