"""Every key of a params file, its range and its meaning; reading a params file; `KitError`, a user's mistake in one line."""

from kit.settings.loading import ROOT, find, from_table, load, notebook, read_yaml
from kit.settings.schema import (
    Arithmetic,
    Behavior,
    Config,
    Data,
    Engine,
    Evaluation,
    Forcing,
    Habits,
    Hardware,
    Judge,
    KitError,
    Logs,
    Model,
    Prompts,
    Schedule,
    Selection,
    Shape,
    Training,
    Watch,
)

__all__ = [
    "ROOT", "Arithmetic", "Behavior", "Config", "Data", "Engine", "Evaluation", "Forcing", "Habits", "Hardware", "Judge", "KitError",
    "Logs", "Model", "Prompts", "Schedule", "Selection", "Shape", "Training", "Watch", "find", "from_table", "load", "notebook",
    "read_yaml",
]
