"""Tables and computed sentences of the comparisons: budget forcing, equal spend, published changes, controls, seeds.

As kit.report.figures: nothing is read but CSVs of a run and params/published.yaml.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kit.evaluation.comparisons import efficiency_score
from kit.report.figures import cell, label_of, read, title_of
from kit.runs import files, paths
from kit.settings import ROOT, Config, read_yaml

NO_DIFFERENCE = "no difference could be shown"

# --- reading ----------------------------------------------------------------------------------------------------------


def has(config: Config, name: str) -> bool:
    """Whether the run has this comparison: metrics/<name>.csv is there and has rows."""
    path = paths.of(config).metrics / f"{name}.csv"
    return path.is_file() and not files.read_csv(path).empty


def labels(config: Config) -> dict[str, str]:
    """What each model of the run is called."""
    first = read(config, "main").groupby("model", sort=False).first()
    return {str(m.Index): label_of(config, m.schedule, m.round, m.limit) for m in first.itertuples()}


def last_rounds(config: Config) -> list[str]:
    """The last model of each schedule, without the base."""
    main = read(config, "main")
    return [m for m in main.groupby("schedule", sort=False).model.last() if m != "base"]


def overall(table: pd.DataFrame) -> str:
    """`mean` where there are several sets, else the only one."""
    return "mean" if "mean" in set(table.set) else str(table.set.iloc[-1])


def verdict(low: float, high: float, better: str, worse: str, none: str) -> str:
    """Which of three statements the interval of a difference allows."""
    return better if low > 0 else worse if high < 0 else none


# --- budget forcing ---------------------------------------------------------------------------------------------------


def forcing_table(config: Config) -> pd.DataFrame:
    """A row per forced model and budget: accuracy and total length of the mean of the sets, share of responses forced."""
    table, called = read(config, "forcing"), labels(config)
    own = table[table.set == overall(table)]
    return pd.DataFrame([
        {"model": called[r.model], "budget": r.budget, "accuracy (%)": cell(r, "accuracy", ".1f"),
         "total length (tokens)": cell(r, "length", ".0f"), "forced (%)": f"{r.forced:.0f}"} for r in own.itertuples()
    ]).set_index(["model", "budget"])


def gap_table(config: Config) -> pd.DataFrame:
    """A row per model and set: its accuracy, the budget-forcing curve's at the same length, and the paired difference."""
    called = labels(config)
    return pd.DataFrame([
        {"model": called[r.model], "set": title_of(config, r.set), "length (tokens)": f"{r.length:.0f}",
         "accuracy (%)": cell(r, "accuracy", ".1f"), "base, forced to this length (%)": cell(r, "forced", ".1f"),
         "difference (points)": cell(r, "gap"),
         "above, intervals apart": ("yes" if r.above else "no") if r.shared else "no such length"}
        for r in read(config, "forcing_gaps").itertuples()
    ]).set_index(["model", "set"])


def forcing_conclusions(config: Config) -> list[str]:
    """Where the pruned models lie against the base model's budget-forcing curve, in computed sentences."""
    if not has(config, "forcing_gaps"):
        return []
    table, called, sentences = read(config, "forcing_gaps"), labels(config), []
    controls = {name for name, plan in config.schedules.items() if not plan.state_limit}
    for r in table[table.set == overall(table)].itertuples():
        if not r.shared:
            sentences.append(f"{called[r.model]}: the budget-forcing curve does not reach {r.length:.0f} tokens; not compared.")
            continue
        apart = "their intervals do not overlap" if r.above or r.accuracy_high < r.forced_low else "their intervals overlap"
        sentences.append(
            f"{called[r.model]}: {r.accuracy:.1f} % at {r.length:.0f} tokens; the base, forced to that length, "
            f"{cell(r, 'forced', '.1f')} %. Difference {cell(r, 'gap')} points: "
            + verdict(r.gap_low, r.gap_high, "above the curve", "below the curve", NO_DIFFERENCE) + f"; {apart}.")
    pruned = table[table.shared & ~table.model.str.split("/").str[0].isin(controls)]
    if len(pruned):
        above = int(pruned.above.sum())
        sentences.insert(0, (
            f"Pruned models {'lie' if above == len(pruned) else 'do not lie'} above the budget-forcing curve at every length "
            f"they share with it: {above} of {len(pruned)} points (each set and the mean) lie above, intervals not overlapping; "
            f"{int((pruned.gap_low > 0).sum())} by the paired difference."))
    return sentences


# --- beside the published numbers, equal spend ------------------------------------------------------------------------


def published_changes() -> pd.DataFrame:
    """Published pruned models against the base of their table: accuracy change (points), length (% of the base's), score.

    Means over the four sets; a row that lacks a number has empty cells. Derived (D) where the table gives means only.
    """
    rows = []
    for source, table in read_yaml(ROOT / "params" / "published.yaml")["tables"].items():
        base = None
        for entry in table["rows"]:
            cells = np.array(list(entry["cells"].values()), dtype=float).mean(axis=0)  # None becomes nan
            if entry["kind"] == "base":
                base = cells
                continue
            change = entry.get("change")
            if change:
                found = {"accuracy_change": change["accuracy"], "length": 100 + change["length"], "score": np.nan,
                         "label": table["label"]}
            else:
                found = {"accuracy_change": cells[0] - base[0], "length": 100 * cells[1] / base[1],
                         "score": float(efficiency_score(*cells, *base)), "label": f"D from {table['label']}"}
            rows.append({"source": source, "model": entry["model"], **found})
    return pd.DataFrame(rows)


