"""Comparisons against numbers worked out by hand: equal spend, the efficiency score, pairs of schedules, seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.evaluation import comparisons, evaluate, metrics, seeds
from kit.report import style, tables, texts
from kit.runs import files, paths
from kit.settings import ROOT, Config, KitError, Schedule, load
from kit.settings.schema import Logs

SMOKE = load("params/smoke.yaml")


def graded(problems: dict[str, list[tuple[str, int]]]) -> pd.DataFrame:
    """{problem: [(verdict, length), ...]} -> grades."""
    rows = [(i, s, v, "", n, True, 5) for i, samples in problems.items() for s, (v, n) in enumerate(samples)]
    return pd.DataFrame(rows, columns=evaluate.GRADE_COLUMNS)


RIGHT, WRONG = "correct", "wrong"
# base: 100 tokens a response, 50 % right on a, never on b; short: 50 tokens, 50 % right on both
BASE = {"s": graded({"a": [(RIGHT, 80), (WRONG, 120)], "b": [(WRONG, 100), (WRONG, 100)]})}
SHORT = {"s": graded({"a": [(RIGHT, 50), (WRONG, 50)], "b": [(WRONG, 40), (RIGHT, 60)]})}
BOTH = {"base": BASE, "short/round1": SHORT}


# --- pass@k -----------------------------------------------------------------------------------------------------------


def test_pass_at_k_by_hand() -> None:
    assert comparisons.pass_at_k(4, 2, 1) == pytest.approx(1 / 2)
    assert comparisons.pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # one of the six pairs holds no right answer
    assert comparisons.pass_at_k(4, [0, 3, 4], 2) == pytest.approx([0, 1, 1])
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples per problem; there are 4"):
        comparisons.pass_at_k(4, 2, 5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_a_right_answer(drawn: tuple[int, int, int]) -> None:
    n, c, k = drawn
    chosen = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert comparisons.pass_at_k(n, c, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_tokens_and_pass_at_k_of_each_model() -> None:
    table = comparisons.equal_spend(BOTH, 50, 0)[0].set_index(["model", "k"])
    assert list(table.tokens) == pytest.approx([100, 200, 50, 100])
    assert list(table.passed) == pytest.approx([25, 50, 50, 100])  # a: one of two, b: none; then one of two on both


def test_for_the_same_tokens_a_model_of_half_the_length_answers_twice() -> None:
    row, = comparisons.equal_spend(BOTH, 50, 0)[1].itertuples()
    assert (row.model, row.tokens, row.affords, row.k) == ("short/round1", 100, 2, 2)
    assert (row.passed, row.base, row.gap) == pytest.approx((100, 25, 75))


def test_intervals_of_percentages_stay_within_0_and_100() -> None:
    many = graded({str(k): [(RIGHT if k else WRONG, 50)] for k in range(30)})
    spend = comparisons.equal_spend({"base": {"s": many}}, 200, 0)[0].iloc[0]
    assert [spend.passed, spend.passed_low, spend.passed_high] == pytest.approx([100 * 29 / 30, 83.33, 99.41], abs=0.01)


def test_more_responses_than_there_are_samples_are_not_counted() -> None:
    tiny = {"s": graded({"a": [(RIGHT, 10), (WRONG, 10)], "b": [(WRONG, 10), (WRONG, 10)]})}
    row, = comparisons.equal_spend({"base": BASE, "tiny": tiny}, 50, 0)[1].itertuples()
    assert (row.affords, row.k, row.passed) == pytest.approx((10, 2, 50))


def test_under_a_cap_only_whole_right_responses_count_and_all_tokens_up_to_it_are_spent() -> None:
    table = comparisons.capped({"base": BASE}, 50, 0, points=2).set_index("cap")
    assert list(table.index) == [80, 120]
    assert list(table.accuracy) == pytest.approx([25, 25]) and list(table.spent) == pytest.approx([80, 100])
    lower = comparisons.capped({"base": {"s": BASE["s"].assign(length=[81, 120, 40, 100])}}, 50, 0, points=3).set_index("cap")
    assert lower.accuracy[40] == 0 and lower.accuracy[120] == 25 and lower.spent[40] == 40


def test_under_a_cap_accuracy_has_the_interval_of_an_accuracy() -> None:
    """30 problems, one response each, 29 right: Wilson's interval without a cap, and 0 to 11.4 % where the cap lets none pass."""
    many = {"s": graded({str(k): [(RIGHT if k else WRONG, 50 + k)] for k in range(30)})}
    table = comparisons.capped({"base": many}, 50, 0).set_index("cap")[["accuracy", "accuracy_low", "accuracy_high"]]
    whole = metrics.measure(many, 0, 0).iloc[0]
    assert list(table.loc[79]) == pytest.approx(list(whole[table.columns]))
    assert list(table.loc[50]) == pytest.approx([0, 0, 11.35], abs=0.01)


