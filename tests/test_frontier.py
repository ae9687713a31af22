"""The frontier of length rewards: hypervolume, dominated settings, pairs over seeds; figures, sentences, published rows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

from kit.chain.stages import stages
from kit.evaluation import frontier
from kit.report import reward_figures, style, tables
from kit.runs import files, paths
from kit.settings import Config, KitError, Reward, Schedule, load


def points_of(*rows: tuple[int, str, str, float, float]) -> pd.DataFrame:
    """(seed, model, method, accuracy, length), each with an interval of 1 over problems."""
    return pd.DataFrame([
        {"seed": seed, "model": model, "method": method, "accuracy": a, "accuracy_low": a - 1, "accuracy_high": a + 1,
         "length": n, "length_low": n - 1, "length_high": n + 1, "thinking": n - 5} for seed, model, method, a, n in rows])


ONE_SEED = points_of((1, "base", "base", 82, 100), (1, "a/round1", "kimi", 70, 40), (1, "b/round1", "kimi", 80, 60),
                     (1, "c/round1", "kimi", 75, 80), (1, "d/round1", "gr3", 90, 120))


def test_the_volume_is_the_best_accuracy_that_fits_over_all_lengths() -> None:
    """Nothing fits below 40, then 70 % to 60, then 80 % to 100, the base's length: (20 x 70 + 40 x 80) / 100 = 46."""
    row = frontier.volumes(ONE_SEED).set_index("method").loc["kimi"]
    assert row.volume == pytest.approx(46) and row.settings == 3
    assert math.isnan(row["at 33%"]) and row["at 50%"] == 70 and row["at 67%"] == 80
    assert frontier.volumes(ONE_SEED).set_index("method").loc["gr3"].volume == 0  # longer than the base


def test_a_setting_is_dominated_by_one_that_is_at_least_as_short_and_as_accurate() -> None:
    table = frontier.combined(ONE_SEED).set_index("model")
    assert table.dominated.to_dict() == {"base": False, "a/round1": False, "b/round1": False, "c/round1": True, "d/round1": False}
    twice = frontier.combined(points_of((1, "a/round1", "x", 80, 50), (1, "b/round1", "y", 80, 50), (1, "c/round1", "z", 80, 51)))
    assert list(twice.dominated) == [False, False, True]


