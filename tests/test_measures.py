"""What is counted in responses and the tables made of it, with numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from kit.behavior import behavior, measures, phases
from kit.behavior.phases import CHECK_WHOLE, COMPUTE, PHASES
from kit.reward.token_limit import ends_in_loop
from kit.rollout.records import Rollout
from kit.settings import ROOT, Config, KitError, load

# How far the ends of an interval of two problems lie out, in the distance of the resamples' extremes: a t interval's.
WIDE = math.sqrt(2) * 12.7062 / 1.959964


HESITATION = ("wait", "but wait", "alternatively", "double-check")


@pytest.fixture(scope="module")
def settings() -> Config:
    smoke = load(ROOT / "params" / "smoke.yaml")
    return dataclasses.replace(smoke, evaluation=dataclasses.replace(smoke.evaluation, resamples=200),
                               keywords={"hesitation": HESITATION, "core": ("compute",)})


@pytest.mark.parametrize(("text", "count"), [
    ("Wait, let me double-check.", 2),
    ("But wait. Wait!", 2),  # not three: "But wait" is one
    ("The waiter awaits; await", 0),
    ("Alternatively: double-checking", 1),
    ("", 0),
    ("wait wait wait", 3),
    ("But\nwait, but  wait", 2),  # a phrase over a line break
])
def test_whole_words_longest_first(text: str, count: int) -> None:
    assert len(behavior.keyword_pattern(HESITATION).findall(text)) == count


def test_repeated_runs_of_words_and_loops_at_the_end() -> None:
    assert behavior.repeated_runs(["a", "b", "a", "b", "a", "b"], 2) == (3, 5)  # ab ba ab ba ab: two are new
    assert behavior.repeated_runs(["a", "b"], 3) == (0, 0)
    loop = ["let", "me", "check", "that", "once", "more", "."]
    assert ends_in_loop(["x", "=", "2", "."] + loop * 4 + loop[:3])  # cut in the middle of a round
    assert not ends_in_loop(loop * 4 + ["so", "x", "=", "2", "."])  # it got out
    assert not ends_in_loop(loop * 2)  # two rounds are no loop
    assert not ends_in_loop(["no", "no", "no", "no"])  # nor a few words
    assert not ends_in_loop([])


def rollouts(*texts: list[str], lengths: list[list[int | None]] | None = None) -> list[Rollout]:
    return [
        Rollout(str(k), "q", "7", None, own, lengths[k] if lengths else [100] * len(own), [True] * len(own))
        for k, own in enumerate(texts)
    ]


def counted(config: Config, made: list[Rollout]) -> pd.DataFrame:
    return behavior.count(config, made, "sentences", phases.cues_of(config))


def test_a_row_per_response_holds_what_was_counted(settings: Config) -> None:
    text = ("Compute first 3 + 4 = 7 . Wait , let me double-check . first 3 + 4 = 7 , so 7 * 1 = 7 . Yes , 7 again . "
            "</think> \\boxed{ 7 }")
    table = counted(settings, rollouts([text, ""]))
    row = table.iloc[0]
    assert (row["words hesitation"], row["words core"], row.steps) == (2, 1, 4)
    assert sum(row[f"word {word}"] for word in HESITATION) == 2 and row["word compute"] == 1
    assert (row[COMPUTE], row[CHECK_WHOLE], row.length) == (1, 3, 100)
    assert text[: round(row.stated * len(text))] == "Compute first 3 + 4 = 7 "
    assert table.iloc[1].steps == 0 and np.isnan(table.iloc[1].stated)
    assert list(table["sample"]) == [0, 1]


def test_only_the_first_samples_are_read(settings: Config) -> None:
    few = dataclasses.replace(settings, behavior=dataclasses.replace(settings.behavior, samples=2))
    assert len(counted(few, rollouts(["a", "b", "c"], ["d"]))) == 3


def test_an_estimate_is_a_ratio_of_sums_and_the_mean_weighs_sets_equally(settings: Config) -> None:
    counts = {"one": pd.DataFrame({"id": ["a", "b"], "top": [2.0, 4.0], "bottom": [1.0, 1.0]}),
              "two": pd.DataFrame({"id": ["a", "b", "c", "c"], "top": [1.0, 0, 0, 0], "bottom": [1.0, 1.0, 1.0, 1.0]})}
    table = measures.ratios(counts, settings, x=("top", "bottom", 1.0))
    assert table.x["one"] == 3 and table.x["two"] == pytest.approx(0.25) and table.x["mean"] == pytest.approx(1.625)
    assert (table.x_low["one"], table.x_high["one"]) == pytest.approx((0, 3 + WIDE))  # 3 - WIDE is below 0
    assert table.x_low["mean"] < 1.625 < table.x_high["mean"]


def test_keywords_are_per_response_and_per_1000_tokens(settings: Config) -> None:
    counts = {"one": counted(settings, rollouts(
        ["Wait, wait.", ""], ["Wait wait wait", "Wait wait wait"], lengths=[[100, 100], [300, 300]]))}
    row = measures.keywords(counts, settings).iloc[0]
    assert row.per_response == pytest.approx(2.0) and row.per_1000_tokens == pytest.approx(1000 * 8 / 800)
    assert (row.per_response_low, row.per_response_high) == pytest.approx((0, 2 + WIDE))  # a count is not below 0


def test_missing_lengths_leave_empty_what_needs_them_and_nothing_else(settings: Config) -> None:
    counts = {"one": counted(settings, rollouts(["Wait", "x"], ["y"], lengths=[[None, 5], [7]]))}
    row = measures.keywords(counts, settings).iloc[0]
    assert row.per_response == pytest.approx(1 / 3) and np.isnan(row.per_1000_tokens) and np.isnan(row.per_1000_tokens_low)


def test_shares_of_phases_add_up_to_all_steps(settings: Config) -> None:
    made = rollouts(["Compute 3 + 4 = 7 . Wait , 3 + 4 = 7 , right ."], ["1 = 1 ."])
    counts = {"one": counted(settings, made)}
    table = measures.phase_shares(counts, settings)
    assert table.share.sum() == pytest.approx(100) and len(table) == len(PHASES)
    computing = table[table.phase == COMPUTE].iloc[0]
    assert computing.share == pytest.approx(100 * 2 / 3) and computing.per_response == 1.0 and computing.kind == "core"


def test_what_comes_after_the_first_statement_is_counted_where_there_is_an_answer(settings: Config) -> None:
    table = pd.DataFrame({"id": ["a", "a", "b"], "length": [100.0, 200.0, 999.0], "stated": [0.25, 0.75, np.nan]})
    row = measures.first_answer({"one": table}, settings).iloc[0]
    assert row.answered == pytest.approx(100 * 2 / 3) and row.share_after == 50  # of 75 % and 25 %
    assert row.tokens_before == pytest.approx((25 + 150) / 2) and row.tokens_after == pytest.approx((75 + 50) / 2)
    unknown = measures.first_answer({"one": table.assign(length=[100.0, np.nan, 999.0])}, settings).iloc[0]
    assert unknown.share_after == 50 and np.isnan(unknown.tokens_after)


def test_changes_are_paired_and_nothing_before_is_no_percentage(settings: Config) -> None:
    long = rollouts(["Wait . Compute 1 = 1 ."], ["Wait , wait . Compute 2 = 2 ."])
    before = {"one": counted(settings, long)}
    after = {"one": counted(settings, rollouts(["Compute 1 = 1 ."], ["Wait . Compute 2 = 2 ."]))}
    table = measures.changes(before, after, settings)
    assert table.change["hesitation words"] == pytest.approx(100 * (0.5 / 1.5 - 1))
    core = table.loc["core words"]
    assert (core.before, core.after, core.change, core.change_low, core.change_high) == (1, 1, 0, 0, 0)
    assert np.isnan(table.change["hesitation steps"])  # no turn to something else in either
    with pytest.raises(KitError, match="one: the models were not evaluated on the same problems"):
        measures.changes(before, {"one": after["one"][after["one"].id == "0"]}, settings)


def test_percentiles_of_correct_and_wrong_lengths(settings: Config) -> None:
    grades = pd.DataFrame({"id": [str(k) for k in range(11)], "length": [*range(10, 110, 10), 999],
                           "verdict": ["correct"] * 10 + ["wrong"]})
    table = measures.percentiles({"one": grades}, settings).set_index(["verdict", "percentile"])
    assert [table.length["correct", q] for q in measures.PERCENTILES] == [20, 40, 50, 60, 80, 90, 100]
    assert table.length["wrong", 50] == 999 and table.responses["wrong", 50] == 1
    assert table.length_low["correct", 50] < 50 < table.length_high["correct", 50]
    unknown = measures.percentiles({"one": grades.assign(length=np.nan)}, settings)
    assert unknown.length.isna().all() and (unknown.responses == 0).all()


def test_thinking_ends_with_its_closing_tag_and_its_tokens_are_its_share_of_the_characters(settings: Config) -> None:
    """Of 20 characters the first 15 are thinking, `</think>` included: 30 of 40 tokens; the other response has no tag."""
    table = counted(settings, rollouts(["2 + 2 =</think> four"], ["no end in sight"], lengths=[[40], [10]]))
    spans = measures.spans({"two": table}, settings).loc["two"]
    assert (spans.thinking, spans.answer) == pytest.approx(((30 + 10) / 2, 10 / 2))


def test_accuracy_against_length_is_that_within_problems(settings: Config) -> None:
    """Two problems of 10 20 30 and 20 40 60 tokens; right 1 1 0 and 1 0 0. In bins of half, once and one and a half times the
    mean length responses are (33.3 + 66.7) / 2, (33.3 - 33.3) / 2 and -50 points above their problem's 66.7 and 33.3 %."""
    grades = pd.DataFrame({
        "id": ["a"] * 3 + ["b"] * 3 + ["c"] * 3, "length": [10, 20, 30, 20, 40, 60, 5, 5, 5],
        "verdict": ["correct", "correct", "wrong", "correct", "wrong", "wrong", "correct", "correct", "wrong"]})
    table = measures.within_problems({"two": grades}, settings, bins=3, least=2)
    assert table.above.tolist() == pytest.approx([50, 0, -50]) and table.length.tolist() == pytest.approx([15, 30, 45])
    assert table.best.tolist() == [True, False, False] and table.responses.tolist() == [2, 2, 2], "c is of one length"
    assert measures.within_problems({"two": grades.assign(length="")}, settings).empty
    few = pd.concat([grades.assign(id=grades.id + str(k)) for k in range(3)])
    assert measures.within_problems({"two": few}, settings).responses.tolist() == [18], "no bin of fewer than ten"
