"""A round whose responses vLLM writes inside TRL: the real vLLM, on the CPU (`make test-vllm`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_gpu import SMALL, one_step, random_model

from kit import arithmetic, paths, training

pytestmark = pytest.mark.vllm


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM for the CPU, with linear layers left as they are: its packed ones cannot take the trainer's new weights."""
    pytest.importorskip("vllm")
    for setting in ("CPU_KVCACHE_SPACE=1", "CPU_OMP_THREADS_BIND=nobind", "ENABLE_V1_MULTIPROCESSING=0", "LOGGING_LEVEL=ERROR",
                    "NO_USAGE_STATS=1"):
        monkeypatch.setenv("VLLM_" + setting.split("=")[0], setting.split("=")[1])
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them; later tests want none
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(layers, "dispatch_cpu_unquantized_gemm", plain)


def test_vllm_writes_the_responses_of_a_round_with_its_newest_weights(
    vllm: None, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd
    import trl
    from safetensors.torch import load_file

    wide = {**SMALL, "hidden_size": 128, "num_key_value_heads": 1}  # vLLM wants heads of 64
    model = random_model(tmp_path / "model", wide, "float32")
    config = one_step(model, 16, "float32", prompts_per_step=2, responses_per_prompt=4, micro_batch=4, learning_rate=1e-2,
                      vllm="colocate", vllm_sleep=False, vllm_correction="token_truncate")
    config = dataclasses.replace(config, run="vllm", schedules={
        "step": dataclasses.replace(config.schedules["step"], steps=2)})
    arithmetic.make_data(config)
    made = []

    class Watched(trl.GRPOTrainer):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(trl, "GRPOTrainer", Watched)
    monkeypatch.setattr(training, "get_token_limit_reward", lambda *_: every_other)
    folder = training.train_round(config, "step", 1)
    log = pd.read_csv(paths.of(config).training("step", 1) / "log.csv")
    assert list(log.step) == [1, 2] and (log.length <= 16).all() and (log.grad_norm > 0).all()
    before, after = (load_file(f / "model.safetensors") for f in (Path(config.model.source), folder / "checkpoint-1"))
    name = "model.embed_tokens.weight"
    engine = made[0].vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    there = engine.model.embed_tokens.weight[: len(after[name])]
    assert (there == after[name].to(there.dtype)).all()  # step 2 was written by what step 1 had learned …
    assert (there != before[name].to(there.dtype)).any()  # … not by the model that vLLM was started with


def every_other(completions: list, **_: object) -> list[float]:
    return [float(i % 2) for i in range(len(completions))]
