"""Intervals that cover as often as they say, tests that are wrong as seldom as they say, and numbers worked out by hand.

Simulated evaluations: each problem has a probability of its own, drawn from a Beta distribution with mean `mu`; `alike` is the
correlation of two samples of one problem (0: all problems equally hard). Seeds are fixed; 2000 evaluations estimate a
coverage of 95 % with a standard error of 0.5 points, so the bounds of 93 and 97 % are four of them away.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from kit.evaluation import seeds, uncertainty
from kit.evaluation.uncertainty import accuracy_interval, paired_change, ratio_interval

TIMES = 2000


def probabilities(rng: np.random.Generator, mu: float, alike: float, problems: int) -> np.ndarray:
    if alike == 0:
        return np.full(problems, mu)
    total = 1 / alike - 1
    return rng.beta(mu * total, (1 - mu) * total, problems)


def accuracies(rng: np.random.Generator, p: np.ndarray, samples: int) -> np.ndarray:
    return 100 * rng.binomial(samples, p) / samples


def coverage(mu: float, alike: float, problems: int, samples: int) -> float:
    rng, inside = np.random.default_rng(17), 0
    for _ in range(TIMES):
        low, high = accuracy_interval([accuracies(rng, probabilities(rng, mu, alike, problems), samples)], [samples])
        inside += low <= 100 * mu <= high
    return inside / TIMES


@pytest.mark.parametrize("mu", [0.3, 0.6, 0.85])
@pytest.mark.parametrize(("alike", "samples"), [(0.0, 4), (0.3, 16), (0.7, 4)])
@pytest.mark.parametrize("problems", [30, 150, 500])
def test_the_interval_of_an_accuracy_covers_19_times_in_20(mu: float, alike: float, samples: int, problems: int) -> None:
    assert 0.93 <= coverage(mu, alike, problems, samples) <= 0.97


@pytest.mark.parametrize(("mu", "alike", "problems", "samples"), [
    (0.97, 0.7, 30, 16), (0.97, 0.0, 30, 1), (0.03, 0.5, 40, 4), (0.99, 0.5, 100, 4), (0.02, 0.3, 150, 4)])
def test_near_0_and_100_percent_it_covers_at_least_as_often(mu: float, alike: float, problems: int, samples: int) -> None:
    assert coverage(mu, alike, problems, samples) >= 0.93


def test_the_mean_of_four_sets_is_covered_too() -> None:
    rng, inside, sets = np.random.default_rng(18), 0, [(0.3, 30), (0.7, 40), (0.85, 500), (0.5, 150)]
    for _ in range(1000):
        values = [accuracies(rng, probabilities(rng, mu, 0.5, n), 16) for mu, n in sets]
        low, high = accuracy_interval(values, [16] * 4)
        inside += low <= 100 * np.mean([mu for mu, _ in sets]) <= high
    assert 0.93 <= inside / 1000 <= 0.97


@pytest.mark.parametrize(("problems", "samples", "mu", "alike"), [
    (30, 16, 0.3, 0.3), (30, 4, 0.5, 0.5), (100, 1, 0.5, 0.3), (150, 4, 0.8, 0.5), (500, 16, 0.85, 0.7)])
def test_without_a_difference_one_is_found_once_in_20(problems: int, samples: int, mu: float, alike: float) -> None:
    """Two models with the same probabilities: between 4 and 6 % of the comparisons are significant, and those whose interval
    leaves zero out are the same ones."""
    rng, found, times = np.random.default_rng(19), 0, 4000
    for _ in range(times):
        p = probabilities(rng, mu, alike, problems)
        change = paired_change([accuracies(rng, p, samples) - accuracies(rng, p, samples)])
        found += change.p_value < 0.05
        assert (change.p_value < 0.05) == (not change.low <= 0 <= change.high)
    assert 0.04 <= found / times <= 0.06


def test_the_interval_of_a_change_covers_it_and_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng, inside, found, promised = np.random.default_rng(20), 0, 0, []
    for _ in range(2000):
        p = probabilities(rng, 0.4, 0.3, 60)
        better = np.clip(p + 0.11, 0, 1)
        change = paired_change([accuracies(rng, better, 4) - accuracies(rng, p, 4)])
        inside += change.low <= 100 * (better - p).mean() <= change.high
        found += change.p_value < 0.05
        promised.append(change.detectable)
    assert 0.93 <= inside / 2000 <= 0.97
    assert np.mean(promised) == pytest.approx(11, abs=2)  # about what is there, and it is found …
    assert 0.7 <= found / 2000 <= 0.9  # … four times in five


@pytest.mark.parametrize("problems", [30, 100])
def test_mean_lengths_and_their_ratios_are_covered(problems: int) -> None:
    """Lengths are log-normal over problems (a standard deviation of 0.5 in the log) and within them (0.4); pruned to 40 %."""
    rng, mean, ratio, times = np.random.default_rng(21), 0, 0, 800
    for k in range(times):
        own = np.exp(rng.normal(0, 0.5, problems))
        noise = np.exp(rng.normal(-0.08, 0.4, (2, problems, 4))).mean(axis=2)
        base, pruned = own * noise[0], 0.4 * own * np.exp(rng.normal(-0.02, 0.2, problems)) * noise[1]
        low, high = ratio_interval([base], [np.ones(problems)], 300, k)
        mean += low <= math.exp(0.125) <= high
        low, high = ratio_interval([pruned], [base], 300, k)
        ratio += low <= 0.4 <= high
    assert 0.925 <= mean / times <= 0.97  # 300 resamples only, so that the test is fast
    assert 0.93 <= ratio / times <= 0.97


def test_one_runaway_response_widens_the_interval_of_a_length_and_does_not_blow_it_up() -> None:
    """29 responses of about 600 tokens and one of 32,000, as a model that loops on one AIME problem has them."""
    lengths = np.exp(np.random.default_rng(0).normal(6.3, 0.6, 30))
    lengths[0] = 32_000
    low, high = ratio_interval([lengths], [np.ones(30)], 2000, 42)
    assert low < lengths.mean() < high < 32_000


@pytest.mark.parametrize("seed_sd", [0.0, 3.0])
def test_several_seeds_on_the_same_problems_are_combined_honestly(seed_sd: float) -> None:
    """Three trainings whose true accuracies differ by `seed_sd` points, on the same 100 problems."""
    rng, inside, naive, times = np.random.default_rng(22), 0, 0, 1500
    for _ in range(times):
        hard = rng.normal(0, 20, 100)
        values = 60 + rng.normal(0, seed_sd, (3, 1)) + hard + rng.normal(0, 10, (3, 100))
        each = [paired_change([own]) for own in values]
        row = seeds.combine(*(np.array([getattr(c, name) for c in each]) for name in ("mean", "low", "high")), same_problems=True)
        inside += row["low"] <= 60 <= row["high"]
        alone = each[0]
        naive += alone.low <= 60 <= alone.high
    assert 0.93 <= inside / times <= 0.99  # never too narrow; three seeds say little about their spread
    assert seed_sd == 0 or naive / times < 0.90  # what one seed would have claimed


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("df", "level", "value"), [(29, 0.95, 2.045230), (2, 0.95, 4.302653), (499, 0.95, 1.964729), (10, 0.6, 0.879058)])
def test_students_t_is_that_of_the_tables(df: int, level: float, value: float) -> None:
    assert uncertainty.t_quantile(df, level) == pytest.approx(value, abs=2e-6)


def test_wilsons_interval_of_a_coin_and_of_no_failure_at_all() -> None:
    low, high = accuracy_interval([np.array([100.0] * 8 + [0.0] * 2)], [1])  # 8 of 10: few failures, n = 10
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))
    low, high = accuracy_interval([np.full(30, 100.0)], [64])  # n / (n + z²) of 30, not of 1920
    assert (low, high) == (pytest.approx(100 * 30 / 33.8415, abs=0.01), 100.0)


def test_a_paired_change_worked_out_by_hand() -> None:
    """Differences 0, 10, 20: mean 10, standard error 10 / sqrt(3), t = sqrt(3) with 2 degrees of freedom, p = 0.2254."""
    change = paired_change([np.array([0.0, 10.0, 20.0])])
    assert change.mean == 10.0 and change.p_value == pytest.approx(0.22540, abs=1e-4)
    assert change.high - change.mean == pytest.approx(4.302653 * 10 / math.sqrt(3), abs=1e-4)
    assert change.detectable == pytest.approx((4.302653 + 1.060660) * 10 / math.sqrt(3), abs=1e-3)


def test_one_problem_shows_nothing() -> None:
    assert math.isnan(paired_change([np.array([50.0])]).p_value)
    low, high = accuracy_interval([np.array([100.0])], [16])
    assert low < 25 and high == 100.0


def test_bootstrap_replicates_are_spread_as_a_t_interval() -> None:
    values = np.random.default_rng(24).normal(0, 1, 12)
    weights = uncertainty.bootstrap_weights(12, 20_000, 0)
    assert weights.sum(axis=1) == pytest.approx(1)
    low, high = uncertainty.interval(weights @ values)
    assert (high - low) / 2 == pytest.approx(uncertainty.t_quantile(11) * values.std(ddof=1) / math.sqrt(12), rel=0.05)


def test_equal_changes_of_every_problem_are_tested_by_their_signs() -> None:
    """Three problems, all +100: signs agree by luck once in four times. Ten: once in 512."""
    few, many = (paired_change([np.full(n, 100.0)]) for n in (3, 10))
    assert few.p_value == 0.25 and math.isnan(few.low) and math.isnan(few.detectable)
    assert many.p_value == 2**-9 and many.low == pytest.approx(100 - 100 * 3.8415 / 13.8415, abs=0.01) and many.high > 100
    assert paired_change([np.zeros(5)]).p_value == 1.0
