"""The round: reward at the limit, advantages, the choice of a checkpoint, and a real round of a real trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kit.data import prompts
from kit.laptop import arithmetic
from kit.reward.token_limit import TokenLimitReward
from kit.rollout import models
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError, load, read_yaml
from kit.training import rounds, selection
from kit.training.selection import select

# --- the reward -------------------------------------------------------------------------------------------------------

DONE = "Compute 3 + 4 = 7 . </think> \\boxed{ 7 } <eos>"  # 12 tokens, the end token included
UNFINISHED = "so \\boxed{ 7 } Wait , let me double-check"  # a box inside thinking that never ends


@pytest.fixture(scope="module")
def reward() -> Callable[..., float]:
    tokenizer = arithmetic.make_tokenizer()

    def of(text: str, gold: str, limit: int, reading: str = "official") -> float:
        ids = tokenizer(text.replace("so ", ""))["input_ids"]
        assert tokenizer.unk_token_id not in ids
        return TokenLimitReward(limit, tokenizer, reading)(completion_ids=[ids], answer=[gold])[0]

    return of


def test_a_correct_answer_finished_just_inside_the_limit_is_paid(reward: Callable[..., float]) -> None:
    assert reward(DONE, "7", limit=12) == 1.0


def test_a_response_cut_just_before_the_box_closes_is_not_paid(reward: Callable[..., float]) -> None:
    assert reward(DONE, "7", limit=10) == 0.0  # … </think> \boxed{ 7
    assert reward(DONE, "7", limit=11) == 1.0  # … } : the box is whole, the end token is not needed


def test_a_box_inside_unfinished_thinking_counts_in_the_official_reading_only(reward: Callable[..., float]) -> None:
    assert reward(UNFINISHED, "7", limit=50) == 1.0
    assert reward(UNFINISHED, "7", limit=50, reading="strict") == 0.0


def test_a_finished_response_without_a_box_is_paid_in_the_last_number_reading_only(reward: Callable[..., float]) -> None:
    said = "Compute 3 + 4 = 7 . </think> The final answer is 7 <eos>"
    assert [reward(said, "7", limit=50, reading=name) for name in ("official", "strict", "last-number")] == [0.0, 0.0, 1.0]


def test_thinking_that_ends_with_an_answer_counts_in_the_strict_reading_too(reward: Callable[..., float]) -> None:
    assert reward(DONE, "7", limit=12, reading="strict") == 1.0


def test_the_last_box_decides(reward: Callable[..., float]) -> None:
    assert reward("\\boxed{ 7 } But wait , </think> \\boxed{ 8 } <eos>", "7", limit=50) == 0.0


def test_wrong_and_empty_responses_are_not_paid(reward: Callable[..., float]) -> None:
    assert reward(DONE, "8", limit=12) == 0.0
    assert reward("", "7", limit=12) == 0.0
    assert reward("Compute 3 + 4 = 7 .", "7", limit=12) == 0.0  # cut in its thinking: the last number is no answer


# --- the choice of a checkpoint ---------------------------------------------------------------------------------------


def curve(*points: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=["step", "accuracy", "length"])


def test_the_shortest_checkpoint_within_the_tolerance_is_chosen() -> None:
    falling = curve((5, 80.0, 100.0), (10, 78.0, 60.0), (15, 71.9, 40.0))
    assert select(falling, start_accuracy=80.0, tolerance=0.10) == 10  # 71.9 < 72
    assert select(falling, start_accuracy=79.0, tolerance=0.10) == 15  # 71.9 > 71.1


def test_exactly_the_tolerated_drop_still_qualifies() -> None:
    assert select(curve((1, 72.0, 9.0)), start_accuracy=80.0, tolerance=0.10) == 1
    assert select(curve((1, 60.0, 9.0)), start_accuracy=66.6667, tolerance=0.10) == 1  # 640 of 960, as a CSV has it; 576
    assert select(curve((1, 100 * 575 / 960, 9.0)), start_accuracy=66.6667, tolerance=0.10) == 0


def test_of_equally_short_checkpoints_the_earlier_is_chosen() -> None:
    assert select(curve((10, 80.0, 50.0), (5, 80.0, 50.0)), 80.0) == 5


def test_when_nothing_qualifies_the_start_is_kept() -> None:
    assert select(curve((5, 50.0, 10.0)), start_accuracy=80.0) == 0
    assert select(curve(), start_accuracy=80.0) == 0


@pytest.mark.parametrize(("start_accuracy", "step"), [(18.0, 180), (20.9, 180), (22.8, 180), (22.9, 140)])
def test_on_the_published_4k_round_the_rule_picks_what_its_authors_picked(start_accuracy: float, step: int) -> None:
    published = read_yaml(ROOT / "params" / "published.yaml")["validation_curve"]["points"]
    assert select(curve(*((s, *values) for s, values in published.items())), start_accuracy, tolerance=0.10) == step


# --- a real round -----------------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_two_rounds_train_validate_select_and_chain(tiny_world: Config, capsys: pytest.CaptureFixture[str]) -> None:
    run, start = paths.of(tiny_world), catalog.base_model(tiny_world)
    with pytest.raises(KitError, match="02_prune_round.ipynb with schedule=iterative round=1"):
        catalog.start_of_round(tiny_world, "iterative", 2)

    folder = rounds.train_round(tiny_world, "iterative", 1)
    assert [c.name for c in catalog.checkpoints(folder)] == ["checkpoint-1", "checkpoint-2"]
    log = pd.read_csv(run.training("iterative", 1) / "log.csv")
    assert list(log.step) == [1, 2] and (log.limit == 24).all()
    assert (log.length <= 24).all() and log.truncated.between(0, 1).all() and log.kl.notna().all()
    parts = log[["generate", "grade", "reference"]]
    assert (parts > 0).all(axis=None) and (parts.sum(axis=1) < log.seconds).all()
    assert "nothing is learned" in capsys.readouterr().out  # an untrained model earns nothing: said in words

    table = selection.validate_round(tiny_world, "iterative", 1)
    assert list(table.step) == [0, 1, 2] and table.selected.sum() == 1
    chosen = files.read_json(run.training("iterative", 1) / "selected.json")
    expected = start if chosen["step"] == 0 else str(folder / f"checkpoint-{chosen['step']}")
    assert catalog.start_of_round(tiny_world, "iterative", 2) == expected
    with pytest.raises(KitError, match=r"schedules.iterative has 2 round\(s\), there is no round 3"):
        catalog.start_of_round(tiny_world, "iterative", 3)


def one_step(config: Config, rewards: Callable[..., list[float]], folder: Path, steps: int = 1):
    """One real GRPO step (or some) with a reward of our own; returns the trainer."""
    from datasets import Dataset
    from trl import GRPOTrainer

    start = catalog.base_model(config)
    tokenizer = models.load_tokenizer(start, config)
    rows = rounds.training_rows(config, tokenizer, 24)
    trainer = GRPOTrainer(
        model=start, args=rounds.grpo_settings(config, folder, limit=24, steps=steps, seed=3), reward_funcs=rewards,
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def test_advantages_are_rewards_normalized_within_their_group(tiny_world: Config, tmp_path: Path) -> None:
    """Groups of four: 1 0 0 0 has mean 1/4 and std 1/2, so 1.5 and -0.5; 1 1 0 0 has std 0.5774: +-0.866; 1 1 1 1: 0."""
    by_group = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]

    def rigged(completions: list, **_: object) -> list[float]:
        assert len(completions) == 16
        return [r for group in by_group for r in group]

    trainer = one_step(tiny_world, rigged, tmp_path)
    got = list(trainer._logs["advantages"])
    expected = [1.5, -0.5, -0.5, -0.5, 0.866, 0.866, -0.866, -0.866, *[0.0] * 8]
    assert got == pytest.approx(expected, abs=1e-3)


def test_a_round_moves_the_parameters_and_truncated_responses_stay_in_the_loss(tiny_world: Config, tmp_path: Path) -> None:
    before = weights(Path(catalog.base_model(tiny_world)))

    def every_other(completions: list, **_: object) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    no_kl = dataclasses.replace(tiny_world, training=dataclasses.replace(
        tiny_world.training, kl_coefficient=0.0, entropy_coefficient=0.0))
    trainer = one_step(no_kl, every_other, tmp_path)
    log = trainer.state.log_history[0]
    assert log["completions/clipped_ratio"] > 0.5  # nearly all are cut at 24 tokens, and still …
    assert log["grad_norm"] > 0  # … they teach
    after = weights(catalog.checkpoints(tmp_path)[-1])
    assert max((after[k] - before[k]).abs().max().item() for k in before) > 0


@pytest.mark.parametrize("loss", ["bnpo", "dapo"])
def test_the_loss_is_the_token_mean_of_each_pass_or_of_the_whole_step(
    tiny_world: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """At a step's first update the ratio is 1, so a token's loss is minus its response's advantage. `bnpo`, the official one, in
    passes of 4: tokens of a pass with short responses weigh more. `dapo` in the same passes: all tokens of the step alike."""
    import numpy as np
    from trl import GRPOTrainer

    passes, inner = [], GRPOTrainer._compute_loss

    def watched(self: GRPOTrainer, model: object, inputs: dict) -> object:
        passes.append((inputs["advantages"].flatten().numpy(), inputs["completion_mask"].sum(1).numpy()))
        return inner(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", watched)
    settings = dataclasses.replace(
        tiny_world.training, kl_coefficient=0.0, entropy_coefficient=0.0, micro_batch=4, trl={"loss_type": loss})
    # a cut response has 24 tokens, one that says what it says at once fewer: paid are those at odd places
    trainer = one_step(dataclasses.replace(tiny_world, training=settings), lambda completions, completion_ids, **_: [
        float(len(ids) < 24 or i % 4 == 0) for i, ids in enumerate(completion_ids)], tmp_path)
    assert len(passes) == 4 and {len(a) for a, _ in passes} == {4}
    means = [-(a * n).sum() / n.sum() for a, n in passes]
    whole = -sum((a * n).sum() for a, n in passes) / sum(n.sum() for _, n in passes)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(np.mean(means) if loss == "bnpo" else whole, abs=2e-4)
    assert abs(np.mean(means) - whole) > 1e-3, "else this tells nothing"


def test_rows_of_like_length_together_give_the_same_values_and_gradients_with_less_padding(
    tiny_world: Config, tmp_path: Path
) -> None:
    import torch

    trainer = one_step(tiny_world, lambda completions, **_: [0.0] * len(completions), tmp_path)
    lengths, kept, before = [3, 20, 1, 0, 17, 4, 20, 2], 20, 6  # tokens of each response (0: masked whole), and of its prompt
    mask = torch.zeros(8, before + kept, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, row % 3 : before + length] = 1
    ids = torch.randint(5, 30, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    seen, plain = [], trainer._get_per_token_logps_and_entropies
    forward = trainer.model.forward
    trainer.model.forward = lambda *given, **more: (seen.append(tuple(more["input_ids"].shape)), forward(*given, **more))[1]
    found = []
    for way in (plain, rounds.by_length(trainer, 4)):
        trainer.model.zero_grad()
        logps, entropies, aux = way(trainer.model, ids, mask, kept, compute_entropy=True)
        shown = mask[:, before:].bool()
        ((logps + 0.1 * entropies) * shown)[:, ::2].sum().backward()
        grads = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        found.append((logps.detach()[shown], entropies.detach()[shown], grads))
        assert logps.shape == entropies.shape == (8, kept) and aux is None
    for one, other in zip(*found, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, atol=1e-5)
    assert seen == [(8, 26), (2, 7), (2, 9), (2, 23), (2, 26)]


def test_the_sign_of_the_kl_coefficient_is_that_of_the_term_in_the_loss(tiny_world: Config, tmp_path: Path) -> None:
    """The first step, with the same rewards, leaves the reference; from the second on nothing is rewarded, and the KL alone pulls
    back to it or, with the official code's sign, pushes further away."""
    steps: dict[float, list[dict[str, float]]] = {}
    for coefficient in (0.5, 0.0, -0.5):
        calls: list[int] = []

        def first_step_only(completions: list, calls: list[int] = calls, **_: object) -> list[float]:
            calls.append(1)
            return [float(i % 2) if len(calls) == 1 else 0.0 for i in range(len(completions))]

        settings = dataclasses.replace(
            tiny_world.training, kl_coefficient=coefficient, entropy_coefficient=0.0, learning_rate=3e-3)
        config = dataclasses.replace(tiny_world, training=settings)
        trainer = one_step(config, first_step_only, tmp_path / str(coefficient), steps=4)
        steps[coefficient] = trainer.state.log_history[:4]
    plus, none, minus = steps.values()
    assert plus[1]["kl"] == pytest.approx(minus[1]["kl"]) and plus[1]["kl"] > 0, "the first steps are alike: there is no KL yet"
    assert plus[1]["loss"] == pytest.approx(0.5 * plus[1]["kl"], rel=0.05)
    assert minus[1]["loss"] == pytest.approx(-plus[1]["loss"], rel=0.01)
    assert plus[3]["kl"] < minus[3]["kl"] and "kl" not in none[1]


