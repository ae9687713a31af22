"""What the paper compares, and what a user of a pruned model asks: stored grades -> CSV files with intervals.

- one-shot against iterative pruning at each limit; controls against their counterparts (paper, section 4);
- accuracy against length, problem by problem;
- accuracy at equal token spend: pass@k against k responses' tokens, and accuracy under a hard cap of tokens;
- the accuracy-efficiency score of later papers.

All differences are paired: models are compared on the same bootstrap resamples of the same problems. Lengths are tokens,
accuracies percent, differences points; `_low` and `_high` are the ends of 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.evaluation import evaluation, statistics, uncertainty
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

Graded = dict[str, pd.DataFrame]  # data set -> grades


def summarize(config: Config) -> None:
    """Write every comparison of this run into metrics/*.csv; a comparison that the run does not have is an empty file."""
    graded = {model: evaluation.load_grades(config, model) for model in catalog.model_names(config)}
    r, seed = config.evaluation.resamples, config.seed
    tables = {
        "one_shot": one_shot(config, graded),
        "controls": controls(config, graded),
        "per_problem": problem_changes(graded),
        "spend": equal_spend(graded, r, seed),
        "spend_gaps": spend_gaps(graded, r, seed),
        "caps": capped(graded, r, seed),
        "efficiency": efficiency(graded, r, seed),
    }
    for name, table in tables.items():
        files.write_csv(paths.of(config).metrics / f"{name}.csv", table)


def paired_draws(tables: dict[str, Sequence[pd.DataFrame]], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Means of several models' per-problem tables over the same bootstrap resamples of problems.

    `tables`: per data set one table per model, all with the same index (problems) and columns. Returns per set, and for
    `mean` over them when there are several, an array (models, columns, 1 + resamples): first the estimate, then the replicates.
    The resamples are those of `evaluation.metrics` with the same seed. Raises KitError when the problems differ.
    """
    drawn = {}
    for k, (name, of_models) in enumerate(tables.items()):
        first = of_models[0].index
        if any(not table.index.equals(first) for table in of_models):
            raise KitError(f"{name}: the models were not evaluated on the same problems")
        n = len(first)
        weights = np.vstack([np.full((1, n), 1 / n), uncertainty.bootstrap_weights(n, resamples, seed + k)])
        drawn[name] = np.stack([(weights @ table.to_numpy(dtype=float)).T for table in of_models])
    if len(drawn) > 1:
        drawn["mean"] = np.mean(list(drawn.values()), axis=0)
    return drawn


def estimate(label: str, draws: np.ndarray, share: bool = False) -> dict[str, float]:
    """`label`, `label_low` and `label_high` of one row of `paired_draws`; empty where a length is unknown, the interval also
    where a resample has no value (a base model that is never right in it has no relative change). `share`: a percentage of
    something, whose interval stays within 0 and 100."""
    low, high = uncertainty.interval(draws[1:]) if np.isfinite(draws).all() else (np.nan, np.nan)
    if share:
        low, high = np.clip((low, high), 0, 100).tolist()
    return {label: float(draws[0]) if np.isfinite(draws[0]) else np.nan, f"{label}_low": low, f"{label}_high": high}


# --- schedules against each other -------------------------------------------------------------------------------------


def one_shot_pairs(config: Config) -> list[tuple[int, str, str]]:
    """(limit, round of an iterative schedule, one-shot model) for each limit that both reach, from the second round on.

    The first round of an iterative schedule is itself one-shot training at its limit.
    """
    plain = {name: plan for name, plan in config.schedules.items() if plan.state_limit and plan.compare_with is None}
    singles = {(plan.limits[0], plan.reading): catalog.round_name(name, 1) for name, plan in plain.items() if len(plan.limits) == 1}
    return [(limit, catalog.round_name(name, k), singles[limit, plan.reading])
            for name, plan in plain.items() for k, limit in enumerate(plan.limits, 1)
            if k > 1 and (limit, plan.reading) in singles]


def one_shot(config: Config, graded: dict[str, Graded]) -> pd.DataFrame:
    """Iterative minus one-shot, per limit and set: the columns of `difference`."""
    rows = [difference(config, graded[other], graded[model]).assign(limit=limit, model=model, against=other)
            for limit, model, other in one_shot_pairs(config)]
    return pd.concat(rows) if rows else pd.DataFrame(columns=["limit", "model", "against", "set"])


def difference(config: Config, a: Graded, b: Graded) -> pd.DataFrame:
    """b minus a as `evaluation.compare` has it, with both accuracies and lengths."""
    table = statistics.compare(a, b, config.evaluation.resamples, config.seed)
    for prefix, grades in (("", b), ("other_", a)):
        means = statistics.metrics(grades, 1, 0)
        table[f"{prefix}accuracy"], table[f"{prefix}length"] = means.accuracy, means.length
    return table


def controls(config: Config, graded: dict[str, Graded]) -> pd.DataFrame:
    """Each control against what it controls for; columns of `difference`, `control` says which.

    `without a limit`: each last round against the last round of a schedule that saw no limit and is nobody's counterpart;
    `compare_with`: a control's last round against its counterpart's; `training prompt`: a model's answers in
    the training prompt against those in the evaluation prompt (where `evaluation.training_prompt` asked for them).
    """
    last = {name: catalog.last_round(config, name) for name in config.schedules}
    free = [name for name, plan in config.schedules.items() if not plan.state_limit and plan.compare_with is None]
    pairs = [("without a limit", last[name], last[other]) for other in free for name, plan in config.schedules.items()
             if name not in free and plan.compare_with is None]
    pairs += [("compare_with", last[name], last[plan.compare_with])
              for name, plan in config.schedules.items() if plan.compare_with]
    rows = [difference(config, graded[b], graded[a]).assign(control=control, model=a, against=b) for control, a, b in pairs]
    if config.evaluation.training_prompt:
        for model, own in graded.items():
            told = evaluation.load_grades(config, f"{model}/{evaluation.TRAINING_PROMPT}")
            rows.append(difference(config, own, told).assign(control="training prompt", model=model, against=model))
    return pd.concat(rows) if rows else pd.DataFrame(columns=["control", "model", "against", "set"])


# --- problem by problem -----------------------------------------------------------------------------------------------


def problem_changes(graded: dict[str, Graded]) -> pd.DataFrame:
    """A row per model, set and problem: accuracy and mean length of the base and of the model, and their changes."""
    rows = []
    for model, by_set in graded.items():
        for name, grades in by_set.items():
            own, base = statistics.per_problem(grades), statistics.per_problem(graded["base"][name])
            table = pd.DataFrame({"model": model, "set": name, "base_accuracy": base.accuracy, "accuracy": own.accuracy,
                                  "base_length": base.length, "length": own.length})
            table["accuracy_change"] = own.accuracy - base.accuracy
            table["length_change"] = 100 * (own.length / base.length - 1)
            rows += [table.reset_index(names="id")] if model != "base" else []
    return pd.concat(rows) if rows else pd.DataFrame(columns=["model", "set", "id"])


# --- equal spend ------------------------------------------------------------------------------------------------------


def pass_at_k(n: Any, correct: Any, k: int) -> np.ndarray:
    """The unbiased estimate of pass@k from `correct` right ones among n samples: 1 - C(n - c, k) / C(n, k).

    The chance that k samples drawn from the n without replacement hold at least one right answer (Chen et al., arXiv 2107.03374,
    equation 1). A share, not percent; ValueError when k is more than n.
    """
    n, c = np.broadcast_arrays(np.asarray(n), np.asarray(correct))
    if k > n.min(initial=k):
        raise ValueError(f"pass@{k} needs at least {k} samples per problem; there are {n.min()}")
    none_right = np.ones(n.shape)
    for i in range(k):  # C(n - c, k) / C(n, k), factor by factor
        none_right *= np.clip(n - c - i, 0, None) / (n - i)
    return 1 - none_right


def _spend_tables(graded: dict[str, Graded]) -> dict[str, list[pd.DataFrame]]:
    """Per set and model: per problem its mean length and pass@1, pass@2, … (percent), as far as all have samples."""
    most = min(int(grades.groupby("id").size().min()) for by_set in graded.values() for grades in by_set.values())
    tables: dict[str, list[pd.DataFrame]] = {}
    for by_set in graded.values():
        for name, grades in by_set.items():
            right = (grades.verdict == "correct").groupby(grades.id).agg(["size", "sum"])
            table = {"length": statistics.per_problem(grades).length}
            table |= {k: pd.Series(100 * pass_at_k(right["size"], right["sum"], k), right.index) for k in range(1, most + 1)}
            tables.setdefault(name, []).append(pd.DataFrame(table))
    return tables


def equal_spend(graded: dict[str, Graded], resamples: int, seed: int) -> pd.DataFrame:
    """A row per model, set and k: `tokens` that k responses take on average, and pass@k (`passed`, percent)."""
    rows = []
    for name, draws in paired_draws(_spend_tables(graded), resamples, seed).items():
        for model, own in zip(graded, draws, strict=True):
            rows += [{"model": model, "set": name, "k": k, **estimate("tokens", k * own[0]),
                      **estimate("passed", own[k], share=True)} for k in range(1, len(own))]
    return pd.DataFrame(rows)


def spend_gaps(graded: dict[str, Graded], resamples: int, seed: int) -> pd.DataFrame:
    """What each model does with the tokens of one response of the base, against that response; a row per model and set.

    `affords`: how many of its responses those tokens pay for; `k`: that number within 1 and the samples there are (pass@k is
    interpolated linearly between whole k); `passed`: its pass@k; `base`: the base's pass@1; `gap`: their difference.
    """
    rows = []
    names = list(graded)
    for name, draws in paired_draws(_spend_tables(graded), resamples, seed).items():
        base = draws[names.index("base")]
        ks = np.arange(1, draws.shape[1])
        for model, own in zip(names, draws, strict=True):
            affords = base[0] / own[0]
            k = np.clip(affords, 1, ks[-1])
            passed = np.array([np.interp(x, ks, y) for x, y in zip(k, own[1:].T, strict=True)])
            passed[np.isnan(k)] = np.nan  # unknown lengths
            rows.append({"model": model, "set": name, "tokens": base[0, 0], "affords": affords[0], "k": k[0],
                         **estimate("passed", passed, share=True), **estimate("base", base[1], share=True),
                         **estimate("gap", passed - base[1])})
    table = pd.DataFrame(rows)
    return table[table.model != "base"]


def capped(graded: dict[str, Graded], resamples: int, seed: int, points: int = 20) -> pd.DataFrame:
    """Accuracy when generation is stopped at a cap: a row per model, set and cap with `accuracy` and `spent` (mean tokens).

    A response counts when it is correct and no longer than the cap; what is cut off is wrong, its tokens are spent.
    """
    lengths = np.concatenate([grades.length for by_set in graded.values() for grades in by_set.values()]).astype(float)
    lengths = lengths[~np.isnan(lengths)]
    if not len(lengths):
        return pd.DataFrame(columns=["model", "set", "cap"])
    caps = np.unique(np.geomspace(max(lengths.min(), 1), max(lengths.max(), 1), points).round())
    tables: dict[str, list[pd.DataFrame]] = {}
    for by_set in graded.values():
        for name, grades in by_set.items():
            right, length = (grades.verdict == "correct").to_numpy(), grades.length.to_numpy(dtype=float)
            cells = {f"right{c:.0f}": np.where(np.isnan(length), np.nan, 100.0 * (right & (length <= c))) for c in caps}
            cells |= {f"spent{c:.0f}": np.minimum(length, c) for c in caps}
            tables.setdefault(name, []).append(pd.DataFrame(cells).groupby(grades.id.to_numpy()).mean(skipna=False))
    rows = []
    for name, draws in paired_draws(tables, resamples, seed).items():
        for model, own in zip(graded, draws, strict=True):
            rows += [{"model": model, "set": name, "cap": cap, **estimate("accuracy", own[i], share=True),
                      **estimate("spent", own[len(caps) + i])} for i, cap in enumerate(caps)]
    return pd.DataFrame(rows)


# --- the accuracy-efficiency score ------------------------------------------------------------------------------------


def efficiency_score(accuracy: Any, length: Any, base_accuracy: Any, base_length: Any) -> Any:
    """The accuracy-efficiency score, AES (O1-Pruner, arXiv 2501.12570, section on metrics; used by later papers).

        AES = alpha * dL + beta  * |dA|   if dA >= 0
              alpha * dL - gamma * |dA|   if dA < 0

    with dL = (base length - length) / base length, dA = (accuracy - base accuracy) / base accuracy, alpha = 1, beta = 3,
    gamma = 5: accuracy lost weighs more than accuracy gained, and both more than length saved. 0 is the base itself.
    """
    shorter = (base_length - length) / base_length
    better = (accuracy - base_accuracy) / base_accuracy
    return shorter + np.where(better >= 0, 3.0, 5.0) * better


def efficiency(graded: dict[str, Graded], resamples: int, seed: int) -> pd.DataFrame:
    """The score of each model against the base, a row per model and set; `mean` is the score of the means over the sets."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for by_set in graded.values():
        for name, grades in by_set.items():
            tables.setdefault(name, []).append(statistics.per_problem(grades)[["accuracy", "length"]])
    rows = []
    for name, draws in paired_draws(tables, resamples, seed).items():
        base = draws[list(graded).index("base")]
        with np.errstate(divide="ignore", invalid="ignore"):  # a base that never is right
            rows += [{"model": model, "set": name, **estimate("score", efficiency_score(*own, *base))}
                     for model, own in zip(graded, draws, strict=True) if model != "base"]
    return pd.DataFrame(rows, columns=["model", "set", "score", "score_low", "score_high"])
