"""The stages of a run, each an executed notebook; finished ones are skipped, schedules run side by side.

A stage is one notebook with its parameters. `run_all` executes them with papermill, one kernel each (that frees the
GPU's memory), and keeps the copies in results/<run>/notebooks. A stage is done when results/<run>/stages holds its key: a hash of
the notebook, the settings, and the keys of the stages before it, so a changed parameter redoes what depends on it.

`python -m kit.chain params/laptop.yaml` is what `make reproduce` calls: the runner notebook, errors in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kit import paths, seeds
from kit.config import ROOT, Config, KitError, load

NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Stage:
    """One notebook with its parameters; `needs` are the names of the stages whose files it reads."""

    name: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...] = ()


def stages(config: Config) -> list[list[list[Stage]]]:
    """Phases one after the other; the lanes of a phase side by side; the stages of a lane in order."""
    logged = [[Stage(f"03_evaluate-{name}", "03_evaluate", {"schedule": name})] for name in config.logs.models]
    if not config.schedules:  # nothing is trained
        return [logged, *_analyses(tuple(lane[0].name for lane in logged))]
    base = Stage("01_base_model", "01_base_model", {})
    lanes = []
    for schedule, plan in config.schedules.items():
        lane: list[Stage] = []
        for k in range(1, len(plan.limits) + 1):
            needs = (lane[-1].name,) if lane else (base.name,)
            lane.append(Stage(f"02_prune_round-{schedule}-{k}", "02_prune_round", {"schedule": schedule, "round": k}, needs))
        lane.append(Stage(f"03_evaluate-{schedule}", "03_evaluate", {"schedule": schedule}, (lane[-1].name,)))
        lanes.append(lane)
    lanes.append([Stage("03_evaluate-base", "03_evaluate", {"schedule": "base"}, (base.name,))])
    lanes += [lane for lane in logged if lane[0].name != "03_evaluate-base"]
    evaluated = tuple(lane[-1].name for lane in lanes)
    tokens = {name: sum(plan.limits) * (plan.steps or config.training.steps) for name, plan in config.schedules.items()}
    lanes.sort(key=lambda lane: -tokens.get(lane[0].parameters["schedule"], 0))  # the longest first, so that none is left over
    return [[[base]], lanes, *_analyses(config, evaluated)]


def _analyses(config: Config, evaluated: tuple[str, ...]) -> list[list[list[Stage]]]:
    """What is done when every model has been evaluated."""
    found = [Stage("05_behavior", "05_behavior", {}, evaluated)]
    if config.forcing.budgets and config.schedules:  # of a model known by its logs nothing new can be asked
        found.insert(0, Stage("04_budget_forcing", "04_budget_forcing", {}, evaluated))
    needs = (*evaluated, *(stage.name for stage in found))
    return [[[stage] for stage in found], [[Stage("06_figures", "06_figures", {}, needs)]]]


# For the kernels of the stages. Idle threads sleep instead of spinning, and freed memory is kept for the next step: with
# two small models side by side that halved the time of a step. Nothing is sent anywhere.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "268435456",
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
}
QUIET = ["--IPKernelApp.log_level=50"]

# Keys of the params file that do not change any result, and those of `training` that only say where it is worked out.
WITHOUT_EFFECT = {"file", "run", "parallel", "hardware", "seeds"}
PLACES = {"micro_batch", "gradient_checkpointing", "processes", "machines", "accelerate", "timeout_minutes", "vllm_memory_share",
          "vllm_tensor_parallel", "vllm_sleep", "vllm_host", "vllm_port"}


def key_of(config: Config, stage: Stage, keys: dict[str, str]) -> str:
    """What a stage depends on, as a hash: its notebook, parameters and settings, and the stages it needs."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in WITHOUT_EFFECT}
    settings["files"] = stamps(config, [str(path) for path in config.data.files.values()])
    if stage.notebook not in ("05_behavior", "06_figures"):
        own = config.logs.models.get(stage.parameters.get("schedule", ""), {})
        read = stamps(config, [str(Path(config.logs.folder) / path) for path in own.values()])
        settings["logs"] = [own, read, config.logs.folder, config.logs.tokenizer] if own else None
    settings["training"] = {k: v for k, v in settings["training"].items() if k not in PLACES}
    settings["engine"] = {k: settings["engine"][k] for k in ("name", "max_model_len")}  # the others change no response
    if stage.notebook == "06_figures":
        settings["seeds"] = [paths.read_json(marker) for other in seeds.others(config)
                             if (marker := paths.of(other).stages / "06_figures.json").is_file()]
    if stage.notebook not in ("05_behavior", "06_figures"):  # words and the other schedules matter to tables and figures only
        if stage.parameters.get("schedule") == "base" and config.evaluation.training_prompt:
            settings["told"] = sorted(n for plan in config.schedules.values() if plan.state_limit for n in plan.limits)
        settings["schedules"] = dict(settings["schedules"].get(stage.parameters.get("schedule"), {}))
        settings["schedules"].pop("label", None)
        settings["schedules"].pop("compare_with", None)
        del settings["keywords"], settings["set_labels"], settings["behavior"]
    if stage.notebook not in ("04_budget_forcing", "06_figures"):
        del settings["forcing"]
    if stage.notebook != "04_budget_forcing" and config.model.source != "arithmetic":  # the laptop's model learns the ending
        del settings["prompts"]["forcing_user"], settings["prompts"]["forcing_ending"]
    if stage.notebook in ("01_base_model", "02_prune_round"):  # they sample the validation set, not the evaluation sets
        for name in ("samples", "samples_by_set", "training_prompt"):
            del settings["evaluation"][name]
    if stage.notebook != "02_prune_round":
        del settings["training"], settings["selection"]["tolerance"]
    del settings["model"]["shape"]  # for planning only
    source = (NOTEBOOKS / f"{stage.notebook}.ipynb").read_bytes()
    text = json.dumps([stage.parameters, settings, [keys[n] for n in stage.needs]], sort_keys=True, default=str)
    return hashlib.sha256(source + text.encode()).hexdigest()


