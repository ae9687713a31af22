"""Before a round is paid for: what would its start earn under the limit, and can anything be learned? A few dozen responses tell.

GRPO learns from groups whose rewards differ. Where no response fits the limit, or all are right, all advantages are 0.
Notebook 02 teaches with the same responses: their rewards at three limits, and the advantages of a group.
"""

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from kit.data import problems, prompts
from kit.evaluation import evaluate
from kit.reward import grading, length_rewards
from kit.rollout import models, records
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, Reward

SIZE = 4
GROUPS = (8, 32, 128)  # of SIZE responses: 32 in all; where no rewards differ 128, then 512, which miss 1 % once in 170 times
FEW = 0.1  # a smaller share of groups with any variance is a warning
END = 44  # characters of a response that a table shows; pandas cuts at 50


def preflight(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """What the start of a round would earn under its limit, under the later ones, and without any; writes preflight.csv.

    Training problems in the training prompt of this round, sampled as in training, up to four times the limit. Columns: `limit`
    (tokens; NaN for none), `cut` (share of responses that are longer), `right`, `no_box`, `varied` (share of groups of four whose
    rewards differ). Raises KitError with what to try when the round could not learn anything (`watch.patience: 0`: a warning)."""
    plan, t = config.schedules[schedule], config.training
    limits = plan.limits[round - 1:]
    title, run = f"{schedule} round {round}", paths.of(config)
    known = problems.load(config.data.train, config)
    chosen = random.Random(config.seed * 1000 + round).sample(known, min(GROUPS[-1], len(known)))
    how = records.Sampling(SIZE, t.temperature, t.top_p, max(min(4 * limits[0], config.evaluation.max_new_tokens), limits[0]))
    told, found = limits[0] if plan.state_limit else None, []
    with evaluate.engine_of(config, catalog.start_of_round(config, schedule, round)) as engine:
        tokenizer = engine().tokenizer
        for begin, end in pairwise((0, *GROUPS)):
            found += records.collect(
                engine, chosen[begin:end],
                lambda p: prompts.encode(tokenizer, prompts.training_messages(config.prompts, p.question, told, plan)),
                how, run.training(schedule, round) / f"preflight{end}.jsonl", config.seed * 1000 + round, f"{title}, before it",
                keep_ids=SIZE)
            asked = _responses(found, tokenizer)
            rows = [_row(_cut(asked, limit, tokenizer, plan.reading or t.reading), limit, plan.reward)
                    for limit in (*limits, None)]
            if rows[0]["varied"]:
                break
    table = pd.DataFrame(rows)
    files.write_csv(run.training(schedule, round) / "preflight.csv", table)
    tenth, median, most = (f"{asked.length.quantile(q):.0f}" for q in (0.1, 0.5, 0.9))
    own, free = rows[0], rows[-1]
    print(f"{title}: {len(asked)} responses of its start have {median} tokens in the median, {tenth} to {most} in 8 of 10; "
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


def _responses(found: Sequence[records.Rollout], tokenizer: Any) -> pd.DataFrame:
    """A row per response: the columns of its rollout, and `tokens`, the ids; a server may not tell them."""
    table = pd.DataFrame(map(vars, found)).explode(
        ["model_answer", "model_answer_length", "finished", "model_answer_ids"], ignore_index=True)
    tokens = [known or tokenizer(text, add_special_tokens=False)["input_ids"]
              for known, text in zip(table.model_answer_ids, table.model_answer, strict=True)]
    return table.assign(tokens=tokens, length=table.model_answer_length.astype(int), finished=table.finished.astype(bool))


def _cut(table: pd.DataFrame, limit: int | None, tokenizer: Any, reading: str) -> pd.DataFrame:
    """These responses cut at `limit` and graded, as the token limit does it: also `text`, `ended`, `right` and `boxed`."""
    texts = [tokenizer.decode(ids[:limit], skip_special_tokens=True) for ids in table.tokens]
    ended = table.finished & (table.length <= (limit or math.inf))
    grades = grading.grade_many(texts, list(table.answer), reading, finished=ended.tolist(), verifiers=list(table.verifier))
    return table.assign(text=texts, ended=ended, length=table.length.clip(upper=limit), right=[g.correct for g in grades],
                        boxed=[g.verdict != "no answer" for g in grades])


def _row(cut: pd.DataFrame, limit: int | None, reward: Reward | None) -> dict[str, Any]:
    """The figures of responses that were cut at `limit`."""
    varied = 0
    for _, group in cut.groupby("id"):
        right, lengths = group.right.tolist(), group.length.tolist()
        target = reward and (reward.target_of(group.question.iloc[0]) or limit or max(lengths))
        earned = right if reward is None else length_rewards.rewards_of(
            reward, right, lengths, target, group.ended.tolist(), group.boxed.tolist())
        varied += len(set(earned)) > 1
    return {"limit": limit, "cut": 1 - cut.ended.mean(), "right": cut.right.mean(), "no_box": 1 - cut.boxed.mean(),
            "varied": varied / cut.id.nunique()}


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


def rewarded(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """Every response of the preflight under the round's limit, twice and four times that: what is read of it, and its reward.
    Columns: `id` (of the problem), `response` (a number), `limit`, `tokens` (of all of it), `what is read ends in`,
    `right answer`, `reward`."""
    plan, folder = config.schedules[schedule], paths.of(config).training(schedule, round)
    tokenizer, limit = models.load_tokenizer(catalog.start_of_round(config, schedule, round), config), plan.limits[round - 1]
    found = [r for end in GROUPS if (path := folder / f"preflight{end}.jsonl").is_file() for r in records.read(path)]
    known, tables = _responses(found, tokenizer), []
    for n in (limit, 2 * limit, 4 * limit):
        cut = _cut(known, n, tokenizer, plan.reading or config.training.reading)
        tables.append(pd.DataFrame({
            "id": known.id, "response": known.index, "limit": n, "tokens": known.length,
            "what is read ends in": "… " + cut.text.str[-END:], "right answer": known.answer, "reward": cut.right.astype(float)}))
    return pd.concat(tables, ignore_index=True)


def one_response(table: pd.DataFrame) -> pd.DataFrame:
    """A response of `rewarded`, a row per limit: one that is right under the last, and if there is one wrong under the first."""
    rewards = table.groupby("response").reward
    chosen = (2 * rewards.last() - rewards.first()).idxmax()
    return table[table.response == chosen].set_index("limit").drop(columns=["id", "response"])


def one_group(table: pd.DataFrame) -> pd.DataFrame:
    """The first group of `rewarded` whose rewards under the round's limit differ, with advantages: (r - mean) / (std + 1e-4)."""
    own = table[table.limit == table.limit.min()]
    differing = own[own.groupby("id").reward.transform("nunique") > 1]
    group = own[own.id == (differing if len(differing) else own).id.iloc[0]].set_index("response").drop(columns=["id", "limit"])
    return group.assign(advantage=(group.reward - group.reward.mean()) / (group.reward.std() + 1e-4))
