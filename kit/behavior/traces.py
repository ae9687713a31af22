"""Responses as text: where they are stored, what a step of them is, which words they say, what they repeat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from kit.behavior import phases
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import catalog, paths
from kit.settings import Config


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The stored responses of a model to a data set."""
    return list(records.read(paths.of(config).rollouts(model, name)))


def step_unit(config: Config) -> str:
    """What a step is in this run, the same for all its models: as in the params, or as the first of them writes."""
    if config.behavior.steps != "auto":
        return config.behavior.steps
    model = catalog.model_names(config)[0]
    first = (r for name in config.data.evaluation for r in responses(config, model, name))
    return phases.unit_of(text for r in first for text in r.model_answer)


@lru_cache
def keyword_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of `words`: whole words and phrases, longest first ("But wait" is not also a "wait"), upper and lower case alike."""
    longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(r"(?<!\w)(" + (longest_first.replace(r"\ ", r"\s+") or "(?!)") + r")(?!\w)", re.IGNORECASE)


def count_keywords(text: str, words: Sequence[str]) -> int:
    """How often any of `words` occurs."""
    return len(keyword_pattern(tuple(words)).findall(text))


def repeated_runs(words: Sequence[str], n: int) -> tuple[int, int]:
    """(runs of n words that occurred before in the same text, all runs of n words).

    >>> repeated_runs("a b c a b c a".split(), 3)
    (2, 5)
    """
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(runs) - len(set(runs)), len(runs)