def stamps(config: Config, given: list[str]) -> list[list[Any]]:
    """Size and time of the files that params name, so that a changed file redoes what was made from it."""
    roots = [paths.given(config, path) for path in given]
    files = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root]) if file.is_file()]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def describe(config: Config) -> str:
    """The schedules of a run and the stages they make, in a few lines."""
    lines = [f"  {name}: limits {', '.join(map(str, plan.limits))}{'' if plan.state_limit else ' (not stated in the prompt)'}, "
             f"{plan.steps or config.training.steps} steps a round" for name, plan in config.schedules.items()]
    lines += [f"  {name}: from its logs" for name in config.logs.models]
    count = sum(len(lane) for phase in stages(config) for lane in phase)
    again = f", and as many for each of the seeds {', '.join(map(str, config.seeds))}" if config.seeds else ""
    return "\n".join([f"{count} stages, up to {config.parallel} at a time{again}", *lines])


def outputs_of(config: Config, stage: Stage) -> list[Path]:
    """The files and folders that a stage writes (figures are simply drawn again)."""
    run = paths.of(config)
    if stage.notebook == "01_base_model":
        return [run.root / "data", run.base_model, run.training("base", 0)]
    schedule = stage.parameters.get("schedule", "")
    if stage.notebook == "02_prune_round":
        k = stage.parameters["round"]
        return [run.models(schedule, k), run.training(schedule, k)]
    if stage.notebook == "05_behavior":
        return [run.root / "traces", run.root / "reference"]
    if stage.notebook == "03_evaluate":
        return [folder / schedule for folder in (run.root / "rollouts", run.root / "grades")]
    if stage.notebook == "04_budget_forcing":
        return [run.root / "forcing"]
    return []


