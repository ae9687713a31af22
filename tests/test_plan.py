"""The plan: parameters, memory, time and disk against numbers worked out by hand, and against a traced pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from conftest import stage_keys

from kit.chain import commands, plan
from kit.chain.plan import GIB, Sizes
from kit.chain.stages import Stage
from kit.settings import ROOT, Config, KitError, Schedule, load

DS, QWQ, LAPTOP = (load(f"params/{name}.yaml") for name in ("ds-1.5b-4k", "qwq-32b-4k", "laptop"))
# By hand. A layer of the 1.5B model: q 1536 x 1536 + 1536, k and v 1536 x 256 + 256 each, o 1536 x 1536, MLP 3 x 1536 x 8960, two
# norms of 1536: 46,797,824. 28 of them, embedding and output layer of 151,936 x 1536 each, a last norm of 1536.
SMALL = Sizes(28 * 46_797_824 + 2 * 233_373_696 + 1536, 28, 1536, 8960, 1536, 256, 151_936)
# A layer of QwQ-32B: 26,219,520 + 2 x 5,243,904 + 26,214,400 + 3 x 141,557,760 + 10,240 = 487,605,248.
LARGE = Sizes(64 * 487_605_248 + 2 * 778_567_680 + 5120, 64, 5120, 27_648, 5120, 1024, 152_064)


def changed(base: Config, **parts: dict[str, Any]) -> Config:
    """`base` with some settings of some of its tables changed."""
    return dataclasses.replace(base, **{name: dataclasses.replace(getattr(base, name), **keys) for name, keys in parts.items()})


def needed(config: Config, sizes: Sizes, phase: str) -> dict[str, float]:
    """Bytes of one device in a phase, by what they are for."""
    column = plan.memory(config, sizes)[phase].drop("in all") * GIB
    return {name: pytest.approx(value) for name, value in column.items() if value > 0}


@pytest.mark.parametrize(("settings", "sizes", "total"), [(DS, SMALL, 1_777_088_000), (QWQ, LARGE, 32_763_876_352)])
def test_parameters_of_the_papers_models_are_counted_from_their_sizes_alone(settings: Config, sizes: Sizes, total: int) -> None:
    assert sizes.parameters == total
    assert plan.sizes_of(settings) == sizes


def test_sizes_come_from_a_local_folder_or_the_laptops_own_model(tmp_path: Path) -> None:
    from transformers import Qwen2Config

    Qwen2Config(hidden_size=8, intermediate_size=4, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                vocab_size=10, tie_word_embeddings=True).save_pretrained(tmp_path)
    found = plan.sizes_of(changed(DS, model={"source": str(tmp_path)}))
    layer = 8 * 8 + 8 + 2 * (8 * 4 + 4) + 8 * 8 + 3 * 8 * 4 + 2 * 8
    assert found == Sizes(2 * layer + 10 * 8 + 8, 2, 8, 4, 8, 4, 10)
    laptop = plan.sizes_of(LAPTOP)
    assert (laptop.layers, laptop.hidden, laptop.mlp, laptop.keys) == (3, 96, 192, 48)
    with pytest.raises(KitError, match="give its sizes under model.shape"):
        plan.sizes_of(changed(DS, model={"source": "nobody/no-such-model", "shape": None}))


def test_memory_of_the_update_of_the_small_model_by_hand() -> None:
    found = needed(DS, SMALL, "update")  # 8 processes without sharing; passes of 4 responses, 768 + 4000 tokens each
    tokens = 4 * 4768
    assert found == {
        "weights": 4 * 1_777_088_000, "AdamW's moments": 8 * 1_777_088_000, "reference model": 4 * 1_777_088_000,
        "DDP's buckets": 4 * 1_777_088_000, "gradients": 4 * 1_777_088_000,
        "kept activations": 28 * 4 * 1536 * tokens,  # 3.1 GiB
        "one layer": 2 * 1_777_088_000,  # the weights as bfloat16, more than (12 x 8960 + 39 x 1536) bytes a token
        "attention mask": 3 * 4 * 4768 * 4768,
        "output layer": 2 * 4096 * 32768 + 8 * 151_936 * 1536 + 8 * 1536 * tokens,
        "reserve": 2 * GIB,
    }
    assert plan.memory(DS, SMALL)["update"]["in all"] == pytest.approx(50.55, abs=0.05)
    whole = 4 * 151_936 * tokens / GIB  # what TRL's tiles spare: logits in float32
    assert whole > 10


def test_sharing_splits_the_state_over_all_devices() -> None:
    found = needed(QWQ, LARGE, "update")  # FSDP2 on 32; passes of 4 responses, 1024 + 4000 tokens each
    n, tokens = 32_763_876_352, 4 * 5024
    assert found["weights"] == found["gradients"] == found["reference model"] == 4 * n / 32
    assert found["AdamW's moments"] == 8 * n / 32 and "DDP's buckets" not in found
    assert found["gathered weights"] == 4 * (n / 64 + 152_064 * 5120)
    assert found["kept activations"] == 64 * 2 * 5120 * tokens and found["one layer"] == (12 * 27_648 + 29 * 5120) * tokens


def test_rollouts_and_evaluation_hold_the_caches_of_their_engine() -> None:
    n = 1_777_088_000
    held = {"weights": 4 * n, "AdamW's moments": 8 * n, "reference model": 4 * n, "DDP's buckets": 4 * n, "reserve": 2 * GIB}
    assert needed(DS, SMALL, "rollouts") == held | {"vLLM": 0.3 * 79.6 * GIB}
    by_transformers = changed(DS, training={"vllm": "off"})  # 128 x 16 / 8 = 256 responses at once; keys 4 bytes, values 2
    caches = {"KV cache": 28 * 256 * (4 + 2) * 256 * 4768, "logits": 12 * 151_936 * 256}
    assert needed(by_transformers, SMALL, "rollouts") == held | caches
    assert needed(changed(DS, training={"vllm": "server"}), SMALL, "rollouts") == held
    evaluated = needed(changed(DS, engine={"name": "transformers"}), SMALL, "evaluation")
    assert evaluated["KV cache"] == 28_672 * 64 * 32_768  # 2 x 2 bytes x 28 x 256 a token; 64 responses of 768 + 32000
    room = plan.cache_tokens(DS, SMALL, 0.3, 1)
    assert room == pytest.approx((0.3 * 79.6 * GIB - 2 * n - GIB) / 28_672)


def test_adapters_need_no_reference_model_and_little_state() -> None:
    lora = changed(DS, training={"lora_rank": 16})
    trained = 16 * 28 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
    found = needed(lora, SMALL, "update")
    assert found["weights"] == 2 * 1_777_088_000 + 4 * trained and found["gradients"] == 4 * trained
    assert "reference model" not in found


def traced(half: bool, checkpointing: bool, responses: int, length: int) -> tuple[float, Sizes]:
    """Peak bytes above the weights of a pass through Qwen2's layers, on fake tensors; and the model's sizes."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import Qwen2Config, Qwen2Model

    sizes = {"hidden_size": 96, "intermediate_size": 560, "num_hidden_layers": 3, "num_attention_heads": 6,
             "num_key_value_heads": 1}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Qwen2Model(Qwen2Config(vocab_size=16, **sizes)).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        tracker = MemTracker()
        tracker.track_external(model)
        ids = torch.zeros((responses, length), dtype=torch.long)
        with tracker:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
            out.mean().backward()
        peak = {str(k).split(".")[-1]: v for k, v in tracker.get_tracker_snapshot("peak")[torch.device("cpu")].items()}
    weights = sum(p.numel() for p in model.parameters())
    return peak["Total"] - 4 * weights - peak["GRAD"], Sizes(weights, 3, 96, 560, 96, 16, 16)


