"""What a round needs beyond the laptop: bfloat16, adapters (LoRA), vLLM's settings, and the right reference after a resume."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.rollout import models
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError
from kit.training import rounds, selection


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def watched(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every GRPOTrainer that is made from now on."""
    import trl

    made = []

    class Watched(trl.GRPOTrainer):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(trl, "GRPOTrainer", Watched)
    return made


def every_other(completions: list, **_: object) -> list[float]:
    return [float(i % 2) for i in range(len(completions))]


def variant(config: Config, name: str, dtype: str = "float32", **changes: object) -> Config:
    """The tiny world with one round of its own at 24 tokens, and these training settings."""
    return dataclasses.replace(
        config, schedules={name: dataclasses.replace(config.schedules["iterative"], limits=(24, 16))},
        training=dataclasses.replace(config.training, **changes), model=dataclasses.replace(config.model, dtype=dtype))


def test_after_a_resume_the_reference_is_still_the_rounds_start(tiny_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = variant(tiny_world, "resumed"), paths.of(tiny_world)
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    rounds.train_round(config, "resumed", 1)
    shutil.rmtree(run.models("resumed", 1) / "checkpoint-2")
    made = watched(monkeypatch)
    rounds.train_round(config, "resumed", 1)
    start, moved = weights(Path(catalog.base_model(config))), weights(run.models("resumed", 1) / "checkpoint-1")
    reference = made[0].ref_model.state_dict()
    assert all((reference[k] == w).all() for k, w in start.items())
    assert any((moved[k] != w).any() for k, w in start.items())  # and the policy went on from elsewhere


def test_the_official_learning_rate_moves_a_model_that_computes_in_bfloat16(
    tiny_world: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of 1e-6 is far below half of bfloat16's spacing at 0.02 (1.2e-4): the weights that learn stay float32."""
    import torch

    config = variant(tiny_world, "half", dtype="bfloat16", learning_rate=1e-6)
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    folder = rounds.train_round(config, "half", 1)
    before, after = weights(Path(catalog.base_model(config))), weights(folder / "checkpoint-1")
    assert {w.dtype for w in after.values()} == {torch.float32}
    step = max((after[k] - before[k]).abs().max().item() for k in before)
    assert 0.5e-6 < step < 2e-6  # Adam's first step is the learning rate …
    matrices = [name for name, w in after.items() if w.ndim == 2]
    same = torch.cat([(after[name].bfloat16() == before[name].bfloat16()).flatten() for name in matrices])
    assert same.float().mean() > 0.95  # … which bfloat16 cannot hold


def test_an_adapters_round_ends_in_whole_models_and_the_next_starts_from_one(
    tiny_world: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA: the merged model computes what model and adapter compute; it is validated, selected, and begun from."""
    import torch
    from peft import PeftModel

    pytest.importorskip("peft")
    config, run = variant(tiny_world, "adapter", lora_rank=4, learning_rate=1e-2), paths.of(tiny_world)
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    folder = rounds.train_round(config, "adapter", 1)
    start = models.load_model(catalog.base_model(config), config)
    merged = models.load_model(catalog.checkpoint_model(config, "adapter", 1, 2), config)
    assert (folder / "checkpoint-2" / "merged" / "model.safetensors").is_file()
    with pytest.raises(KitError, match="a LoRA adapter, not a model"):
        models.load_model(folder / "checkpoint-2", config)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain, whole = start(ids).logits, merged(ids).logits
        pair = PeftModel.from_pretrained(start, str(folder / "checkpoint-2"))(ids).logits
    assert torch.allclose(whole, pair, atol=1e-5) and not torch.allclose(whole, plain, atol=1e-3)

    selection.validate_round(config, "adapter", 1)
    files.write_json(run.training("adapter", 1) / "selected.json", {"step": 2})
    made = watched(monkeypatch)
    rounds.train_round(config, "adapter", 2)
    assert made[0].ref_model is None  # the reference is the model without its adapter: the start of this round
    base, layer = made[0].model.get_base_model().state_dict(), "model.layers.0.mlp.up_proj"
    assert (base[f"{layer}.base_layer.weight"] == merged.state_dict()[f"{layer}.weight"]).all()


def test_an_adapters_round_resumes_from_its_adapter(tiny_world: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    config, run = variant(tiny_world, "again", lora_rank=4, learning_rate=1e-2), paths.of(tiny_world)
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    folder = rounds.train_round(config, "again", 1)
    straight = weights(Path(catalog.checkpoint_model(config, "again", 1, 2)))
    shutil.rmtree(folder / "checkpoint-2")
    rounds.train_round(config, "again", 1)
    resumed = weights(run.models("again", 1) / "checkpoint-2" / "merged")
    assert max((w - resumed[k]).abs().max().item() for k, w in straight.items()) < 1e-6


@pytest.mark.parametrize(("changes", "wanted"), [
    ({}, {"use_vllm": False}),
    ({"vllm": "colocate", "trl": {"vllm_gpu_memory_utilization": 0.5}},
     {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.5, "vllm_enable_sleep_mode": True,
      "vllm_max_model_length": 768 + 24, "vllm_importance_sampling_correction": False}),
    ({"vllm": "server", "trl": {"vllm_server_port": 8123}},
     {"vllm_mode": "server", "vllm_server_host": "127.0.0.1", "vllm_server_port": 8123, "vllm_enable_sleep_mode": False}),
    ({"vllm": "colocate", "trl": {"vllm_importance_sampling_correction": True}}, {"vllm_importance_sampling_correction": True}),
    ({"trl": {"gradient_checkpointing": True}}, {"gradient_checkpointing": True, "bf16": False}),
])
def test_settings_reach_trl_by_its_own_names(tiny_world: Config, tmp_path: Path, changes: dict, wanted: dict) -> None:
    config = dataclasses.replace(tiny_world, training=dataclasses.replace(tiny_world.training, **changes))
    args = rounds.grpo_settings(config, tmp_path, limit=24, steps=1, seed=1)
    assert {name: getattr(args, name) for name in wanted} == wanted
    assert args.loss_type == config.training.trl.get("loss_type", "bnpo")
    assert args.lr_scheduler_type == "constant" and args.get_warmup_steps(100) == 0
    assert args.model_init_kwargs["use_safetensors"] is True


# --- fields of GRPOConfig, passed through -----------------------------------------------------------------------------


def test_fields_of_grpoconfig_are_passed_through_and_change_what_is_learned(
    tiny_world: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unscaled advantages are half as large where half of a group is rewarded, so the gradient of the first step is smaller."""
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    made, norms, plain = watched(monkeypatch), {}, {"kl_coefficient": 0.0, "entropy_coefficient": 0.0}
    passed = {"scale_rewards": "none", "epsilon_high": 0.28, "report_to": ["none"]}
    for name, fields in {"scaled": {}, "unscaled": passed}.items():
        config = variant(tiny_world, name, trl=fields, **plain)
        rounds.train_round(config, name, 1)
        norms[name] = files.read_csv(paths.of(config).training(name, 1) / "log.csv").grad_norm[0]
    assert (made[0].args.scale_rewards, made[1].args.scale_rewards, made[1].args.epsilon_high) == ("group", "none", 0.28)
    assert made[1].args.loss_type == "bnpo"  # what is not named stays as it was
    # Rewards 0 1 0 1 have mean 1/2 and std 0.5774: advantages of 0.866 become 0.5.
    assert norms["unscaled"] == pytest.approx(norms["scaled"] * 0.5774, rel=1e-2)


@pytest.mark.parametrize(("fields", "told"), [
    ({"los_type": "dapo"}, "los_type is no field of TRL's GRPOConfig; did you mean loss_type?"),
    ({"learning_rate": 1e-6}, "learning_rate is set by the kit, from training.learning_rate"),
    ({"max_completion_length": 8, "save_steps": 3}, "max_completion_length is set by the kit, from schedules. save_steps is set"),
    ({"weight_decay": "none"}, "weight_decay is 'none'; Input should be a valid number"),
    ({"epsilon_high": "much"}, "epsilon_high is 'much'; Input should be a valid number"),
    ({"hub_token": "hf_x"}, "no token belongs into params"),
])
def test_fields_that_cannot_be_passed_are_refused_before_anything_is_written(
    tiny_world: Config, fields: dict, told: str
) -> None:
    config = variant(tiny_world, "refusing", trl=fields)
    with pytest.raises(KitError) as caught:
        rounds.train_round(config, "refusing", 1)
    assert str(caught.value).startswith(f"{config.file}: training.trl: ") and told in str(caught.value)
    assert not paths.of(config).training("refusing", 1).exists() and not paths.of(config).models("refusing", 1).exists()


@pytest.mark.parametrize("fields", [{"scale_rewards": "often"}, {"loss_type": "mine"}])
def test_values_that_trl_refuses_are_one_line(tiny_world: Config, fields: dict) -> None:
    with pytest.raises(KitError, match=r"perhaps by a field of training.trl in .*smoke.yaml"):
        rounds.train_round(variant(tiny_world, "refused", trl=fields), "refused", 1)


def test_trl_is_not_imported_for_fields_that_are_known_without_it() -> None:
    code = ("import sys; from kit.settings import load; from kit.training import trl_fields; "
            "passed = trl_fields.passed(load('params/laptop.yaml')); "
            "assert passed == {'loss_type': 'dapo', 'weight_decay': 0.0} and 'trl' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- a second end token -----------------------------------------------------------------------------------------------


def test_a_response_that_ends_with_the_models_second_end_token_has_ended(
    tiny_world: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """generation_config names two (as Qwen's does); the grader is told of both what ended by itself and what was cut."""
    folder = Path(shutil.copytree(catalog.base_model(tiny_world), tmp_path / "model"))
    tokenizer = models.load_tokenizer(folder, tiny_world)
    second = tokenizer.convert_tokens_to_ids("Wait")
    facts = files.read_json(folder / "generation_config.json")
    files.write_json(folder / "generation_config.json", facts | {"eos_token_id": [tokenizer.eos_token_id, second]})
    told: list[bool] = []

    def grade_many(texts: list[str], golds: list[str], finished: list[bool], **_: object) -> list[SimpleNamespace]:
        told.extend(finished)
        return [SimpleNamespace(correct=False) for _ in texts]

    monkeypatch.setattr(sys.modules["kit.reward.token_limit"], "grade_many", grade_many)
    config = variant(tiny_world, "twoends")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, source=str(folder)))
    made = watched(monkeypatch)
    rounds.train_round(config, "twoends", 1)
    reward = made[0].reward_funcs[0]
    told.clear()
    ids = tokenizer("Compute 3 + 4 = 7 .")["input_ids"]
    reward(completion_ids=[[*ids, second], [*ids, tokenizer.eos_token_id], ids], answer=["7"] * 3)
    assert told == [True, True, False]


# --- sampling settings in the model's folder --------------------------------------------------------------------------


def test_nothing_of_the_sampling_settings_in_the_models_folder_gets_into_the_training(
    tiny_world: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(catalog.base_model(tiny_world), tmp_path / "model"))
    said: list[list[int]] = []

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        said.extend(completion_ids)
        return [0.0] * len(completion_ids)

    def trained(name: str, **own: object) -> list[list[int]]:
        said.clear()
        facts = files.read_json(Path(catalog.base_model(tiny_world)) / "generation_config.json")
        files.write_json(folder / "generation_config.json", {**facts, **own})
        config = variant(tiny_world, name)
        rounds.train_round(dataclasses.replace(config, model=dataclasses.replace(config.model, source=str(folder))), name, 1)
        return list(said)

    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: reward)
    own = {"repetition_penalty": 5.0, "min_p": 0.9, "no_repeat_ngram_size": 2, "temperature": 0.1, "top_k": 2, "do_sample": True}
    plain = trained("plain")
    assert plain and trained("own", **own) == plain
