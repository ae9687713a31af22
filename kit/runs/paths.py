"""The only place that knows where a run's files lie; atomic writes, done-markers, the manifest.

    results/<run>/
        manifest.json                            settings, seeds, versions, commit, device, one prompt per stage
        notebooks/                               executed copies
        data/<set>.jsonl                         generated problems (laptop)
        data/contamination.csv                   training problems that are also held out (dropped)
        models/base/                             the base model (when it is trained here)
        models/<schedule>/round<k>/checkpoint-<step>/
        training/<schedule>/round<k>/            log.csv (a row per step), validation.csv, selected.json, validation/;
                                                 of several processes: settings.json, processes.log
        training/base/round0/                    the same for the base model
        rollouts/<model>/<set>.jsonl             a line per problem
        grades/<model>/<set>.csv                 a row per response
        traces/<model>/<set>.csv                 a row per response: what was counted in its text
        forcing/<model>/<set>/                   thinking.jsonl; per budget: rollouts and grades
        metrics/<model>.csv, comparisons.csv, …  what figures are drawn from
        figures/                                 PNG, SVG, tables
        stages/                                  what is finished, with which inputs
    replaced/<stage>/                        what a stage had made before its inputs changed; the latest only, safe to delete

A model is named `base` or `<schedule>/round<k>`. Outside the runs, in the project: cache/ (sets fetched from the hub, or under
$KIT_CACHE) and data/ (sets and logs that the user put there; `data.folder` in params).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from kit.settings import ROOT, Config, KitError


@dataclass(frozen=True)
class RunPaths:
    """Where the files of one run lie."""

    root: Path

    @property
    def shown(self) -> str:
        """The folder as printed: relative to the project where it lies in it, so that no home path gets into a notebook."""
        return str(self.root.relative_to(ROOT)) if self.root.is_relative_to(ROOT) else self.root.name

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def base_model(self) -> Path:
        return self.root / "models" / "base"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def stages(self) -> Path:
        return self.root / "stages"

    @property
    def kernels(self) -> Path:
        return self.root / ".kernels"  # how running notebooks are reached; gone when the run is done

    @property
    def replaced(self) -> Path:
        return self.root / "replaced"

    def data(self, name: str) -> Path:
        return self._inside("data", f"{name}.jsonl")

    @property
    def contamination(self) -> Path:
        return self.root / "data" / "contamination.csv"

    def models(self, schedule: str, round: int) -> Path:
        return self._inside("models", schedule, f"round{round}")

    def training(self, schedule: str, round: int) -> Path:
        return self._inside("training", schedule, f"round{round}")

    def validation(self, schedule: str, round: int, step: int) -> Path:
        return self.training(schedule, round) / "validation" / f"step{step}.jsonl"

    def rollouts(self, model: str, name: str) -> Path:
        return self._inside("rollouts", model, f"{name}.jsonl")

    def grades(self, model: str, name: str) -> Path:
        return self._inside("grades", model, f"{name}.csv")

    def _inside(self, folder: str, *parts: str) -> Path:
        """A path below this folder of the run, whatever names a params file or a data set has."""
        top = os.path.join(self.root, folder)
        path = Path(os.path.normpath(os.path.join(top, *parts)))
        if "\0" in str(path) or not path.is_relative_to(top) or len(path.relative_to(top).parts) < len(parts):
            raise KitError(f"{'/'.join(parts)}: not a name for a file of this run; it leads out of its folder")
        return path

    def traces(self, model: str, name: str) -> Path:
        return self.root / "traces" / model / f"{name}.csv"

    def forcing(self, model: str, name: str) -> Path:
        return self.root / "forcing" / model / name


def of(config: Config) -> RunPaths:
    """The run's folder: results/<run> in the project, or under $KIT_RESULTS."""
    return RunPaths(Path(os.environ.get("KIT_RESULTS", ROOT / "results")) / config.run)


