"""Pictures of notebook 05's tables: keywords, phase donuts, attempts, repetition, perplexity, length distributions; CSVs in,
figures out.

Published values are drawn in where they are known: for these analyses the paper's text gives the direction (hesitation goes,
core stays, perplexity "nearly unchanged") and no number that could be sourced, so none is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kit.report import figures
from kit.report.figures import STYLE, cell, label_of, look, mean_rows, read, title_of
from kit.runs import paths
from kit.settings import Config

# Phase -> colour, hatch. A family of colours per kind (green core, blue checking, vermillion hesitation, grey framing), shades
# and hatches within it; wedges carry the phase's number too.
WEDGES = {
    "Understanding the Problem": ("#bdbdbd", ""),
    "Reformulating the Problem": ("#8c8c8c", "//"),
    "Applying Known Theorems/Properties": ("#b7e0d2", ""),
    "Breaking Down into Subproblems": ("#70c2a7", "\\\\"),
    "Computing or Simplifying Expressions": ("#009E73", ""),
    "Substituting Known Values or Results": ("#00694d", "//"),
    "Reassess and Verify Local Steps": ("#7cbbe0", ""),
    "Reassess the Whole Solution": ("#0072B2", "\\\\"),
    "Exploring Alternative Approaches": ("#D55E00", ""),
    "Finalize and Present the Answer": ("#e3e3e3", ".."),
    "unlabelled": ("#ffffff", "xx"),
}
SMALLEST_NUMBERED = 4.0  # percent
ATTEMPTS = {"attempts": "solution attempts per response", "redundant": "thinking after the first correct one (%)",
            "lost": "had it right, answered wrong (%)"}
REPETITION = {"repeated": "runs of words seen before (%)", "loops": "responses that end in a loop (%)"}
QUANTITY = {"per_response": "per response", "per_1000_tokens": "per 1,000 tokens"}


def names_of(config: Config, table: pd.DataFrame) -> dict[str, str]:
    """Model -> how figures call it, in the table's order."""
    firsts = table.drop_duplicates("model").itertuples()
    return {row.model: label_of(config, row.schedule, int(row.round), row.limit) for row in firsts}


def _bars(axis: Axes, config: Config, table: pd.DataFrame, column: str, title: str) -> None:
    """A horizontal bar per model with its 95 % interval, the first model on top; what is not known is said, not drawn."""
    names = names_of(config, table)
    for y, row in enumerate(table.to_dict("records")):
        colour, _, _ = look(config, row["schedule"])
        value, low, high = row[column], row[f"{column}_low"], row[f"{column}_high"]
        if pd.isna(value):
            axis.annotate("not known", (0, y), fontsize=8, va="center", color="#555555")
            continue
        axis.barh(y, value, color=colour, alpha=0.75, height=0.65)
        if not pd.isna(low):
            around = [[max(value - low, 0)], [max(high - value, 0)]]
            axis.errorbar(value, y, xerr=around, color="black", capsize=2, elinewidth=0.9)
        axis.annotate(f" {value:.3g}", (value if pd.isna(high) else max(high, value), y), fontsize=8, va="center")
    axis.set_yticks(range(len(table)), [names[m] for m in table.model])
    axis.set_xlim(left=0)
    axis.margins(x=0.14)
    axis.grid(axis="y", visible=False)
    axis.set_title(title, fontsize=10)


def _rows_of_bars(config: Config, panels: list[tuple[pd.DataFrame, str, str]], columns: int) -> Figure:
    models = max(len(table) for table, _, _ in panels)
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(11, rows * (0.9 + 0.32 * models)), squeeze=False, sharey=True)
        for axis, (table, column, title) in zip(axes.flat, panels, strict=False):
            _bars(axis, config, table, column, title)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        axes[0, 0].invert_yaxis()  # shared by all
        return figure


def keyword_bars(config: Config) -> Figure:
    """Keywords of each list per response and per 1,000 tokens, mean of the sets, with 95 % intervals."""
    table = mean_rows(read(config, "keywords"))
    panels = [(own, column, f"{label} words {words}") for label, own in table.groupby("keywords", sort=False)
              for column, words in QUANTITY.items()]
    return _rows_of_bars(config, panels, 2)


def attempt_bars(config: Config) -> Figure:
    """Solution attempts, the redundant share of the thinking, and right answers lost again, mean of the sets."""
    table = mean_rows(read(config, "attempts"))
    return _rows_of_bars(config, [(table, column, title) for column, title in ATTEMPTS.items()], 3)


def repetition_bars(config: Config) -> Figure:
    """Repeated runs of words and responses that end in a loop, mean of the sets."""
    table = mean_rows(read(config, "repetition"))
    return _rows_of_bars(config, [(table, column, title) for column, title in REPETITION.items()], 2)


