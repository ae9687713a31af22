"""The stages of a run: their order, what each is made from, and what it makes. `kit.chain.runner` executes them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.behavior import behavior, phases
from kit.evaluation import reference, seeds
from kit.runs import catalog, files, fingerprint, manifest, paths
from kit.settings import ROOT, Config
from kit.training import trl_fields

NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Stage:
    """One notebook with its parameters; `needs` are the names of the stages whose files it reads."""

    name: str
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether it makes tables and figures only."""
        return self.notebook in ("06_figures", "07_rewards")

    @property
    def schedule(self) -> str:
        """The schedule (or `base`, or a model known by its logs) that the stage is about, if it is about one."""
        return self.parameters.get("schedule", "")


def stages(config: Config) -> list[Stage]:
    """The stages of a run. One begins as soon as those that it needs are done and there is room; of several the first."""
    def evaluation(name: str, *needs: str) -> Stage:
        return Stage(f"03_evaluate-{name}", "03_evaluate", {"schedule": name}, needs)

    made: list[Stage] = []
    if config.schedules:
        made.append(Stage("01_base_model", "01_base_model", {}))
    # The longest schedules first, so that little is left over at the end; evaluations, which are short, after all rounds, unless
    # one stage runs at a time: then each schedule's numbers are there as soon as can be.
    tokens = {name: sum(schedule.limits) * catalog.steps_of(config, name) for name, schedule in config.schedules.items()}
    evaluations = [evaluation("base", "01_base_model")] if config.schedules else []
    for name in sorted(tokens, key=tokens.__getitem__, reverse=True):
        needs = ("01_base_model",)
        for k in range(1, len(config.schedules[name].limits) + 1):
            made.append(Stage(f"02_prune_round-{name}-{k}", "02_prune_round", {"schedule": name, "round": k}, needs))
            needs += (made[-1].name,)
        (made if config.parallel == 1 else evaluations).append(evaluation(name, *needs))
    made += evaluations
    made += [evaluation(name) for name in config.logs.models if not (config.schedules and name == "base")]
    before = tuple(stage.name for stage in made)
    if config.forcing.budgets and config.schedules:  # of a model known by its logs nothing new can be asked
        made.append(Stage("04_budget_forcing", "04_budget_forcing", {}, before))
    made.append(Stage("05_behavior", "05_behavior", {}, before))
    before = tuple(stage.name for stage in made)
    if any(schedule.reward for schedule in config.schedules.values()):  # before the report, which shows its figures, too
        made.append(Stage("07_rewards", "07_rewards", {}, before))
    return [*made, Stage("06_figures", "06_figures", {}, tuple(stage.name for stage in made))]


# --- what a stage is made from ----------------------------------------------------------------------------------------

# The settings that a notebook reads, as sections of a params file or single keys. Those of its own schedule come to it.
# Notebook 03 reads `forcing`, too, but only to keep what 04 can cut, or else generates: new budgets evaluate no model again.
RESPONSES = ("seed", "threads", "model", "data", "engine", "training.reading", "prompts.evaluation_user", "prompts.wordings",
             "prompts.template_arguments", "evaluation.second_bos",
             *(f"evaluation.{key}" for key in ("temperature", "top_p", "max_new_tokens", "batch_size", "resamples")))
TRAINING_PROMPT = ("prompts.system", "prompts.system_role", "prompts.limit_sentence", "prompts.train_user")
ANALYSES = (*RESPONSES, "evaluation", "arithmetic", "schedules", "logs", "keywords", "set_labels", "behavior")
READS = {
    "01_base_model": (*RESPONSES, *TRAINING_PROMPT, "arithmetic", "selection.samples"),
    "02_prune_round": (*RESPONSES, *TRAINING_PROMPT, "training", "selection"),
    "03_evaluate": (*RESPONSES, *TRAINING_PROMPT, "evaluation"),
    "04_budget_forcing": (*RESPONSES, "prompts.forcing_user", "prompts.forcing_ending", "evaluation", "forcing"),
    "05_behavior": ANALYSES,
    "06_figures": (*ANALYSES, "forcing"),
    "07_rewards": (*ANALYSES, "forcing", "training.trl"),
}


