"""Which way of rewarding brevity buys what: the finished runs of all seeds -> frontier.csv, volumes.csv, reward_pairs.csv.

A **setting** is a schedule, such as LASER with a target of 40; a **method** has several (other weights, targets or limits). All
start from the same base model of their seed, so seeds are paired.

    volume = mean over all lengths x from 0 to the base's of the best accuracy among a method's points that are not longer than x

is the hypervolume of accuracy and length (Zitzler and Thiele 1999), with accuracy 0 and the base's length as reference, as a mean
accuracy in percent. `at …` is that best accuracy at three lengths, shares of the base's. A method with more settings has more
chances to be high: compare those with equally many.

Below that, what each method pays and what becomes of it: the rewards and advantages of three made-up groups.
"""

import itertools
import math

import numpy as np
import pandas as pd

from kit.evaluation import seeds
from kit.evaluation.uncertainty import columns, paired_change
from kit.reward import length_rewards
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, Reward, Schedule

SHARES = (1 / 3, 1 / 2, 2 / 3)  # of the base's length: the three lengths


def method_of(plan: Schedule) -> str:
    """The method of a schedule: its reward, whether its target falls, and whether it has its paper's own recipe."""
    if plan.reward is None:
        return "none" if plan.free else "token_limit"
    return plan.reward.name + ", falling" * bool(plan.reward.target_to) + ", own recipe" * (plan.reward.recipe == "own")


def write(config: Config) -> None:
    """Write the three tables into metrics/, of this run and its further seeds."""
    each, same = points(config), config.model.source != "arithmetic" or config.arithmetic.seed is not None
    tables = {"frontier": combined(each, same), "volumes": volumes(each), "reward_pairs": pairs(volumes(each))}
    for name, table in tables.items():
        files.write_csv(paths.of(config).metrics / f"{name}.csv", table)


def points(config: Config) -> pd.DataFrame:
    """A row per seed and last model of a schedule (and the base): seed, model, method, accuracy and length, mean of the sets,
    each with its interval over problems, and the tokens of the thinking. KitError when a seed's run is not finished."""
    methods = {catalog.last_round(config, name): method_of(plan) for name, plan in config.schedules.items()} | {"base": "base"}
    tables = []
    for run in (config, *seeds.others(config)):
        table = files.read_csv(paths.of(run).metrics / "main.csv")
        table = table[table.set == ("mean" if "mean" in set(table.set) else table.set.iloc[-1])]
        table = table[table.model.isin(methods)]
        if missing := set(methods) - set(table.model):
            raise KitError(f"{paths.of(run).shown}: {', '.join(sorted(missing))} is not evaluated yet; run the chain to its end")
        table = table.assign(seed=run.seed, method=table.model.map(methods), thinking=math.nan)
        spans = paths.of(run).metrics / "spans.csv"  # notebook 05's
        if spans.is_file():
            known = files.read_csv(spans).set_index(["model", "set"]).thinking
            table["thinking"] = [known.get((r.model, r.set)) for r in table.itertuples()]
        tables.append(table)
    ends = [f"{column}{end}" for column in ("accuracy", "length") for end in ("", "_low", "_high")]
    return pd.concat(tables)[["seed", "model", "method", *ends, "thinking"]]


def combined(each: pd.DataFrame, same_problems: bool = False) -> pd.DataFrame:
    """A row per model: mean accuracy and length over the seeds with 95 % intervals, and whether another one is at least as short
    and as accurate, and better in one of the two (`dominated`, by the means)."""
    rows = []
    for (model, method), own in each.groupby(["model", "method"], sort=False):
        row = {"model": model, "method": method, "set": "mean", "seeds": len(own), "thinking": own.thinking.mean()}
        for column, most in (("accuracy", 100), ("length", math.inf)):
            found = seeds.combine(*(own[f"{column}{end}"].to_numpy() for end in ("", "_low", "_high")), same_problems)
            row |= columns(column, found["value"], np.clip((found["low"], found["high"]), 0, most))
        rows.append(row)
    table = pd.DataFrame(rows)
    at = table[["length", "accuracy"]].to_numpy() * (1, -1)  # both: the less, the better
    return table.assign(dominated=[any((other <= own).all() and (other < own).any() for other in at) for own in at])