@pytest.mark.parametrize(("half", "checkpointing"), [(True, True), (True, False), (False, False)],
                         ids=["bfloat16, checkpointing", "bfloat16", "float32"])
def test_activations_are_as_a_traced_pass_has_them(half: bool, checkpointing: bool) -> None:
    peak, sizes = traced(half, checkpointing, 2, 3000)
    one = changed(
        DS, model={"dtype": "bfloat16" if half else "float32"}, data={"prompt_cap": 1000},
        training={"processes": 1, "prompts_per_step": 1, "responses_per_prompt": 2,
                  "trl": {"gradient_checkpointing": checkpointing}},
    )
    one = dataclasses.replace(one, schedules={"one-shot": Schedule(limits=(2000,))})
    found = plan.memory(one, sizes)["update"]
    assert found.reindex(["kept activations", "one layer", "attention mask"]).sum() * GIB == pytest.approx(peak, rel=0.05)


def test_tokens_and_disk_by_hand() -> None:
    work = plan.work(changed(DS, hardware={"lengths": {"math500": 5000.0}}), SMALL)
    row = work.loc["one-shot-4k, round 1: 4000 tokens"]
    assert row.tokens == 180 * 2048 * 4000
    checked = 9 * 60 * 16 * 32000  # steps 20 to 180; at most 32000 tokens
    assert row.disk == 9 * 12 * 1_777_088_000 + 4 * checked
    room = plan.cache_tokens(DS, SMALL, 0.3, 1) / 4150  # responses that vLLM has room for, each with a prompt of 150 tokens
    assert row.rollouts == pytest.approx(plan.rollout_seconds(DS, SMALL, 180 * 2048 * 4000, 4150, min(256, room)))
    assert row["update"] == pytest.approx(plan.update_seconds(DS, SMALL, 180 * 2048 * 4150, 4150))
    tokens = work.tokens
    base = 500 * 16 * 5000 + 40 * 64 * 32000 + 675 * 16 * 32000 + 30 * 64 * 32000 + 60 * 16 * 32000
    assert tokens["evaluation of the base model"] == pytest.approx(base)
    assert tokens["evaluation of 1 pruned models"] == pytest.approx(base - 60 * 16 * 32000)


