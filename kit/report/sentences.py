"""What the run shows, in computed sentences, and what a reader should keep in mind.

A difference is called one only where its 95 % interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from kit.report.inputs import has, read, set_label
from kit.report.tables import cell, differences
from kit.runs import catalog
from kit.settings import Config

NO_DIFFERENCE = "no difference could be shown"


def conclusions(config: Config) -> list[tuple[str, list[str]]]:
    """(heading, sentences) of every comparison that the run has."""
    sources = {
        "Against the base model and the control": ("changes", against_base),
        "Budget forcing": ("forcing_gaps", budget_forcing),
        "One-shot against iterative": ("one_shot", lambda c: between_models(c, "one_shot")),
        "Controls": ("controls", lambda c: between_models(c, "controls")),
        "Behavior": ("moves", behavior),
        "Equal spend": ("spend_gaps", equal_spend),
        "Several seeds": ("seeds_combined", seeds),
    }
    found = [(heading, write(config)) for heading, (source, write) in sources.items() if has(config, source)]
    return [(heading, sentences) for heading, sentences in found if sentences]


def which(low: float, high: float, higher: str, lower: str, none: str = NO_DIFFERENCE) -> str:
    """Which of three statements the interval of a difference allows."""
    return higher if low > 0 else lower if high < 0 else none


def against_base(config: Config) -> list[str]:
    """Each model against the base, and the pruned ones against the same RL without a limit."""
    found = []
    for r in read(config, "changes", overall=True).itertuples():
        shorter = "length unknown" if pd.isna(r.length_change) else f"length {cell(r, 'length_change', '+.0f', ' %')}"
        accuracy = f"accuracy {cell(r, 'accuracy_change', unit=' points')}"
        p_value = "p < 0.001" if r.p_value < 0.001 else f"p = {r.p_value:.3f}"
        shown = which(r.accuracy_change_low, r.accuracy_change_high, "accuracy is higher", "accuracy is lower",
                      "no difference in accuracy could be shown")
        found.append(f"{r.label} against {r.against_label}: {shorter}, {accuracy} ({p_value}): {shown}. "
                     f"These {r.problems} problems show a change from {r.detectable:.1f} points on.")
    return found


def budget_forcing(config: Config) -> list[str]:
    """Where the pruned models lie against the base model's budget-forcing curve."""
    table, found = read(config, "forcing_gaps"), []
    for r in read(config, "forcing_gaps", overall=True).itertuples():
        if not r.shared:
            found.append(f"{r.label}: the budget-forcing curve does not reach {r.length:.0f} tokens; not compared.")
            continue
        apart = "their intervals do not overlap" if r.above or r.accuracy_high < r.forced_low else "their intervals overlap"
        found.append(f"{r.label}: {r.accuracy:.1f} % at {r.length:.0f} tokens; the base, forced to that length, "
                     f"{cell(r, 'forced', '.1f')} %. Difference {cell(r, 'gap')} points: "
                     f"{which(r.gap_low, r.gap_high, 'above the curve', 'below the curve')}; {apart}.")
    without = [m for name, plan in config.schedules.items() if not plan.state_limit for m in catalog.models_of(config, name)]
    pruned = table[table.shared & ~table.model.isin(without)]
    if len(pruned):
        above = int(pruned.above.sum())
        found.insert(0, f"Pruned models {'lie' if above == len(pruned) else 'do not lie'} above the budget-forcing curve at every "
                        f"length they share with it: {above} of {len(pruned)} points (each set and the mean) lie above, intervals "
                        f"not overlapping; {int((pruned.gap_low > 0).sum())} by the paired difference.")
    return found


def between_models(config: Config, name: str) -> list[str]:
    """`one_shot` or `controls`: which of the two is better, by how much; and where no difference could be shown, that."""
    found = []
    for r in differences(config, name).itertuples():
        better = which(r.accuracy_change_low, r.accuracy_change_high, f"{r.label} is more accurate",
                       f"{r.against_label} is more accurate", "no difference in accuracy could be shown")
        found.append(f"{r.what}: {r.label} minus {r.against_label}: accuracy {cell(r, 'accuracy_change')} points, "
                     f"length {cell(r, 'length_change', '+.0f', ' %')}: {better} (one seed, {config.seed}).")
    return found


def equal_spend(config: Config) -> list[str]:
    """What the tokens of one response of the base buy with each model."""
    return [
        f"For the {r.tokens:.0f} tokens of one response of the base, {r.label} gives {r.affords:.1f} responses. At least "
        f"one is right for {r.passed:.1f} % of the problems (pass@{r.k:.1f}), the base's for {r.base:.1f} %: {cell(r, 'gap')} "
        f"points: {which(r.gap_low, r.gap_high, 'more', 'less')}, for a user who can tell which is right."
        for r in read(config, "spend_gaps", overall=True).dropna(subset=["gap"]).itertuples()
    ]


