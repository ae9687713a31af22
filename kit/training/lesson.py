"""What notebook 02 teaches with: the rewards and advantages of real responses, those that the preflight of a round has stored."""

from __future__ import annotations

import pandas as pd

from kit.reward.token_limit import TokenLimitReward
from kit.rollout import models, records
from kit.runs import catalog, paths
from kit.settings import Config
from kit.training import preflight

END = 44  # characters of a response that a table shows; pandas cuts at 50


def rewarded(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """Every response of the preflight under the round's limit, twice and four times that: what is read of it, and its reward.

    Columns: `id` (of the problem), `response` (a number), `limit`, `tokens` (of all of it), `what is read ends in`,
    `right answer`, `reward`.
    """
    plan, folder = config.schedules[schedule], paths.of(config).training(schedule, round)
    start, limit = catalog.start_of_round(config, schedule, round), plan.limits[round - 1]
    tokenizer = models.load_tokenizer(start, config)
    ends = models.end_tokens(start, config, tokenizer)
    found = [r for end in preflight.GROUPS if (path := folder / f"preflight{end}.jsonl").is_file() for r in records.read(path)]
    rows = [(r.id, n, known or tokenizer(text, add_special_tokens=False)["input_ids"], r.answer)  # a server may not tell them
            for r in found for n, known, text in zip(r.model_answer_length, r.model_answer_ids, r.model_answer, strict=True)]
    problem, tokens, written, golds = zip(*rows, strict=True)
    tables = []
    for n in (limit, 2 * limit, 4 * limit):
        rule = TokenLimitReward(n, tokenizer, plan.reading or config.training.reading, ends)
        read = ["… " + tokenizer.decode(ids[:n], skip_special_tokens=True)[-END:] for ids in written]
        tables.append(pd.DataFrame({"id": problem, "response": range(len(rows)), "limit": n, "tokens": tokens,
                                    "what is read ends in": read, "right answer": golds, "reward": rule(written, golds)}))
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
