"""What the run shows, in computed sentences, and what a reader should keep in mind.

A difference is called one only where its 95 % interval leaves out zero.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kit.report.inputs import has, read, set_label
from kit.report.tables import cell, differences
from kit.runs import catalog
from kit.settings import Config

NO_DIFFERENCE = "no difference could be shown"
NOT_IN_ACCURACY = "no difference in accuracy could be shown"


def conclusions(config: Config) -> dict[str, list[str]]:
    """Heading -> sentences of every comparison that the run has."""
    found = {
        "Against the base model and the control": against_base(config),
        "Budget forcing": budget_forcing(config) if has(config, "forcing_gaps") else [],
        "One-shot against iterative": between_models(config, "one_shot"),
        "Controls": between_models(config, "controls"),
        "Behavior": behavior(config) if has(config, "moves") else [],
        "Equal spend": equal_spend(config) if has(config, "spend_gaps") else [],
        "Several seeds": seeds(config) if has(config, "seeds_combined") else [],
    }
    return {heading: sentences for heading, sentences in found.items() if sentences}


def which(low: float, high: float, higher: str, lower: str, none: str = NO_DIFFERENCE) -> str:
    """Which of three statements the interval of a difference allows."""
    return higher if low > 0 else lower if high < 0 else none


def against_base(config: Config) -> list[str]:
    """Each model against the base, and the pruned ones against the same RL without a limit."""
    found = []
    for r in read(config, "changes", overall=True).itertuples():
        length = cell(r, "length_change", "+.0f", " %") or "unknown"
        p_value = "p < 0.001" if r.p_value < 0.001 else f"p = {r.p_value:.3f}"
        shown = which(r.accuracy_change_low, r.accuracy_change_high, "accuracy is higher", "accuracy is lower", NOT_IN_ACCURACY)
        found.append(f"{r.label} against {r.against_label}: length {length}, accuracy {cell(r, 'accuracy_change', unit=' points')} "
                     f"({p_value}): {shown}. These {r.problems} problems show a change from {r.detectable:.1f} points on.")
    return found


def budget_forcing(config: Config) -> list[str]:
    """Where the pruned models lie against the base model's budget-forcing curve."""
    table = read(config, "forcing_gaps")
    without = [m for name, plan in config.schedules.items() if not plan.state_limit for m in catalog.models_of(config, name)]
    pruned = table[table.shared & ~table.model.isin(without)]
    above, paired = int(pruned.above.sum()), int((pruned.gap_low > 0).sum())
    found = [f"Pruned models {'lie' if above == len(pruned) else 'do not lie'} above the budget-forcing curve at every length they "
             f"share with it: {above} of {len(pruned)} points (each set and the mean) lie above, intervals not overlapping; "
             f"{paired} by the paired difference."] if len(pruned) else []
    for r in read(config, "forcing_gaps", overall=True).itertuples():
        apart = "their intervals do not overlap" if r.above or r.accuracy_high < r.forced_low else "their intervals overlap"
        found.append(
            f"{r.label}: {r.accuracy:.1f} % at {r.length:.0f} tokens; the base, forced to that length, {cell(r, 'forced', '.1f')} %. "
            f"Difference {cell(r, 'gap')} points: {which(r.gap_low, r.gap_high, 'above the curve', 'below the curve')}; {apart}."
            if r.shared else f"{r.label}: the budget-forcing curve does not reach {r.length:.0f} tokens; not compared.")
    return found


def between_models(config: Config, name: str) -> list[str]:
    """`one_shot` or `controls`: which of the two is better, by how much; and where no difference could be shown, that."""
    found = []
    for r in differences(config, name).itertuples():
        better, worse = f"{r.label} is more accurate", f"{r.against_label} is more accurate"
        found.append(f"{r.what}: {r.label} minus {r.against_label}: accuracy {cell(r, 'accuracy_change')} points, "
                     f"length {cell(r, 'length_change', '+.0f', ' %')}: "
                     f"{which(r.accuracy_change_low, r.accuracy_change_high, better, worse, NOT_IN_ACCURACY)} "
                     f"(one seed, {config.seed}).")
    return found


