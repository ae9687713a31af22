"""What a new run of a params file can be expected to show: `params/reference/<params>.json`, made from many seeds.

One run says something about its own checkpoints; how far another run, of another seed or on another machine, can be from it is
said by the spread between seeds. Of every headline figure the reference has the mean over the seeds with its 95 % interval, and
the 99 % prediction interval of one new run:

    mean ± t sd / sqrt(n)            the method        (t: Student's quantile of n - 1 degrees of freedom)
    mean ± t sd sqrt(1 + 1 / n)      one new run       (Hahn and Meeker 1991, section 4.7)

99 %, since a run has 28 such figures: at 95 % most runs would have one outside by chance.

Lengths and their changes on the scale of logarithms, since they are skewed. A range reaches at least as far as the n runs do:
some figures have two modes, such as a schedule with which now and then no checkpoint passes. Between the least and the largest
of n runs a new one lies with probability (n - 1) / (n + 1), however they are distributed (the same, chapter 5). It also reaches
as far as the range of runs that share one base model (`same_base`), for that is the one of the default seed.
"""

import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit.evaluation import seeds
from kit.evaluation.uncertainty import LEVEL, POWER, t_quantile
from kit.runs import catalog, files, fingerprint, paths
from kit.settings import ROOT, Config, KitError

RANGES = {"accuracy": (0, 100), "hesitation words": (0, math.inf)}
SCALES = {"length": (np.log, np.exp), "length change": (lambda percent: np.log1p(percent / 100), lambda log: 100 * np.expm1(log))}
NEW_RUN = 0.99  # of new runs, the share whose figure lies within its range
NAME = ("comparison", "quantity", "unit")  # what tells figures apart
name_of = itemgetter(*NAME)
# What the runs of one reference may differ in.
APART = ("run", "seed", "threads", "forcing.models", "evaluation.batch_size", "behavior.reference")


def path_of(params: str) -> Path:
    """The reference of a params file."""
    return ROOT / "params" / "reference" / f"{Path(params).stem}.json"


def headlines(config: Config) -> pd.DataFrame:
    """The headline figures of a finished run: columns comparison, quantity, unit, value. Means of its sets, and of each schedule
    the accuracy of its very last checkpoint on the validation set minus the base model's: what training came to without the rule
    that chooses."""
    table, called = pd.DataFrame(seeds.values_of(config)), catalog.labels(config)
    table = table[table.set == ("mean" if "mean" in set(table.set) else table.set.iloc[-1])]
    models = ~table.quantity.isin(["accuracy", "length"]) | (table.comparison == called["base"])  # of others: the changes
    last = {}
    for schedule, steps in files.read_csv(paths.of(config).metrics / "validation.csv").groupby("schedule", sort=False):
        steps = steps.sort_values(["round", "step"])
        last[called[catalog.last_round(config, schedule)]] = steps.accuracy.iloc[-1] - steps.accuracy.iloc[0]
    for pair in table[table.quantity == "length change"].comparison:
        one, _, other = pair.partition(" minus ")
        if one in last and other in last:
            last[pair] = last[one] - last[other]
    ends = pd.DataFrame({"comparison": last.keys(), "quantity": "last checkpoint", "value": last.values()})
    found = pd.concat([table[models], ends])
    return found.assign(unit=found.quantity.map(seeds.UNITS))[[*NAME, "value"]]


def expected(values: Sequence[float], quantity: str = "", same_base: Sequence[float] = ()) -> dict[str, float]:
    """Mean over runs, its 95 % interval (low, high), their standard deviation, and the prediction interval (from, to). Intervals
    end where the quantity does."""
    there, back = SCALES.get(quantity, (np.asarray, float))
    scaled, n, bounds = there(np.array(values, dtype=float)), len(values), RANGES.get(quantity, (-math.inf, math.inf))
    half, far = (t_quantile(n - 1, level) * np.std(scaled, ddof=1) * math.sqrt(share)
                 for level, share in ((LEVEL, 1 / n), (NEW_RUN, 1 + 1 / n)))
    mean, low, high, start, end = (float(np.clip(back(scaled.mean() + step), *bounds)) for step in (0, -half, half, -far, far))
    also = expected(same_base, quantity) if len(same_base) > 1 else {"from": start, "to": end}
    return {"mean": mean, "low": low, "high": high, "sd": float(np.std(values, ddof=1)),
            "from": min(start, *values, also["from"]), "to": max(end, *values, also["to"])}


def apart(made: dict[str, Any], one: str, other: str) -> dict[str, float]:
    """What is `expected` of the accuracy change of one model less that of another, seed by seed."""
    changes = {figure["comparison"].removesuffix(" minus base"): figure["values"] for figure in made["figures"]
               if figure["quantity"] == "accuracy change"}
    return expected(np.subtract(changes[one], changes[other]).tolist())


def inside(value: float, figure: dict[str, Any]) -> bool:
    """Whether a value lies within the prediction interval, as far as the shown digits tell."""
    margin = 0.5 * 10.0 ** -int(seeds.FORMS[figure["quantity"]][-2])
    return figure["from"] - margin <= value <= figure["to"] + margin


def seeds_needed(sd: float, difference: float = 2.0) -> int:
    """How many seeds show a true mean difference four times out of five (t test, 95 %), where seeds differ by `sd`."""
    n = 2
    while (t_quantile(n - 1) + t_quantile(n - 1, 2 * POWER - 1)) * sd / math.sqrt(n) > difference:
        n += 1
    return n