def test_a_killed_round_resumes_to_the_same_numbers(tiny_world: Config) -> None:
    """The second step after a resume from the first checkpoint is the second step of an undisturbed round."""
    import shutil

    straight = dataclasses.replace(tiny_world, schedules={"straight": dataclasses.replace(
        tiny_world.schedules["iterative"], limits=(24,))})
    broken = dataclasses.replace(tiny_world, schedules={"broken": straight.schedules["straight"]})
    run = paths.of(tiny_world)
    rounds.train_round(straight, "straight", 1)
    rounds.train_round(broken, "broken", 1)
    shutil.rmtree(run.models("broken", 1) / "checkpoint-2")  # as if it had been killed during the second step
    rounds.train_round(broken, "broken", 1)
    columns = ["step", "reward", "length", "truncated", "loss", "grad_norm"]
    one, two = (pd.read_csv(run.training(s, 1) / "log.csv")[columns] for s in ("straight", "broken"))
    pd.testing.assert_frame_equal(one, two)
    one, two = (weights(run.models(s, 1) / "checkpoint-2") for s in ("straight", "broken"))
    assert all((one[k] == two[k]).all() for k in one)


def test_a_round_stopped_in_a_later_epoch_goes_on_with_the_problems_that_were_next(
    tiny_world: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of two steps; stopped at the end of the second one, and within the third. TRL's sampler alone would show the resumed
    round the first epoch's order once more."""
    seen: list[list[str]] = []  # the problems of each step, one per group
    power_cut: list[int] = []

    def reward(completions: list, id: list[str], **_: object) -> list[float]:
        if len(seen) in power_cut:
            raise RuntimeError("stopped")
        seen.append(id[::2])
        return [float(i % 2) for i in range(len(completions))]

    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: reward)
    changed = dataclasses.replace(tiny_world.training, prompts_per_step=32, responses_per_prompt=2, micro_batch=64)
    plan = dataclasses.replace(tiny_world.schedules["iterative"], limits=(16,), steps=6)
    config = dataclasses.replace(tiny_world, training=changed, schedules=dict.fromkeys(
        ("straight-on", "stopped4", "stopped5"), plan))
    rounds.train_round(config, "straight-on", 1)
    straight = seen[:]
    assert len(straight) == 6 and len(straight[0]) == 32
    assert sorted(straight[0] + straight[1]) == sorted(straight[4] + straight[5]) and straight[0] != straight[4]

    columns = ["step", "reward", "length", "truncated", "loss", "grad_norm"]
    for stop in (4, 5):
        seen.clear()
        power_cut.append(stop)
        with pytest.raises(KitError, match=f"step {stop + 1}: stopped; run this again"):
            rounds.train_round(config, f"stopped{stop}", 1)
        power_cut.clear()
        rounds.train_round(config, f"stopped{stop}", 1)
        assert seen == straight
        logs = [paths.of(config).training(name, 1) / "log.csv" for name in ("straight-on", f"stopped{stop}")]
        pd.testing.assert_frame_equal(*(files.read_csv(log)[columns] for log in logs))


