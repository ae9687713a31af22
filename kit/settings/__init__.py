"""Every key of a params file, its range and its meaning; reading a params file; `KitError`, a user's mistake in a line."""

from kit.settings.defaults import HELD_OUT, HOME, ROOT, family_of, folder_of, window_of
from kit.settings.loading import from_table, load, notebook, read_yaml, schema_text, yaml_text
from kit.settings.schema import Arithmetic, Config, Habits, Judge, KitError, Prompts, Reward, Schedule, SetSource, Training, Watch
from kit.settings.sets import SOURCES
