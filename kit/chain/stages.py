"""The stages of a run: their order, what each is made from, and what it makes. `kit.chain.runner` executes them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.behavior import phases
from kit.evaluation import seeds
from kit.runs import catalog, files, fingerprint, manifest, paths
from kit.settings import ROOT, Config

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
        return [logged, *_analyses(config, tuple(lane[0].name for lane in logged))]
    base = Stage("01_base_model", "01_base_model", {})
    lanes = []
    for schedule, plan in config.schedules.items():
        lane: list[Stage] = []
        for k in range(1, len(plan.limits) + 1):
            needs = (base.name, *(stage.name for stage in lane))
            lane.append(Stage(f"02_prune_round-{schedule}-{k}", "02_prune_round", {"schedule": schedule, "round": k}, needs))
        lane.append(Stage(f"03_evaluate-{schedule}", "03_evaluate", {"schedule": schedule},
                          (base.name, *(stage.name for stage in lane))))
        lanes.append(lane)
    lanes.append([Stage("03_evaluate-base", "03_evaluate", {"schedule": "base"}, (base.name,))])
    lanes += [lane for lane in logged if lane[0].name != "03_evaluate-base"]
    everything = (base.name, *(stage.name for lane in lanes for stage in lane))
    tokens = {name: sum(plan.limits) * (plan.steps or config.training.steps) for name, plan in config.schedules.items()}
    lanes.sort(key=lambda lane: -tokens.get(lane[0].parameters["schedule"], 0))  # the longest first, so that none is left over
    return [[[base]], lanes, *_analyses(config, everything)]


def _analyses(config: Config, before: tuple[str, ...]) -> list[list[list[Stage]]]:
    """What is done when every model has been evaluated."""
    found = [Stage("05_behavior", "05_behavior", {}, before)]
    if config.forcing.budgets and config.schedules:  # of a model known by its logs nothing new can be asked
        found.insert(0, Stage("04_budget_forcing", "04_budget_forcing", {}, before))
    needs = (*before, *(stage.name for stage in found))
    return [[[stage] for stage in found], [[Stage("06_figures", "06_figures", {}, needs)]]]


# Keys of the params file that do not change any result, and those of `training` that only say where it is worked out.
WITHOUT_EFFECT = {"file", "run", "parallel", "hardware", "seeds", "watch"}
PLACES = {"micro_batch", "gradient_checkpointing", "processes", "machines", "accelerate", "timeout_minutes", "vllm_memory_share",
          "vllm_tensor_parallel", "vllm_sleep", "vllm_host", "vllm_port", "keep_checkpoints"}
DRAWN = ("06_figures",)  # notebooks that make tables and figures only
BEHAVIOR = ("keywords", "phases", "phases_judge", "first_answer", "repetition", "percentiles", "moves",
            "perplexity")  # tables in metrics/ that notebook 05 makes
ANALYSES = ("05_behavior", "06_figures")  # notebooks that look at all models, and at words


def settings_of(config: Config, stage: Stage) -> dict[str, Any]:
    """The settings that matter to a stage."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in WITHOUT_EFFECT}
    settings["files"] = stamps(config, [str(path) for path in config.data.files.values()])
    settings["training"] = {k: v for k, v in settings["training"].items() if k not in PLACES}
    settings["engine"] = {k: settings["engine"][k] for k in ("name", "max_model_len")}  # the others change no response
    cues = phases.cues_of(config)  # of every stage: a mistake in the file is told before anything is trained
    settings["behavior"]["phases"] = [cues.announced.pattern, *([phase, cue.pattern] for phase, cue in cues.table)]
    if stage.notebook == "06_figures":
        settings["seeds"] = [files.read_json(marker).get("results") for other in seeds.others(config)
                             if (marker := paths.of(other).stages / "06_figures.json").is_file()]
    if stage.notebook not in ANALYSES:  # words and the other schedules matter to tables and figures only
        own = config.logs.models.get(stage.parameters.get("schedule", ""), {})
        read = stamps(config, [str(Path(config.logs.folder) / path) for path in own.values()])
        settings["logs"] = [own, read, config.logs.folder, config.logs.tokenizer] if own else None
        if stage.parameters.get("schedule") == "base" and config.evaluation.training_prompt:
            settings["told"] = sorted(n for plan in config.schedules.values() if plan.state_limit for n in plan.limits)
        own = stage.parameters.get("schedule")
        settings["schedules"] = {own: dict(settings["schedules"][own])} if own in settings["schedules"] else {}
        for plan in settings["schedules"].values():
            del plan["label"], plan["compare_with"]
            plan["limits"] = plan["limits"][: stage.parameters.get("round")]  # a round does not depend on those after it
        del settings["keywords"], settings["set_labels"], settings["behavior"]
    if stage.notebook not in ("04_budget_forcing", "06_figures"):
        del settings["forcing"]
    if stage.notebook in ("02_prune_round", "03_evaluate", "04_budget_forcing"):  # they have its data sets and model as files
        del settings["arithmetic"]
    if stage.notebook != "04_budget_forcing" and config.model.source != "arithmetic":  # the laptop's model learns the ending
        del settings["prompts"]["forcing_user"], settings["prompts"]["forcing_ending"]
    if stage.notebook in ("01_base_model", "02_prune_round"):  # they sample the validation set, not the evaluation sets
        for name in ("samples", "samples_by_set", "training_prompt"):
            del settings["evaluation"][name]
    if stage.notebook != "02_prune_round":
        del settings["training"], settings["selection"]["tolerance"]
    del settings["model"]["shape"]  # for planning only
    return settings