def test_models_of_different_problems_are_not_compared() -> None:
    other = {"s": graded({"a": [(RIGHT, 50)] * 2, "c": [(WRONG, 40)] * 2})}
    with pytest.raises(KitError, match="s: the models were not evaluated on the same problems"):
        comparisons.equal_spend({"base": BASE, "other": other}, 10, 0)[1]


def test_unknown_lengths_leave_cells_empty_and_break_nothing() -> None:
    """Logs of other code may not say how long their responses were."""
    unknown = {"s": BASE["s"].assign(length=np.nan)}
    assert comparisons.equal_spend({"base": unknown, "x": unknown}, 10, 0)[1].gap.isna().all()
    assert comparisons.efficiency({"base": unknown, "x": unknown}, 10, 0).score.isna().all()
    assert comparisons.capped({"base": unknown}, 10, 0).empty
    once = {"s": graded({"a": [(RIGHT, np.nan)], "b": [(WRONG, np.nan)]})}
    assert comparisons.equal_spend({"base": once, "x": once}, 10, 0)[1][["passed", "gap"]].isna().all(axis=None)
    some = {"s": graded({"a": [(RIGHT, 40), (RIGHT, np.nan)], "b": [(RIGHT, 90), (RIGHT, 10)]})}
    half = comparisons.capped({"base": some}, 10, 0)
    assert half[["accuracy", "spent"]].isna().all(axis=None)
    assert len(comparisons.capped({"base": {"s": graded({"a": [(RIGHT, 0)], "b": [(WRONG, 0)]})}}, 10, 0))
    spend, _ = comparisons.equal_spend({"base": unknown}, 10, 0)
    assert spend.tokens.isna().all() and list(spend.passed) == pytest.approx([25, 50])


# --- score, problems --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accuracy", "length", "score"), [
    (80, 100, 0.0), (80, 50, 0.5), (84, 50, 0.5 + 3 * 0.05), (76, 50, 0.5 - 5 * 0.05), (40, 10, 0.9 - 5 * 0.5)])
def test_the_efficiency_score_by_hand(accuracy: float, length: float, score: float) -> None:
    assert metrics.efficiency_score(accuracy, length, 80, 100) == pytest.approx(score)


def test_the_score_of_a_model_is_that_of_its_means() -> None:
    row, = comparisons.efficiency(BOTH, 50, 0).itertuples()
    assert row.score == pytest.approx(0.5 + 3 * 1.0)  # 25 % -> 50 %, 100 -> 50 tokens


def test_changes_problem_by_problem() -> None:
    table = comparisons.problem_changes(BOTH).set_index("id")
    assert list(table.accuracy_change) == [0, 50] and list(table.length_change) == pytest.approx([-50, -50])


def test_published_changes_are_derived_within_one_table() -> None:
    table = tables.published_changes().set_index(["source", "name"])
    row = table.loc["autothink", "DS-1.5B-4k"]
    base, ours = (83.1 + 27.5 + 62.5 + 43.7) / 4, (83.5 + 28.3 + 65.4 + 43.4) / 4
    assert row.accuracy_change == pytest.approx(ours - base) and row.letter == "D from T"
    assert row.length == pytest.approx(100 * (2723 + 8072 + 5040 + 5504) / (5622 + 17322 + 10981 + 11555))
    paper = table.loc["paper", "DS-1.5B-iter2k"]
    assert (paper.accuracy_change, paper.length, paper.letter) == (0.6, 35, "Q") and math.isnan(paper.score)  # no base accuracy


def test_names_beside_neighbouring_points_do_not_cover_each_other() -> None:
    figure, axis = plt.subplots(figsize=(8, 5))
    axis.set(xlim=(0, 110), ylim=(-4, 12))
    points = [(50, 0, "the first"), (52, 0, "the second"), (54, 0.1, "the third"), (49, -0.1, "a fourth")]
    style.name_points(axis, points)
    boxes = [text.get_window_extent() for text in axis.texts]
    plt.close(figure)
    assert len(boxes) == 4 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


# --- pairs of schedules -----------------------------------------------------------------------------------------------


def plans(**schedules: Schedule) -> Config:
    return dataclasses.replace(SMOKE, schedules=schedules)


def test_one_shot_and_iterative_meet_at_each_limit_from_the_second_round_on() -> None:
    made = plans(
        iterative=Schedule((100, 62, 40)), a=Schedule((62,)), b=Schedule((40,)), c=Schedule((100,)),
        untold=Schedule((40,), state_limit=False), strict=Schedule((40,), reading="strict", compare_with="b"))
    assert comparisons.pairs(made)["one_shot"] == (
        "limit", [(62, "iterative/round2", "a/round1"), (40, "iterative/round3", "b/round1")])


