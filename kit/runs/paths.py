"""The only place that knows where a run's files lie.

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
        reference/                               the model that reads the traces (behavior.reference: trained)
        trackers/                                what tensorboard and wandb keep (training.trl.report_to)
        vllm.log                                 what the latest vLLM said (engine.name: vllm)
        stages/                                  what is finished, with which inputs
        account.csv                              what the time went into
        replaced/<stage>/                        what a stage had made before its inputs changed; the latest only, safe to delete

Outside the runs, in the project: cache/ (sets fetched from the hub, or under $KIT_CACHE) and data/ (sets and logs that the user
put there; `data.folder` in params).
"""

import os
from pathlib import Path

from kit.settings import HOME, ROOT, Config, read_yaml


class RunPaths:
    """Where the files of one run lie. Models are named as in runs/catalog; names of schedules, sets and logged models have been
    checked (settings/schema): none leads out of the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # As printed: relative to the project where it lies in it, so that no home path gets into a notebook.
        self.shown = str(root.relative_to(ROOT)) if root.is_relative_to(ROOT) else root.name
        self.manifest, self.account, self.vllm_log = (root / name for name in ("manifest.json", "account.csv", "vllm.log"))
        self.notebooks, self.figures, self.metrics = root / "notebooks", root / "figures", root / "metrics"
        self.base_model, self.contamination = root / "models" / "base", root / "data" / "contamination.csv"
        self.stages, self.replaced = root / "stages", root / "replaced"
        self.trackers, self.reference = root / "trackers", root / "reference"
        self.kernels = root / ".kernels"  # how running notebooks are reached; gone when the run is done

    def data(self, name: str) -> Path:
        return self.root / "data" / f"{name}.jsonl"

    def models(self, schedule: str, round: int) -> Path:
        return self.root / "models" / schedule / f"round{round}"

    def training(self, schedule: str, round: int) -> Path:
        return self.root / "training" / schedule / f"round{round}"

    def validation(self, schedule: str, round: int, step: int) -> Path:
        return self.training(schedule, round) / "validation" / f"step{step}.jsonl"

    def rollouts(self, model: str, name: str) -> Path:
        return self.root / "rollouts" / model / f"{name}.jsonl"

    def grades(self, model: str, name: str) -> Path:
        return self.root / "grades" / model / f"{name}.csv"

    def traces(self, model: str, name: str) -> Path:
        return self.root / "traces" / model / f"{name}.csv"

    def forcing(self, model: str, name: str) -> Path:
        return self.root / "forcing" / model / name


def results() -> Path:
    """results/ in the project (of an installed kit: in the folder it is called from), or $KIT_RESULTS, as seen from there."""
    return HOME / Path(os.environ.get("KIT_RESULTS", "results")).expanduser()


def of(config: Config) -> RunPaths:
    """The run's folder."""
    return RunPaths(results() / config.run)


def cached(name: str, revision: str | None) -> Path:
    """Where a data set of the hub is kept: cache/ in the project, or under $KIT_CACHE."""
    folder = HOME / Path(os.environ.get("KIT_CACHE", "cache")).expanduser()
    return folder / f"{name}@{(revision or 'newest').replace('/', '_')}.json"


def given(config: Config, path: str) -> Path:
    """A path written in a params file: absolute, or relative to the file's folder or to the project. What is in the results is a
    further seed's file (evaluation/seeds), which extends the one that was written."""
    file = (ROOT / config.file).resolve()
    if file.is_file() and file.is_relative_to(results().resolve()):
        file = file.parent / str(read_yaml(file).get("extends", file.name))
    beside = file.parent / Path(path).expanduser()
    return beside if beside.exists() else HOME / Path(path).expanduser()
