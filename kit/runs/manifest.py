"""What a run was made with (settings, versions, commit, device; without paths of this machine), and what its time went into."""

import contextlib
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from kit.runs import files, paths
from kit.settings import HOME, ROOT, Config

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify", "papermill", "numpy",
            "pandas", "vllm")
PARTS = ("generate", "grade", "reference")  # of a training step: responses, their grades, the reference model; the rest: update
CALL = re.compile(r"\b(?!catalog|inputs|comparisons\.gather)([a-z_]+\.[a-z_]+)\(")  # those do not take long
SHORT = 1.0  # seconds; what is shorter is told together


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results hang on, and the machine, without importing any of them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {**found, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}


def commit() -> str:
    """The project's git commit, with `+changes` when the working tree differs; `unknown` outside a checkout."""
    if HOME != ROOT:  # installed, perhaps within somebody's repository
        return "unknown"
    command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def scrubbed(text: str, config: Config) -> str:
    """Text without paths of this machine: a run's files can be passed on without telling where, and by whom, they were made."""
    file, run = Path(config.file), paths.of(config)
    named = {str(run.root): run.shown, str(ROOT): ".", str(Path(sys.prefix)): "ENVIRONMENT",
             os.path.expanduser("~"): "~", config.file if ".." in file.parts else "": file.name}
    for path in sorted(filter(lambda p: len(p) > 1, named), key=len, reverse=True):
        text = re.sub(re.escape(path) + r"(?![\w-])", lambda _, new=named[path]: new, text)
    return text


def write_manifest(config: Config, rendered_prompts: dict[str, str], data: dict[str, Any] | None = None) -> None:
    """What this run is: settings, seed, versions, commit, device, one rendered prompt per stage, facts on its data sets."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = {
        "run": config.run, "params_file": config.file, "settings": dataclasses.asdict(config), "seed": config.seed,
        "commit": commit(), "versions": versions(), "device": device, "prompts": rendered_prompts, "data": data or {},
        "written": files.now(),
    }
    files.write_json(paths.of(config).manifest, json.loads(scrubbed(json.dumps(table), config)))


def account(config: Config) -> pd.DataFrame:
    """What the time of a run went into: a row per stage and part, in seconds, by papermill's times of the executed notebooks and
    by log.csv: `start` (the kernel, and what is imported), each cell of a second or more by its first call, `other` cells, and of
    a cell that trains the parts of its steps and what is beside them (checkpoints)."""
    run, rows = paths.of(config), []
    for path in sorted(run.notebooks.glob("0[1-9]*.ipynb")):
        notebook = files.read_json(path)
        if not (whole := notebook["metadata"]["papermill"]["duration"]):  # it still runs
            continue
        cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        seconds = [c["metadata"].get("papermill", {}).get("duration") or 0.0 for c in cells]
        parts = {"start": max(0.0, whole - sum(seconds)) + sum(seconds[:1])}
        for cell, spent in list(zip(cells, seconds, strict=True))[1:]:
            call = CALL.search("".join(cell["source"]))
            name = call[1] if call and spent >= SHORT else "other"
            parts[name] = parts.get(name, 0.0) + spent
        given = re.fullmatch(r"02_prune_round-(.+)-(\d+)", path.stem)
        if given and (log := run.training(given[1], int(given[2])) / "log.csv").is_file() and "launch.train_round" in parts:
            steps = files.read_csv(log).reindex(columns=["seconds", *PARTS]).sum()
            split = {f"train: {part}": steps[part] for part in PARTS}
            split["train: update"] = steps["seconds"] - sum(split.values())
            parts["train: checkpoints and the rest"] = parts.pop("launch.train_round") - steps["seconds"]
            parts |= split
        rows += [{"stage": path.stem, "part": part, "seconds": round(spent, 1)} for part, spent in parts.items()]
    return pd.DataFrame(rows, columns=["stage", "part", "seconds"])
