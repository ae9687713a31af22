"""The tables of notebook 05, made of what was counted in each response (`behavior.count`).

An estimate is a ratio of sums over problems (words per response, steps of a phase per step, …) with a 95 % interval from a
bootstrap over problems; `mean` is the mean of the data sets, each weighing the same (as in evaluation/metrics). What has a zero
or unknown denominator is NaN: logs may lack token counts.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kit.behavior.phases import KINDS, PHASES
from kit.evaluation.comparisons import paired_draws
from kit.evaluation.uncertainty import bootstrap_weights, draws, interval
from kit.settings import Config

PERCENTILES = (20, 40, 50, 60, 80, 90, 99)  # those of the official code
UNLABELLED = "unlabelled"
Counts = dict[str, pd.DataFrame]  # data set -> a row per response


def ratios(counts: Counts, config: Config, **wanted: tuple[str, str, float]) -> pd.DataFrame:
    """For each `name=(numerator, denominator, factor)`, columns of `counts`: `name`, `name_low` and `name_high`, a row per data
    set and one for their mean. The denominator `responses` is their number. Counts end at 0, percents (factor 100) at 100."""
    columns = list(dict.fromkeys(column for top, bottom, _ in wanted.values() for column in (top, bottom)))
    drawn, found = [], {}
    for k, table in enumerate(counts.values()):
        sums = table.assign(responses=1.0).groupby("id")[columns].sum(skipna=False)
        drawn.append(dict(zip(columns, draws(sums, config.evaluation.resamples, config.seed + k), strict=True)))
    for name, (top, bottom, factor) in wanted.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            values = [factor * own[top] / own[bottom] for own in drawn]
        values += [np.mean(values, axis=0)] * (len(values) > 1)
        ends = [(own[0], *interval(own[1:])) for own in values]
        shown = np.clip(ends, 0, 100 if factor == 100 else None).T
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), shown, strict=True))
    return pd.DataFrame(found, index=pd.Index([*counts, *["mean"] * (len(counts) > 1)], name="set"))


def keywords(counts: Counts, config: Config) -> pd.DataFrame:
    """Occurrences per response and per 1,000 tokens, a row per data set and list."""
    return pd.concat([
        ratios(counts, config, per_response=(f"words {label}", "responses", 1.0),
               per_1000_tokens=(f"words {label}", "length", 1000.0)).assign(keywords=label) for label in config.keywords])


def words(counts: Counts, config: Config) -> pd.DataFrame:
    """Occurrences per response of each single keyword, a row per data set and word."""
    return pd.concat([ratios(counts, config, per_response=(f"word {word}", "responses", 1.0)).assign(keywords=label, word=word)
                      for label, listed in config.keywords.items() for word in listed])


def phase_shares(counts: Counts, config: Config, labeller: str = "rules") -> pd.DataFrame:
    """Steps of each phase: percent of all steps (a donut's share) and number per response, a row per data set and phase."""
    found = [p for p in (*PHASES, UNLABELLED) if all(p in table for table in counts.values())]
    return pd.concat([
        ratios(counts, config, share=(p, "steps", 100.0), per_response=(p, "responses", 1.0))
        .assign(phase=p, kind=KINDS.get(p, p), labeller=labeller) for p in found])


def first_answer(counts: Counts, config: Config) -> pd.DataFrame:
    """Of the responses that give an answer (`answered`, percent): tokens before and after they have first stated it, and the
    share of the response that comes after, in percent."""
    used = {}
    for name, table in counts.items():
        known, before = table.stated.notna().astype(float), table.stated.fillna(0.0)
        after = known - before
        used[name] = table.assign(answered=known, after=after, tokens_before=before * table.length,
                                  tokens_after=after * table.length)
    return ratios(used, config, answered=("answered", "responses", 100.0), share_after=("after", "answered", 100.0),
                  tokens_before=("tokens_before", "answered", 1.0), tokens_after=("tokens_after", "answered", 1.0))


def repetition(counts: Counts, config: Config) -> pd.DataFrame:
    """Percent of runs of n words that were there before in the same response; percent of responses that end in a loop."""
    return ratios(counts, config, repeated=("repeats", "runs", 100.0), loops=("loop", "responses", 100.0))


def spans(counts: Counts, config: Config) -> pd.DataFrame:
    """Tokens of the thinking, `</think>` included (all of a response without one), and of the answer behind it."""
    used = {name: table.assign(thinking=table.thought * table.length, answer=(1 - table.thought) * table.length)
            for name, table in counts.items()}
    return ratios(used, config, thinking=("thinking", "responses", 1.0), answer=("answer", "responses", 1.0))


def within_problems(graded: Counts, config: Config, bins: int = 6, least: int = 10) -> pd.DataFrame:
    """Accuracy against length within problems ("When More is Less"): are longer responses to the same problem right more often?

    Responses are put into bins of equal size by their length as a multiple of their problem's mean length. Of each bin: `length`,
    that multiple times the mean length of the problems; `above` (points), the mean of what its responses are above their own
    problem's accuracy, so that hard problems, which have long responses, do not make length look bad; `best`: the highest.
    Problems whose responses are all of one length tell nothing, and are left out, as are bins of fewer than `least` responses.
    """
    columns, parts = ["set", "bin", "length", "above", "above_low", "above_high", "responses"], []
    for k, (name, grades) in enumerate(graded.items()):
        g = pd.DataFrame({"id": grades.id, "length": grades.length, "right": 100.0 * (grades.verdict == "correct")}).dropna()
        g = g[g.groupby("id").length.transform("nunique") > 1]
        if len(g) < least:
            continue
        means, owners = g.groupby("id")[["length", "right"]].transform("mean"), np.unique(g.id, return_inverse=True)[1]
        g = g.assign(multiple=g.length / means.length, gain=g.right - means.right, owner=owners)
        places = pd.qcut(g.multiple, min(bins, len(g) // least), labels=False, duplicates="drop")
        weights = bootstrap_weights(owners.max() + 1, config.evaluation.resamples, config.seed + k)
        for place, own in g.groupby(places):
            if len(own) < least:  # many responses of one length
                continue
            top, bottom = (np.bincount(own.owner, value, owners.max() + 1) for value in (own.gain, np.ones(len(own))))
            parts.append((name, place + 1, own.multiple.mean() * means.length.mean(), own.gain.mean(),
                          *interval((weights @ top) / (weights @ bottom)), len(own)))
    table = pd.DataFrame(parts, columns=columns)
    return table.assign(best=table.above == table.groupby("set").above.transform("max")).set_index("set")


def changes(before: Counts, after: Counts, config: Config) -> pd.DataFrame:
    """Change of what is in a mean response, in percent of `before`, paired on problems, mean of the data sets: a row per quantity
    (each keyword list, steps of each kind, all steps), NaN where there was nothing before."""
    quantities = {f"{label} words": [f"words {label}"] for label in config.keywords}
    for phase, kind in KINDS.items():
        quantities.setdefault(f"{kind} steps", []).append(phase)
    quantities["steps"] = ["steps"]

    def means(counts: pd.DataFrame) -> pd.DataFrame:
        sums = {quantity: counts[columns].sum(axis=1) for quantity, columns in quantities.items()}
        return pd.DataFrame(sums).groupby(counts.id).mean()

    drawn = paired_draws({"before": before, "after": after}, means, config.evaluation.resamples, config.seed)
    *_, (was, _), (now, _) = drawn.values()  # the last two: of the mean over the sets, or of the only set
    with np.errstate(invalid="ignore", divide="ignore"):
        change = 100 * (now / was - 1)
    rows = [(quantity, was[k, 0], now[k, 0], change[k, 0], *np.maximum(interval(change[k, 1:]), -100))
            for k, quantity in enumerate(quantities)]
    columns = ["quantity", "before", "after", "change", "change_low", "change_high"]
    return pd.DataFrame(rows, columns=columns).set_index("quantity")


def percentiles(graded: Counts, config: Config) -> pd.DataFrame:
    """Percentiles of the lengths (tokens) of correct and of wrong responses, and how many there are: a row per data set, verdict
    and percentile."""
    parts = []
    for k, (name, grades) in enumerate(graded.items()):
        owners = np.unique(grades.id, return_inverse=True)[1]
        weights = bootstrap_weights(owners.max() + 1, config.evaluation.resamples, config.seed + k)
        for verdict, chosen in (("correct", grades.verdict == "correct"), ("wrong", grades.verdict != "correct")):
            kept = np.flatnonzero(chosen & grades.length.notna())
            kept = kept[np.argsort(grades.length.to_numpy()[kept], kind="stable")]
            lengths = grades.length.to_numpy(float)[kept]
            points = weighted_percentiles(lengths, np.ones((1, len(kept))))[0]
            some = np.array_split(weights, len(weights) // 50 + 1)  # all at once may not fit into memory
            drawn = np.vstack([weighted_percentiles(lengths, rows[:, owners[kept]]) for rows in some])
            low, high = zip(*map(interval, drawn.T), strict=True)
            parts.append(pd.DataFrame({"set": name, "verdict": verdict, "percentile": PERCENTILES, "length": points,
                                       "length_low": low, "length_high": high, "responses": len(kept)}))
    return pd.concat(parts).set_index("set")


def weighted_percentiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(rows of weights, PERCENTILES): the smallest of the sorted `values` up to which at least q percent of the weight lies."""
    if not len(values):
        return np.full((len(weights), len(PERCENTILES)), np.nan)
    reached = np.cumsum(np.maximum(weights, 0), axis=1)  # a bootstrap's weight can be slightly negative
    found = [values[(reached >= q / 100 * reached[:, -1:] * (1 - 1e-12)).argmax(axis=1)] for q in PERCENTILES]
    return np.where(reached[:, -1:] > 0, np.transpose(found), np.nan)


TABLES = {"keywords": keywords, "words": words, "phases": phase_shares, "first_answer": first_answer, "repetition": repetition,
          "percentiles": percentiles, "spans": spans, "inverted_u": within_problems}  # in metrics/
OF_GRADES = (percentiles, within_problems)  # the others are made of what was counted


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa of pairs of labels: (observed - expected) / (1 - expected) agreement; NaN where there is one label only."""
    one, other = map(np.array, zip(*pairs, strict=True))
    expected = sum((one == label).mean() * (other == label).mean() for label in set(one))
    return float(((one == other).mean() - expected) / (1 - expected)) if expected < 1 else np.nan