def seeds(config: Config) -> list[str]:
    """The comparisons over all seeds."""
    table = read(config, "seeds_combined", overall=True)
    return [
        f"Over {r.seeds} seeds, {r.comparison}: accuracy {r.value:+.1f} points [{r.low:+.1f}, {r.high:+.1f}] (interval over "
        f"seeds; seed by seed {r.by_seed}; spread {r.sd:.1f} points, {r.sd_problems:.1f} expected from the problems alone): "
        f"{which(r.low, r.high, 'higher', 'lower')}."
        for r in table[table.quantity == "accuracy change"].itertuples()
    ]


def behavior(config: Config) -> list[str]:
    """What moved and what stayed, one sentence per model."""
    found = []
    for model, moves in read(config, "moves").groupby("model", sort=False):
        told = []
        rows = {r.quantity: r for r in moves.itertuples()}
        for quantity in ("hesitation words", "checking steps", "core steps"):
            r = rows.get(quantity)
            if r is not None and pd.isna(r.change):
                told.append(f"no {quantity} before, {r.after:.2f} a response after")
            elif r is not None:  # as shown, in whole percent: "+0 % [+0, +0] (more)" would puzzle
                shown = which(np.round(r.change_low), np.round(r.change_high), "more", "fewer", "no change shown")
                told.append(f"{quantity} {cell(r, 'change', '+.0f', ' %')} ({shown})")
        told += _before_and_after(config, model)
        found.append(f"{moves.label.iloc[0]} against {catalog.label(config, 'base')}: {'; '.join(told)}.")
    return found


def _before_and_after(config: Config, model: str) -> Iterator[str]:
    """What follows the answer, repetition and, where it was measured, perplexity of the base and of this model."""
    for source, column, what, form in (("first_answer", "share_after", "what follows the first statement of the answer", ".1f"),
                                       ("repetition", "repeated", "repeated runs of words", ".1f"),
                                       ("repetition", "loops", "responses that end in a loop", ".1f"),
                                       ("perplexity", "perplexity", "perplexity", ".2f")):
        if has(config, source):
            values = read(config, source, overall=True).set_index("model")[column]
            unit = "" if column == "perplexity" else " %"
            yield f"{what} {values.iloc[0]:{form}} -> {values[model]:{form}}{unit}"


def caveats(config: Config, commit: str = "") -> list[str]:
    """What a reader should keep in mind, computed where it can be. `commit` is that of the run's manifest."""
    main, changes, found = read(config, "main"), read(config, "changes", overall=True), []
    if len(changes):
        sizes = main[(main.model == "base") & (main.set != "mean")]
        found.append(f"Problems per set: {', '.join(f'{set_label(config, r.set)} {r.problems:.0f}' for r in sizes.itertuples())}.")
        if changes.detectable.notna().any():
            found.append(f"A true change of accuracy must be of {changes.detectable.min():.1f} to {changes.detectable.max():.1f} "
                         "points, by model, to be shown four times out of five.")
        for r in changes[changes.against == "base"].itertuples():
            plan = config.schedules.get(catalog.facts(config)[r.model][0])
            if plan is not None and not plan.state_limit and plan.compare_with is None:
                found.append(f"The control without a limit changes length by {cell(r, 'length_change', '+.0f', ' %')} and "
                             f"accuracy by {cell(r, 'accuracy_change')} points: that much is not the limit's doing.")
    if config.schedules:
        found.append(f"{1 + len(config.seeds)} seeds." if config.seeds else
                     f"One seed ({config.seed}): another training run can end elsewhere.")
    for r in read(config, "main", overall=True).itertuples():
        if r.truncated > 1:
            found.append(f"{r.label}: {r.truncated:.1f} % of the responses ran into the token cap of the evaluation.")
    for verdict, what in (("timeout", "answers ran into the grader's deadline"), ("unparseable_gold", "golds were unreadable")):
        count = int(main[main.set != "mean"].get(f"n_{verdict}", pd.Series(dtype=int)).sum())
        found += [f"{count} {what}."] if count else []
    if config.schedules and config.model.source == "arithmetic":
        found.append("A small model on generated arithmetic: how far length falls and what accuracy does can be compared with "
                     "the paper, numbers cannot.")
    found.append("Published numbers: harnesses differ by up to 12 points on the same base model; compare within one table only.")
    if config.schedules:
        counted = {"official": "a box in unfinished thinking counts as well", "strict": "only what follows the thinking counts"}
        reading = config.training.reading
        found.append(f"The reward reads answers the {reading} way: {counted[reading]}.")
    if commit.endswith("+changes"):
        found.append("The working tree differed from the commit named above.")
    return found
