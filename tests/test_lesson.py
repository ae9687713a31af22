"""What notebook 02 shows of rewards and advantages, by hand."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from kit.runs import paths
from kit.settings import Config
from kit.training import preflight

# Two problems with two responses each, under limits of 10, 20 and 40: the rewards of response 0, 1, 2, 3.
REWARDS = {10: [1, 1, 0, 1], 20: [1, 1, 1, 1], 40: [1, 1, 1, 1]}
TABLE = pd.DataFrame([
    {"id": "ab"[k // 2], "response": k, "limit": limit, "tokens": 5, "reward": float(reward)}
    for limit, rewards in REWARDS.items() for k, reward in enumerate(rewards)])


def test_the_response_shown_is_one_that_is_right_only_with_room() -> None:
    assert list(preflight.one_response(TABLE).reward) == [0, 1, 1]
    assert list(preflight.one_response(TABLE[TABLE.response != 2]).reward) == [1, 1, 1]


def test_the_group_shown_is_one_whose_rewards_differ_with_its_advantages() -> None:
    """Rewards 0 and 1: mean 0.5, standard deviation (of n - 1) 0.7071, so advantages of -+0.5 / 0.7072."""
    group = preflight.one_group(TABLE)
    assert list(group.index) == [2, 3] and list(group.advantage) == pytest.approx([-0.70701, 0.70701], abs=1e-5)
    equal = preflight.one_group(TABLE[TABLE.id == "a"])
    assert list(equal.advantage) == [0, 0]


def test_the_rewards_are_those_of_the_stored_responses_cut_at_each_limit(tiny_world: Config) -> None:
    patient = dataclasses.replace(tiny_world, watch=dataclasses.replace(tiny_world.watch, patience=0))
    preflight.preflight(patient, "iterative", 1)
    table = preflight.rewarded(patient, "iterative", 1)
    stored = list(paths.of(patient).training("iterative", 1).glob("preflight*.jsonl"))
    assert sorted(table.limit.unique()) == [24, 48, 96]
    assert len(table) == 3 * 4 * sum(path.read_bytes().count(b"\n") for path in stored)
    own = preflight.preflight(patient, "iterative", 1).iloc[0]
    assert table[table.limit == 24].reward.mean() == pytest.approx(own.right)
