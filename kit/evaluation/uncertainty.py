"""How sure a number is: intervals, paired tests, and the smallest difference that a set can show.

Problems are what is drawn at random, each with all its samples: 16 samples of 30 problems are 30 observations, not 480. Means
over data sets weigh each set equally. What is used, and why:

- accuracy: Wilson's score interval with the effective number of observations that the spread between problems leaves. Near 0
  and 100 % a bootstrap, like mean ± 2 standard errors, is far too narrow (30 problems at 97 %: it covers 60 times in 100);
- change of accuracy: the paired t interval and t test, over problems. Bootstraps find a difference that is not there in 6 to 14
  of 100 comparisons of 30 problems instead of in 5;
- lengths and their ratios: the studentized bootstrap on the log scale, since lengths are skewed;
- anything else: the bootstrap (`draws` and `interval`), widened as a t interval is, which matters with 30 problems.

tests/test_uncertainty.py counts on simulated evaluations how often the truth is inside. Formulas: Wilson 1927; Dean and Pagano
2015 (effective sample size); Efron and Tibshirani 1993, section 12.5 (studentized); Satterthwaite 1946 (degrees of freedom).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95
POWER = 0.80  # of the smallest difference that counts as one a set can show
Z = 1.959964  # the normal quantile of LEVEL
FEW = 2  # with fewer problems' worth of failures, or of successes, their spread cannot be estimated

Arrays = Sequence[np.ndarray]  # one per data set, a value per problem


def columns(name: str, value: float, ends: Sequence[float]) -> dict[str, float]:
    """A number and the ends of its interval, as the three columns `name`, `name_low` and `name_high` of a table."""
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def t_quantile(df: float, level: float = LEVEL) -> float:
    """The t that the absolute value of Student's t stays below with probability `level`."""
    return float(special.stdtrit(df, (1 + level) / 2))


def bootstrap_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of a bootstrap over n problems; each row sums to 1. They are spread about 1/n a little more than
    drawing gives (a weight can be negative), so that the `interval` of `weights @ values` is as wide as the mean's t interval."""
    if n < 2:
        return np.ones((resamples, n))
    return 1 / n + math.sqrt(n / (n - 1)) * t_quantile(n - 1) / Z * (_drawn(n, resamples, seed) - 1 / n)


@lru_cache(maxsize=8)
def _drawn(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n): the share of each problem in a resample of n problems."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


def draws(table: Any, resamples: int, seed: int) -> np.ndarray:
    """Means over problems of a table (a row per problem), its columns by 1 + resamples: the estimates, then their replicates."""
    n = len(table)
    weights = np.vstack([np.full((1, n), 1 / n), bootstrap_weights(n, resamples, seed)])
    return (weights @ np.asarray(table, dtype=float)).T


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap replicates, of those that are numbers; NaN without any."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def ratio_interval(above: Arrays, below: Arrays, resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of (mean over sets of the mean of `above`) / (the same of `below`); `below` of ones: of a mean.

    Studentized bootstrap of the log: log R +- q * se, where q are quantiles of (log R* - log R) / se* and se, se* come from the
    problems' residuals above/mean(above) - below/mean(below). NaN where a value is missing, with one problem, or no resamples.
    """
    means = []  # per set: (1 + resamples, 5) means of y, x, y², x², xy; the first row is the estimate, the others are resamples
    for k, (y, x) in enumerate(zip(above, below, strict=True)):
        moments = np.column_stack([y, x, y * y, x * x, x * y])
        means.append(np.vstack([moments.mean(axis=0), _drawn(len(y), resamples, seed + k) @ moments]))
    y, x, yy, xx, xy = np.transpose(means, (2, 0, 1))
    tops, bottoms = y.mean(axis=0), x.mean(axis=0)
    if not resamples or min(map(len, above)) < 2 or not np.isfinite([tops[0], bottoms[0]]).all() or min(tops[0], bottoms[0]) <= 0:
        return math.nan, math.nan
    u, v = 1 / tops, 1 / bottoms  # the residual of a problem is u y - v x
    spread = np.maximum(u * u * yy + v * v * xx - 2 * u * v * xy - (u * y - v * x) ** 2, 0) / [[len(own)] for own in above]
    logs, errors = np.log(tops / bottoms), np.sqrt(spread.sum(axis=0)) / len(means)
    if errors[0] < 1e-12:
        return float(tops[0] / bottoms[0]), float(tops[0] / bottoms[0])
    low, high = interval((logs[1:] - logs[0]) / np.maximum(errors[1:], errors[0] / 2))
    return float(math.exp(logs[0] - high * errors[0])), float(math.exp(logs[0] - low * errors[0]))


def accuracy_interval(values: Arrays, samples: Sequence[float]) -> tuple[float, float]:
    """95 % interval of an accuracy in percent: the mean over sets of the mean over problems.

    Wilson's score interval with n = p(1 - p) / variance of the mean observations, at most the number of samples. With less than
    FEW problems' worth of failures (or successes) a problem's samples count as one: their spread cannot be estimated then.
    `values`: for each set the problems' accuracies, percent of their samples; `samples`: for each set their number per problem.
    """
    parts = [np.asarray(v, dtype=float) / 100 for v in values]
    p = float(np.mean([v.mean() for v in parts]))
    problems = sum(len(v) for v in parts)
    variance = sum(v.var(ddof=1) / len(v) if len(v) > 1 else v.mean() * (1 - v.mean()) for v in parts) / len(parts) ** 2
    n = float(problems)
    if variance > 0 and problems * min(p, 1 - p) >= FEW:
        n = min(p * (1 - p) / variance, sum(len(v) * k for v, k in zip(parts, samples, strict=True)))
    middle, reach = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = (100 * (middle + sign * reach) / (1 + Z * Z / n) for sign in (-1, 1))
    return max(low, 0.0), min(high, 100.0)


class Change(NamedTuple):
    """A difference with its 95 % interval and two-sided p-value; `detectable` is the smallest true difference that would be shown
    (p < 0.05) four times out of five, given how much the problems differ. NaN where there is one problem only."""

    mean: float
    low: float
    high: float
    p_value: float
    detectable: float


def paired_change(differences: Arrays) -> Change:
    """The mean over sets of the mean difference, by the paired t test over problems (Satterthwaite's degrees of freedom)."""
    parts = [np.asarray(d, dtype=float) for d in differences]
    mean = float(np.mean([d.mean() for d in parts]))
    if any(len(d) < 2 for d in parts):
        return Change(mean, math.nan, math.nan, math.nan, math.nan)
    variances = [d.var(ddof=1) / len(d) / len(parts) ** 2 for d in parts]
    error = math.sqrt(sum(variances))
    if error < 1e-9:  # every problem changed by the same amount: the exact sign-flip test, and Wilson's reach of n in n
        n = sum(map(len, parts))
        p_value = 1.0 if abs(mean) < 1e-9 else 2.0 ** (1 - n)
        reach = math.nan if 0.05 <= p_value < 1 else abs(mean) * Z * Z / (n + Z * Z)
        return Change(mean, mean - reach, mean + reach, p_value, math.nan)
    df = sum(variances) ** 2 / sum(v * v / (len(d) - 1) for v, d in zip(variances, parts, strict=True))
    reach, p_value = t_quantile(df) * error, 2 * float(special.stdtr(df, -abs(mean / error)))
    return Change(mean, mean - reach, mean + reach, p_value, reach + t_quantile(df, 2 * POWER - 1) * error)