def inputs_of(config: Config, stage: Stage, made: dict[str, dict[str, list]]) -> dict[str, Any]:
    """What a stage depends on, by name (kit.runs.fingerprint); `made` are the files of the stages before it."""
    drawn = stage.notebook in DRAWN
    table = fingerprint.flat(settings_of(config, stage)) | fingerprint.code(NOTEBOOKS / f"{stage.notebook}.ipynb", drawn)
    for name in stage.needs:  # log.csv has the seconds of each step; only figures are drawn from it
        table |= {f"file: {file}": facts[2] for file, facts in made[name].items() if drawn or not file.endswith("/log.csv")}
    return json.loads(manifest.scrubbed(json.dumps(table), config))


def stamps(config: Config, given: list[str]) -> list[list[Any]]:
    """Size and time of the files that params name, so that a changed file redoes what was made from it."""
    roots = [paths.given(config, path) for path in given]
    found = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root]) if file.is_file()]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]


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
        return [run.root / "traces", run.root / "reference", *(run.metrics / f"{name}.csv" for name in BEHAVIOR)]
    if stage.notebook == "03_evaluate":
        tables = [run.metrics / f"{schedule}.csv", *run.metrics.glob(f"{schedule}-round*.csv")]
        return [*(folder / schedule for folder in (run.root / "rollouts", run.root / "grades")), *tables]
    if stage.notebook == "04_budget_forcing":
        return [run.root / "forcing", *(run.metrics / f"{name}.csv" for name in ("forcing", "forcing_gaps"))]
    return []


def results_of(config: Config, stage: Stage) -> list[Path]:
    """The files of a finished stage that later ones read: of a round its tables and the checkpoint it selected."""
    if stage.notebook == "06_figures":
        return [f for f in [*paths.of(config).figures.glob("*"), paths.of(config).root / "report.html"] if f.is_file()]
    found = [f for path in outputs_of(config, stage) for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file()]
    found = [f for f in found if not f.name.startswith(".")]
    if stage.notebook != "02_prune_round":
        return [f for f in found if f.parent.name != "validation"]
    schedule, k = stage.parameters["schedule"], stage.parameters["round"]
    chosen = Path(catalog.selected(config, schedule, k))
    tables = paths.of(config).training(schedule, k)
    found_tables = [f for f in found if f.parent == tables and f.suffix in (".csv", ".json")]
    return [*found_tables, *(f for f in found if f.is_relative_to(chosen))]
