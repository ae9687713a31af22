"""On one CUDA device: a GRPO step of a Qwen2-1.5B-shaped model at the paper's batch, scaled to one device, limit 4000.

`pytest -m gpu -s tests/test_gpu.py` prints seconds, tokens/s and the peak of memory. Weights are random, so nothing is learned
and nearly every response runs to the limit: the time is that of the longest responses. The same code is tried on the CPU, tiny.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from kit.chain import plan
from kit.laptop import arithmetic
from kit.settings import Config, Schedule
from kit.training import rounds

SHAPE = {  # DeepSeek-R1-Distill-Qwen-1.5B
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "max_position_embeddings": 131072, "tie_word_embeddings": False,
}
SMALL = {**SHAPE, "vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DEVICES = 16  # of the paper's 1.5B runs: 128 x 16 responses over 16 devices are 8 x 16 on one


def random_model(folder: Path, shape: dict[str, Any], dtype: str) -> str:
    """A model of that shape with random weights, in a folder, with the laptop's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = arithmetic.make_tokenizer()
    config = Qwen2Config(**shape, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    Qwen2ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def one_step(model: str, limit: int, dtype: str, **settings: Any) -> Config:
    """The settings of a round of one step from that model, on the laptop's problems."""
    config = tiny("gpu", steps=1, checkpoint_every=1, kl_coefficient=0.001, entropy_coefficient=0.001, **settings)
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, source=model, dtype=dtype),
        schedules={"step": Schedule(limits=(limit,), steps=1, state_limit=False)},
    )


@contextmanager
def timed_rollouts(seconds: list[float]) -> Iterator[None]:
    """Adds the seconds of every batch of rollouts."""
    from trl import GRPOTrainer

    plain = GRPOTrainer._generate_single_turn

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        written = plain(self, *args, **kwargs)  # ends with token ids in Python lists: nothing is left running
        seconds.append(time.monotonic() - began)
        return written

    GRPOTrainer._generate_single_turn = timed
    try:
        yield
    finally:
        GRPOTrainer._generate_single_turn = plain


def measure(config: Config) -> dict[str, float]:
    """One step: seconds and tokens per second of rollouts and of the whole update, responses and their mean length."""
    import pandas as pd

    from kit.runs import paths

    rollouts: list[float] = []
    began = time.monotonic()
    with timed_rollouts(rollouts):
        rounds.train_round(config, "step", 1)
    row = pd.read_csv(paths.of(config).training("step", 1) / "log.csv").iloc[-1]
    tokens = row.length * config.training.responses_per_process
    return {"tokens": tokens, "rollouts": sum(rollouts), "update": row.seconds - sum(rollouts), "all": time.monotonic() - began,
            "rollout tokens/s": tokens / sum(rollouts), "update tokens/s": tokens / (row.seconds - sum(rollouts)),
            "length": row.length, "truncated": row.truncated}


def planned(config: Config) -> float:
    """Peak memory in GiB as `make plan` has it, without what CUDA itself takes."""
    table = plan.memory(config, plan.sizes_of(config))
    return float(table.loc["in all", ["rollouts", "update"]].max()) - config.hardware.reserve_gib


def test_a_step_can_be_measured_at_all(results: Path, tmp_path: Path) -> None:
    """The measurement itself, tiny: 8 responses of up to 16 tokens."""
    model = random_model(tmp_path / "model", SMALL, "float32")
    config = one_step(model, 16, "float32", prompts_per_step=2, responses_per_prompt=4, micro_batch=4)
    arithmetic.make_data(config)
    found = measure(config)
    assert 8 <= found["tokens"] <= 8 * 16 and found["length"] > 10  # random weights rarely end
    assert 0 < found["rollouts"] < found["all"] and found["update"] > 0
    assert 0.25 < planned(config) < 0.5  # GiB; nearly all of it is the tile in which log-probabilities are worked out
    assert 0 < planned(config) < 1


@pytest.mark.gpu
def test_a_step_at_the_papers_batch_on_one_device(results: Path, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = random_model(tmp_path / "model", SHAPE, "bfloat16")
    vllm = "colocate" if importlib.util.find_spec("vllm") else "off"
    config = one_step(model, 4000, "bfloat16", prompts_per_step=128 // DEVICES, responses_per_prompt=16, micro_batch=4,
                      learning_rate=1e-6, vllm=vllm)
    arithmetic.make_data(config)
    torch.cuda.reset_peak_memory_stats()
    found = measure(config)
    peak, held = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
    print(f"\n{torch.cuda.get_device_name()}, rollouts by {'vLLM' if vllm == 'colocate' else 'transformers'}: "
          f"{found['tokens']:.0f} tokens, mean length {found['length']:.0f}, truncated {found['truncated']:.0%}\n"
          f"rollouts {found['rollouts']:.1f} s, {found['rollout tokens/s']:.0f} tokens/s; update {found['update']:.1f} s, "
          f"{found['update tokens/s']:.0f} tokens/s; peak {peak:.1f} GiB in use, {held:.1f} GiB held")
    assert found["length"] > 2000 and peak > 10
    estimate = planned(config)
    print(f"planned: {estimate:.1f} GiB")
    if vllm == "off":  # vLLM's own memory is not among what torch counts
        assert abs(peak / estimate - 1) < 0.20
