"""Which models a run has, how they are named and labelled, and where they lie. It only looks: nothing is loaded or written.

A model is named `base`, `<schedule>/round<k>` (k from 1), or by its key in `logs.models`.
"""

import contextlib
import math
from pathlib import Path

from kit.runs import files, paths
from kit.settings import HOME, Config, KitError

# --- names and labels -------------------------------------------------------------------------------------------------


def facts(config: Config) -> dict[str, tuple[str, int, float]]:
    """Model -> its schedule, round and limit (tokens; NaN for the base and for models known by their logs)."""
    found: dict[str, tuple[str, int, float]] = {"base": ("base", 0, math.nan)}
    for schedule, plan in config.schedules.items():
        found |= {f"{schedule}/round{k}": (schedule, k, limit) for k, limit in enumerate(plan.limits, 1)}
    return found | {name: (name, 0, math.nan) for name in config.logs.models}


def model_names(config: Config) -> list[str]:
    """`base`, every round of every schedule, and the models that are known by their logs."""
    return list(facts(config))


def models_of(config: Config, schedule: str) -> list[str]:
    """The models of one schedule; of "base", or of a model known by its logs, that one."""
    return [model for model, (own, _, _) in facts(config).items() if own == schedule]


def last_round(config: Config, schedule: str) -> str:
    return models_of(config, schedule)[-1]


def last_rounds(config: Config) -> list[str]:
    """The last model of each schedule and each model known by its logs, without the base."""
    return [last_round(config, name) for name in dict.fromkeys(own for own, _, _ in facts(config).values()) if name != "base"]


def schedule_label(config: Config, schedule: str) -> str:
    """How a schedule, the base or a model known by its logs is called in tables and figures."""
    if schedule in config.schedules:
        return config.schedules[schedule].label or schedule
    return config.logs.labels.get(schedule, schedule)


def label(config: Config, model: str) -> str:
    """How a model is called in tables and figures: its schedule's label, and its limit where the prompt states it."""
    schedule, _, limit = facts(config)[model]
    told = schedule in config.schedules and config.schedules[schedule].state_limit
    return schedule_label(config, schedule) + (f", {limit:.0f}" if told else "")


def labels(config: Config) -> dict[str, str]:
    """Model -> its label, of every model of the run."""
    return {model: label(config, model) for model in facts(config)}


# --- where they lie ---------------------------------------------------------------------------------------------------


def model_source(config: Config, model: str) -> str:
    """Folder or hub id of a model; KitError when there is none, or not yet."""
    if model == "base" and config.schedules:
        return base_model(config)
    if model in config.logs.models:
        raise KitError(f"{config.file}: of {model} there are logs only (logs.models.{model}), so it cannot be asked anything new")
    if model not in facts(config) or model == "base":
        raise KitError(f"there is no model {model} in {config.file}; there are {', '.join(model_names(config))}")
    schedule, round, _ = facts(config)[model]
    return selected(config, schedule, round)


def base_model(config: Config) -> str:
    """Folder or hub id of the base model; KitError when the laptop's has not been trained yet."""
    if config.model.source != "arithmetic":  # a folder may be given as seen from the project
        given = HOME / Path(config.model.source).expanduser()
        return str(given) if given.is_dir() else config.model.source
    folder = paths.of(config).base_model
    if not has_weights(folder):
        raise KitError(f"{folder}: no base model yet; run notebooks/01_base_model.ipynb with {config.file} first")
    return str(folder)


def start_of_round(config: Config, schedule: str, round: int) -> str:
    """What round `round` (counted from 1) starts from: the base model, or what the round before selected."""
    rounds = len(config.schedules[schedule].limits)
    if not 1 <= round <= rounds:
        raise KitError(f"{config.file}: schedules.{schedule} has {rounds} round(s), there is no round {round}")
    return base_model(config) if round == 1 else selected(config, schedule, round - 1)


def selected(config: Config, schedule: str, round: int) -> str:
    """Folder of the model that a round selected; its start, where no checkpoint qualified."""
    file = paths.of(config).training(schedule, round) / "selected.json"
    if not file.is_file():
        raise KitError(f"{file}: not there yet; run notebooks/02_prune_round.ipynb with schedule={schedule} round={round} first")
    step = files.read_json(file)["step"]
    return start_of_round(config, schedule, round) if step == 0 else checkpoint_model(config, schedule, round, step)


def steps_of(config: Config, schedule: str) -> int:
    """Optimizer steps of each round of this schedule."""
    return config.schedules[schedule].steps or config.training.steps


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a round, by step; trainer_state.json is what the trainer writes last."""
    found = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(KitError):  # cut off while it was written
            files.read_json(state)
            found.append(state.parent)
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def checkpoint_model(config: Config, schedule: str, round: int, step: int) -> str:
    """Folder of a checkpoint's model. A LoRA round leaves it in `merged/`: the adapter in the round's start."""
    checkpoint = paths.of(config).models(schedule, round) / f"checkpoint-{step}"
    return str(checkpoint / "merged" if (checkpoint / "adapter_config.json").is_file() else checkpoint)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a saved model."""
    return any(folder.glob("*.safetensors"))


def start_name(config: Config, source: str) -> str:
    """A model's folder as written into files: relative to the run's folder, or the project's, where it lies in it."""
    for root in (paths.of(config).root, HOME):
        if Path(source).is_relative_to(root):
            return str(Path(source).relative_to(root))
    return source
