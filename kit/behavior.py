"""What a model spends its tokens on, before and after pruning: keywords, phases, attempts, repetition, perplexity, lengths.

`read_traces` reads responses once, into a row per response; the tables are made of those rows. Every estimate is a ratio of sums
over problems (words per response, steps of a phase per step, …) with a 95 % interval from a bootstrap over problems; `mean` is the mean of
the data sets, each weighing the same (as in `kit.evaluation`).

The keyword lists are values of the params file (`keywords`): the paper's hesitation words ("Wait", "Alternatively", …) against words of
core computation. A keyword counts as whole words, longest match first, so "But wait" is not also a "wait".

Logs may lack token counts. Then what is counted per token stays empty (NaN), and `missing_lengths` says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from kit import agreement, attempts, evaluation, judge, paths, perplexity, phases, rollout
from kit.config import ROOT, Config
from kit.rollout import Rollout

PERCENTILES = (20, 40, 50, 60, 80, 90, 99)  # FACTS 2
LOOP_ROUNDS, LOOP_WORDS, LOOP_SEEN = 3, 24, 2000
UNLABELLED = "unlabelled"
MEAN = "mean"


# --- one response -----------------------------------------------------------------------------------------------------


def count_keywords(text: str, words: Sequence[str]) -> int:
    """How often any of `words` occurs, whole words and phrases, longest first, upper and lower case alike."""
    return len(keyword_pattern(tuple(words)).findall(text))


@lru_cache
def keyword_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)", re.IGNORECASE)


def repeated(words: Sequence[str], n: int) -> tuple[int, int]:
    """(runs of n words that occurred before in the same text, all runs of n words).

    >>> repeated("a b c a b c a".split(), 3)
    (2, 5)
    """
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(runs) - len(set(runs)), len(runs)


def ends_in_loop(words: Sequence[str]) -> bool:
    """Whether a text ends in LOOP_ROUNDS or more rounds of the same words, LOOP_WORDS or more in all (the last round may be cut).

    >>> ends_in_loop("so x is 2 . wait".split() + "no , x is 3 . ".split() * 5), ends_in_loop("no , x is 3 .".split() * 2)
    (True, False)
    """
    back = words[: -LOOP_SEEN - 1 : -1]
    border = [0] * len(back)  # Knuth, Morris and Pratt: the longest proper prefix of back[:i + 1] that is also its suffix
    for i in range(1, len(back)):
        k = border[i - 1]
        while k and back[i] != back[k]:
            k = border[k - 1]
        border[i] = k + (back[i] == back[k])
        if i + 1 >= max(LOOP_WORDS, LOOP_ROUNDS * (i + 1 - border[i])):
            return True
    return False


# --- all responses of a model to a data set ---------------------------------------------------------------------------


def step_unit(config: Config) -> str:
    """What a step is in this run, the same for all its models: as in the params, or as the first of them writes."""
    if config.behavior.steps != "auto":
        return config.behavior.steps
    first = evaluation.model_names(config)[0]
    return phases.unit_of(text for name in config.data.evaluation for r in responses(config, first, name) for text in r.model_answer)


def responses(config: Config, model: str, name: str) -> list[Rollout]:
    """The stored responses of a model to a data set."""
    return list(rollout.read(paths.of(config).rollouts(model, name)))


def read_traces(config: Config, rollouts: Sequence[Rollout], unit: str) -> pd.DataFrame:
    """A row per response (the first `behavior.samples` of each problem): what was counted in its text.

    Columns: id, sample, length (tokens, NaN where the log has none), a count per keyword list (`words <list>`), steps, a count per
    phase, attempts, first_correct (share of the thinking at which the first correct attempt ends, NaN without one), repeats and
    runs (of n words), loop.
    """
    flat = [(r, i) for r in rollouts for i in range(min(len(r.model_answer), config.behavior.samples))]
    texts = [r.model_answer[i] for r, i in flat]
    found = attempts.find(texts, [r.answer for r, _ in flat])
    rows = []
    for (r, i), text, tried in zip(flat, texts, found, strict=True):
        labels = phases.label(phases.steps_of(text, unit))
        words = text.split()
        repeats, runs = repeated(words, config.behavior.ngram)
        rows.append({
            "id": r.id, "sample": i, "length": r.model_answer_length[i],
            **{f"words {label}": count_keywords(text, listed) for label, listed in config.keywords.items()},
            "steps": len(labels), **{phase: labels.count(phase) for phase in phases.PHASES},
            "attempts": tried.count, "first_correct": tried.first_correct, "repeats": repeats, "runs": runs,
            "loop": ends_in_loop(words),
        })
    table = pd.DataFrame(rows)
    return table.astype({"length": float, "first_correct": float})


# --- estimates --------------------------------------------------------------------------------------------------------


@lru_cache
def _weights(problems: int, resamples: int, seed: int) -> np.ndarray:
    return evaluation.bootstrap_weights(problems, resamples, seed)


def estimate(sums: dict[str, tuple[np.ndarray, np.ndarray]], name: str, config: Config) -> pd.DataFrame:
    """A row per data set and one for their mean: `name` = sum / sum over problems, with `_low` and `_high` (95 %), by set.

    `sums`: for each data set a numerator and a denominator per problem. What has a zero denominator is NaN.
    """
    points, drawn = [], []
    for k, (top, bottom) in enumerate(sums.values()):
        with np.errstate(invalid="ignore", divide="ignore"):
            points.append(np.float64(np.sum(top)) / np.sum(bottom))
            weights = _weights(len(top), config.evaluation.resamples, config.seed + k)
            drawn.append((weights @ top) / (weights @ bottom))
    names = list(sums)
    if len(names) > 1:
        names, points, drawn = [*names, MEAN], [*points, np.mean(points)], [*drawn, np.mean(drawn, axis=0)]
    spans = [evaluation.interval(d) if np.isfinite(d).any() else (np.nan, np.nan) for d in drawn]
    return pd.DataFrame({"set": names, name: points, f"{name}_low": [s[0] for s in spans], f"{name}_high": [s[1] for s in spans]}).set_index("set")


def _ratios(traces: dict[str, pd.DataFrame], config: Config, **wanted: tuple[str, str, float]) -> pd.DataFrame:
    """Columns `name=(numerator, denominator, factor)` of the traces' columns, side by side; the denominator "" counts rows."""
    found = []
    for name, (top, bottom, factor) in wanted.items():
        sums = {}
        for key, table in traces.items():
            used = table.assign(one=1.0, top=factor * table[top].astype(float))
            by_problem = used.groupby("id", sort=True)[["top", bottom or "one"]].sum(min_count=1).to_numpy(float)
            sums[key] = (by_problem[:, 0], by_problem[:, 1])
        found.append(estimate(sums, name, config))
    return pd.concat(found, axis=1)