def test_seconds_from_assumed_speeds_by_hand() -> None:
    slow = changed(DS, hardware={"teraflops": 100.0, "terabytes_per_second": 1.0, "compute_share": 0.5, "bandwidth_share": 0.5})
    n = 1_777_088_000
    # 10 responses of 1000 tokens at once: 2 N + 28,672 x 10,000 bytes at 0.5e12 a second; 2 N x 10 FLOPs at 0.5e14 are faster
    assert plan.rollout_seconds(slow, SMALL, 5000, 1000, 10) == pytest.approx(500 * (2 * n + 286_720_000) / 0.5e12)
    # 1000 at once and short: now computing takes longer
    assert plan.rollout_seconds(slow, SMALL, 5000, 10, 1000) == pytest.approx(5 * 2 * n * 1000 / 0.5e14)
    # forward, twice that backward, once more recomputed, once for the reference model
    assert plan.update_seconds(slow, SMALL, 100, 1000) == pytest.approx(100 * 5 * (2 * n + 4 * 28 * 1536 * 1000) / 0.5e14)
    corrected = changed(slow, training={"trl": {"vllm_importance_sampling_correction": True}})
    assert plan.update_seconds(corrected, SMALL, 100, 1000) == pytest.approx(100 * 6 * (2 * n + 4 * 28 * 1536 * 1000) / 0.5e14)


FITS = [
    (DS, {}, []),
    (QWQ, {}, []),
    (DS, {"hardware": {"memory_gib": 40.0}}, ["rollouts need", "update need"]),
    (DS, {"hardware": {"devices": 4}}, ["training.processes is 8, but hardware.devices 4"]),
    (DS, {"hardware": {"disk_gib": 100.0}}, ["190 GiB of disk are needed and 100 there"]),
    (DS, {"training": {"vllm": "off"}}, ["rollouts need"]),
    (QWQ, {"training": {"trl": {"vllm_tensor_parallel_size": 2, "vllm_gpu_memory_utilization": 0.4}}},
     # (0.4 x 79.6 - 1) GiB without N bytes of weights each, twice, at 4 x 64 x 1024 bytes a token
     ["`training.trl.vllm_gpu_memory_utilization` 0.4 on 2 device(s) leaves vLLM's KV cache 2673 tokens"]),
    (QWQ, {"engine": {"name": "transformers"}}, ["evaluation need"]),
]


@pytest.mark.parametrize(("base", "changes", "wrong"), FITS, ids=[f"{b.run} {c}" for b, c, _ in FITS])
def test_what_does_not_fit_is_told_with_a_remedy(base: Config, changes: dict[str, Any], wrong: list[str]) -> None:
    settings, sizes = changed(base, **changes), SMALL if base is DS else LARGE
    peak, disk = plan.memory(settings, sizes).loc["in all"], plan.work(settings, sizes).disk["in all"] / GIB
    found = plan.obstacles(settings, sizes, peak, disk)
    assert len(found) == len(wrong) and all(text in line for text, line in zip(wrong, found, strict=True)), found
    line = plan.report(settings, sizes)[2]
    assert (": does NOT fit " if wrong else ": fits ") in line and "\n" not in line and "assumed" in line


