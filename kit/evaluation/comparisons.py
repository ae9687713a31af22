"""What the paper compares (section 4), and what a user of a pruned model asks: stored grades -> CSV files with intervals.

Models are compared on the same problems, paired. Lengths are tokens, accuracies percent, differences points; `_low` and `_high`
are the ends of 95 % intervals.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from kit.evaluation import evaluate, uncertainty
from kit.evaluation.metrics import Graded, efficiency_score, mean_of_sets, per_problem, sets_and_mean, share
from kit.evaluation.uncertainty import columns
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

Models = Mapping[Any, Graded]  # model -> its grades
Pair = tuple[Any, str, str]  # in what two models differ, a model, the model that it is compared with


def gather(config: Config) -> None:
    """What the stages wrote, in one table each: metrics/main.csv (a row per model and set), and of what was trained training.csv
    and validation.csv (a row per step)."""
    run, known = paths.of(config), catalog.facts(config)
    tables = [files.read_csv(run.metrics / f"{model.replace('/', '-')}.csv").assign(schedule=schedule, round=k, limit=limit)
              for model, (schedule, k, limit) in known.items()]
    files.write_csv(run.metrics / "main.csv", pd.concat(tables))
    for name, file in (("training", "log.csv"), ("validation", "validation.csv")) if config.schedules else ():
        tables, before = [], Counter()  # the steps of a schedule's earlier rounds
        for schedule, k, _ in known.values():
            if schedule in config.schedules:
                table = files.read_csv(run.training(schedule, k) / file)
                tables.append(table.assign(schedule=schedule, round=k, total_step=table.step + before[schedule]))
                before[schedule] += table.step.max()
        files.write_csv(run.metrics / f"{name}.csv", pd.concat(tables))


def compare_models(config: Config) -> None:
    """`gather`, and write every comparison of this run into metrics/*.csv; one that the run does not have is an empty file."""
    gather(config)
    models, r, seed = catalog.model_names(config), config.evaluation.resamples, config.seed
    graded = {model: evaluate.load_grades(config, model) for model in models}
    compared = pairs(config)
    told = [model for what, model, _ in compared["controls"][1] if what == "training prompt"]
    everything = graded | {model: evaluate.load_grades(config, model) for model in told}
    tables = {}
    for name, (key, found) in compared.items():
        rows = [compare(everything[other], everything[model], r, seed).assign(
            **{key: what, "model": model.removesuffix(f"/{evaluate.TRAINING_PROMPT}"), "against": other})
            for what, model, other in found]
        tables[name] = pd.concat(rows) if rows else pd.DataFrame(columns=[*dict.fromkeys([key, "model", "against", "set"])])
    tables["changes"] = tables["changes"].drop(columns=["accuracy", "length", "other_accuracy", "other_length"], errors="ignore")
    tables["spend"], tables["spend_gaps"] = equal_spend(graded, r, seed)
    tables |= {"per_problem": problem_changes(graded), "caps": capped(graded, r, seed), "efficiency": efficiency(graded, r, seed)}
    for name, table in tables.items():
        files.write_csv(paths.of(config).metrics / f"{name}.csv", table)


def pairs(config: Config) -> dict[str, tuple[str, list[Pair]]]:
    """Table -> (its column that says in what two models differ, its pairs of models).

    changes: each model and the base, and the last round of each control that nothing asked for brevity.
    one_shot: a round of an iterative schedule and the one-shot model, for each limit that both reach, from the second round on:
    the first is itself one-shot training at its limit.
    controls: `without a limit`: each last round and that of such a control; `compare_with`: a control's last round and its
    counterpart's; `training prompt`: a model's answers in that prompt and those in the evaluation prompt.
    """
    models, schedules = catalog.model_names(config), config.schedules
    last = {name: catalog.last_round(config, name) for name in schedules}
    free = [name for name, plan in schedules.items() if plan.free]
    plain = {name: plan for name, plan in schedules.items() if not plan.free and plan.compare_with is None}
    changes = [(model, model, other) for model in models if model != "base"
               for other in ("base", *(last[name] for name in free)) if other != model]
    limited = {name: plan for name, plan in plain.items() if plan.reward is None}
    singles = {(plan.limits[0], plan.reading): last[name] for name, plan in limited.items() if len(plan.limits) == 1}
    one_shot = [(limit, f"{name}/round{k}", singles[limit, plan.reading])
                for name, plan in limited.items() for k, limit in enumerate(plan.limits, 1)
                if k > 1 and (limit, plan.reading) in singles]
    controls = [("without a limit", last[name], last[other]) for other in free for name in plain]
    controls += [("compare_with", last[name], last[plan.compare_with]) for name, plan in schedules.items() if plan.compare_with]
    if config.evaluation.training_prompt:
        controls += [("training prompt", f"{model}/{evaluate.TRAINING_PROMPT}", model) for model in models
                     if model not in config.logs.models]
    return {"changes": ("model", changes), "one_shot": ("limit", one_shot), "controls": ("control", controls)}


def compare(a: Graded, b: Graded, resamples: int, seed: int) -> pd.DataFrame:
    """b minus a, paired on problems: change of accuracy (points) and of length (percent), 95 % intervals, per set and mean.
    `p_value` is two-sided, of the change of accuracy; `detectable` (points) is the smallest true change of accuracy that so many
    problems of this kind would show four times out of five. Accuracy and length are b's, `other_` a's."""
    tables = {name: _of_same_problems(name, [per_problem(a[name]), per_problem(b[name])]) for name in a}
    rows = []
    for title, names, own_seed in sets_and_mean(a, seed):
        before, after = zip(*(tables[name] for name in names), strict=True)
        change = uncertainty.paired_change([y.accuracy - x.accuracy for x, y in zip(before, after, strict=True)])
        old, new = ([table.length.to_numpy(dtype=float) for table in side] for side in (before, after))
        ratios = mean_of_sets(new) / mean_of_sets(old), *uncertainty.ratio_interval(new, old, resamples, own_seed)
        shorter, *ends = [100 * (ratio - 1) for ratio in ratios]
        rows.append({
            "set": title, "problems": sum(map(len, old)),
            **columns("accuracy_change", change.mean, (change.low, change.high)), "p_value": change.p_value,
            "detectable": change.detectable, **columns("length_change", shorter, ends),
            "accuracy": mean_of_sets([table.accuracy for table in after]), "length": mean_of_sets(new),
            "other_accuracy": mean_of_sets([table.accuracy for table in before]), "other_length": mean_of_sets(old)})
    return pd.DataFrame(rows)


def _of_same_problems(name: str, tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """These tables of data set `name`; KitError when their rows are of different problems."""
    if any(not table.index.equals(tables[0].index) for table in tables):
        raise KitError(f"{name}: the models were not evaluated on the same problems")
    return tables


def problem_changes(graded: Models) -> pd.DataFrame:
    """A row per model, set and problem: accuracy and mean length of the base and of the model, and their changes."""
    table = pd.concat({(model, name): per_problem(grades)[["accuracy", "length"]] for model, by_set in graded.items()
                       for name, grades in by_set.items()}, names=["model", "set", "id"])
    table = table.drop("base", level="model").join(table.loc["base"].add_prefix("base_")).reset_index()
    table["accuracy_change"] = table.accuracy - table.base_accuracy
    table["length_change"] = 100 * (table.length / table.base_length - 1)
    return table[["id", "model", "set", "base_accuracy", "accuracy", "base_length", "length", "accuracy_change", "length_change"]]


def paired_draws(
    graded: Models, table_of: Callable[[pd.DataFrame], pd.DataFrame], resamples: int, seed: int,
) -> dict[tuple[str, Any], tuple[np.ndarray, list[pd.DataFrame]]]:
    """(data set, model) -> means over the same bootstrap resamples of problems (`uncertainty.draws`), and the tables drawn from.
    The data set `mean` is the mean of several, with a table of each. `table_of` makes of grades a table with a row per problem,
    whose columns are drawn. KitError when the models' problems differ."""
    found, names = {}, list(next(iter(graded.values())))
    for k, name in enumerate(names):
        tables = _of_same_problems(name, [table_of(by_set[name]) for by_set in graded.values()])
        for model, table in zip(graded, tables, strict=True):
            found[name, model] = uncertainty.draws(table, resamples, seed + k), [table]
    for model in graded if len(names) > 1 else ():
        drawn, tables = zip(*(found[name, model] for name in names), strict=True)
        found["mean", model] = np.mean(drawn, axis=0), [table for table, in tables]
    return found


def estimate(label: str, draws: np.ndarray, percent: bool = False) -> dict[str, float]:
    """`label`, `label_low` and `label_high` of one row of draws; empty where a length is unknown, the interval also where a
    resample has no value (a base that is never right in it). `percent`: the interval stays within 0 and 100."""
    ends = uncertainty.interval(draws[1:]) if np.isfinite(draws).all() else (np.nan, np.nan)
    return columns(label, draws[0] if np.isfinite(draws[0]) else np.nan, np.clip(ends, 0, 100) if percent else ends)


def pass_at_k(n: Any, correct: Any, k: int) -> Any:
    """The unbiased estimate of pass@k from `correct` right ones among n samples: 1 - C(n - c, k) / C(n, k).

    The chance that k samples drawn from the n without replacement hold at least one right answer (Chen et al., arXiv 2107.03374,
    equation 1). A share, not percent; ValueError when k is more than n.
    """
    n, none_right = np.asarray(n), special.comb(np.subtract(n, correct), k)
    if k > n.min():
        raise ValueError(f"pass@{k} needs at least {k} samples per problem; there are {n.min()}")
    return 1 - none_right / special.comb(n, k)


def equal_spend(graded: Models, resamples: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(a row per model, set and k: `tokens` that k responses take on average, and pass@k (`passed`, percent); a row per model but
    the base, and set: what the model does with the tokens of one response of the base, against that response).

    `affords`: how many of its responses those tokens pay for; `k`: that number within 1 and the samples there are (pass@k is
    interpolated linearly between whole k); `passed`: its pass@k; `base`: the base's pass@1; `gap`: their difference.
    """
    ks = np.arange(1, 1 + min(grades.groupby("id").size().min() for by_set in graded.values() for grades in by_set.values()))

    def table(grades: pd.DataFrame) -> pd.DataFrame:
        right = (grades.verdict == "correct").groupby(grades.id).sum()
        own = per_problem(grades)
        passed = {k: 100 * pass_at_k(own.samples, right, k) for k in ks}
        return pd.DataFrame({"length": own.length, **passed, "samples": own.samples})

    spend, gaps, drawn = [], [], paired_draws(graded, table, resamples, seed)
    for (name, model), (own, tables) in drawn.items():
        length, passes, (base_length, base, *_) = own[0], own[1:-1], drawn[name, "base"][0]
        spend += [{"model": model, "set": name, "k": k, **estimate("tokens", k * length), **share("passed", tables, k, k)}
                  for k in ks]
        affords = base_length / length
        k = np.clip(affords, 1, ks[-1])
        passed = np.array([np.interp(x, ks, y) for x, y in zip(k, passes.T, strict=True)])
        passed[np.isnan(k)] = np.nan  # unknown lengths
        gaps.append({"model": model, "set": name, "tokens": base_length[0], "affords": affords[0], "k": k[0],
                     **estimate("passed", passed, percent=True), **estimate("base", base, percent=True),
                     **estimate("gap", passed - base)})
    return pd.DataFrame(spend), pd.DataFrame(gaps).query("model != 'base'")


def capped(graded: Models, resamples: int, seed: int, points: int = 20) -> pd.DataFrame:
    """Accuracy when generation is stopped at a cap: a row per model, set and cap with `accuracy` and `spent` (mean tokens). A
    response counts when it is correct and no longer than the cap; what is cut off is wrong, its tokens are spent."""
    lengths = np.concatenate([grades.length for by_set in graded.values() for grades in by_set.values()])
    if np.isnan(lengths).all():
        return pd.DataFrame(columns=["model", "set", "cap"])
    caps = np.unique(np.geomspace(max(np.nanmin(lengths), 1), max(np.nanmax(lengths), 1), points).round())

    def table(grades: pd.DataFrame) -> pd.DataFrame:
        length = grades.length.to_numpy()[:, None]
        right = (grades.verdict == "correct").to_numpy()[:, None] & (length <= caps)
        cells = np.hstack([np.where(np.isnan(length), np.nan, 100.0 * right), np.minimum(length, caps)])
        by_problem = pd.DataFrame(cells).groupby(grades.id.to_numpy())
        return by_problem.mean(skipna=False).assign(samples=by_problem.size())

    return pd.DataFrame([
        {"model": model, "set": name, "cap": cap, **share("accuracy", tables, i), **estimate("spent", own[len(caps) + i])}
        for (name, model), (own, tables) in paired_draws(graded, table, resamples, seed).items() for i, cap in enumerate(caps)])


def efficiency(graded: Models, resamples: int, seed: int) -> pd.DataFrame:
    """The score of each model against the base, a row per model and set; `mean` is the score of the means over the sets."""
    drawn = paired_draws(graded, per_problem, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # a base that never is right
        rows = [{"model": model, "set": name, **estimate("score", efficiency_score(*own[:2], *drawn[name, "base"][0][:2]))}
                for (name, model), (own, _) in drawn.items() if model != "base"]
    return pd.DataFrame(rows, columns=["model", "set", "score", "score_low", "score_high"])
