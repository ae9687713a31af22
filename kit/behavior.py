"""What the model spends its tokens on: keyword counts per response (more analyses come with notebook 05).

The lists are values of the params file (`keywords`): the paper's hesitation words ("Wait", "Alternatively", …) against
words of core computation. A keyword counts as whole words, longest match first, so "But wait" is not also a "wait".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kit import evaluation, paths, rollout
from kit.config import Config
from kit.rollout import Rollout


def count_keywords(text: str, words: Sequence[str]) -> int:
    """How often any of `words` occurs, whole words and phrases, longest first, upper and lower case alike."""
    return len(keyword_pattern(tuple(words)).findall(text))


def keyword_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)", re.IGNORECASE)


def summarize(config: Config) -> pd.DataFrame:
    """Keyword counts of every model of the run, mean of the evaluation sets; writes metrics/keywords.csv.

    Per list: occurrences per response with a 95 % bootstrap interval over problems, and per 1,000 tokens.
    """
    rows = []
    for model in evaluation.model_names(config):
        by_set = [list(rollout.read(paths.of(config).rollouts(model, name))) for name in config.data.evaluation]
        for label, words in config.keywords.items():
            rows.append({"model": model, "keywords": label, **keyword_rate(by_set, words, config)})
    table = pd.DataFrame(rows)
    paths.write_csv(paths.of(config).metrics / "keywords.csv", table)
    return table


def keyword_rate(by_set: Sequence[Sequence[Rollout]], words: Sequence[str], config: Config) -> dict[str, float]:
    """Occurrences of `words`: mean over the sets of the mean per response, and per 1,000 tokens."""
    pattern = keyword_pattern(tuple(words))
    point, drawn, dense = [], [], []
    for k, rollouts in enumerate(by_set):
        counts = np.array([np.mean([len(pattern.findall(text)) for text in r.model_answer]) for r in rollouts])
        lengths = np.array([np.mean(np.array(r.model_answer_length, dtype=float)) for r in rollouts])
        weights = evaluation.bootstrap_weights(len(counts), config.evaluation.resamples, config.seed + k)
        point.append(counts.mean())
        dense.append(1000 * counts.mean() / lengths.mean())
        drawn.append(weights @ counts)
    low, high = evaluation.interval(np.mean(drawn, axis=0))
    return {"per_response": float(np.mean(point)), "per_response_low": low, "per_response_high": high,
            "per_1000_tokens": float(np.mean(dense))}
