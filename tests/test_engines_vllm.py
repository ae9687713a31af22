"""The real vLLM, on the CPU (`make test-vllm`): started by the engine, as a server, and inside TRL, against transformers."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from kit.laptop import arithmetic
from kit.rollout import engines
from kit.rollout.records import Response, Sampling
from kit.runs import files, paths
from kit.settings.schema import Config, KitError, Model
from kit.training import rounds

pytestmark = pytest.mark.vllm
os.environ |= {
    "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
PROMPTS = [[5, 6, 7], [30, 40, 50, 60, 70], [20], [9, 9, 9, 9, 9, 9, 9, 9], [100, 101]]  # of different lengths
GREEDY, SAMPLED = Sampling(1, 0.0, 1.0, 24), Sampling(4, 1.0, 0.95, 24)
ZEROS = [0] * len(PROMPTS)
# The `vllm` command asks for the version of `vllm`; the CPU build's package is named vllm-cpu.
NAMED_OTHERWISE = """
import importlib.metadata
from importlib.metadata import version
importlib.metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
"""
engines.CHILD = NAMED_OTHERWISE + engines.CHILD


@pytest.fixture(scope="module")
def world(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small Qwen2 with random weights, spread so that it does not repeat itself, and with two end tokens."""
    import torch

    config = tiny("vllm")
    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 64}
    tokenizer = arithmetic.make_tokenizer()
    model = arithmetic.make_model(dataclasses.replace(config.arithmetic, **sizes), tokenizer, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight *= 3
    folder = tmp_path_factory.mktemp("model")
    first = model.generate(torch.tensor([PROMPTS[0]]), do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
    said = first[0, 3:].tolist()
    second = next(token for k, token in enumerate(said) if k >= 4 and token not in said[:k])  # said first after some others
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, second]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return dataclasses.replace(config, model=Model(source=str(folder)), data=dataclasses.replace(config.data, prompt_cap=100))


def with_engine(config: Config, **settings: Any) -> Config:
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, **settings))


@pytest.fixture(scope="module")
def reference(world: Config) -> Iterator[Any]:
    with closing(engines.get_engine(world.model.source, world)) as engine:
        yield engine


@pytest.fixture(scope="module")
def child(world: Config) -> Iterator[Any]:
    """`vllm serve`, started by the engine; it and all its workers are gone afterwards."""
    with closing(engines.get_engine(world.model.source, with_engine(world, name="vllm"))) as engine:
        yield engine
    assert gone(engine.child.pid, 5)


@pytest.fixture(scope="module")
def server(world: Config, child: Any) -> Iterator[Any]:
    """The same vLLM as if a user had started it."""
    settings = with_engine(world, name="server", url=child.server.url)
    with closing(engines.get_engine(world.model.source, settings)) as engine:
        yield engine


