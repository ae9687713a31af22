"""Several seeds: each a whole run of its own (data, base model, training, evaluation), and their results side by side.

`seeds: [2, 3]` in a params file asks for two further runs, `<run>-seed2` and `<run>-seed3`, with a params file each that extends
the first and differs in the seed alone. Over seeds, a comparison is the mean of its values, with an interval that holds the luck
of training as well as that of drawing problems.
"""

import dataclasses
import math
import os
from collections.abc import Iterator

import numpy as np
import pandas as pd

from kit.evaluation.uncertainty import Z, t_quantile
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config

UNITS = {"accuracy": "%", "length": "tokens", "accuracy change": "points", "length change": "%",
         "hesitation words": "a response", "above budget forcing": "points", "last checkpoint": "points"}
FORMS = {"accuracy": ".1f", "length": ".0f", "accuracy change": "+.1f", "length change": "+.1f", "hesitation words": ".2f",
         "above budget forcing": "+.1f", "last checkpoint": "+.1f"}  # how a value is shown


def others(config: Config) -> list[Config]:
    """The settings of the further runs. Their params files are `write_params`'s."""
    folder = paths.of(config).root
    return [dataclasses.replace(config, run=f"{config.run}-seed{seed}", seed=seed, seeds=(),
                                file=os.path.relpath(folder / f"seed{seed}.yaml", ROOT)) for seed in config.seeds]


def write_params(config: Config) -> list[Config]:
    """Write each further run's params file into results/<run>/seed<k>.yaml, so that its notebooks can be run by hand as well."""
    for other in others(config):
        file = ROOT / other.file
        parent = os.path.relpath(ROOT / config.file, file.resolve().parent)
        files.write_text(file, f"# Written by the chain: {config.file} with another seed.\n"
                               f"extends: {parent}\nrun: {other.run}\nseed: {other.seed}\nseeds: []\n")
    return others(config)


def combine_seeds(config: Config) -> None:
    """Gather the `values_of` all seeds; writes metrics/seeds.csv and seeds_combined.csv."""
    each = pd.DataFrame([row for of_seed in (config, *others(config)) for row in values_of(of_seed)])
    files.write_csv(paths.of(config).metrics / "seeds.csv", each)
    same, combined = config.model.source != "arithmetic" or config.arithmetic.seed is not None, []
    for (comparison, quantity, name), own in each.groupby(["comparison", "quantity", "set"], sort=False):
        by_seed = " · ".join(f"{v:{FORMS[quantity]}}" for v in own.value)
        combined.append({"comparison": comparison, "quantity": quantity, "unit": UNITS[quantity], "set": name, "by_seed": by_seed,
                         **combine(own.value.to_numpy(), own.low.to_numpy(), own.high.to_numpy(), same)})
    files.write_csv(paths.of(config).metrics / "seeds_combined.csv", pd.DataFrame(combined))


def values_of(config: Config) -> Iterator[dict[str, object]]:
    """One seed's values: each model's accuracy and length, its changes against the base, iterative minus one-shot, its hesitation
    words per response, and its accuracy minus that of the base when forced to the same length."""
    called, metrics = catalog.labels(config), paths.of(config).metrics
    changes = {"accuracy change": "accuracy_change", "length change": "length_change"}
    columns = {"main": {"accuracy": "accuracy", "length": "length"}, "changes": changes, "one_shot": changes,
               "keywords": {"hesitation words": "per_response"}, "forcing_gaps": {"above budget forcing": "gap"}}
    for name, quantities in columns.items():
        if name in ("keywords", "forcing_gaps") and not (metrics / f"{name}.csv").is_file():
            continue
        for r in files.read_csv(metrics / f"{name}.csv").to_dict("records"):
            if name == "changes" and r["against"] != "base" or r.get("keywords", "hesitation") != "hesitation":
                continue
            title = called[r["model"]] + (f" minus {called[r['against']]}" if "against" in r else "")
            for quantity, column in quantities.items():
                if pd.notna(r[column]):
                    yield {"comparison": title, "quantity": quantity, "set": r["set"], "seed": config.seed, "value": r[column],
                           "low": r[f"{column}_low"], "high": r[f"{column}_high"]}


def combine(values: np.ndarray, low: np.ndarray, high: np.ndarray, same_problems: bool = False) -> dict[str, float]:
    """Mean over n seeds and its 95 % interval, for other seeds and other problems: mean ± half.

        each seed has problems of its own:  half = max(t * sd, z * sd_problems) / sqrt(n)
        all seeds have the same problems:   half = sqrt((t * sd)^2 / n + (z * sd_problems)^2)

    `sd` is the standard deviation between the seeds' values, t Student's quantile (n - 1 degrees of freedom), z the normal one;
    `sd_problems` the root mean square of the standard errors that `low` and `high`, each seed's own 95 % interval over problems,
    stand for. Few seeds can agree by luck, so the interval is never narrower than the problems alone would make it;
    that of a single seed is its own.
    """
    if len(values) == 1:
        return {"seeds": 1, "value": values[0], "low": low[0], "high": high[0]}
    n, sd, mean = len(values), float(np.std(values, ddof=1)), float(np.mean(values))
    problems = float(np.sqrt(np.mean(((high - low) / (2 * Z)) ** 2)))
    seeds = t_quantile(n - 1) * sd
    half = math.hypot(seeds / math.sqrt(n), Z * problems) if same_problems else max(seeds, Z * problems) / math.sqrt(n)
    return {"seeds": n, "value": mean, "low": mean - half, "high": mean + half, "sd": sd, "sd_problems": problems}