def test_prompts_over_the_cap_are_dropped_and_counted(tiny_world: Config, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = models.load_tokenizer(catalog.base_model(tiny_world), tiny_world)
    lengths = [len(prompts.encode(tokenizer, r["prompt"])) for r in rounds.training_rows(tiny_world, tokenizer, 24)]
    cap = min(lengths)
    capped = dataclasses.replace(tiny_world, data=dataclasses.replace(tiny_world.data, prompt_cap=cap))
    kept = rounds.training_rows(capped, tokenizer, 24)
    assert len(kept) == sum(n <= cap for n in lengths) < len(lengths)
    assert f"{len(lengths) - len(kept)} of {len(lengths)} training prompts are over {cap} tokens" in capsys.readouterr().out


def test_what_the_choice_needs_is_asked_for_before_a_round_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    config = load("params/smoke.yaml")
    with pytest.raises(KitError, match="base/round0/validation.csv: not there yet, .* run notebook 01_base_model first"):
        selection.validation_before(config, "iterative", 1)
    with pytest.raises(KitError, match="run notebook 02_prune_round with schedule=iterative round=1 first"):
        selection.validation_before(config, "iterative", 2)
    files.write_csv(paths.of(config).training("iterative", 1) / "validation.csv", pd.DataFrame({"step": [0]}))
    assert list(selection.validation_before(config, "iterative", 2).step) == [0]