def test_schedules_side_by_side_need_their_memory_at_once() -> None:
    z = plan.sizes_of(LAPTOP)
    peak = plan.memory(LAPTOP, z).loc["in all"].max()
    tight = changed(LAPTOP, hardware={"memory_gib": 1.5 * peak})
    assert ": fits " in plan.report(dataclasses.replace(tight, parallel=1), z)[2]
    assert "x 2 schedules at a time" in plan.report(dataclasses.replace(tight, parallel=2), z)[2]


FILES = sorted(p for p in (ROOT / "params").glob("*.yaml") if p.name != "published.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_params_file_of_the_project_fits_what_it_names(path: Path) -> None:
    settings = load(path)
    if not settings.schedules:
        with pytest.raises(KitError, match="nothing to plan"):
            plan.report(settings)
        return
    held, work, line = plan.report(settings)
    time = work.filter(like="device ").squeeze()
    assert " fits " in line and held.loc["in all"].any()
    there = "not counted" not in line  # those of smollm2.yaml are made by its command, those of colab-gpu.yaml by its run
    assert time.all() if there else path.stem.startswith(("smollm2", "colab", "laptop-gym")) and time["in all"]


def test_the_command_prints_tables_and_a_verdict_and_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["plan", "params/qwq-32b-4k.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "iterative-4k, round 1: 4000 tokens" in printed and "kept activations" in printed
    *tables, line = printed.splitlines()
    assert line.startswith("Qwen/QwQ-32B, 32,764 million parameters: fits 32 x H100 80 GB") and " device hours (assumed" in line
    assert all(len(row) <= 110 for row in tables)
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {ROOT}/params/qwq-32b-4k.yaml\nmodel: {{source: nobody/nothing, shape: null}}\n")
    assert commands.main(["plan", str(file)]) == 1
    failed = capsys.readouterr().err.splitlines()
    assert len(failed) == 1 and "the config of nobody/nothing cannot be read" in failed[0]


def test_a_data_set_of_unknown_size_is_named_and_not_counted() -> None:
    mine = changed(DS, data={"evaluation": ("mine", "aime24")}, evaluation={"samples_by_set": {}})
    assert "not counted: mine, not there to be counted" in plan.report(mine, SMALL)[2]
    tokens = plan.work(mine, SMALL).tokens
    assert tokens["evaluation of the base model"] == pytest.approx(30 * 16 * 15484 + 60 * 16 * 17712)
    # two models think once and answer at each of the five budgets, as long as the base model answers
    assert tokens["budget forcing of 2 models"] == pytest.approx(2 * 30 * 16 * 6 * 15484)


def test_small_numbers_and_large_ones_are_told_with_two_digits_or_more() -> None:
    _, work, line = plan.report(load("params/smoke.yaml"))
    assert work.loc["iterative, round 1: 60 tokens", "million tokens"] == "0.023"  # 6 steps x 8 prompts x 8 responses x 60
    assert line.startswith("arithmetic, 0.089 million parameters: fits")
    assert "It takes 1 minutes of work, 2 stages at a time (assumed" in line
    assert list(work.columns) == ["million tokens", "rollouts", "update", "evaluation", "device minutes", "disk GiB"]
    assert [plan.short(value) for value in (0, 0.002, 0.0234, 5.67, 1234.5)] == ["", "<0.01", "0.023", "5.7", "1,234"]


def test_with_transformers_and_sets_of_unknown_size_there_is_a_plan_all_the_same() -> None:
    mine = changed(DS, data={"evaluation": ("mine",), "validation": "mine-too"}, engine={"name": "transformers"})
    assert "not counted: mine-too, mine" in plan.report(mine)[2]


def test_one_shot_and_iterative_files_share_what_they_have_in_common() -> None:
    for name in ("ds-1.5b", "deepscaler"):
        whole = load(f"params/{name}.yaml")
        for row in ("2k", "3k", "4k", "iter2k"):
            part = load(f"params/{name}-{row}.yaml")
            base = [Stage("01_base_model", "01_base_model", {}),
                    Stage("03_evaluate-base", "03_evaluate", {"schedule": "base"}, ("01_base_model",))]
            assert whole.run == part.run and stage_keys(whole, base) == stage_keys(part, base)
            for schedule in set(whole.schedules) & set(part.schedules):
                assert whole.schedules[schedule] == part.schedules[schedule] == Schedule(
                    part.schedules[schedule].limits, part.schedules[schedule].label)
