"""A round in several processes: the split of a batch, the same numbers as in one process, and how it ends when one dies."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import seeded_rollouts
from conftest import stage_keys

from kit.chain.stages import Stage
from kit.runs import catalog, paths
from kit.settings import ROOT, Config, KitError, Schedule, Training, read_yaml
from kit.training import launch, rounds


def test_a_round_of_no_schedule_is_refused_in_a_line() -> None:
    with pytest.raises(KitError, match=r"params/smoke.yaml has no schedule nosuch; there are iterative, one-shot, no-limit"):
        launch.work(str(ROOT / "params" / "smoke.yaml"), "nosuch", 1)


# --- the split --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompts", "responses", "micro_batch", "processes", "split"), [
    (128, 16, 16, 1, (2048, 16, 128)),
    (128, 16, 16, 16, (128, 16, 8)),  # two machines with eight GPUs
    (128, 16, 8, 32, (64, 8, 8)),
    (128, 16, 24, 32, (64, 16, 4)),  # 24 does not divide 64, the next below that does is 16
    (128, 16, 100, 32, (64, 64, 1)),
    (6, 4, 5, 3, (8, 4, 2)),
    (7, 3, 20, 1, (21, 7, 3)),
])
def test_the_batch_is_the_same_on_any_number_of_devices(
    prompts: int, responses: int, micro_batch: int, processes: int, split: tuple[int, int, int]
) -> None:
    t = Training(prompts_per_step=prompts, responses_per_prompt=responses, micro_batch=micro_batch, processes=processes)
    assert (t.responses_per_process, t.responses_per_pass, t.passes) == split
    assert processes * t.responses_per_pass * t.passes == prompts * responses
    assert t.responses_per_pass <= micro_batch


def test_trl_gets_that_split(tiny_world: Config, tmp_path: Path) -> None:
    """4 prompts x 4 responses over 2 processes: 8 each, in passes of up to 3, so 2, 4 times."""
    config = with_training(tiny_world, processes=2, micro_batch=3)
    args = rounds.grpo_settings(config, tmp_path, limit=24, steps=1, seed=1)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.steps_per_generation) == (2, 4, 4)


def test_a_round_that_is_worked_out_elsewhere_is_the_same_stage(tiny_world: Config) -> None:
    """A run that was begun on one device goes on where it stopped on eight, and is not begun again."""
    stage = Stage("02_prune_round-iterative-1", "02_prune_round", {"schedule": "iterative", "round": 1})
    here = stage_keys(tiny_world, [stage])
    elsewhere = with_training(tiny_world, processes=2, trl={**tiny_world.training.trl, "vllm_gpu_memory_utilization": 0.5})
    assert stage_keys(elsewhere, [stage]) == here
    assert stage_keys(with_training(tiny_world, learning_rate=1e-6), [stage]) != here
    assert stage_keys(with_training(tiny_world, lora_rank=8), [stage]) != here
    assert stage_keys(with_training(tiny_world, micro_batch=4), [stage]) != here
    assert stage_keys(with_training(tiny_world, trl={"loss_type": "grpo"}), [stage]) != here


# --- accelerate's files -----------------------------------------------------------------------------------------------


def with_training(config: Config, **changes: object) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


@pytest.mark.parametrize(("name", "flag"), [("ddp", "multi_gpu"), ("fsdp2", "use_fsdp"), ("zero3", "use_deepspeed")])
def test_accelerate_reads_our_files_and_knows_every_key(tiny_world: Config, name: str, flag: str) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = ROOT / "params" / "accelerate" / f"{name}.yaml"
    assert isinstance(load_config_from_file(str(file)), ClusterConfig)  # it refuses unknown keys
    config = with_training(tiny_world, processes=16, machines=2, accelerate=str(file), vllm="colocate")
    if name == "zero3":
        command = ["--config_file", str(file), "-m", "kit", "round"]
    else:
        command = launch.accelerate_command(config, ["mine.yaml", "iterative", "1"], "node1:1234", machine=1)[3:]
    parser = launch_command_parser()
    table = read_yaml(file)
    for key in {**table.get("fsdp_config", {}), **table.get("deepspeed_config", {})}:
        assert f"--{key}" in parser._option_string_actions
    args, _, _ = _validate_launch_command(parser.parse_args(command))
    assert getattr(args, flag) and sum(map(bool, (args.multi_gpu, args.use_fsdp, args.use_deepspeed))) == 1
    if name != "zero3":
        assert (args.num_processes, args.num_machines, args.machine_rank) == (16, 2, 1)
        assert (args.main_process_ip, args.main_process_port, args.training_script) == ("node1", 1234, "kit")


def test_the_sharded_file_means_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate hands its file on as environment variables; the plugin that reads them has the settings we meant."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = ROOT / "params" / "accelerate" / "fsdp2.yaml"
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(file), "x.py"]))
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT" and plugin.cpu_ram_efficient_loading
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy" and not plugin.activation_checkpointing


@pytest.mark.parametrize(("changes", "message"), [
    ({"accelerate": "params/accelerate/fsdp3.yaml"}, "no file params/accelerate/fsdp3.yaml; there are params/accelerate/"),
    ({"accelerate": "params/accelerate/zero3.yaml"}, "needs deepspeed, which is not installed"),
    ({"accelerate": "params/accelerate/fsdp2.yaml"}, "transformers cannot write rollouts; say training: {vllm: colocate}"),
    ({"machines": 2}, "no srun here to reach them; start from a Slurm allocation: sbatch params/slurm.sh params/smoke.yaml"),
    ({"vllm": "colocate"}, "training.vllm needs vllm, which is not installed; pip install -e '.[vllm]'"),
    ({"vllm": "server", "trl": {"vllm_server_port": 9}}, "none answers at 127.0.0.1:9"),
])
def test_what_cannot_run_here_is_refused_before_anything_is_written(
    tiny_world: Config, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    if changes.get("vllm"):
        find = launch.importlib.util.find_spec
        there = None if changes["vllm"] == "colocate" else find("kit")
        monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: there if name == "vllm" else find(name, *rest))
    config = dataclasses.replace(with_training(tiny_world, processes=2, **changes), run="refused")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, source=catalog.base_model(tiny_world)))
    with pytest.raises(KitError) as caught:
        launch.train_round(config, "iterative", 1)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not paths.of(config).training("iterative", 1).exists() and not paths.of(config).models("iterative", 1).exists()


def test_several_processes_are_not_trained_in_one_nor_found_finished_there(tiny_world: Config) -> None:
    alone = dataclasses.replace(tiny_world, schedules={"finished": Schedule(limits=(24,), steps=1)})
    for _ in range(2):  # the second time a finished round is there
        with pytest.raises(KitError, match="training.processes is 2, but there are 1 processes"):
            rounds.train_round(with_training(alone, processes=2), "finished", 1)
        rounds.train_round(alone, "finished", 1)


# --- two processes ----------------------------------------------------------------------------------------------------

SRUN = """#!/usr/bin/env python3
import os, subprocess, sys
count = int(sys.argv[2].removeprefix("--ntasks="))
tasks = [subprocess.Popen(sys.argv[4:], env={**os.environ, "SLURM_PROCID": str(i)}) for i in range(count)]
sys.exit(max(abs(task.wait()) for task in tasks))
"""


def compared(config: Config, schedule: str) -> pd.DataFrame:
    columns = ["step", "reward", "length", "truncated", "no_variance", "loss", "grad_norm", "kl"]
    return pd.read_csv(paths.of(config).training(schedule, 1) / "log.csv")[columns]


def weights(config: Config, schedule: str, step: int) -> dict:
    from safetensors.torch import load_file

    return load_file(paths.of(config).models(schedule, 1) / f"checkpoint-{step}" / "model.safetensors")


@pytest.fixture
def three_steps(tiny_world: Config) -> Config:
    plan = Schedule(limits=(24,), steps=3)
    config = dataclasses.replace(tiny_world, schedules={"alone": plan, "together": plan})
    return with_training(config, trl={"ddp_timeout": 600, "loss_type": "dapo"}, kl_coefficient=0.1)


def test_two_processes_train_like_one_and_go_on_after_one_was_killed(
    three_steps: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the same responses, loss, gradient norm and KL of both steps agree to 1e-4, and the trained weights with them.

    (Not so the entropy in TRL's log: a mean over passes, and one process makes two passes where two processes make one each.)

    The second process is killed as it begins its third step. The second call finishes the round, as two machines would: a
    stand-in for srun starts one accelerate launch for each, here, and nothing is seeded any more.
    """
    import torch

    pair = with_training(three_steps, processes=2)
    with monkeypatch.context() as patched:
        patched.setattr(launch, "COMMAND", ("tests.seeded_rollouts",))
        patched.setenv("TEST_KILL", "3")
        with pytest.raises(KitError) as caught:
            launch.train_round(pair, "together", 1)
        assert "together round 1: process 1 was ended by SIGKILL" in str(caught.value) and "processes.log" in str(caught.value)
        seeded_rollouts.install(patched.setattr)
        rounds.train_round(three_steps, "alone", 1)
    one, two = compared(pair, "alone").head(2), compared(pair, "together")
    assert list(two.step) == [1, 2] and two.grad_norm.min() > 0 and two.reward.between(0.1, 0.9).all() and two.kl[1] > 0
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4, check_dtype=False)
    alone, together = weights(pair, "alone", 2), weights(pair, "together", 2)
    apart = torch.cat([(alone[name] - together[name]).abs().flatten() for name in alone])
    moved = pair.training.learning_rate  # of one step; Adam blows up the rounding of a gradient that is all but 0
    assert (apart < 0.01 * moved).float().mean() > 0.99 and apart.max() < 2 * moved

    srun = tmp_path / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURMD_NODENAME", "127.0.0.1")
    capfd.readouterr()
    folder = launch.train_round(with_training(pair, machines=2), "together", 1)
    shown = capfd.readouterr()
    assert "together round 1, step 3 of 3: reward 0.00" in shown.out  # plain lines where no notebook is looked at
    assert "warning, together round 1 step 3: no reward: every reward is 0" in shown.out
    assert [c.name for c in catalog.checkpoints(folder)] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    after = compared(pair, "together")
    assert list(after.step) == [1, 2, 3]
    pd.testing.assert_frame_equal(after.head(2), two, check_dtype=False)
    written = {p.name for p in paths.of(pair).training("together", 1).iterdir()}
    assert written == {"log.csv", "warnings.csv", "settings.json", "processes.log"}
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", started := Mock(side_effect=KitError("started")))
        assert launch.train_round(pair, "together", 1) == folder  # finished: nothing is started
        os.truncate(folder / "checkpoint-3" / "model.safetensors", 100)
        with pytest.raises(KitError, match="started"):  # a spoilt last checkpoint is not a finished round
            launch.train_round(pair, "together", 1)
        assert started.call_count == 1 and list(compared(pair, "together").step) == [1, 2]