def settings_of(config: Config, stage: Stage) -> dict[str, Any]:
    """The settings that a stage depends on, by dotted key, and the size and time of the files that they name."""
    own, table = stage.schedule, fingerprint.settings(config)
    read = tuple(f"{key}." for key in (*READS[stage.notebook], f"schedules.{own}"))
    if stage.notebook == "01_base_model" and config.model.source == "arithmetic":  # the laptop's model learns all prompts
        read += ("prompts.",)
    unread = {f"schedules.{own}.label", f"schedules.{own}.compare_with", *(f"training.trl.{name}" for name in trl_fields.PLACES)}
    found = {key: value for key, value in table.items() if f"{key}.".startswith(read) and key not in unread}
    found["files"] = stamps(config, config.data.files.values())
    cues = phases.cues_of(config)  # of every stage: a mistake in the file is told before anything is trained
    if "behavior" in READS[stage.notebook]:
        found["behavior.phases"] = [cues.announced.pattern, *([phase, cue.pattern] for phase, cue in cues.table)]
    if stage.draws:
        found["reference"] = stamps(config, [str(reference.path_of(config.file))])
        found["seeds"] = [files.read_json(marker).get("results") for other in seeds.others(config)
                          if (marker := paths.of(other).stages / "06_figures.json").is_file()]
    if own in config.logs.models:
        logs = config.logs.models[own]
        stamped = stamps(config, [str(Path(config.logs.folder) / path) for path in logs.values()])
        found["logs"] = [logs, stamped, config.logs.folder, config.logs.tokenizer]
    if own in config.schedules:  # a round does not depend on those after it
        found[f"schedules.{own}.limits"] = config.schedules[own].limits[: stage.parameters.get("round")]
    if own == "base" and config.evaluation.training_prompt:
        found["told"] = sorted(n for schedule in config.schedules.values() if schedule.state_limit for n in schedule.limits)
    return found


def inputs_of(config: Config, stage: Stage, made: dict[str, dict[str, list]]) -> dict[str, Any]:
    """What a stage depends on, by name (kit.runs.fingerprint); `made` are the files of the stages before it."""
    table = settings_of(config, stage) | fingerprint.code(NOTEBOOKS / f"{stage.notebook}.ipynb", stage.draws)
    timed = ("/log.csv", "/trainer_state.json")  # have the seconds of each step; only figures are drawn from them
    for name in stage.needs:
        table |= {f"file: {file}": facts[2] for file, facts in made[name].items() if stage.draws or not file.endswith(timed)}
    return json.loads(manifest.scrubbed(json.dumps(table), config))


def stamps(config: Config, given: Iterable[str]) -> list[list[Any]]:
    """Size and time of the files that params name, so that a changed file redoes what was made from it."""
    roots = [paths.given(config, path) for path in given]
    found = [file for root in roots for file in (sorted(root.rglob("*")) if root.is_dir() else [root]) if file.is_file()]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]


# --- what it makes ----------------------------------------------------------------------------------------------------


def outputs_of(config: Config, stage: Stage) -> list[Path]:
    """The files and folders that a stage writes (figures are simply drawn again)."""
    run, own, k = paths.of(config), stage.schedule, stage.parameters.get("round", 0)
    return {
        "01_base_model": [run.root / "data", run.base_model, run.training("base", 0)],
        "02_prune_round": [run.models(own, k), run.training(own, k)],
        "03_evaluate": [run.root / "rollouts" / own, run.root / "grades" / own, run.metrics / f"{own}.csv",
                        *run.metrics.glob(f"{own}-round*.csv")],
        "04_budget_forcing": [run.root / "forcing", run.metrics / "forcing.csv", run.metrics / "forcing_gaps.csv"],
        "05_behavior": [run.root / "traces", run.reference, *(run.metrics / f"{name}.csv" for name in behavior.TABLES)],
        "07_rewards": [run.metrics / f"{name}.csv" for name in ("frontier", "volumes", "reward_pairs")],
    }.get(stage.notebook, [])


def results_of(config: Config, stage: Stage) -> list[Path]:
    """The files of a finished stage that later ones read: of a round its tables and the checkpoint it selected."""
    run = paths.of(config)
    outputs = [run.figures, run.root / "report.html"] if stage.notebook == "06_figures" else outputs_of(config, stage)
    found = [f for path in outputs for f in ([path] if path.is_file() else path.rglob("*")) if f.is_file()]
    found = [f for f in found if not f.name.startswith(".") and f.parent.name != "validation" and f != run.contamination]
    if stage.notebook != "02_prune_round":
        return found
    k = stage.parameters["round"]
    tables, chosen = run.training(stage.schedule, k), Path(catalog.selected(config, stage.schedule, k))
    return [f for f in found if f.is_relative_to(chosen) or f.parent == tables and f.suffix in (".csv", ".json")]