def volumes(each: pd.DataFrame) -> pd.DataFrame:
    """A row per seed and method: `volume` and the best accuracy at SHARES of the base's length (percent; NaN where no setting is
    so short), and its number of settings."""
    rows = []
    for seed, of_seed in each.groupby("seed", sort=False):
        base = of_seed[of_seed.method == "base"].iloc[0]
        for method, own in of_seed[of_seed.method != "base"].groupby("method", sort=False):
            inside = own[own.length < base.length].sort_values("length")
            widths = np.diff([*inside.length, base.length])
            rows.append({
                "method": method, "seed": seed, "settings": len(own),
                "volume": (widths * inside.accuracy.cummax()).sum() / base.length,
                **{f"at {share:.0%}": own.accuracy[own.length <= share * base.length].max() for share in SHARES}})
    return pd.DataFrame(rows)


def pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of methods with equally many settings: difference of the volumes (points), paired over seeds, with its 95 %
    t interval. Empty with a single seed, which says nothing about methods."""
    rows, n = [], scores.seed.nunique()
    settings = scores.groupby("method", sort=False).settings.first()
    wide = scores.pivot(index="seed", columns="method", values="volume")
    for one, other in itertools.combinations(settings.index, 2) if n > 1 else ():
        if settings[one] == settings[other]:
            gap = paired_change([wide[one] - wide[other]])
            rows.append({"method": one, "other": other, "seeds": n, **columns("difference", gap.mean, (gap.low, gap.high))})
    return pd.DataFrame(rows, columns=["method", "other", "seeds", "difference", "difference_low", "difference_high"])


# --- what the rewards pay ---------------------------------------------------------------------------------------------

SIZE = 16  # responses of the groups that are drawn
CORRECT = {"all correct": [True] * SIZE, "mixed": [k % 2 == 0 for k in range(SIZE)], "all wrong": [False] * SIZE}


def scale_of(config: Config, plan: Schedule) -> str:
    """What the advantages of a schedule are divided by: `group`, `batch` or `none`."""
    return str(length_rewards.training_of(config.training, plan.reward or Reward()).trl["scale_rewards"])


def groups(config: Config, lengths: list[int]) -> pd.DataFrame:
    """A row per method, kind of group (CORRECT) and response: length, correct, reward and advantage. A method has the settings of
    its first schedule; the token limit's target is the limit. Advantages are normalized as the method's are, for `batch` over
    these three groups."""
    firsts, tables = {}, []
    for plan in config.schedules.values():
        firsts.setdefault(method_of(plan), plan)
    for name, plan in firsts.items():
        reward, scale = plan.reward or Reward(), scale_of(config, plan)
        target = reward.target or (sum(reward.targets) // 2 if reward.targets else plan.limits[0])
        earned = [length_rewards.rewards_of(reward, right, lengths, target) for right in CORRECT.values()]
        for (kind, right), r, a in zip(CORRECT.items(), earned, length_rewards.advantages(earned, scale), strict=True):
            tables.append(pd.DataFrame({"method": name, "scale": scale, "group": kind, "length": lengths, "correct": right,
                                        "reward": r, "advantage": a}))
    return pd.concat(tables)


def advantages_of(name: str, weight: float, kind: str, lengths: list[int], scale: str) -> np.ndarray:
    """The advantages of a group (of CORRECT) under one reward with this weight."""
    earned = length_rewards.rewards_of(Reward(name=name, weight=weight), CORRECT[kind], lengths, lengths[-1])
    return length_rewards.advantages([earned], scale)[0]


def method_table(config: Config) -> pd.DataFrame:
    """Every method of the kit: its formula, its own normalization, its settings, and in how many schedules the run has it."""
    used = [plan.reward.name if plan.reward else "token_limit" for plan in config.schedules.values()]
    return pd.DataFrame([
        {"method": name, "reward": (m.function.__doc__ or "").split("\n")[0], "advantages over": m.scale,
         "settings": ", ".join(f"{k} {v:g}" for k, v in length_rewards.settings_of(m.function).items() if v is not None),
         "schedules here": used.count(name)} for name, m in length_rewards.METHODS.items()]).set_index("method")