def test_what_one_process_refuses_ends_them_all_in_that_line(three_steps: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process waits for the second to join the group; it must not wait for the ten minutes of the time limit."""
    monkeypatch.setattr(launch, "COMMAND", ("tests.seeded_rollouts",))
    monkeypatch.setenv("TEST_REFUSE", "1")
    config = dataclasses.replace(with_training(three_steps, processes=2), schedules={"refused": Schedule(limits=(24,), steps=3)})
    began = time.monotonic()
    with pytest.raises(KitError, match="^refused round 1: mine.yaml: the second process does not like it"):
        launch.train_round(config, "refused", 1)
    assert time.monotonic() - began < 300


# --- how it ends ------------------------------------------------------------------------------------------------------

ELASTIC = """E1103 10:00:00.0 77 lib/torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 1) local_rank: 0
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 78)
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 77)
"""


@pytest.mark.parametrize(("said", "told"), [
    ("loading\n\nerror: mine.yaml: wrong\n" + ELASTIC.format(code=-15), "mine.yaml: wrong"),
    ("step\n" + ELASTIC.format(code=-9), "process 1 was ended by SIGKILL, perhaps because the machine ran out of memory; "
     "run this again to go on from the last checkpoint"),
    ("a\nb\n[rank0]:  File x\n\n[rank0]: ValueError: no\n" + ELASTIC.format(code=-15),
     "the processes ended with exit code 1: b | File x | ValueError: no"),
    ("", "the processes ended with exit code 1: "),
])
def test_the_end_of_the_processes_is_told_in_one_line(said: str, told: str) -> None:
    assert launch.reason(said, 1) == told


def test_processes_end_when_the_one_that_started_them_is_killed() -> None:
    child = ("import os, time; from kit.training import launch; launch.end_with_parent(); print(os.getpid(), flush=True); "
             "time.sleep(300)")
    starter = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE).wait()"
    process = subprocess.Popen([sys.executable, "-c", starter, child], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    state = Path(f"/proc/{int(process.stdout.readline())}/stat")
    time.sleep(1.5)
    assert state.exists()  # it goes on as long as the one that started it
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z":  # nobody may be there to reap it
        assert time.monotonic() < until, "the process went on alone"
        time.sleep(0.1)
