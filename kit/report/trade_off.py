"""Figures of accuracy against length: pruning, budget forcing, published models, equal spend, problem by problem, seeds."""

from __future__ import annotations

import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from kit.report.inputs import has, published, read, set_label
from kit.report.style import GREY, LOOKS, PUBLISHED, STYLE, curves, legend, name_points, panels, plt, points, styled
from kit.report.tables import published_changes
from kit.runs import catalog
from kit.settings import Config

# --- accuracy against length, for the mean of the sets and each set ---------------------------------------------------


@styled
def trade_off(config: Config) -> Figure:
    """Accuracy against mean length of every model, with 95 % intervals: the mean of the sets (large) and each set (small).

    Numbers at the points are the token limits of the rounds. The thin line is the base model under budget forcing, where it
    was run; the dotted one is the shortest correct chain, where it is known.
    """
    main = read(config, "main")
    forcing = read(config, "forcing") if has(config, "forcing") else main.iloc[:0]
    figure, of_sets = _by_set(config, main, forcing[forcing.model == "base"], join=True)
    for name, axis in of_sets.items():
        own = main[main.set == name]
        if own.core.notna().all():
            axis.axvline(own.core.iloc[0], color=GREY, linewidth=1, linestyle=(0, (1, 2)))
        _published(axis, config, name)
        axis.set(ylim=(max(0, own.accuracy_low.min() - 8), min(100, own.accuracy_high.max() + 3)))
    stated = [name for name, plan in config.schedules.items() if plan.state_limit]
    large = main[(main.set == next(iter(of_sets))) & main.schedule.isin(stated)].dropna(subset=["length"])
    name_points(figure.axes[0], [(r.length, r.accuracy, f"{r.limit:.0f}") for r in large.itertuples()], size=8)
    called = [(name, catalog.schedule_label(config, name)) for name in dict.fromkeys(main.schedule)]
    curve = [Line2D([], [], color="black", marker=".", linewidth=1, label="base, budget forcing")] if len(forcing) else []
    core = [Line2D([], [], color=GREY, linewidth=1, linestyle=":", label="shortest correct chain")] if main.core.notna().any() else []
    figure.axes[0].set(xlabel="mean length (tokens); numbers: the round's token limit", ylabel="accuracy (pass@1, %)")
    legend(figure, config, called, line=True, columns=6, more=curve + core)
    return figure


@styled
def budget_forcing(config: Config) -> Figure:
    """Accuracy against mean total length under budget forcing (lines, with 95 % bands) and of every model left alone (markers).

    Small numbers are the budgets of the base model.
    """
    main, forcing = read(config, "main"), read(config, "forcing")
    figure, of_sets = _by_set(config, main, forcing)
    stopped = forcing[(forcing.set == next(iter(of_sets))) & (forcing.model == "base") & (forcing.forced > 0)]
    name_points(figure.axes[0], [(r.length, r.accuracy, f"{r.budget}") for r in stopped.itertuples()])
    figure.axes[0].set(xlabel="mean total length (tokens); small numbers: budgets", ylabel="accuracy (pass@1, %)")
    line = Line2D([], [], color=GREY, marker=".", linewidth=1, label="line: the same model under budget forcing")
    legend(figure, config, zip(main.model, main.label, strict=True), more=[line])
    return figure


