"""Before a round is paid for: what would its start earn under the limit, and can anything be learned? A few dozen responses tell.

GRPO learns from groups whose rewards differ. Where no response fits the limit, or all are right, all advantages are 0.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from kit.data import problems, prompts
from kit.evaluation import evaluate
from kit.reward import grading, length_rewards
from kit.rollout import records
from kit.rollout.records import Rollout, Sampling
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, Reward

SIZE = 4
GROUPS = (8, 32, 128)  # of SIZE responses: 32 in all; where no rewards differ 128, then 512, which miss 1 % once in 170 times
FEW = 0.1  # a smaller share of groups with any variance is a warning


def preflight(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """What the start of a round would earn under its limit, under the later ones, and without any; writes preflight.csv.

    Training problems in the training prompt of this round, sampled as in training, up to four times the limit. Columns: `limit`
    (tokens; NaN for none), `cut` (share of responses that are longer), `right`, `no_box`, `varied` (share of groups of four whose
    rewards differ). Raises KitError with what to try when the round could not learn anything (`watch.patience: 0`: a warning).
    """
    plan, t = config.schedules[schedule], config.training
    limits = plan.limits[round - 1:]
    title, run = f"{schedule} round {round}", paths.of(config)
    known = problems.load(config.data.train, config)
    chosen = random.Random(config.seed * 1000 + round).sample(known, min(GROUPS[-1], len(known)))
    how = Sampling(SIZE, t.temperature, t.top_p, max(min(4 * limits[0], config.evaluation.max_new_tokens), limits[0]))
    told, found = limits[0] if plan.state_limit else None, []
    with evaluate.engine_of(config, catalog.start_of_round(config, schedule, round)) as engine:
        tokenizer = engine().tokenizer
        for begin, end in pairwise((0, *GROUPS)):
            found += records.collect(
                engine, chosen[begin:end],
                lambda p: prompts.encode(tokenizer, prompts.training_messages(
                    config.prompts, p.question, told, plan.stated(p.question))),
                how, run.training(schedule, round) / f"preflight{end}.jsonl", config.seed * 1000 + round, f"{title}, before it",
                keep_ids=True)
            rows = [_row(found, limit, tokenizer, plan.reading or t.reading, plan.reward) for limit in (*limits, None)]
            if rows[0]["varied"]:
                break
    table = pd.DataFrame(rows)
    files.write_csv(run.training(schedule, round) / "preflight.csv", table)
    lengths = pd.Series([length for r in found for length in r.model_answer_length])
    tenth, median, most = (f"{lengths.quantile(q):.0f}" for q in (0.1, 0.5, 0.9))
    own, free = rows[0], rows[-1]
    print(f"{title}: {len(lengths)} responses of its start have {median} tokens in the median, {tenth} to {most} in 8 of 10; "
          f"limit {limits[0]} cuts {own['cut']:.0%}. Right: {own['right']:.0%} within it, {free['right']:.0%} without; no box: "
          f"{free['no_box']:.0%}. {own['varied']:.0%} of the groups of {SIZE} have any variance in reward")
    if own["varied"] < FEW:
        few = "few groups have any variance in reward" if own["varied"] else (
            f"in {len(found)} groups of {SIZE} all rewards are equal, so nothing can be learned")
        line = f"{title}: {few}; {_remedy(own, free, median)}"
        if not own["varied"] and config.watch.patience:
            raise KitError(f"{config.file}: {line} (watch: {{patience: 0}} trains all the same)")
        print(f"warning, {line}")
    return table


def _row(
    found: Sequence[Rollout], limit: int | None, tokenizer: Any, reading: str, reward: Reward | None
) -> dict[str, Any]:
    """The figures of these groups with responses cut at `limit`, as the token limit's reward cuts them."""
    texts, golds, ended, verifiers = [], [], [], []
    for r in found:
        ids = [known or tokenizer(text, add_special_tokens=False)["input_ids"]  # a server may not tell them
               for known, text in zip(r.model_answer_ids or [None] * SIZE, r.model_answer, strict=True)]
        texts += r.model_answer if limit is None else [tokenizer.decode(part[:limit], skip_special_tokens=True) for part in ids]
        ended += [end and (limit is None or n <= limit) for end, n in zip(r.finished, r.model_answer_length, strict=True)]
        golds += [r.answer] * SIZE
        verifiers += [r.verifier] * SIZE
    grades = grading.grade_many(texts, golds, reading, finished=ended, verifiers=verifiers)
    right = [g.correct for g in grades]
    earned = list(map(float, right))
    for k, r in enumerate(found if reward else ()):
        group, lengths = slice(k * SIZE, (k + 1) * SIZE), [min(n, limit or n) for n in r.model_answer_length]
        earned[group] = length_rewards.rewards_of(
            reward, right[group], lengths, reward.target_of(r.question) or limit or max(lengths), ended[group],
            [g.verdict != "no answer" for g in grades[group]])
    varied = [len(set(earned[i : i + SIZE])) > 1 for i in range(0, len(earned), SIZE)]
    return {"limit": limit, "cut": 1 - sum(ended) / len(ended), "right": sum(right) / len(right),
            "no_box": sum(g.verdict == "no answer" for g in grades) / len(grades), "varied": sum(varied) / len(varied)}


def _remedy(own: dict, free: dict, median: str) -> str:
    """What to try."""
    if own["right"] > 0.5:
        return "the problems are too easy for this limit: lower it, or take harder ones"
    if free["right"] > own["right"] + 0.1 or own["cut"] > 0.9:
        return f"the limit is too tight to begin with: start above {median} tokens, half of the responses' length"
    if free["no_box"] > 0.5:
        return (f"{free['no_box']:.0%} of the responses have no answer in a box: ask for one in prompts.train_user, or say "
                "training: {reading: last-number}")
    return "the problems are too hard for this model: take easier ones, or more responses per prompt"
