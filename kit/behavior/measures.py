"""What is counted in responses, a row each, and the tables made of such rows.

Every estimate is a ratio of sums over problems (words per response, steps of a phase per step, …) with a 95 % interval from a
bootstrap over problems; `mean` is the mean of the data sets, each weighing the same (as in evaluation/evaluation). What has a zero
or unknown denominator is NaN: logs may lack token counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from kit.behavior import attempts, phases
from kit.evaluation import uncertainty
from kit.reward.loops import ends_in_loop
from kit.rollout.records import Rollout
from kit.settings import Config, KitError

PERCENTILES = (20, 40, 50, 60, 80, 90, 99)  # those of the official code
UNLABELLED = "unlabelled"
MEAN = "mean"


# --- one response -----------------------------------------------------------------------------------------------------


def count_keywords(text: str, words: Sequence[str]) -> int:
    """How often any of `words` occurs, whole words and phrases, longest first, upper and lower case alike."""
    return len(keyword_pattern(tuple(words)).findall(text))


@lru_cache
def keyword_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(r"(?<!\w)(?:" + longest_first.replace(r"\ ", r"\s+") + r")(?!\w)", re.IGNORECASE)


def repeated(words: Sequence[str], n: int) -> tuple[int, int]:
    """(runs of n words that occurred before in the same text, all runs of n words).

    >>> repeated("a b c a b c a".split(), 3)
    (2, 5)
    """
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(runs) - len(set(runs)), len(runs)


# --- all responses of a model to a data set ---------------------------------------------------------------------------


def read_traces(config: Config, rollouts: Sequence[Rollout], unit: str) -> pd.DataFrame:
    """A row per response (the first `behavior.samples` of each problem): what was counted in its text.

    Columns: id, sample, length (tokens, NaN where the log has none), a count per keyword list (`words <list>`), steps, a count
    per phase, attempts, first_correct (share of the thinking at which the first correct attempt ends, NaN without one), repeats
    and runs (of n words), loop.
    """
    flat = [(r, i) for r in rollouts for i in range(min(len(r.model_answer), config.behavior.samples))]
    texts = [r.model_answer[i] for r, i in flat]
    found = attempts.find(texts, [r.answer for r, _ in flat])
    rows = []
    for (r, i), text, tried in zip(flat, texts, found, strict=True):
        labels = phases.label(phases.steps_of(text, unit))
        words = text.split()
        repeats, runs = repeated(words, config.behavior.ngram)
        rows.append({
            "id": r.id, "sample": i, "length": r.model_answer_length[i],
            **{f"words {label}": count_keywords(text, listed) for label, listed in config.keywords.items()},
            "steps": len(labels), **{phase: labels.count(phase) for phase in phases.PHASES},
            "attempts": tried.count, "first_correct": tried.first_correct, "repeats": repeats, "runs": runs,
            "loop": ends_in_loop(words),
        })
    table = pd.DataFrame(rows)
    return table.astype({"length": float, "first_correct": float})


# --- estimates --------------------------------------------------------------------------------------------------------


@lru_cache
def _weights(problems: int, resamples: int, seed: int) -> np.ndarray:
    return uncertainty.bootstrap_weights(problems, resamples, seed)


def estimate(sums: dict[str, tuple[np.ndarray, np.ndarray]], name: str, config: Config) -> pd.DataFrame:
    """A row per data set and one for their mean: `name` = sum / sum over problems, with `_low` and `_high` (95 %), by set.

    `sums`: for each data set a numerator and a denominator per problem. What has a zero denominator is NaN.
    """
    points, drawn = [], []
    for k, (top, bottom) in enumerate(sums.values()):
        with np.errstate(invalid="ignore", divide="ignore"):
            points.append(np.float64(np.sum(top)) / np.sum(bottom))
            weights = _weights(len(top), config.evaluation.resamples, config.seed + k)
            drawn.append((weights @ top) / (weights @ bottom))
    names = list(sums)
    if len(names) > 1:
        names, points, drawn = [*names, MEAN], [*points, np.mean(points)], [*drawn, np.mean(drawn, axis=0)]
    low, high = zip(*map(_interval, drawn), strict=True)
    return pd.DataFrame({name: points, f"{name}_low": low, f"{name}_high": high}, index=pd.Index(names, name="set"))


def _ratios(traces: dict[str, pd.DataFrame], config: Config, **wanted: tuple[str, str, float]) -> pd.DataFrame:
    """Columns `name=(numerator, denominator, factor)` of the traces' columns, side by side; the denominator "" counts rows."""
    found = []
    for name, (top, bottom, factor) in wanted.items():
        sums = {}
        for key, table in traces.items():
            problem = np.unique(table.id, return_inverse=True)[1]
            below = table[bottom] if bottom else np.ones(len(table))
            sums[key] = (np.bincount(problem, factor * table[top]), np.bincount(problem, below))
        found.append(estimate(sums, name, config).clip(0, 100 if factor == 100 else None))  # counts, and percents of them
    return pd.concat(found, axis=1)