def equal_spend(config: Config) -> list[str]:
    """What the tokens of one response of the base buy with each model."""
    return [f"For the {r.tokens:.0f} tokens of one response of the base, {r.label} gives {r.affords:.1f} responses. At least one is "
            f"right for {r.passed:.1f} % of the problems (pass@{r.k:.1f}), the base's for {r.base:.1f} %: {cell(r, 'gap')} points: "
            f"{which(r.gap_low, r.gap_high, 'more', 'less')}, for a user who can tell which is right."
            for r in read(config, "spend_gaps", overall=True).dropna(subset=["gap"]).itertuples()]


def seeds(config: Config) -> list[str]:
    """The comparisons over all seeds."""
    return [f"Over {r.seeds} seeds, {r.comparison}: accuracy {r.value:+.1f} points [{r.low:+.1f}, {r.high:+.1f}] (interval over "
            f"seeds; seed by seed {r.by_seed}; spread {r.sd:.1f} points, {r.sd_problems:.1f} expected from the problems alone): "
            f"{which(r.low, r.high, 'higher', 'lower')}."
            for r in read(config, "seeds_combined", overall=True).itertuples() if r.quantity == "accuracy change"]


def behavior(config: Config) -> list[str]:
    """What moved and what stayed, one sentence per model."""
    beside = {"what follows the first statement of the answer": ("first_answer", "share_after", ".1f", " %"),
              "repeated runs of words": ("repetition", "repeated", ".1f", " %"),
              "responses that end in a loop": ("repetition", "loops", ".1f", " %"),
              "perplexity": ("perplexity", "perplexity", ".2f", "")}
    told: dict[str, list[str]] = {}
    moves = read(config, "moves").set_index("quantity", drop=False)
    for r in moves.loc[[q for q in ("hesitation words", "checking steps", "core steps") if q in moves.index]].itertuples():
        # as shown, in whole percent: "+0 % [+0, +0] (more)" would puzzle
        shown = which(np.round(r.change_low), np.round(r.change_high), "more", "fewer", "no change shown")
        told.setdefault(r.label, []).append(
            f"no {r.quantity} before, {r.after:.2f} a response after" if pd.isna(r.change)
            else f"{r.quantity} {cell(r, 'change', '+.0f', ' %')} ({shown})")
    for what, (source, column, form, unit) in beside.items():
        values = read(config, source, overall=True).set_index("label")[column] if has(config, source) else {}
        for label, parts in told.items():
            parts += [f"{what} {values.iloc[0]:{form}} -> {values[label]:{form}}{unit}"] if label in values else []
    return [f"{label} against {catalog.label(config, 'base')}: {'; '.join(parts)}." for label, parts in told.items()]


def caveats(config: Config) -> list[str]:
    """What a reader should keep in mind and the tables tell: how many problems, how small a change they show, what went wrong."""
    main, changes, found = read(config, "main"), read(config, "changes", overall=True), []
    if len(changes):
        sizes = main[(main.model == "base") & (main.set != "mean")]
        found.append(f"Problems per set: {', '.join(f'{set_label(config, r.set)} {r.problems:.0f}' for r in sizes.itertuples())}.")
    if changes.get("detectable", pd.Series()).notna().any():
        found.append(f"A true change of accuracy must be of {changes.detectable.min():.1f} to {changes.detectable.max():.1f} "
                     "points, by model, to be shown four times out of five.")
    free = [name for name, plan in config.schedules.items() if not plan.state_limit and plan.compare_with is None]
    for r in changes.itertuples():
        if r.against == "base" and catalog.facts(config)[r.model][0] in free:
            found.append(f"The control without a limit changes length by {cell(r, 'length_change', '+.0f', ' %')} and accuracy by "
                         f"{cell(r, 'accuracy_change')} points: that much is not the limit's doing.")
    found += [f"{r.label}: {r.truncated:.1f} % of the responses ran into the token cap of the evaluation."
              for r in read(config, "main", overall=True).itertuples() if r.truncated > 1]
    for verdict, what in (("timeout", "answers ran into the grader's deadline"), ("unparseable_gold", "golds were unreadable")):
        count = int(main[main.set != "mean"].get(f"n_{verdict}", pd.Series(dtype=int)).sum())
        found += [f"{count} {what}."] if count else []
    return found