def test_models_are_compared_with_the_base_and_with_the_schedule_that_saw_no_limit() -> None:
    made = plans(a=Schedule((60, 40)), free=Schedule((300,), state_limit=False),
                 untold=Schedule((40,), state_limit=False, compare_with="a"))
    told = dataclasses.replace(made, evaluation=dataclasses.replace(made.evaluation, training_prompt=True))
    last = [("without a limit", "a/round2", "free/round1"), ("compare_with", "untold/round1", "a/round2")]
    models = ["base", "a/round1", "a/round2", "free/round1", "untold/round1"]
    assert comparisons.pairs(made)["controls"] == ("control", last)
    assert comparisons.pairs(told)["controls"][1] == [*last, *(("training prompt", f"{m}/training-prompt", m) for m in models)]
    logged = dataclasses.replace(told, logs=Logs(models={"other": {"two": "log.jsonl"}}))  # who cannot be asked in that prompt
    assert comparisons.pairs(logged)["controls"] == comparisons.pairs(told)["controls"]
    pruned = [(m, m, other) for m in models[1:] for other in ("base", "free/round1") if m != other]
    assert comparisons.pairs(made)["changes"] == ("model", pruned)


def test_a_difference_says_who_is_better_and_when_nobody_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"limit": 40, "model": "iterative/round2", "against": "one-shot/round1", "set": "mean",
             "accuracy": 80.0, "length": 40.0, "other_accuracy": 75.0, "other_length": 41.0, "p_value": 0.02,
             "length_change": -2.0, "length_change_low": -3.0, "length_change_high": -1.0,
             "accuracy_change": 5.0, "accuracy_change_low": low, "accuracy_change_high": high}
            for low, high in ((1.0, 9.0), (-1.0, 11.0), (-9.0, -1.0))]
    made = plans(**{"iterative": Schedule((60, 40)), "one-shot": Schedule((40,))})
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    files.write_csv(paths.of(made).metrics / "one_shot.csv", pd.DataFrame(rows))
    first, second, third = texts.conclusions(made)["One-shot against iterative"]
    assert first == ("limit 40: iterative, 40 minus one-shot, 40: accuracy +5.0 [+1.0, +9.0] points, length -2 % [-3, -1]: "
                     "the first checkpoint is more accurate. Of these two checkpoints: one seed (1) does not say which method is "
                     "better.")
    assert "no difference in accuracy could be shown. Of these two checkpoints:" in second
    assert "the second checkpoint is more accurate. Of these two checkpoints:" in third


def test_a_control_says_in_what_it_differs() -> None:
    made = plans(a=Schedule((40,)), b=Schedule((40,), state_limit=False, compare_with="a"),
                 c=Schedule((40,), reading="strict", compare_with="a", label="c"))
    assert tables.what_differs(made, "b/round1") == "limit not stated in the prompt"
    assert tables.what_differs(made, "c/round1") == "strict reading of the reward"


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_seeds_are_combined_by_hand() -> None:
    values, tight = np.array([1.0, 2.0, 3.0]), np.full(3, 0.01)
    row = seeds.combine(values, values - tight, values + tight)
    assert (row["value"], row["sd"]) == (2, 1)
    assert row["high"] - row["value"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)


def test_seeds_that_agree_by_luck_do_not_narrow_the_interval() -> None:
    """Each seed's own interval is ± 1.96, a standard error of 1: the mean of three cannot be known better than 1.96 / sqrt(3)."""
    values = np.array([2.0, 2.0, 2.0])
    row = seeds.combine(values, values - 1.96, values + 1.96)
    assert row["sd_problems"] == pytest.approx(1, rel=1e-4) and row["high"] - 2 == pytest.approx(1.96 / math.sqrt(3))


def test_more_seeds_do_not_make_up_for_few_problems() -> None:
    """The same problems for all seeds, sd between them 1, standard error over problems 1: sqrt((4.30 x 1)^2 / 3 + 1.96^2)."""
    values = np.array([1.0, 2.0, 3.0])
    row = seeds.combine(values, values - 1.96, values + 1.96, same_problems=True)
    assert row["high"] - row["value"] == pytest.approx(math.hypot(4.302653 / math.sqrt(3), 1.96), rel=1e-4)


def test_intervals_over_three_seeds_cover_the_truth_at_least_as_often_as_they_say() -> None:
    """Seeds differ by 2 points, problems add a standard error of 1.5: simulated 4000 times."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(4000):
        values = 1 + rng.normal(0, 2, 3) + rng.normal(0, 1.5, 3)
        row = seeds.combine(values, values - 1.96 * 1.5, values + 1.96 * 1.5)
        covered += row["low"] <= 1 <= row["high"]
    assert 0.94 <= covered / 4000 <= 0.98


def test_each_further_seed_has_a_params_file_that_differs_in_the_seed_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {ROOT / 'params' / 'smoke.yaml'}\nrun: mine\nseeds: [7, 8]\n")
    (tmp_path / "mine.csv").touch()
    first = load(file)
    for other, seed in zip(seeds.write_params(first), (7, 8), strict=True):
        read = load(other.file)
        assert read == other and (read.run, read.seed, read.seeds) == (f"mine-seed{seed}", seed, ())
        assert dataclasses.replace(read, run="mine", seed=first.seed, seeds=(7, 8), file=first.file) == first
        assert paths.given(read, "mine.csv").samefile(tmp_path / "mine.csv"), "what lies beside the file that was written"