def perplexity_points(config: Config) -> Figure:
    """Perplexity of the traces under the reference model, each set and their mean, with 95 % intervals."""
    table = read(config, "perplexity")
    names, sets = names_of(config, table), list(dict.fromkeys(table.set))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 3.6))
        for k, (model, own) in enumerate(table.groupby("model", sort=False)):
            own = own.set_index("set").loc[sets]
            colour, marker, _ = look(config, own.schedule.iloc[0])
            places = np.arange(len(sets)) + 0.6 * ((k + 0.5) / len(names) - 0.5)
            around = [own.perplexity - own.perplexity_low, own.perplexity_high - own.perplexity]
            axis.errorbar(places, own.perplexity, yerr=around, color=colour, marker=marker, linestyle="none", capsize=2,
                          elinewidth=0.9, label=names[str(model)], alpha=0.5 + 0.5 * (k + 1) / len(names))
        axis.set_xticks(range(len(sets)), [title_of(config, s).replace(" (", "\n(") for s in sets])
        axis.set_ylim(bottom=1)
        axis.set_ylabel("perplexity (1: no surprise)")
        source = table.reference.iloc[0]
        axis.set_title(f"Reference model: {'a second small one, trained with another seed' if source == 'trained' else source}")
        figure.legend(loc="outside lower center", ncol=min(len(names), 4))
        return figure


def phase_donuts(config: Config) -> Figure:
    """A donut per model: share of steps per phase; in the middle the number of steps per response. Mean of the sets."""
    table = mean_rows(read(config, "phases"))
    return _donuts(config, table[table.labeller == "rules"], "model", names_of(config, table))


def judge_donuts(config: Config) -> Figure:
    """The same as labelled by the language model, and by the rules beside it, on the same steps."""
    table = mean_rows(read(config, "phases_judge"))
    names = names_of(config, table)
    table = table.assign(both=table.model.map(names) + ", by " + table.labeller)
    return _donuts(config, table, "both", {name: name for name in table.both.unique()})


def _donuts(config: Config, table: pd.DataFrame, by: str, names: dict[str, str]) -> Figure:
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    listed = [p for p in WEDGES if p in set(table.phase)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(11, 3.3 * rows + 0.9), squeeze=False)
        for axis, (key, own) in zip(axes.flat, table.groupby(by, sort=False), strict=False):
            own = own.set_index("phase").loc[listed]
            shares = own.share.fillna(0.0).clip(lower=0.0)
            if shares.sum() > 0:
                marked = [f"{listed.index(p) + 1}" if s >= SMALLEST_NUMBERED else "" for p, s in shares.items()]
                wedges, _ = axis.pie(shares, labels=marked, startangle=90, counterclock=False, labeldistance=1.06,
                                     colors=[WEDGES[p][0] for p in listed], textprops={"fontsize": 8},
                                     wedgeprops={"width": 0.38, "edgecolor": "white", "linewidth": 0.8})
                for wedge, phase in zip(wedges, listed, strict=True):
                    wedge.set_hatch(WEDGES[phase][1])
            axis.text(0, 0, f"{own.per_response.sum():.1f} steps\na response", ha="center", va="center", fontsize=9)
            axis.set_title(names[str(key)], fontsize=10, loc="center")
        for axis in axes.flat[table[by].nunique() :]:
            axis.set_axis_off()
        handles = [Patch(facecolor=WEDGES[p][0], hatch=WEDGES[p][1], edgecolor="white", label=f"{k}. {p}")
                   for k, p in enumerate(listed, 1)]
        figure.legend(handles=handles, loc="outside lower center", ncol=2, fontsize=8, frameon=False)
        return figure


def length_curves(config: Config) -> Figure:
    """Percentiles of the lengths of correct (solid, with 95 % bands) and wrong (dashed) responses, a panel per set; the first
    model and the last round of each schedule."""
    table = read(config, "percentiles")
    last = table.drop_duplicates("schedule", keep="last").model
    table = table[table.model.isin([table.model.iloc[0], *last])]
    names, sets = names_of(config, table), list(dict.fromkeys(table.set))
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(11, 3.1 * rows + 0.6), squeeze=False)
        for axis, name in zip(axes.flat, sets, strict=False):
            panel = table[table.set == name]
            for (model, verdict), own in panel.dropna(subset=["length"]).groupby(["model", "verdict"], sort=False):
                colour, marker, _ = look(config, own.schedule.iloc[0])
                right = verdict == "correct"
                axis.plot(own.percentile, own.length, color=colour, marker=marker, markersize=4, linestyle="-" if right else "--",
                          markerfacecolor=colour if right else "white", label=f"{names[model]}, {verdict}")
                if right:
                    axis.fill_between(own.percentile, own.length_low, own.length_high, color=colour, alpha=0.12, linewidth=0)
            if not axis.lines:
                axis.annotate("no lengths in these logs", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#555555")
            axis.set(title=config.set_labels.get(name, name), xlabel="percentile of the responses", ylabel="length (tokens)")
            axis.set_ylim(bottom=0)
        for axis in axes.flat[len(sets) :]:
            axis.set_axis_off()
        handles = {h.get_label(): h for axis in axes.flat for h in axis.lines}
        if handles:
            figure.legend(handles=list(handles.values()), loc="outside lower center", ncol=min(4, len(names)), fontsize=8)
        return figure


def kind_table(config: Config) -> pd.DataFrame:
    """What moved: words, steps by kind and attempts in a mean response, and their change against the first model, paired."""
    moves = read(config, "moves")
    names, rows = names_of(config, moves), {}
    for (model, quantity), own in moves.groupby(["model", "quantity"], sort=False):
        m = own.iloc[0]
        change = "" if pd.isna(m.change) else f" ({m.change:+.0f} % [{m.change_low:+.0f}, {m.change_high:+.0f}])"
        rows.setdefault(label_of(config, "base", 0, float("nan")), {})[quantity] = f"{m.before:.2f}"
        rows.setdefault(names[model], {})[quantity] = f"{m.after:.2f}{change}"
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="model"))