def execute(stage: Stage, config: Config, **options: Any) -> None:
    """Execute one notebook into the run's folder; KitError in one line when a cell of it fails."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillException, PapermillExecutionError

    run = paths.of(config)
    copy = run.notebooks / f"{stage.name}.ipynb"
    look = f"(see {run.shown}/notebooks/{copy.name})"
    copy.parent.mkdir(parents=True, exist_ok=True)
    source = NOTEBOOKS / f"{stage.notebook}.ipynb"
    declared = papermill.inspect_notebook(str(source))
    parameters = {"params_file": config.file, **stage.parameters}
    for name in parameters:
        if name not in declared:
            raise KitError(f"{source.name} has no parameter {name}; it has {', '.join(declared)}")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        papermill.execute_notebook(
            str(source), str(copy), parameters, cwd=str(NOTEBOOKS), progress_bar=False, extra_arguments=QUIET, **options
        )
    except PapermillExecutionError as error:
        told = error.evalue if error.ename == "KitError" else f"{error.ename}: {error.evalue}"
        raise KitError(f"{stage.name}: {' '.join(told.split())} {look}") from None
    except (PapermillException, CellTimeoutError, DeadKernelError) as error:
        raise KitError(f"{stage.name}: {' '.join(str(error).split())[:300]} {look}") from None


def progress(config: Config, name: str) -> str:
    """Where a running stage stands, from the log it writes."""
    parts = name.split("-")
    where = ("base", 0) if parts[0] == "01_base_model" else ("-".join(parts[1:-1]), parts[-1])
    with contextlib.suppress(OSError, ValueError, IndexError):  # no log yet, or a stage without one
        row = pd.read_csv(paths.of(config).training(where[0], int(where[1])) / "log.csv").iloc[-1]
        if "reward" not in row:
            return f"{name} step {row.step:.0f}: loss {row.loss:.3f}"
        told = f"reward {row.reward:.2f}, length {row.length:.0f}, truncated {row.truncated:.0%}"
        return f"{name} step {row.step:.0f}: {told}"
    return name


def run_all(config: Config, show: Callable[[str], None] = print, every: float = 20.0) -> pd.DataFrame:
    """Execute all stages; returns a row per stage (executed or skipped, seconds). KitError names the stage that failed.

    `show` is given a line when a stage starts or ends, and every `every` seconds one on where the running ones stand.
    """
    run = paths.of(config)
    if not config.schedules:
        paths.write_manifest(config, {})  # else notebook 01 does, with the prompts
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    keys: dict[str, str] = {}
    running: list[str] = []
    stop = threading.Event()

    def say(text: str) -> None:
        seconds = int(time.monotonic() - began)
        show(f"{seconds // 60:2d}:{seconds % 60:02d}  {text}")

    def work(lane: list[Stage]) -> None:
        for stage in lane:
            if stop.is_set():
                return
            keys[stage.name] = key = key_of(config, stage, keys)
            marker = run.stages / f"{stage.name}.json"
            before = paths.read_json(marker) if marker.is_file() else {}
            if before.get("key") == key and before["done"]:
                say(f"{stage.name}: unchanged, skipped")
                rows.append({"stage": stage.name, "status": "skipped", "seconds": 0.0})
                continue
            if before.get("key") == key:
                say(f"{stage.name}: continues where it stopped")
            else:
                say(f"{stage.name}: {'its inputs changed, starts again' if before else 'starts'}")
                for output in outputs_of(config, stage):
                    shutil.rmtree(output, ignore_errors=True)
            paths.write_json(marker, {"key": key, "done": False})
            running.append(stage.name)
            started = time.monotonic()
            try:
                execute(stage, config)
            except BaseException:
                stop.set()
                say(f"{stage.name}: failed; what runs beside it is left to end")
                raise
            finally:
                running.remove(stage.name)
            seconds = round(time.monotonic() - started, 1)
            paths.write_json(marker, {"key": key, "done": True, "seconds": seconds})
            rows.append({"stage": stage.name, "status": "executed", "seconds": seconds})
            say(f"{stage.name}: done in {seconds:.0f} s")

    for other in seeds.write_params(config):
        show(f"seed {other.seed}: {other.file} -> {paths.of(other).shown}")
        rows += run_all(other, show, every).assign(stage=lambda t, run=other.run: f"{run}/" + t.stage).to_dict("records")
    for phase in stages(config):
        with ThreadPoolExecutor(max_workers=config.parallel) as pool:
            waiting = {pool.submit(work, lane) for lane in phase}
            while waiting:
                done, waiting = wait(waiting, timeout=every)
                for future in done:
                    future.result()
                if waiting and not done:
                    say(" · ".join(progress(config, name) for name in running))
    return pd.DataFrame(rows)


def main(arguments: list[str] | None = None) -> int:
    """`python -m kit.chain PARAMS`: execute notebooks/00_run_all.ipynb with papermill; a failure is one line, exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m kit.chain", description=main.__doc__)
    parser.add_argument("params_file", nargs="?", default="params/laptop.yaml")
    chosen = parser.parse_args(arguments)
    try:
        config = load(chosen.params_file)
        print(f"{config.file} -> {paths.of(config).shown}", flush=True)
        execute(Stage("00_run_all", "00_run_all", {}), config, stdout_file=sys.stdout)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = paths.of(config).shown
    print(f"done: {shown}/report.html; tables and figures in {shown}/figures, executed notebooks in {shown}/notebooks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