def test_methods_are_compared_in_pairs_over_seeds() -> None:
    """At length 50 of 100 a volume is half of the accuracy: gaps of 1, 2 and 3 points, mean 2, std 1, t of 2 degrees 4.303."""
    each = points_of(*(row for seed, gap in ((1, 2), (2, 4), (3, 6)) for row in (
        (seed, "base", "base", 90, 100), (seed, "a/round1", "kimi", 80 + gap, 50), (seed, "b/round1", "gr3", 80, 50),
        (seed, "c/round1", "laser", 80, 50), (seed, "d/round1", "laser", 60, 30))))
    found = frontier.pairs(frontier.volumes(each))
    assert found[["method", "other"]].to_numpy().tolist() == [["kimi", "gr3"]], "laser has two settings"
    row = found.iloc[0]
    assert row.difference == pytest.approx(2)
    assert (row.difference_low, row.difference_high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert frontier.pairs(frontier.volumes(ONE_SEED)).empty


@pytest.fixture
def rewarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Finished runs of two seeds, with metrics/main.csv and nothing else."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    def plan(label: str, limit: int = 240, **reward: object) -> Schedule:
        return Schedule(limits=(limit,), label=label, state_limit=False, reward=Reward(**reward))

    config = dataclasses.replace(load("params/smoke.yaml"), run="rewarded", seeds=(2,), schedules={
        "none": plan("correctness only", name="none"), "kimi-04": plan("Kimi 0.4", name="kimi"),
        "kimi-1": plan("Kimi 1", name="kimi", weight=1.0), "laser-40": plan("LASER 40", name="laser", target=40),
        "laser-60": plan("LASER 60", name="laser", target=60), "dler": plan("DLER", 40, name="dler", recipe="own")})
    found = [("base", 85.0, 130.0), ("none", 88.0, 120.0), ("kimi-04", 84.0, 60.0), ("kimi-1", 80.0, 40.0),
             ("laser-40", 86.0, 45.0), ("laser-60", 83.0, 62.0), ("dler", 82.0, 38.0)]
    for seed in (1, 2):
        run = dataclasses.replace(config, run="rewarded" + "-seed2" * (seed == 2))
        rows = [{"model": name if name == "base" else f"{name}/round1", "set": "mean", "accuracy": a + seed, "length": n - seed}
                for name, a, n in found]
        table = pd.DataFrame(rows)
        for column in ("accuracy", "length"):
            table[f"{column}_low"], table[f"{column}_high"] = table[column] - 2, table[column] + 2
        files.write_csv(paths.of(run).metrics / "main.csv", table)
    frontier.write(config)
    return config


def test_the_figures_are_drawn_and_tables_and_sentences_follow_from_the_points(rewarded: Config) -> None:
    for draw in (reward_figures.reward_shapes, reward_figures.advantage_shapes, reward_figures.weight_cancels,
                 reward_figures.frontier, reward_figures.published_frontiers):
        assert style.show(draw, rewarded).data[:4] == b"\x89PNG"
    table = reward_figures.frontier_table(rewarded)
    assert list(table[table.dominated == "yes"].index) == ["Kimi 1", "Kimi 0.4", "LASER 60", "base"]
    assert table.loc["DLER", "method"] == "dler, own recipe" and table.loc["DLER", "advantages over"] == "batch"
    assert table.loc["Kimi 1", "advantages over"] == "none" and table.loc["Kimi 1", "accuracy (%)"].startswith("81.5 [")
    volumes = reward_figures.volume_table(rewarded)
    assert list(volumes.settings[["kimi", "laser", "none"]]) == [2, 2, 1]
    # LASER at two thirds: 87 and 88 %; t(1) = 12.706, so 87.5 ± 12.706 x 0.5
    assert volumes.loc["laser", "at 67%"] == "87.5 [81.1, 93.9]" and volumes.loc["none", "at 33%"] == "– (0 of 2 seeds)"
    told = reward_figures.pair_sentences(rewarded)
    assert len(told) == 2 and any(line.startswith("kimi minus laser: ") and "over 2 seeds" in line for line in told)
    methods = frontier.method_table(rewarded)
    assert methods.loc["kimi", "schedules here"] == 2 and methods.loc["gr3", "schedules here"] == 0


def test_a_seed_that_is_not_finished_is_named(rewarded: Config) -> None:
    file = paths.of(dataclasses.replace(rewarded, run="rewarded-seed2")).metrics / "main.csv"
    files.write_csv(file, files.read_csv(file).iloc[:-1])
    with pytest.raises(KitError, match="rewarded-seed2: dler/round1 is not evaluated yet"):
        frontier.write(rewarded)


def test_published_length_rewards_are_compared_within_their_own_table() -> None:
    """LASER 4096: accuracies 83.9, 31.0, 74.1, 45.7 against 83.9, 28.9, 71.6, 43.3; tokens 14,544 against 40,710 in all."""
    table = tables.published_changes("rewards").set_index(["source", "name"])
    row = table.loc["laser", "LASER 4096"]
    assert row.accuracy_change == pytest.approx(7.0 / 4) and row.length == pytest.approx(100 * 14544 / 40710)
    assert {source for source, _ in table.index} == {"laser", "dler", "lapo"} and len(table) == 17
    assert tables.published_table("dler", "rewards").loc["DLER", "math500"] == "86.95 / 1652"


def test_the_chain_has_notebook_07_before_the_report_where_schedules_have_rewards() -> None:
    last = {name: [stage.name for stage in stages(load(f"params/{name}.yaml")) if stage.draws]
            for name in ("laptop", "laptop-rewards")}
    assert last == {"laptop": ["06_figures"], "laptop-rewards": ["07_rewards", "06_figures"]}
