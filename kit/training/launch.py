"""A pruning round in several processes, on one machine or more: `accelerate launch` started, followed and ended in one line.

The notebook calls `train_round`. With one process that is `rounds.train_round`. With more, this starts

    accelerate launch --config_file params/accelerate/… -m kit round SETTINGS SCHEDULE ROUND

and every process runs `rounds.train_round`; the first of them writes log.csv, from which the notebook's plot is drawn. On
several machines `srun` starts that command once on each (params/slurm.sh asks Slurm for them). All of them end with the notebook:
their standard input is a pipe from it that nobody writes to.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd

from kit.rollout.server import HERE
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError, load, read_yaml
from kit.training import checkpoints, rounds, trl_fields, watch

COMMAND = ("kit", "round")  # what the processes run, after `python -m`
PIPE = "KIT_PIPE"  # environment: their standard input is the notebook's pipe

# --- the notebook's side ----------------------------------------------------------------------------------------------


def train_round(config: Config, schedule: str, round: int, draw: watch.Draw | None = None) -> Path:
    """Train a round in as many processes as the params ask for; returns the folder of its checkpoints. `draw` makes the plot that
    a notebook shows meanwhile (training/watch). What a process says goes to processes.log beside log.csv. Raises KitError with
    the reason when a process fails or is killed; the same call then goes on from the last checkpoint."""
    t, run, title = config.training, paths.of(config), f"{schedule} round {round}"
    if t.processes == 1:
        return rounds.train_round(config, schedule, round, draw)
    accelerate_file(config)  # refuses what cannot work
    if t.machines > 1 and shutil.which("srun") is None:
        raise KitError(f"{config.file}: training.machines is {t.machines}, but there is no srun here to reach them; start from a "
                       "Slurm allocation: sbatch params/slurm.sh " + config.file)
    rounds.prepare(config, schedule, round)
    folder, steps = run.models(schedule, round), catalog.steps_of(config, schedule)
    begin = checkpoints.last_step(folder)
    if begin < steps:
        place = run.training(schedule, round).resolve()
        rows = watch.rows_until(place / "log.csv", begin)  # what is shown must not begin with steps that are done again
        files.write_csv(place / "log.csv", pd.DataFrame(rows) if rows else pd.DataFrame(columns=["step"]))
        files.write_json(place / "settings.json", dataclasses.asdict(config))
        job = [str(place / "settings.json"), schedule, str(round)]
        # All processes meet at a port that is free here: by the loopback address or, where others must reach it, by name.
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        command = accelerate_command(config, job, f"127.0.0.1:{port}", 0)
        if t.machines > 1:
            meeting = f"{os.environ.get('SLURMD_NODENAME') or socket.gethostname()}:{port}"
            command = ["srun", f"--nodes={t.machines}", f"--ntasks={t.machines}", "--kill-on-bad-exit=1",
                       sys.executable, "-m", *COMMAND, "--start", meeting, *job]
        said = place / "processes.log"
        with said.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment(config), stdin=subprocess.PIPE, stdout=output,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        try:
            follow(process, config, place / "log.csv", watch.Shown(title, steps, draw), begin)
        finally:
            process.stdin.close()  # they end by themselves then
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise KitError(f"{title}: {reason(said.read_text(errors='replace'), process.returncode)} "
                           f"(everything they said: {run.shown}/{said.relative_to(run.root.resolve())})")
    checkpoints.merge_adapters(config, schedule, round)
    return folder


def accelerate_file(config: Config) -> Path:
    """The accelerate config that the params name; KitError when it is missing or cannot work here."""
    given = config.training.accelerate
    path = paths.given(config, given)
    if not path.is_file():
        known = ", ".join(sorted(f"params/accelerate/{p.name}" for p in (ROOT / "params" / "accelerate").glob("*.yaml")))
        raise KitError(f"{config.file}: training.accelerate: no file {given}; there are {known}")
    kind = read_yaml(path).get("distributed_type")
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise KitError(f"{config.file}: {given} needs deepspeed, which is not installed; pip install deepspeed, or take "
                       "params/accelerate/fsdp2.yaml")
    if kind == "FSDP" and config.training.vllm == "off":
        raise KitError(f"{config.file}: with {given} the weights are in shards, from which transformers cannot write rollouts; "
                       "say training: {vllm: colocate} or {vllm: server}")
    return path.resolve()


def accelerate_command(config: Config, work: list[str], meeting: str, machine: int) -> list[str]:
    """`accelerate launch` for the share of machine number `machine` (from 0); all processes meet at HOST:PORT of machine 0."""
    t, (address, port) = config.training, meeting.rsplit(":", 1)
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_file(config)),
        "--num_processes", str(t.processes), "--num_machines", str(t.machines), "--machine_rank", str(machine),
        "--main_process_ip", address, "--main_process_port", port,
        "--mixed_precision", "bf16" if config.model.dtype == "bfloat16" else "no",
        "--num_cpu_threads_per_process", str(config.threads), "-m", *COMMAND, *work,
    ]


def environment(config: Config) -> dict[str, str]:
    """The environment of the processes: this very kit and results folder, and loopback where one machine is enough."""
    t, host = config.training, trl_fields.fields(config)["vllm_server_host"]
    away = t.machines > 1 or t.vllm == "server" and host not in HERE
    alone = {} if away else {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**alone, **os.environ, "PYTHONPATH": os.pathsep.join(places), PIPE: "1",
            "KIT_RESULTS": str(paths.of(config).root.parent.resolve())}


def follow(process: subprocess.Popen, config: Config, log: Path, shown: watch.Shown, begin: int) -> None:
    """Show the growing log.csv from step `begin` on, with its warnings, until the process ends."""
    running = True
    while running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        running = process.poll() is None
        rows = watch.rows_until(log, shown.steps)
        for k, row in enumerate(rows, 1):
            if row["step"] > begin:
                begin = row["step"]
                shown.tell(rows[:k], watch.warnings_about(rows[:k], config.watch, shown.steps))


def reason(said: str, code: int) -> str:
    """Why the processes ended, in a line, from all that they said."""
    # First, because the processes that are left tell only that a connection was closed. SIGTERM is what torch sends them then.
    for rank, number in re.findall(r"rank +: (\d+) \(local_rank: \d+\)\s+exitcode +: -(?!15\b)(\d+)", said):
        why = ", perhaps because the machine ran out of memory" if int(number) == signal.SIGKILL else ""
        return (f"process {rank} was ended by {signal.Signals(int(number)).name}{why}; run this again to go on from the last "
                "checkpoint")
    told = re.search(r"^error: (.+)$", said, re.MULTILINE)
    if told:
        return told[1]
    own = re.split(r"^.*torch/distributed/elastic/", said, maxsplit=1, flags=re.MULTILINE)[0]  # torch's own report comes last
    lines = [line for line in (re.sub(r"^\[rank\d+\]:", "", line).strip() for line in own.splitlines())
             if line and not re.search(r"\bstep \d+ of \d+: reward |^warning, ", line)]  # how far they were is no reason
    return f"the processes ended with exit code {code}: {' | '.join(lines[-3:])[-500:]}"


# --- the processes' side ----------------------------------------------------------------------------------------------


def work(settings: str, schedule: str, round: int, start: str | None = None) -> None:
    """One process of a pruning round; `accelerate launch` starts as many as there are.

    `python -m kit round SETTINGS SCHEDULE ROUND` calls it; SETTINGS is a params file, or the settings.json that the notebook's
    side wrote. With `start` (HOST:PORT), which is what `srun` runs, it becomes this machine's `accelerate launch` instead. Raises
    KitError after an empty line, which sets off what is told."""
    from torch import distributed, serialization

    try:
        config = load(settings)
        if settings.endswith(".json"):
            config = dataclasses.replace(config, file=files.read_json(Path(settings))["file"])
        if schedule not in config.schedules:
            raise KitError(f"{config.file} has no schedule {schedule}; there are {', '.join(config.schedules) or 'none'}")
        if start:  # on one of several machines
            command = accelerate_command(config, [settings, schedule, str(round)], start, int(os.environ["SLURM_PROCID"]))
            kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_"))}  # no MPI job
            os.execve(sys.executable, command, kept)
        if PIPE in os.environ:
            end_with_parent()
        # The trainer of several CPU processes asks torch.load for tensors on `cpu:0`, `cpu:1`, …; it knows `cpu` alone.
        serialization.register_package(0, lambda _: None, lambda storage, at: storage if at.startswith("cpu:") else None)
        if os.environ.get("RANK", "0") != "0":
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  one process speaks for all
        rounds.train_round(config, schedule, round)
    except KitError:
        print(file=sys.stderr)
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def end_with_parent() -> None:
    """End this process when the notebook closes the pipe that is its standard input, or is gone: none is left over."""
    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
