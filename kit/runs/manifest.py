"""What a run is and was made with: versions, commit, device, settings; with no path of this machine in it."""

import contextlib
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kit.runs import files, paths
from kit.settings import HOME, ROOT, Config

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify", "papermill", "numpy",
            "pandas", "vllm")


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
        "written": now(),
    }
    files.write_json(paths.of(config).manifest, json.loads(scrubbed(json.dumps(table), config)))


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
