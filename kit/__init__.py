"""ThinkPrune, reproducible: prune the thinking of a reasoning model under falling token limits (arXiv 2504.01296).

The method in six sentences, each with its file:

1. A problem is put into a prompt that states the token limit L             data/prompts.py
2. The model writes a group of responses to it, each of at most L tokens    rollout/records.py
3. A response is worth 1 if its answer is right within L tokens, else 0     reward/token_limit.py
4. GRPO makes the responses above their group's mean likelier: one round    training/rounds.py
5. The shortest checkpoint that keeps 90 % of the accuracy is selected,
   and the next round goes on from it under a lower limit                   training/selection.py
6. Accuracy and length are measured on problems that no training saw        evaluation/evaluate.py, metrics.py

A folder imports only from those before it in this list:

    settings     every key of a params file, with its range and meaning
    runs         where a run's files lie, which models it has, what it was made from; its lock
    data         problems, their sources, prompts
    reward       the rule, and whether an answer is right
    rollout      responses: records, models, engines
    evaluation   accuracy, length, their uncertainty; comparisons; budget forcing
    training     a pruning round and the choice of its checkpoint
    laptop       the small arithmetic task and its model that thinks too long
    behavior     what the tokens are spent on
    report       tables, figures, the page
    chain        the runner: stages, plan, dry run, check of all numbers

`from kit import grading, settings` gives the two that your own notebooks need first. Nothing else is imported here.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_SHORT = {"grading": "kit.reward.grading"}


def __getattr__(name: str) -> ModuleType:
    """`kit.grading` is `kit.reward.grading`, imported when it is asked for."""
    if name in _SHORT:
        return importlib.import_module(_SHORT[name])
    raise AttributeError(f"module 'kit' has no attribute {name!r}")