def keywords(traces: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Occurrences per response and per 1,000 tokens, a row per data set and list."""
    parts = []
    for label in config.keywords:
        column = f"words {label}"
        table = _ratios(traces, config, per_response=(column, "", 1.0), per_1000_tokens=(column, "length", 1000.0))
        parts.append(table.assign(keywords=label))
    return pd.concat(parts) if parts else pd.DataFrame()


def phase_shares(traces: dict[str, pd.DataFrame], config: Config, labeller: str = "rules") -> pd.DataFrame:
    """Steps of each phase: percent of all steps (a donut's share) and number per response, a row per data set and phase."""
    names = [p for p in (*phases.PHASES, UNLABELLED) if all(p in table for table in traces.values())]
    parts = [
        _ratios(traces, config, share=(p, "steps", 100.0), per_response=(p, "", 1.0))
        .assign(phase=p, kind=phases.KINDS.get(p, p), labeller=labeller)
        for p in names
    ]
    return pd.concat(parts)


def attempt_table(traces: dict[str, pd.DataFrame], config: Config, correct: dict[str, pd.Series]) -> pd.DataFrame:
    """Attempts per response; percent of responses with a correct one; where the first one ends and what comes after, in percent
    of the thinking; percent of responses that had a correct attempt and a wrong answer in the end (`lost`)."""
    used = {}
    for name, table in traces.items():
        hit = table.first_correct.notna()
        final = correct[name].reindex(pd.MultiIndex.from_frame(table[["id", "sample"]])).to_numpy(dtype=float)
        used[name] = table.assign(
            hit=hit.astype(float), end=table.first_correct.fillna(0.0), rest=(1 - table.first_correct).fillna(0.0),
            lost=np.where(hit, 1 - final, 0.0))
    return _ratios(used, config, attempts=("attempts", "", 1.0), found=("hit", "", 100.0), first_correct=("end", "hit", 100.0),
                   redundant=("rest", "hit", 100.0), lost=("lost", "", 100.0))


def repetition(traces: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Percent of runs of n words that were there before in the same response; percent of responses that end in a loop."""
    return _ratios(traces, config, repeated=("repeats", "runs", 100.0), loops=("loop", "", 100.0))


def percentiles(graded: dict[str, pd.DataFrame], config: Config) -> pd.DataFrame:
    """Percentiles of the lengths (tokens) of correct and of wrong responses, a row per data set, verdict and percentile.

    Counts of responses beside them: a percentile of ten wrong responses is not worth much, and its interval says so.
    """
    rows = []
    for k, (name, grades) in enumerate(graded.items()):
        lengths = pd.to_numeric(grades.length, errors="coerce")
        ids = np.unique(grades.id, return_inverse=True)[1]
        weights = _weights(ids.max() + 1, config.evaluation.resamples, config.seed + k)
        right = (grades.verdict == "correct").to_numpy()
        for verdict, chosen in (("correct", right), ("wrong", ~right)):
            kept = chosen & lengths.notna().to_numpy()
            order = np.argsort(lengths.to_numpy()[kept], kind="stable")
            values, owners = lengths.to_numpy(float)[kept][order], ids[kept][order]
            drawn = weighted_percentiles(values, weights[:, owners], PERCENTILES)
            points = weighted_percentiles(values, np.ones((1, len(values))), PERCENTILES)[0]
            for j, q in enumerate(PERCENTILES):
                low, high = evaluation.interval(drawn[:, j]) if len(values) else (np.nan, np.nan)
                rows.append({"set": name, "verdict": verdict, "percentile": q, "length": points[j], "length_low": low,
                             "length_high": high, "responses": int(kept.sum())})
    return pd.DataFrame(rows).set_index("set")


def weighted_percentiles(values: np.ndarray, weights: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
    """(rows of weights, wanted): the smallest of the sorted `values` up to which at least q percent of the weight lies.

    >>> weighted_percentiles(np.array([1.0, 2.0, 9.0]), np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), (50, 99))
    array([[2., 9.],
           [9., 9.]])
    """
    found = np.full((len(weights), len(wanted)), np.nan)
    if not len(values):
        return found
    for i, row in enumerate(weights):
        reached = np.cumsum(row)
        if reached[-1] > 0:
            places = np.searchsorted(reached, np.asarray(wanted) / 100 * reached[-1] * (1 - 1e-12))
            found[i] = values[np.minimum(places, len(values) - 1)]
    return found


# --- a run's tables ---------------------------------------------------------------------------------------------------


def facts(config: Config) -> dict[str, dict[str, object]]:
    """Model -> its columns in every table: model, schedule, round, limit (tokens; NaN for the base)."""
    known: dict[str, tuple[str, int, float]] = {"base": ("base", 0, np.nan)}
    for schedule, plan in config.schedules.items():
        known |= {f"{schedule}/round{k}": (schedule, k, limit) for k, limit in enumerate(plan.limits, 1)}
    return {model: dict(zip(("model", "schedule", "round", "limit"), (model, *known.get(model, (model, 0, np.nan))), strict=True))
            for model in evaluation.model_names(config)}


def _collect(config: Config, name: str, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """metrics/<name>.csv: the tables of all models, each with its model's columns in front."""
    table = pd.concat([part.reset_index() for part in parts], ignore_index=True)
    first = ["model", "schedule", "round", "limit", *(c for c in ("set", "keywords", "labeller", "phase", "kind") if c in table)]
    table = table[[*first, *(c for c in table if c not in first)]]
    paths.write_csv(paths.of(config).metrics / f"{name}.csv", table)
    return table


def summarize(config: Config) -> dict[str, pd.DataFrame]:
    """Read the traces of every model and write metrics/keywords.csv, phases.csv, attempts.csv, repetition.csv, percentiles.csv.

    What was counted in each response is kept in traces/<model>/<set>.csv.
    """
    from tqdm.auto import tqdm

    unit, names = step_unit(config), config.data.evaluation
    parts: dict[str, list[pd.DataFrame]] = {n: [] for n in ("keywords", "phases", "attempts", "repetition", "percentiles")}
    for model, columns in tqdm(facts(config).items(), desc="traces"):
        graded = evaluation.load_grades(config, model)
        traces = {name: read_traces(config, responses(config, model, name), unit) for name in names}
        for name, table in traces.items():
            paths.write_csv(paths.of(config).traces(model, name), table)
        correct = {name: g.set_index(["id", "sample"]).verdict == "correct" for name, g in graded.items()}
        found = {
            "keywords": keywords(traces, config), "phases": phase_shares(traces, config),
            "attempts": attempt_table(traces, config, correct), "repetition": repetition(traces, config),
            "percentiles": percentiles(graded, config),
        }
        for key, table in found.items():
            parts[key].append(table.assign(**columns))
    return {key: _collect(config, key, tables) for key, tables in parts.items()}


def missing_lengths(config: Config) -> list[str]:
    """A sentence per model and data set without token counts."""
    found = []
    for model in evaluation.model_names(config):
        for name, grades in evaluation.load_grades(config, model).items():
            gone = pd.to_numeric(grades.length, errors="coerce").isna().mean()
            if gone:
                found.append(f"{model}, {name}: {gone:.0%} of the responses have no token count in their log; "
                             "what is counted per token or in tokens leaves them out, or is empty")
    return found


def summarize_perplexity(config: Config) -> pd.DataFrame | None:
    """Perplexity of every model's traces under `behavior.reference`; writes metrics/perplexity.csv. None without a reference."""
    b = config.behavior
    if not b.reference:
        return None
    model, tokenizer = perplexity.reference(config)
    parts = []
    for name, columns in facts(config).items():
        sums = {key: perplexity.of_rollouts(model, tokenizer, config, responses(config, name, key), f"{name}: {key}")
                for key in b.reference_sets or config.data.evaluation}
        table = np.exp(estimate(sums, "perplexity", config))
        if MEAN in table.index:
            table["tokens"] = [s[1].sum() for s in sums.values()] + [sum(s[1].sum() for s in sums.values())]
        else:
            table["tokens"] = [s[1].sum() for s in sums.values()]
        parts.append(table.assign(reference=b.reference, **columns))
    return _collect(config, "perplexity", parts)


def summarize_agreement(config: Config) -> pd.DataFrame | None:
    """Kappa of the rules with the labels of `behavior.labelled`; writes metrics/agreement.csv and agreement_steps.csv.

    None where no file is named or it is not there.
    """
    path = ROOT / config.behavior.labelled
    if not config.behavior.labelled or not path.is_file():
        return None
    steps = agreement.steps(agreement.read(path))
    table = agreement.compare(steps, config.evaluation.resamples, config.seed)
    crossed = steps.groupby(["half", "phase", "theirs"]).size().rename("steps").reset_index()
    paths.write_csv(paths.of(config).metrics / "agreement.csv", table)
    paths.write_csv(paths.of(config).metrics / "agreement_steps.csv", crossed)
    return table


def summarize_judge(config: Config) -> pd.DataFrame | None:
    """Phases by the language model of `behavior.judge`, for the first response of some problems of each set.

    Writes metrics/phases_judge.csv: shares by the model, `unlabelled` among them, and beside them the rules' shares of the same
    steps; and kappa of the two. None when no endpoint is named.
    """
    if not config.behavior.judge.url:
        return None
    unit, ask, parts = step_unit(config), config.behavior.judge, []
    for model, columns in facts(config).items():
        by: dict[str, dict[str, pd.DataFrame]] = {"rules": {}, "model": {}}
        both = []
        for name in config.data.evaluation:
            some = responses(config, model, name)[: ask.responses]
            steps = [phases.steps_of(r.model_answer[0], unit) for r in some]
            labels = {"model": judge.label(steps, ask, paths.of(config).root / "judge.jsonl"), "rules": [phases.label(s) for s in steps]}
            for labeller, found in labels.items():
                given = [[one or UNLABELLED for one in trace] for trace in found]
                by[labeller][name] = pd.DataFrame([
                    {"id": r.id, "steps": len(t), **{p: t.count(p) for p in (*phases.PHASES, UNLABELLED)}}
                    for r, t in zip(some, given, strict=True)])
            both += [pair for m, r in zip(labels["model"], labels["rules"], strict=True) for pair in zip(m, r, strict=True) if pair[0]]
        table = pd.DataFrame(both, columns=["model", "rules"])
        crossed = pd.crosstab(table.model, table.rules).reindex(index=phases.PHASES, columns=phases.PHASES, fill_value=0)
        agreed = float(agreement.kappa(crossed.to_numpy(float)))
        parts += [phase_shares(t, config, labeller).assign(kappa=agreed, **columns) for labeller, t in by.items()]
    return _collect(config, "phases_judge", parts)
