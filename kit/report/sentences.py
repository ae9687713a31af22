"""What the run shows, in computed sentences. A difference is called one only where its 95 % interval leaves out zero."""

from __future__ import annotations

import pandas as pd

from kit.report.inputs import has, read
from kit.report.tables import MEASURES, cell, differences
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
        accuracy = cell(r, "accuracy_change", unit=" points")
        found.append(f"{r.label} against {r.against_label}: length {length}, accuracy {accuracy} ({p_value}): {shown}. "
                     f"These {r.problems} problems show a change from {r.detectable:.1f} points on.")
    return found


def budget_forcing(config: Config) -> list[str]:
    """Where the pruned models lie against the base model's budget-forcing curve."""
    table, found = read(config, "forcing_gaps"), []
    without = [m for name, plan in config.schedules.items() if not plan.state_limit for m in catalog.models_of(config, name)]
    pruned = table[table.shared & ~table.model.isin(without)]
    if len(pruned):
        above, paired = int(pruned.above.sum()), int((pruned.gap_low > 0).sum())
        found.append(f"Pruned models {'lie' if above == len(pruned) else 'do not lie'} above the budget-forcing curve at every "
                     f"length they share with it: {above} of {len(pruned)} points (each set and the mean) lie above, intervals "
                     f"not overlapping; {paired} by the paired difference.")
    for r in read(config, "forcing_gaps", overall=True).itertuples():
        shown = which(r.gap_low, r.gap_high, "above the curve", "below the curve")
        found.append(f"{r.label}: {r.accuracy:.1f} % at {r.length:.0f} tokens; the base, forced to that length, "
                     f"{cell(r, 'forced', '.1f')} %. Difference {cell(r, 'gap')} points: {shown}."
                     if r.shared else f"{r.label}: the curve does not reach {r.length:.0f} tokens; not compared.")
    return found


def between_models(config: Config, name: str) -> list[str]:
    """`one_shot` or `controls`: which of the two is better, by how much; and where no difference could be shown, that."""
    found = []
    for r in differences(config, name).itertuples():
        shown = which(r.accuracy_change_low, r.accuracy_change_high, f"{r.label} is more accurate",
                      f"{r.against_label} is more accurate", NOT_IN_ACCURACY)
        found.append(f"{r.what}: {r.label} minus {r.against_label}: accuracy {cell(r, 'accuracy_change')} points, "
                     f"length {cell(r, 'length_change', '+.0f', ' %')}: {shown} (one seed, {config.seed}).")
    return found


def equal_spend(config: Config) -> list[str]:
    """What the tokens of one response of the base buy with each model."""
    return [f"For the {r.tokens:.0f} tokens of one response of the base, {r.label} gives {r.affords:.1f} responses. At least one "
            f"is right for {r.passed:.1f} % of the problems (pass@{r.k:.1f}), the base's for {r.base:.1f} %: {cell(r, 'gap')} "
            f"points: {which(r.gap_low, r.gap_high, 'more', 'less')}, for a user who can tell which is right."
            for r in read(config, "spend_gaps", overall=True).dropna(subset=["gap"]).itertuples()]


def seeds(config: Config) -> list[str]:
    """The comparisons over all seeds."""
    return [f"Over {r.seeds} seeds, {r.comparison}: accuracy {r.value:+.1f} points [{r.low:+.1f}, {r.high:+.1f}] (interval over "
            f"seeds; seed by seed {r.by_seed}; spread {r.sd:.1f} points, {r.sd_problems:.1f} expected from the problems alone): "
            f"{which(r.low, r.high, 'higher', 'lower')}."
            for r in read(config, "seeds_combined", overall=True).itertuples() if r.quantity == "accuracy change"]


def behavior(config: Config) -> list[str]:
    """What moved and what stayed, one sentence per model."""
    told: dict[str, list[str]] = {}
    for quantity in ("hesitation words", "checking steps", "core steps"):
        for r in read(config, "moves").query("quantity == @quantity").itertuples():
            # what is less than half a percent is shown as 0 and called no change
            shown = which(r.change_low - 0.5, r.change_high + 0.5, "more", "fewer", "no change shown")
            told.setdefault(r.label, []).append(
                f"no {quantity} before, {r.after:.2f} a response after" if pd.isna(r.change)
                else f"{quantity} {cell(r, 'change', '+.0f', ' %')} ({shown})")
    for source, columns in MEASURES.items():
        for column, title in columns.items() if has(config, source) else ():
            values = read(config, source, overall=True).set_index("label")[column]
            for label, parts in told.items():
                parts.append(f"{title} {values.iloc[0]:.3g} -> {values[label]:.3g}")
    return [f"{label} against {catalog.label(config, 'base')}: {'; '.join(parts)}." for label, parts in told.items()]