def _by_set(config: Config, main: pd.DataFrame, forcing: pd.DataFrame, join: bool = False) -> tuple[Figure, dict[str, Axes]]:
    """Models as points and budget forcing as curves: a large panel for the mean of the sets, a small one for each set.

    `join`: a line from round to round of each schedule.
    """
    names = [name for name in ["mean", *config.data.evaluation] if name in set(main.set)]
    figure = plt.figure(figsize=(11, 5.4))
    grid = figure.add_gridspec(max(1, len(names) // 2), 4 if len(names) > 1 else 2)
    places = [grid[:, :2], *(grid[k // 2, 2 + k % 2] for k in range(len(names) - 1))]
    of_sets = {name: figure.add_subplot(place) for name, place in zip(names, places, strict=True)}
    for name, axis in of_sets.items():
        large, own = axis is figure.axes[0], main[main.set == name]
        curves(axis, config, forcing[forcing.set == name], "length", "accuracy", marker=".", linestyle="-", linewidth=1)
        if join:
            curves(axis, config, own.drop(columns="accuracy_low"), "length", "accuracy", "schedule", marker="", linewidth=0.9)
        points(axis, config, own, "length", "accuracy", size=8 if large else 6)
        if own.length.isna().all():
            axis.text(0.5, 0.5, "lengths unknown", transform=axis.transAxes, ha="center", color=GREY)
        axis.set_title(set_label(config, name), fontsize=11 if large else 9)
        axis.set(xlabel="", ylabel="")
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=10 if large else 8)
    return figure, of_sets


def _published(axis: Axes, config: Config, name: str) -> None:
    """The published values of this very model family on this set, hollow and labelled."""
    source = published()
    family = source["models"].get(config.model.source)
    for table_name, table in source["tables"].items() if family else ():
        for entry in table["rows"]:
            accuracy, length = entry["cells"].get(name, [None, None])
            if entry["model"].startswith(family) and accuracy is not None and length is not None:
                axis.scatter(length, accuracy, marker=PUBLISHED[table_name], facecolors="none", edgecolors=GREY)
                axis.annotate(f"{entry['model']}, {table_name} ({table['label']})", (length, accuracy), fontsize=6, color=GREY,
                              xytext=(4, 3), textcoords="offset points")


# --- beside the published numbers -------------------------------------------------------------------------------------


@styled
def relative_trade_off(config: Config) -> Figure:
    """Accuracy change against length as a share of the base model's: ours (filled, with 95 % intervals) and published (hollow)."""
    changes = read(config, "changes", overall=True)
    ours = changes[changes.against == "base"]
    ours = ours.assign(**{f"length{end}": 100 + ours[f"length_change{end}"] for end in ("", "_low", "_high")})
    theirs = published_changes().rename(columns={"model": "name"})
    theirs = theirs.assign(model="published " + theirs.source)
    figure, (axis,) = panels(1, 1, width=8, height=5)
    axis.axhline(0, color="#999999", linewidth=1)
    points(axis, config, ours, "length", "accuracy_change", size=7)
    points(axis, config, theirs, "length", "accuracy_change")
    axis.set(xlabel="mean length (% of the base model's)", ylabel="accuracy change (points)", xlim=(0, 110))
    sources = zip(theirs.model, theirs.model + " (" + theirs.label + ")", strict=True)
    legend(figure, config, [*zip(ours.model, "ours: " + ours.label, strict=True), *sources], columns=3)
    name_points(axis, [(r.length, r.accuracy_change, r.name) for r in theirs.itertuples()])
    return figure


@styled
def efficiency(config: Config) -> Figure:
    """The accuracy-efficiency score: ours (filled, with 95 % intervals) and published (hollow); 0 is each one's own base model."""
    ours, theirs = read(config, "efficiency", overall=True), published_changes()
    theirs = theirs.assign(model="published " + theirs.source, label=theirs.model + " (" + theirs.source + ", " + theirs.label + ")")
    table = pd.concat([ours, theirs]).dropna(subset=["score"])
    figure, (axis,) = panels(1, 1, width=8, height=0.4 + 0.28 * len(table))
    axis.axvline(0, color="#999999", linewidth=1)
    points(axis, config, table, "score", "label")
    axis.set(xlabel="accuracy-efficiency score (0: the base model; filled: ours, hollow: published)", ylabel="")
    return figure


# --- equal spend, problem by problem, seeds ---------------------------------------------------------------------------


@styled
def equal_spend(config: Config) -> Figure:
    """Accuracy bought with tokens, with 95 % bands: several responses of which one is right (left), one under a hard cap (right)."""
    shown = ["base", *catalog.last_rounds(config)]
    figure, (many, one) = panels(2, 2, height=3.7, sharey=True)
    for axis, name, x, y in ((many, "spend", "tokens", "passed"), (one, "caps", "spent", "accuracy")):
        table = read(config, name, overall=True)
        if len(table):
            curves(axis, config, table[table.model.isin(shown)], x, y, pointsize=4)
    many.set(title="k responses, one of them right (pass@k)", xlabel="k × mean length (tokens)", ylabel="%", xscale="log")
    many.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    many.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    many.xaxis.set_minor_formatter(NullFormatter())
    one.set(title="one response, stopped at a cap", xlabel="mean tokens spent", ylabel="")
    called = catalog.labels(config)
    legend(figure, config, [(model, called[model]) for model in shown], line=True)
    return figure


@styled
def problem_changes(config: Config) -> Figure:
    """Every problem's change of accuracy against its change of length, for the last round of each schedule; moved a little apart."""
    table, called = read(config, "per_problem"), catalog.labels(config)
    table = table[table.length_change.notna()].assign(set=[set_label(config, s) for s in table[table.length_change.notna()].set])
    models = [model for model in catalog.last_rounds(config) if model in set(table.model)]
    sets = list(dict.fromkeys(table.set))
    colours, markers = ({name: LOOKS[k % len(LOOKS)][n] for k, name in enumerate(sets)} for n in (0, 1))
    figure, axes = panels(len(models), max(1, min(3, len(models))), width=11, height=3.4, sharex=True, sharey=True)
    for axis, model in zip(axes, models, strict=True):
        own = table[table.model == model]
        drawn = so.Plot(own, x="length_change", y="accuracy_change", color="set", marker="set")
        drawn = drawn.add(so.Dots(pointsize=3.5, stroke=0.7, fillalpha=0, alpha=0.6), so.Jitter(y=5, seed=0), legend=False)
        drawn.scale(color=colours, marker=markers).theme(STYLE).on(axis).plot()
        shares = [(own.accuracy_change > 0).mean(), (own.accuracy_change == 0).mean(), (own.accuracy_change < 0).mean()]
        axis.set_title("{}\n{:.0%} better, {:.0%} as before, {:.0%} worse".format(called[model], *shares), fontsize=9)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set(xlabel="length change (%)", ylabel="accuracy change (points)" if axis is axes[0] else "")
    handles = [Line2D([], [], color=colours[s], marker=markers[s], markerfacecolor="none", linestyle="none", label=s) for s in sets]
    legend(figure, config, [], more=handles)
    return figure


@styled
def seeds(config: Config) -> Figure:
    """Every comparison of accuracy seed by seed (grey) and over the seeds (black), with 95 % intervals."""
    each, combined = (table[table.quantity == "accuracy change"] for table in (read(config, "seeds", overall=True),
                                                                               read(config, "seeds_combined", overall=True)))
    figure, (axis,) = panels(1, 1, width=8, height=0.4 + 0.55 * len(combined))
    axis.axvline(0, color="#999999", linewidth=1)
    drawn = so.Plot(combined, x="value", y="comparison", xmin="low", xmax="high").theme(STYLE)
    drawn = drawn.add(so.Range(color=GREY, linewidth=0.7), so.Dodge(), so.Shift(y=0.2), data=each, group="seed")
    drawn = drawn.add(so.Dot(color=GREY, pointsize=4), so.Dodge(), so.Shift(y=0.2), data=each, group="seed")
    drawn.add(so.Range(color="black")).add(so.Dot(color="black", pointsize=7)).on(axis).plot()
    axis.set(xlabel="accuracy difference (points); grey: one seed each, black: mean over the seeds", ylabel="")
    return figure