def conclusions(config: Config) -> list[str]:
    """What moved and what stayed, one computed sentence per model."""
    moves = read(config, "moves").set_index(["model", "quantity"])
    names, found = names_of(config, moves.reset_index()), []
    for model, name in names.items():
        told = []
        for quantity in ("hesitation words", "checking steps", "core steps", "attempts"):
            if (model, quantity) not in moves.index:
                continue
            m = moves.loc[(model, quantity)]
            if pd.isna(m.change):
                told.append(f"no {quantity} before, {m.after:.2f} a response after")
                continue
            verdict = "no change shown" if m.change_low <= 0 <= m.change_high else "fewer" if m.change < 0 else "more"
            told.append(f"{quantity} {m.change:+.0f} % [{m.change_low:+.0f}, {m.change_high:+.0f}] ({verdict})")
        told += [f"{what} {before:.{digits}f} -> {after:.{digits}f}{unit}"
                 for what, digits, unit, (before, after) in _side_by_side(config, model)]
        found.append(f"{name} against {label_of(config, 'base', 0, float('nan'))}: " + "; ".join(told) + ".")
    return found


def _side_by_side(config: Config, model: str) -> Iterator[tuple[str, int, str, tuple[float, float]]]:
    """(what, digits, unit, values of the first model and of this one) of repetition and, where it was measured, perplexity."""
    for source, column, what, digits, unit in (
        ("repetition", "repeated", "repeated runs of words", 1, " %"),
        ("repetition", "loops", "responses that end in a loop", 1, " %"),
        ("perplexity", "perplexity", "perplexity", 2, ""),
    ):
        if _there(config, source):
            values = mean_rows(read(config, source)).set_index("model")[column]
            yield what, digits, unit, (values.iloc[0], values[model])


def _there(config: Config, name: str) -> bool:
    """Whether there is such a table, and the params still ask for it."""
    asked = {"phases_judge": config.behavior.judge.url, "perplexity": config.behavior.reference}.get(name, True)
    return bool(asked) and (paths.of(config).metrics / f"{name}.csv").is_file()


def measure_table(config: Config) -> pd.DataFrame:
    """Attempts, repetition and perplexity with their 95 % intervals, mean of the sets; a row per model."""
    columns = {}
    for source, titles in {"attempts": ATTEMPTS, "repetition": REPETITION, "perplexity": {"perplexity": "perplexity"}}.items():
        if _there(config, source):
            table = mean_rows(read(config, source))
            names = names_of(config, table)
            columns |= {title: {names[r.model]: cell(r, column, ".1f") for r in table.itertuples()}
                        for column, title in titles.items()}
    return pd.DataFrame(columns).rename_axis("model")


def length_table(config: Config) -> pd.DataFrame:
    """Percentiles of the lengths (tokens) of correct and of wrong responses, a row per model, set and verdict."""
    table = read(config, "percentiles")
    wide = table.assign(cell=[cell(r, "length", ".0f") for r in table.itertuples()],
                        model=table.model.map(names_of(config, table)),
                        set=[title_of(config, s) for s in table.set], percentile=[f"{p} %" for p in table.percentile])
    keys, order = ["model", "set", "verdict", "responses"], list(dict.fromkeys(wide.percentile))
    return wide.set_index([*keys, "percentile"]).cell.unstack(sort=False)[order]


def save_all(config: Config) -> list[str]:
    """Draw every figure whose CSV is there, into the run's figures folder; returns their names."""
    drawn = []
    for draw, source in FIGURES.items():
        if _there(config, source):
            figures.save(draw(config), config, draw.__name__)
            drawn.append(draw.__name__)
    return drawn


FIGURES = {  # function: the CSV it is drawn from
    keyword_bars: "keywords", phase_donuts: "phases", judge_donuts: "phases_judge", attempt_bars: "attempts",
    repetition_bars: "repetition", perplexity_points: "perplexity", length_curves: "percentiles",
}