def make(config: Config, params: str) -> dict[str, Any]:
    """The reference of `params` from the finished runs of `config` (with `seeds`) as a table for JSON. `left_out` is the share of
    figures of single runs that lie within the interval made from the other runs alone."""
    figures = [dict(zip(NAME, name, strict=True)) | {"values": values} for name, values in _of_runs(config).items()]
    return _worked_out({"params": params, **_source(config), "level": NEW_RUN, "left_out": None, "settings": _settings(config),
                        "figures": figures})


def extend(made: dict[str, Any], config: Config) -> None:
    """Add finished runs of other seeds to a reference. `more` says which they are, and how many there were `before`: the ranges
    of those can be held to the new ones."""
    if twice := sorted({*made["seeds"]} & {config.seed, *config.seeds}):
        raise KitError(f"{config.file}: the reference has seed {', '.join(map(str, twice))} already; take others")
    found, more = _of_runs(config), _source(config)
    if "more" in made:
        made["commit"] += " " + made["more"]["commit"]
    made["more"] = more | {"before": len(made["seeds"])}
    made["seeds"] += more["seeds"]
    for figure in made["figures"]:
        figure["values"] += found.get(name_of(figure), [])
    _worked_out(made)


def vary(made: dict[str, Any], config: Config) -> None:
    """Put finished runs that vary the seed of the RL alone (`same_base`) beside a reference: their spread is the RL's luck."""
    found, made["same_base"] = _of_runs(config), _source(config)
    for figure in made["figures"]:
        figure["same_base"] = [round(value, 4) for value in found.get(name_of(figure), [])]
    _worked_out(made)


def held(made: dict[str, Any]) -> dict[str, list[bool]]:
    """Figure -> of each run that came later, whether it lies within the range of those before."""
    n, found = made["more"]["before"], {}
    for figure in made["figures"]:
        before = figure | expected(figure["values"][:n], figure["quantity"], figure.get("same_base", ()))
        found[f"{figure['comparison']}: {figure['quantity']}"] = [inside(value, before) for value in figure["values"][n:]]
    return found


def _worked_out(made: dict[str, Any]) -> dict[str, Any]:
    """A reference whose figures have their intervals, without those that some seeds do not have, such as a length that the
    budget-forcing curve reaches with some only."""
    within, made["figures"] = [], [f for f in made["figures"] if len(f["values"]) == len(made["seeds"])]
    for figure in made["figures"]:
        values, quantity, same = figure["values"], figure["quantity"], figure.get("same_base", ())
        figure |= {key: round(value, 4) for key, value in expected(values, quantity, same).items()}
        figure["values"] = [round(value, 4) for value in values]
        for k, value in enumerate(values if len(values) > 2 else []):
            within.append(inside(value, figure | expected(values[:k] + values[k + 1 :], quantity, same)))
    made["left_out"] = round(float(np.mean(within)), 4) if within else None
    return made


def _of_runs(config: Config) -> dict[tuple[str, ...], list[float]]:
    """NAME of each headline figure -> its values in the runs of `config`."""
    table = pd.concat(headlines(run) for run in (config, *seeds.others(config)))
    return {name: values.tolist() for name, values in table.groupby([*NAME], sort=False).value}


def _source(config: Config) -> dict[str, Any]:
    runs = [config, *seeds.others(config)]
    made = [files.read_json(paths.of(run).manifest) for run in runs]
    return {"runs_of": config.file, "seeds": [run.seed for run in runs], "written": files.now(),
            "commit": " ".join(dict.fromkeys(m["commit"] for m in made)), "versions": made[0]["versions"]}


def _settings(config: Config) -> dict[str, Any]:
    return {key: value for key, value in fingerprint.settings(config).items() if not key.startswith(APART)}


def of(config: Config) -> dict[str, Any] | None:
    """The reference that is made for these settings; None where there is none, or the settings are others."""
    path = path_of(config.file)
    found = files.read_json(path) if path.is_file() else None
    return found if found and found["settings"] == _settings(config) else None


def compare(config: Config) -> tuple[pd.DataFrame, list[str]]:
    """This run beside the reference of its params file (a row per headline figure), and the verdict in sentences. Both are empty
    where the project has no reference for the file. Settings that differ are named in place of a verdict."""
    path = path_of(config.file)
    if not path.is_file():
        return pd.DataFrame(), []
    reference, own, shown = files.read_json(path), _settings(config), f"params/reference/{path.name}"
    if why := fingerprint.told(reference["settings"], own):
        return pd.DataFrame(), [f"No verdict: {shown} is of other settings ({why})."]
    values, rows, outside = headlines(config).set_index([*NAME]).value, [], []
    for figure in reference["figures"]:
        if (name := name_of(figure)) in values.index:
            rows.append({**figure, "value": values[name], "inside": inside(values[name], figure)})
            if not rows[-1]["inside"]:
                outside.append("{comparison}: {quantity} {value:{0}} {unit} (expected {from:{0}} to {to:{0}})".format(
                    seeds.FORMS[figure["quantity"]], **rows[-1]))
    told = [f"{len(rows) - len(outside)} of {len(rows)} figures lie within the range expected of a new run ({shown}: "
            f"{len(reference['seeds'])} seeds)."]
    if outside:
        told.append(f"Outside: {'; '.join(outside)}. Each figure of a run is outside once in 100 by chance; figures of one run "
                    "go together.")
    return pd.DataFrame(rows), told
