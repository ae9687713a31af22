"""Every key of a params file, its range and its meaning; reading a params file; `KitError`, a user's mistake in a line."""

from kit.settings.defaults import HELD_OUT, HOME, family_of, folder_of, window_of
from kit.settings.loading import ROOT, find, from_table, load, notebook, read_yaml, schema_text, yaml_text
from kit.settings.schema import (
    NAME,
    Arithmetic,
    Config,
    Data,
    Engine,
    Evaluation,
    Forcing,
    Habits,
    Judge,
    KitError,
    Logs,
    Model,
    Prompts,
    Reward,
    Schedule,
    Selection,
    SetSource,
    Training,
    Watch,
)
from kit.settings.sets import SOURCES, Source
