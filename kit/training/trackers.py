"""Trackers: trackio, tensorboard and wandb get every step's figures from TRL (`training: {trl: {report_to: trackio}}`), and what
was selected from here. A run of the kit is a project, each of its rounds a run in it.

All stays on this machine unless the user's environment or params say otherwise: tensorboard and wandb (offline) write to
results/<run>/trackers, trackio to its usual folder.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from kit.runs import paths
from kit.settings import Config, KitError
from kit.training import trl_fields


def chosen(config: Config) -> list[str]:
    """The trackers that `training.trl.report_to` names."""
    given = trl_fields.fields(config)["report_to"] or "none"
    return [name for name in ([given] if isinstance(given, str) else given) if name != "none"]


def begin(config: Config, schedule: str, round: int) -> dict[str, str]:
    """Name the round to its trackers, and where to write; the fields of `GRPOConfig` that do. KitError where one is missing."""
    title, place = f"{schedule}-round{round}", str(paths.of(config).trackers)
    for name in chosen(config):
        if name in ("tensorboard", "trackio", "wandb") and importlib.util.find_spec(name) is None:
            raise KitError(f"{config.file}: training.trl.report_to names {name}, which is not installed; pip install {name}")
        os.makedirs(place, exist_ok=True)
        os.environ |= {"TENSORBOARD_LOGGING_DIR": f"{place}/{title}", "WANDB_RUN_ID": f"{config.run}-{title}",
                       "WANDB_RESUME": "allow", "WANDB_PROJECT": config.run}
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": place} | os.environ
    return {"project": config.run, "run_name": title}


def log(config: Config, schedule: str, round: int, figures: dict[str, float]) -> None:
    """Add figures to what the round's trackers have, behind its last step."""
    title = begin(config, schedule, round)["run_name"]
    how: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": title, "logging_dir": paths.of(config).trackers},
        "trackio": {"run_name": config.run, "name": title, "resume": "allow", "embed": False},
        "wandb": {"run_name": config.run, "name": title}}
    for name in how.keys() & chosen(config):
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # their log asks which process this is; the round may have been trained in others
        tracker = LOGGER_TYPE_TO_CLASS[name](**how[name])
        tracker.start()
        tracker.log(figures)
        tracker.finish()


def dashboard(config: Config) -> None:
    """Show trackio's dashboard of this run in the notebook, from this machine alone; nothing where params do not name trackio."""
    if "trackio" in chosen(config):
        import trackio

        trackio.show(config.run, open_browser=False, block_thread=False, share=False)