@pytest.fixture(params=["child", "server"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def processes_of(group: int) -> list[str]:
    """What still runs in a process group."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
    return found


def gone(group: int, patience: float) -> bool:
    """Whether nothing runs in a process group any more, within `patience` seconds."""
    deadline = time.monotonic() + patience
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not processes_of(group)


def answers(engine: Any, prompts: list[list[int]], how: Sampling, seeds: list[int]) -> dict[int, list[Response]]:
    return dict(engine.generate(prompts, how, seeds))


def test_greedy_responses_are_those_of_transformers_and_a_second_end_token_is_a_finish(engine: Any, reference: Any) -> None:
    expected = answers(reference, PROMPTS, GREEDY, ZEROS)
    assert expected[0][0].finished and 5 <= expected[0][0].length <= 12  # it ends by the second end token
    assert any(not group[0].finished and group[0].length == 24 for group in expected.values())
    assert answers(engine, PROMPTS, GREEDY, ZEROS) == expected


def test_n_samples_hang_on_their_prompts_seed_alone(engine: Any) -> None:
    seeds = [10, 20, 30, 40, 50]
    found = answers(engine, PROMPTS, SAMPLED, seeds)
    assert all(len(set(group)) == 4 for group in found.values())
    assert answers(engine, PROMPTS, SAMPLED, seeds) == found
    assert answers(engine, PROMPTS[3:], SAMPLED, seeds[3:]) == {0: found[3], 1: found[4]}
    assert answers(engine, PROMPTS, SAMPLED, [seed + 7 for seed in seeds]) != found
    assert all(r.finished or r.length == 24 for group in found.values() for r in group)


def test_budget_forcing_goes_on_from_thinking_that_was_cut_as_transformers_does(engine: Any, reference: Any) -> None:
    import torch

    tokenizer, prompt = reference.tokenizer, PROMPTS[1]
    free = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": sorted(reference.ends), "pad_token_id": 0}
    thinking = reference.model.generate(torch.tensor([prompt]), **free)[0, len(prompt):].tolist()
    assert len(thinking) == 24
    cuts = [[*prompt, *thinking[:budget]] for budget in (3, 8, 15)]
    for k, budget in enumerate((3, 8, 15)):  # without an ending it goes on as if it had never been cut
        (rest,) = answers(engine, [cuts[k]], Sampling(1, 0.0, 1.0, 24 - budget), [0])[0]
        assert rest == Response(tokenizer.decode(thinking[budget:], skip_special_tokens=True), 24 - budget, False)
    forced = [[*cut, *tokenizer("</think> The final answer is")["input_ids"]] for cut in cuts]
    assert answers(engine, forced, GREEDY, [0] * 3) == answers(reference, forced, GREEDY, [0] * 3)


def test_a_prompt_leaves_the_rest_of_the_model_to_its_response(child: Any) -> None:
    length = child.model_length
    assert length == 124  # prompt_cap 100 + max_new_tokens 24
    (response,) = answers(child, [[5] * (length - 3)], GREEDY, [0])[0]
    assert response.length == 3 and not response.finished
    with pytest.raises(KitError, match="a prompt of 124 tokens leaves no room"):
        answers(child, [[5] * length], GREEDY, [0])


def test_problems_come_as_they_are_done_and_who_stops_listening_can_ask_again(engine: Any) -> None:
    before = answers(engine, PROMPTS, SAMPLED, ZEROS)
    listening = engine.generate(PROMPTS * 6, SAMPLED, list(range(0, 300, 10)))
    next(listening)
    listening.close()
    assert answers(engine, PROMPTS, SAMPLED, ZEROS) == before


def test_two_copies_of_the_model_share_the_prompts_and_give_the_same_responses(world: Config, reference: Any) -> None:
    with closing(engines.get_engine(world.model.source, with_engine(world, name="vllm", data_parallel=2))) as engine:
        assert answers(engine, PROMPTS, GREEDY, ZEROS) == answers(reference, PROMPTS, GREEDY, ZEROS)


def test_a_model_that_vllm_cannot_load_is_one_line_with_its_reason_and_log(world: Config, tmp_path: Path) -> None:
    folder = shutil.copytree(world.model.source, tmp_path / "model")
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, "hidden_act": "nothing-known"}))
    with pytest.raises(KitError) as caught:
        engines.get_engine(folder, with_engine(world, name="vllm"))
    told = str(caught.value)
    assert f"{folder}: vLLM ended with exit code 1 (" in told and "nothing-known" in told and "\n" not in told
    assert told.endswith(f"all it said is in {paths.of(world).vllm_log}") and paths.of(world).vllm_log.stat().st_size > 1000


def test_a_vllm_that_dies_while_it_answers_is_one_line(world: Config) -> None:
    settings = with_engine(world, name="vllm", retries=1)
    with closing(engines.get_engine(world.model.source, settings)) as engine:
        listening = engine.generate(PROMPTS * 20, SAMPLED, list(range(0, 1000, 10)))
        next(listening)
        os.killpg(engine.child.pid, signal.SIGKILL)
        with pytest.raises(KitError) as caught:
            list(listening)
    assert "vLLM ended with exit code -9" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_vllm_ends_with_the_process_that_started_it(world: Config, results: Path, end: str) -> None:
    program = f"""
import pickle, sys
from kit.rollout import engines
engines.CHILD = {NAMED_OTHERWISE!r} + engines.CHILD
config = pickle.loads({pickle.dumps(with_engine(world, name="vllm"))!r})
engine = engines.get_engine({world.model.source!r}, config)
print(engine.child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        group = int(parent.stdout.readline())
        assert len(processes_of(group)) >= 2  # the server and its engine
        if end == "kill":
            parent.kill()
        parent.stdin.close()
        parent.wait(60)
    assert gone(group, 60)


def test_a_round_is_trained_with_vllm_inside_trl_that_has_the_newest_weights(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps, colocated. On the CPU vLLM packs its weights when it loads them, so that TRL cannot renew them: not here."""
    import torch
    from safetensors.torch import load_file
    from vllm.model_executor.layers import utils

    def unpacked(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", unpacked)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them; later tests want none
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setattr(rounds, "TokenLimitReward", lambda *_: every_other)
    config = tiny("colocate", vllm="colocate", learning_rate=1e-2, trl={
        "vllm_enable_sleep_mode": False, "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate"})
    sizes = {"hidden_size": 64, "layers": 2, "heads": 2, "key_value_heads": 1}  # vLLM's heads have 32 values or more
    config = dataclasses.replace(config, arithmetic=dataclasses.replace(config.arithmetic, **sizes))
    arithmetic.make_data(config)
    arithmetic.train_base(config)
    folder = rounds.train_round(config, "iterative", 1)
    first, second = (load_file(folder / f"checkpoint-{k}" / "model.safetensors") for k in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    logs = [log for log in files.read_json(folder / "checkpoint-2" / "trainer_state.json")["log_history"] if "reward" in log]
    assert [log["grad_norm"] > 0 for log in logs] == [True, True]
    gaps = [log["sampling/sampling_logp_difference/mean"] for log in logs]
    assert max(gaps) < 1e-2  # at the second step too, after a step of 1e-2 has changed every weight


def every_other(completions: list, **_: Any) -> list[float]:
    return [float(i % 2) for i in range(len(completions))]