def keywords(traces: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Occurrences per response and per 1,000 tokens, a row per data set and list."""
    parts = []
    for label in config.keywords:
        column = f"words {label}"
        table = _ratios(traces, config, per_response=(column, "", 1.0), per_1000_tokens=(column, "length", 1000.0))
        parts.append(table.assign(keywords=label))
    return pd.concat(parts) if parts else pd.DataFrame()


def phase_shares(traces: dict[str, pd.DataFrame], config: Config, labeller: str = "rules") -> pd.DataFrame:
    """Steps of each phase: percent of all steps (a donut's share) and number per response, a row per data set and phase."""
    names = [p for p in (*phases.PHASES, UNLABELLED) if all(p in table for table in traces.values())]
    parts = [
        _ratios(traces, config, share=(p, "steps", 100.0), per_response=(p, "", 1.0))
        .assign(phase=p, kind=phases.KINDS.get(p, p), labeller=labeller)
        for p in names
    ]
    return pd.concat(parts)


def attempt_table(traces: dict[str, pd.DataFrame], config: Config, correct: dict[str, pd.Series]) -> pd.DataFrame:
    """Attempts per response; percent of responses with a correct one; where the first one ends and what comes after, in percent
    of the thinking; percent of responses that had a correct attempt and a wrong answer in the end (`lost`)."""
    used = {}
    for name, table in traces.items():
        hit = table.first_correct.notna()
        final = correct[name].reindex(pd.MultiIndex.from_frame(table[["id", "sample"]])).to_numpy(dtype=float)
        used[name] = table.assign(
            hit=hit.astype(float), end=table.first_correct.fillna(0.0), rest=(1 - table.first_correct).fillna(0.0),
            lost=np.where(hit, 1 - final, 0.0))
    return _ratios(used, config, attempts=("attempts", "", 1.0), found=("hit", "", 100.0), first_correct=("end", "hit", 100.0),
                   redundant=("rest", "hit", 100.0), lost=("lost", "", 100.0))


def repetition(traces: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Percent of runs of n words that were there before in the same response; percent of responses that end in a loop."""
    return _ratios(traces, config, repeated=("repeats", "runs", 100.0), loops=("loop", "", 100.0))


def changes(before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Change of what is in a mean response, in percent of `before`, paired on problems, mean of the data sets: a row per quantity
    (each keyword list, steps of each kind, all steps, attempts), NaN where there was nothing before."""
    quantities = {f"{label} words": [f"words {label}"] for label in config.keywords}
    for kind in dict.fromkeys(phases.KINDS.values()):
        quantities[f"{kind} steps"] = [p for p in phases.PHASES if phases.KINDS[p] == kind]
    quantities |= {"steps": ["steps"], "attempts": ["attempts"]}
    rows = []
    for quantity, columns in quantities.items():
        points, drawn = [], []
        for k, name in enumerate(before):
            means = pd.concat([t[name][columns].sum(axis=1).groupby(t[name].id).mean() for t in (before, after)], axis=1)
            if means.isna().any(axis=None):
                raise KitError(f"{name}: the two models were not evaluated on the same problems")
            values = means.sort_index().to_numpy(float)
            points.append(values.mean(axis=0))
            drawn.append(_weights(len(values), config.evaluation.resamples, config.seed + k) @ values)
        point, draws = np.mean(points, axis=0), np.mean(drawn, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = np.maximum(_interval(100 * (draws[:, 1] / draws[:, 0] - 1)), -100)
            rows.append({"quantity": quantity, "before": point[0], "after": point[1], "change": 100 * (point[1] / point[0] - 1),
                         "change_low": low, "change_high": high})
    return pd.DataFrame(rows).set_index("quantity")


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    return uncertainty.interval(drawn[np.isfinite(drawn)]) if np.isfinite(drawn).any() else (np.nan, np.nan)


def percentiles(graded: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Percentiles of the lengths (tokens) of correct and of wrong responses, a row per data set, verdict and percentile.

    Counts of responses beside them: a percentile of ten wrong responses is not worth much, and its interval says so.
    """
    rows = []
    for k, (name, grades) in enumerate(graded.items()):
        lengths = pd.to_numeric(grades.length, errors="coerce")
        ids = np.unique(grades.id, return_inverse=True)[1]
        weights = _weights(ids.max() + 1, config.evaluation.resamples, config.seed + k)
        right = (grades.verdict == "correct").to_numpy()
        for verdict, chosen in (("correct", right), ("wrong", ~right)):
            kept = chosen & lengths.notna().to_numpy()
            order = np.argsort(lengths.to_numpy()[kept], kind="stable")
            values, owners = lengths.to_numpy(float)[kept][order], ids[kept][order]
            drawn = weighted_percentiles(values, weights[:, owners], PERCENTILES)
            points = weighted_percentiles(values, np.ones((1, len(values))), PERCENTILES)[0]
            for j, q in enumerate(PERCENTILES):
                low, high = uncertainty.interval(drawn[:, j]) if len(values) else (np.nan, np.nan)
                rows.append({"set": name, "verdict": verdict, "percentile": q, "length": points[j], "length_low": low,
                             "length_high": high, "responses": int(kept.sum())})
    return pd.DataFrame(rows).set_index("set")


def weighted_percentiles(values: np.ndarray, weights: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
    """(rows of weights, wanted): the smallest of the sorted `values` up to which at least q percent of the weight lies.

    >>> weighted_percentiles(np.array([1.0, 2.0, 9.0]), np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), (50, 99))
    array([[2., 9.],
           [9., 9.]])
    """
    found = np.full((len(weights), len(wanted)), np.nan)
    if not len(values):
        return found
    for i, row in enumerate(weights):
        reached = np.cumsum(np.maximum(row, 0))  # a bootstrap's weight can be slightly negative
        if reached[-1] > 0:
            places = np.searchsorted(reached, np.asarray(wanted) / 100 * reached[-1] * (1 - 1e-12))
            found[i] = values[np.minimum(places, len(values) - 1)]
    return found
