"""Every length reward on three groups by hand, TRL's own beside ours, what the group's std does to a weight, and real rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trl import rewards as trls

from kit.data import prompts
from kit.laptop import arithmetic
from kit.reward import length_rewards
from kit.reward.length_rewards import METHODS, LengthReward, advantages, rewards_of
from kit.rollout import models
from kit.runs import catalog, files, fingerprint, paths
from kit.settings import Config, KitError, Reward, Schedule, load
from kit.training import rounds
from tests.test_training import one_step

# Three groups of responses of 20, 40 and 60 tokens: all correct; the middle one wrong; all wrong, and of these the last one
# without a box, cut at the cap.
LENGTHS = [20, 40, 60]
GROUPS = {"all correct": [True, True, True], "mixed": [True, False, True], "all wrong": [False, False, False]}
THIRD = 3**-0.5  # 0.577: the std of two equal rewards and a third one, 1 from them

BY_HAND: dict[str, tuple[dict[str, Any], list[list[float]], list[list[float]]]] = {  # settings, rewards, advantages
    "none": ({}, [[1, 1, 1], [1, 0, 1], [0, 0, 0]], [[0, 0, 0], [THIRD, -2 * THIRD, THIRD], [0, 0, 0]]),
    "token_limit": ({"target": 40}, [[1, 1, 0], [1, 0, 0], [0, 0, 0]],
                    [[THIRD, THIRD, -2 * THIRD], [2 * THIRD, -THIRD, -THIRD], [0, 0, 0]]),
    # all nine: mean 1/3, variance (3 x 4/9 + 6 x 1/9) / 8 = 1/4
    "dler": ({"target": 40}, [[1, 1, 0], [1, 0, 0], [0, 0, 0]],
             [[0.667, 0.667, -1.333], [1.333, -0.667, -0.667], [0, 0, 0]]),
    # all: m 40, s 16.33, sigmoid(-1.2247) = 0.2271; mixed: m 40, s 20, sigmoid(-1) = 0.2689
    "arora_zanette": ({"weight": 0.2}, [[0.9546, 0.9, 0.8454], [0.9462, 0, 0.8538], [0, 0, 0]],
                      [[0.0546, 0, -0.0546], [0.3462, -0.6, 0.2538], [0, 0, 0]]),
    "laser": ({"target": 40}, [[1.5, 1.5, 1], [1.5, -0.5, 1], [-0.5, -0.5, -1]],
              [[THIRD, THIRD, -2 * THIRD], [0.8006, -1.1209, 0.3203], [THIRD, THIRD, -2 * THIRD]]),
    "l1_exact": ({"target": 40, "weight": 0.01}, [[0.8, 1, 0.8], [0.8, 0, 0.8], [-0.2, 0, -0.2]],
                 [[-THIRD, 2 * THIRD, -THIRD], [THIRD, -2 * THIRD, THIRD], [-THIRD, 2 * THIRD, -THIRD]]),
    "l1_max": ({"target": 40, "weight": 0.01}, [[0.7, 0.5, 0.3], [0.7, 0, 0.3], [0, 0, 0]],
               [[1, 0, -1], [1.0441, -0.9492, -0.0949], [0, 0, 0]]),
    "soft_overlong": ({"target": 60, "settings": {"buffer": 40}}, [[1, 0.5, 0], [1, -0.5, 0], [0, -0.5, -1]],
                      [[1, 0, -1], [1.0911, -0.8729, -0.2182], [1, 0, -1]]),
    # cos(60°), cos(120°), cos(180°): 0.5, -0.5, -1; all nine have the std 4.3427
    "cosine": ({"target": 60}, [[1.75, 1.25, 1], [1.75, -2.5, 1], [-7.5, -2.5, -10]],
               [[0.0959, -0.0192, -0.0768], [0.3838, -0.5949, 0.2111], [-0.1919, 0.9595, -0.7676]]),
    "kimi": ({}, [[1.2, 1, 0.8], [1.2, 0, 0.8], [0, 0, -0.2]],
             [[0.2, 0, -0.2], [0.5333, -0.6667, 0.1333], [0.0667, 0.0667, -0.1333]]),
    "pass_rate_linear": ({}, [[0.9167, 0.8333, 0.75], [0.9444, -0.1111, 0.8333], [0, 0, 0]],
                         [[0.0833, 0, -0.0833], [0.3889, -0.6667, 0.2778], [0, 0, 0]]),
    "gr3": ({"weight": 0.5}, [[0.8, 0.6667, 0.5714], [0.8, 0, 0.5714], [0, 0, 0]],
            [[1.0507, -0.1106, -0.9401], [0.832, -1.1094, 0.2774], [0, 0, 0]]),
    "shorter_better": ({"weight": 0.01}, [[2, 1.8, 1.6], [2, -0.2, 1.6], [-0.2, 0, -0.2]],
                       [[1, 0, -1], [0.7395, -1.1378, 0.3982], [-THIRD, 2 * THIRD, -THIRD]]),
}


def of_groups(reward: Reward) -> list[list[float]]:
    return [rewards_of(reward, correct, LENGTHS, reward.target or 60, finished=[True, True, any(correct)],
                       boxed=[True, True, any(correct)]) for correct in GROUPS.values()]


def test_every_method_is_worked_out_by_hand() -> None:
    assert set(BY_HAND) == set(METHODS)


@pytest.mark.parametrize("name", BY_HAND)
def test_rewards_and_advantages_are_those_worked_out_by_hand(name: str) -> None:
    settings, rewards, expected = BY_HAND[name]
    found = of_groups(Reward(name=name, **settings))
    assert found == [pytest.approx(group, abs=1e-4) for group in rewards]
    got = advantages(found, METHODS[name].scale)
    assert got.tolist() == [pytest.approx(group, abs=2e-3) for group in expected]


@pytest.mark.parametrize("name", ["arora_zanette", "l1_max", "pass_rate_linear", "gr3", "shorter_better", "kimi"])
def test_the_groups_std_cancels_the_weight_where_all_are_correct(name: str) -> None:
    """Between lengths of 30 and 50 no clip of these rewards bends."""
    def all_correct(weight: float, scale: str) -> list[float]:
        return advantages([rewards_of(Reward(name=name, weight=weight), [True] * 4, [30, 35, 42, 50], 40)], scale)[0].tolist()

    light, heavy = (0.005, 0.02) if name == "l1_max" else (0.05, 0.2)
    assert all_correct(light, "group") == pytest.approx(all_correct(heavy, "group"), abs=0.09 if name == "gr3" else 0.03)
    small, large = (max(map(abs, all_correct(weight, "none"))) for weight in (light, heavy))
    assert large > 2.5 * small


def test_in_a_mixed_group_the_weight_counts_under_the_groups_std_as_well() -> None:
    light, heavy = (advantages([rewards_of(Reward(name="kimi", weight=w), *GROUP)], "group")[0] for w in (0.05, 0.4))
    assert abs(light - heavy).max() > 0.1


GROUP = ([True, False, True, True], [30, 35, 42, 50], 40)

# --- TRL's own --------------------------------------------------------------------------------------------------------


def test_soft_overlong_is_trls() -> None:
    lengths = [10, 80, 81, 90, 100, 101, 300]
    theirs = trls.get_soft_overlong_punishment(100, 20)(completion_ids=[[1] * n for n in lengths])
    ours = rewards_of(Reward(name="soft_overlong", target=100), [False] * 7, lengths, 100)
    assert ours == pytest.approx(theirs)
    assert min(theirs) == -1 and max(theirs) == 0


def test_cosine_with_trls_values_is_trls() -> None:
    lengths, boxes = [1, 30, 50, 99, 100, 150] * 2, ["3"] * 6 + ["4"] * 6
    theirs = trls.get_cosine_scaled_reward(max_len=100)(
        completions=[[{"content": f"\\boxed{{{box}}}"}] for box in boxes], solution=["$3$"] * 12,
        completion_ids=[[1] * n for n in lengths])
    reward = Reward(name="cosine", weight=0.5, settings={"correct_long": 0.5, "wrong_short": -1.0, "wrong_long": -0.5})
    ours = rewards_of(reward, [box == "3" for box in boxes], lengths, 100, finished=[True] * 12)
    assert ours == pytest.approx(theirs)
    assert max(theirs) > 0.9 and min(theirs) < -0.9


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_trls_trainer(tiny_world: Config, tmp_path: Path, scale: str) -> None:
    rewards = [rewards_of(Reward(name="kimi"), [True, k > 0, k > 1, k > 2], [20, 30 + k, 40, 70], 40) for k in range(4)]
    config = dataclasses.replace(tiny_world, training=length_rewards.training_of(
        tiny_world.training, Reward(name="kimi", scale_rewards=scale)))
    trainer = one_step(config, lambda completions, **_: [r for group in rewards for r in group], tmp_path)
    assert list(trainer._logs["advantages"]) == pytest.approx(advantages(rewards, scale).flatten().tolist(), abs=1e-4)


# --- in a training ----------------------------------------------------------------------------------------------------

SHORT = "Compute 3 + 4 = 7 . </think> \\boxed{ 7 } <eos>"  # 12 tokens, 8 of them thinking
LONG = "Compute 3 + 4 = 7 . Wait , 3 + 4 = 7 . </think> \\boxed{ 7 } <eos>"  # 20 tokens, 16 of them thinking


@pytest.fixture(scope="module")
def earned() -> Callable[..., tuple[list[float], dict[str, float]]]:
    tokenizer = arithmetic.make_tokenizer()

    def of(reward: Reward, texts: list[str], step: int = 0, steps: int = 1, **columns: Any) -> tuple[list[float], dict]:
        ids, logged = [tokenizer(text)["input_ids"] for text in texts], {}
        function = LengthReward(reward, 30, tokenizer, "official", {tokenizer.eos_token_id}, 2, steps)
        state = type("State", (), {"global_step": step})
        columns |= {"answer": ["7"] * len(ids), "trainer_state": state, "log_metric": logged.__setitem__}
        return function(completion_ids=ids, **columns), logged

    return of


def test_lengths_are_tokens_of_the_whole_response_and_groups_follow_each_other(earned: Callable[..., Any]) -> None:
    """gr3 of 12 and 20 tokens, mean 16: 1 / (1 + 0.75) and 1 / (1 + 1.25); two of 12: 1 / 2 each."""
    found, logged = earned(Reward(name="gr3", weight=1.0), [SHORT, LONG, SHORT, SHORT])
    assert found == pytest.approx([1 / 1.75, 1 / 2.25, 0.5, 0.5])
    assert logged["right"] == 1.0 and logged["thinking"] == (8 + 16 + 8 + 8) / 4


def test_a_target_below_the_cap_cuts_the_response_of_a_token_limit_and_only_of_it(earned: Callable[..., Any]) -> None:
    early = "Compute 3 + 4 = 7 . \\boxed{ 7 } Wait , 3 + 4 = 7 . </think> <eos>"  # 20 tokens, a box in the first 11
    assert earned(Reward(name="token_limit", target=11), [early, LONG])[0] == [1.0, 0.0]
    assert earned(Reward(name="laser", target=11), [early, LONG])[0] == [1.0, 1.0]


def test_each_prompt_has_its_own_target_where_the_params_ask_for_it(earned: Callable[..., Any]) -> None:
    reward = Reward(name="l1_exact", weight=0.1, targets=(10, 20), state_target="The output should be within {target} tokens .")
    assert earned(reward, [SHORT, SHORT, SHORT, SHORT], target=[12, 12, 15, 15])[0] == pytest.approx([1, 1, 0.7, 0.7])
    drawn = [reward.target_of(f"question {k}") for k in range(300)]
    assert set(drawn) == set(range(10, 21)) and drawn == [reward.target_of(f"question {k}") for k in range(300)]
    plan = Schedule(limits=(24,), reward=reward)
    system = prompts.training_messages(load("params/laptop.yaml").prompts, "question 1", None, plan)[0]["content"]
    assert system.endswith(f" The output should be within {drawn[1]} tokens .")


def test_a_falling_target_reaches_its_end_at_the_last_step(earned: Callable[..., Any]) -> None:
    falling = Reward(name="token_limit", target=30, target_to=11)
    assert [earned(falling, [SHORT, LONG], step, 3)[0] for step in range(3)] == [[1, 1], [1, 1], [1, 0]]  # 30, 20 (20.5), 11


def test_a_training_prompt_states_the_target(tiny_world: Config) -> None:
    reward = Reward(name="l1_max", target=12, state_target="The output should be within {target} tokens .")
    plan = Schedule(limits=(24,), state_limit=False, reward=reward)
    tokenizer = models.load_tokenizer(catalog.base_model(tiny_world), tiny_world)
    row = rounds.training_rows(tiny_world, tokenizer, None, plan)[0]
    assert "within 12 tokens" in prompts.render(tokenizer, row["prompt"]) and row["target"] == 12
    assert "target" not in rounds.training_rows(tiny_world, tokenizer, 24)[0]


def test_the_recipe_is_the_runs_or_the_papers_and_normalization_the_methods_own() -> None:
    common = load("params/laptop.yaml").training
    assert length_rewards.training_of(common, None) == common
    ours = length_rewards.training_of(common, Reward(name="laser"))
    assert ours.trl == {"loss_type": "dapo", "weight_decay": 0.0, "scale_rewards": "group"} and ours.temperature == 1.0
    own = length_rewards.training_of(common, Reward(name="laser", recipe="own"))
    assert (own.temperature, own.kl_coefficient, own.trl["epsilon_high"]) == (0.6, 1e-3, 0.28)
    assert length_rewards.training_of(common, Reward(name="dler", recipe="own")).drop_groups
    said = dataclasses.replace(common, trl={"scale_rewards": "batch"})
    assert length_rewards.training_of(said, Reward(name="kimi")).trl["scale_rewards"] == "batch"
    assert length_rewards.training_of(said, Reward(name="kimi", scale_rewards="none")).trl["scale_rewards"] == "none"


def with_reward(config: Config, processes: int = 1, **reward: Any) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, processes=processes), schedules={
        "brief": Schedule(limits=(24,), state_limit=False, reward=Reward(**reward))})


def test_mistakes_in_a_reward_are_told_before_anything_is_trained(tiny_world: Config) -> None:
    for told, reward in {
        "no reward is called lazer; did you mean laser?": {"name": "lazer"},
        "token_limit has no weight; it has no settings": {"name": "token_limit", "weight": 0.1},
        "gr3 has no buffer; it has weight": {"name": "gr3", "settings": {"buffer": 3}},
        r"gr3 needs whole groups, but training.processes \(8\) tears them; training.prompts_per_step \(4\) should be": {
            "name": "gr3", "processes": 8},
        "l1_exact needs whole groups": {"name": "l1_exact", "targets": (10, 20), "processes": 8},
        r"dropping groups needs whole groups, but training.processes \(8\)": {"name": "dler", "recipe": "own", "processes": 8},
    }.items():
        with pytest.raises(KitError, match=told):
            rounds.prepare(with_reward(tiny_world, **reward), "brief", 1)
    length_rewards.check(with_reward(tiny_world, processes=8, name="laser"))  # which looks at each response alone


def test_a_new_key_at_its_default_redoes_nothing() -> None:
    known = fingerprint.settings(load("params/laptop.yaml"))
    assert not [key for key in known if "reward" in key or "drop_groups" in key]


def test_groups_without_variance_can_be_left_out_of_the_loss(tiny_world: Config, tmp_path: Path) -> None:
    """Two of four groups have equal rewards: without them the loss is the mean over the tokens of the others."""
    def two_of_four(completions: list, **_: object) -> list[float]:
        return [1.0, 0.0, 1.0, 0.0] * 2 + [1.0] * 8

    config = with_reward(tiny_world, name="dler", recipe="own")
    seen: list[Any] = []

    class Watched(length_rewards.LengthReward):
        def __call__(self, completions: list, **given: Any) -> list[float]:
            return two_of_four(completions)

    inner = rounds.without_equal_groups

    def watched(trainer: Any) -> Callable[[Any], Any]:
        score = inner(trainer)

        def scored(inputs: Any) -> Any:
            seen.append(score(inputs))
            return seen[-1]

        return scored

    with pytest.MonkeyPatch.context() as put:
        put.setattr(length_rewards, "LengthReward", Watched)
        put.setattr(rounds, "without_equal_groups", watched)
        rounds.train_round(dataclasses.replace(config, run=tiny_world.run), "brief", 1)
    found = seen[0]
    assert found["completion_mask"][:8].sum() > 0 and found["completion_mask"][8:].sum() == 0
    assert found["num_items_in_batch"] == found["completion_mask"].sum()


def test_a_round_with_a_length_reward_trains_and_logs_both_lengths(tiny_world: Config) -> None:
    config = dataclasses.replace(with_reward(tiny_world, name="kimi"), schedules={
        "kimi": Schedule(limits=(24,), state_limit=False, select="last", reward=Reward(name="kimi"))})
    rounds.train_round(config, "kimi", 1)
    log = files.read_csv(paths.of(config).training("kimi", 1) / "log.csv")
    assert (log.reward <= 0).all(), "an untrained model is never right, and a long wrong response costs"
    assert (log.no_variance < 1).any() and (log.right == 0).all() and (log.thinking <= log.length).all()