def cached(name: str, revision: str | None) -> Path:
    """Where a data set of the hub is kept: cache/ in the project, or under $KIT_CACHE."""
    folder = Path(os.environ.get("KIT_CACHE", ROOT / "cache"))
    return folder / f"{name}@{(revision or 'newest').replace('/', '_')}.jsonl"


def given(config: Config, path: str) -> Path:
    """A path written in a params file: absolute, or relative to the file's folder or to the project."""
    beside = (ROOT / config.file).parent / Path(path).expanduser()
    return beside if beside.exists() else ROOT / Path(path).expanduser()


REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run this again",
    errno.EDQUOT: "your quota on this disk is used up; free some space and run this again",
    errno.EROFS: "the file system is read-only; KIT_RESULTS=FOLDER puts results elsewhere",
    errno.EACCES: "no permission to write here; KIT_RESULTS=FOLDER puts results elsewhere",
    errno.EPERM: "no permission to write here; KIT_RESULTS=FOLDER puts results elsewhere",
    errno.ENOTDIR: "a part of this path is a file; KIT_RESULTS=FOLDER puts results elsewhere",
    errno.EIO: "the disk reports an input/output error",
}


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Say in one line when the disk is full, read-only or broken. What was finished before stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise KitError(f"{error.filename or path}: {REASONS[error.errno]}; what was finished is kept") from None


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write a file whole or not at all: into a neighbour first, then renamed over `path`."""
    neighbour = path.with_name(f".{path.name}.{_process()}.tmp")
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with neighbour.open(mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, path)
        except BaseException:
            neighbour.unlink(missing_ok=True)
            raise


def _process() -> str:
    """This process's name in the names of its unfinished files: host, process, thread."""
    return f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"


def sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed on this machine."""
    for path in folder.rglob(".*.tmp"):
        owner = re.search(rf"\.{re.escape(socket.gethostname())}-(\d+)-\d+\.tmp$", path.name)
        if owner and not alive(int(owner[1])):
            path.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether a process of this machine is still there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """JSON, readable, atomically."""
    with atomic(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """KitError when a file that should be the kit's own is something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise KitError(f"{path}: cannot be read as JSON; it is left as it is, move it away and run this again") from None


def write_csv(path: Path, frame: Any) -> None:
    """A pandas DataFrame as CSV, atomically; floats with six significant digits so that reruns compare equal."""
    with atomic(path) as file:
        frame.to_csv(file, index=False, float_format="%.6g")


PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify", "papermill", "numpy",
            "pandas", "vllm")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results hang on, and the device, without importing any of them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {**found, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"}


def commit() -> str:
    """The project's git commit, with `+changes` when the working tree differs; `unknown` outside a checkout."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def scrubbed(text: str, config: Config) -> str:
    """Text without paths of this machine: a run's files can be passed on without telling where, and by whom, they were made."""
    file = Path(config.file)
    named = {str(of(config).root): of(config).shown, str(ROOT): ".", str(Path(sys.prefix)): "ENVIRONMENT",
             str(Path.home()): "~", config.file if ".." in file.parts else "": file.name}
    for path in sorted(filter(lambda p: len(p) > 1, named), key=len, reverse=True):
        text = re.sub(re.escape(path) + r"(?![\w-])", lambda _, new=named[path]: new, text)
    return text


def write_manifest(config: Config, rendered_prompts: dict[str, str], data: dict[str, Any] | None = None) -> None:
    """What this run is: settings, seed, versions, commit, device, one rendered prompt per stage, facts on its data sets."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    manifest = {
        "run": config.run, "params_file": config.file, "settings": dataclasses.asdict(config), "seed": config.seed,
        "commit": commit(), "versions": versions(), "device": device, "prompts": rendered_prompts, "data": data or {},
        "written": now(),
    }
    write_json(of(config).manifest, json.loads(scrubbed(json.dumps(manifest), config)))


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