def spend_table(config: Config) -> pd.DataFrame:
    """For the tokens of one response of the base: how many responses of each model, and their pass@k against its pass@1."""
    called = labels(config)
    columns = ["model", "responses for the base's tokens", "k", "pass@k (%)", "base, pass@1 (%)", "difference (points)"]
    rows = [(called[r.model], f"{r.affords:.1f}", f"{r.k:.1f}", cell(r, "passed", ".1f"), f"{r.base:.1f}", cell(r, "gap"))
            for r in _spend(config).itertuples()]
    return pd.DataFrame(rows, columns=columns).set_index("model")


def _spend(config: Config) -> pd.DataFrame:
    table = read(config, "spend_gaps")
    return table[(table.set == overall(table)) & table.gap.notna()]


def spend_conclusions(config: Config) -> list[str]:
    """What the tokens of one response of the base buy with each pruned model, in computed sentences."""
    called = labels(config)
    return [
        f"For the {r.tokens:.0f} tokens of one response of the base, {called[r.model]} gives {r.affords:.1f} responses. At least "
        f"one is right for {r.passed:.1f} % of the problems (pass@{r.k:.1f}), the base's for {r.base:.1f} %: {cell(r, 'gap')} "
        "points: " + verdict(r.gap_low, r.gap_high, "more", "less", NO_DIFFERENCE) + ", for a user who can tell which is right."
        for r in _spend(config).itertuples()
    ]


# --- schedules, controls, seeds ---------------------------------------------------------------------------------------

CONTROLS = {
    "without a limit": "a limit, against the same RL without one",
    "training prompt": "asked in the training prompt, its limit stated",
}


def difference_table(config: Config, name: str) -> pd.DataFrame:
    """`one_shot` or `controls`, mean of the sets: both models' accuracy and length, and the paired differences."""
    table, called = read(config, name), labels(config)
    rows = []
    for r in table[table.set == overall(table)].itertuples() if len(table) else ():
        what = f"limit {r.limit}" if name == "one_shot" else CONTROLS.get(r.control) or what_differs(config, r.model)
        told = ", training prompt" if r.model == r.against else ""
        rows.append({"what differs": what, "model": called[r.model] + told, "against": called[r.against],
                     "accuracy (%) / length": f"{r.accuracy:.1f} / {r.length:.0f}",
                     "the other's": f"{r.other_accuracy:.1f} / {r.other_length:.0f}",
                     "accuracy difference (points)": cell(r, "accuracy_change"),
                     "length difference": cell(r, "length_change", "+.0f", " %"),
                     "p": "< 0.001" if r.p_value < 0.001 else f"{r.p_value:.3f}"})
    return pd.DataFrame(rows).set_index("what differs") if rows else pd.DataFrame()


def what_differs(config: Config, model: str) -> str:
    """In what a control's settings differ from its counterpart's."""
    own = config.schedules[model.split("/")[0]]
    other = vars(config.schedules[own.compare_with or ""])
    names = {"state_limit": "limit not stated in the prompt", "limits": f"limits {', '.join(map(str, own.limits))}",
             "reading": f"{own.reading or config.training.reading} reading of the reward"}
    return ", ".join(names.get(key, key) for key, value in vars(own).items()
                     if value != other[key] and key not in ("label", "compare_with"))


def difference_conclusions(config: Config, name: str) -> list[str]:
    """Which of the two is better, by how much, with the interval; and where no difference could be shown, that."""
    source, sentences = read(config, name), []
    own = source[source.set == overall(source)] if len(source) else source
    for shown, r in zip(difference_table(config, name).reset_index().to_dict("records"), own.itertuples(), strict=True):
        model, against = shown["model"], shown["against"]
        better = verdict(r.accuracy_change_low, r.accuracy_change_high, f"{model} is more accurate",
                         f"{against} is more accurate", "no difference in accuracy could be shown")
        sentences.append(f"{shown['what differs']}: {model} minus {against}: accuracy {cell(r, 'accuracy_change')} points, "
                         f"length {cell(r, 'length_change', '+.0f', ' %')}: {better} (one seed, {config.seed}).")
    return sentences


def seed_table(config: Config) -> pd.DataFrame:
    """Mean over the seeds with its t-interval, the seeds' own values, and their spread beside what the problems alone explain."""
    table = read(config, "seeds_combined")
    form = {"accuracy": ".1f", "length": ".0f", "accuracy change": "+.1f", "length change": "+.0f"}
    return pd.DataFrame([
        {"comparison": r.comparison, "quantity": f"{r.quantity} ({r.unit})",
         "mean [95 %]": f"{r.value:{form[r.quantity]}} [{r.low:{form[r.quantity]}}, {r.high:{form[r.quantity]}}]",
         "seeds": r.by_seed, "sd between seeds": f"{r.sd:.1f}", "sd expected from the problems alone": f"{r.sd_problems:.1f}"}
        for r in table[table.set == overall(table)].itertuples()
    ]).set_index(["comparison", "quantity"])


def seed_conclusions(config: Config) -> list[str]:
    """The comparisons over all seeds, in computed sentences."""
    if not has(config, "seeds_combined"):
        return []
    table = read(config, "seeds_combined")
    return [
        f"Over {r.seeds} seeds, {r.comparison}: accuracy {r.value:+.1f} points [{r.low:+.1f}, {r.high:+.1f}] (interval over "
        f"seeds; seed by seed {r.by_seed}; spread {r.sd:.1f} points, {r.sd_problems:.1f} expected from the problems alone): "
        + verdict(r.low, r.high, "higher", "lower", NO_DIFFERENCE) + "."
        for r in table[(table.set == overall(table)) & (table.quantity == "accuracy change")].itertuples()
    ]
