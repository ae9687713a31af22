"""Figures of the comparisons: budget forcing, problem by problem, equal spend, the efficiency score, seeds.

As kit.report.figures: nothing is read but CSVs of a run and params/published.yaml; published values are hollow and labelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from kit.report import figures
from kit.report.comparison_tables import has, labels, last_rounds, overall, published_changes
from kit.report.figures import STYLE, look, read, title_of
from kit.settings import ROOT, Config, read_yaml

PUBLISHED_LOOKS = {"paper": "o", "autothink": "s", "lapo": "^", "decs": "D"}
GREY = "#555555"


# --- budget forcing ---------------------------------------------------------------------------------------------------


def trade_off(config: Config) -> Figure:
    """`figures.trade_off` with the base model's budget-forcing curve drawn in, where there is one."""
    figure, main = figures.trade_off(config), read(config, "main")
    names = [n for n in ["mean", *config.data.evaluation] if n in set(main.set)]  # the order of the panels
    for axis, name in zip(figure.axes, names, strict=True):
        if has(config, "forcing"):
            forcing = read(config, "forcing")
            own = forcing[(forcing.model == "base") & (forcing.set == name)]
            _curve(axis, config, own, "base, budget forcing", name == names[0])
        _published(axis, config, name)
    figure.axes[0].legend(loc="lower right", frameon=False)
    return figure


def _published(axis: Axes, config: Config, name: str) -> None:
    """The published values of this very model family on this set, hollow and labelled."""
    published = read_yaml(ROOT / "params" / "published.yaml")
    family = published["models"].get(config.model.source)
    for source, table in published["tables"].items() if family else ():
        own = [(entry["model"], *entry["cells"].get(name, [None, None])) for entry in table["rows"]
               if entry["model"].startswith(family)]
        for model, accuracy, length in own:
            if accuracy is not None and length is not None:
                axis.scatter(length, accuracy, marker=PUBLISHED_LOOKS[source], facecolors="none", edgecolors=GREY)
                axis.annotate(f"{model}, {source} ({table['label']})", (length, accuracy), fontsize=6, color=GREY, xytext=(4, 3),
                              textcoords="offset points")


def _curve(axis: Axes, config: Config, own: pd.DataFrame, label: str, budgets: bool) -> None:
    if own.empty:
        return
    colour, _, line = look(config, str(own.model.iloc[0]).split("/")[0])
    axis.plot(own.length, own.accuracy, color=colour, linestyle=line, marker=".", linewidth=1.0, label=label)
    axis.fill_between(own.length, own.accuracy_low, own.accuracy_high, color=colour, alpha=0.13, linewidth=0)
    if budgets:
        for p in own[own.forced > 0].itertuples():
            axis.annotate(f"{p.budget}", (p.length, p.accuracy), xytext=(3, -9), textcoords="offset points", fontsize=7,
                          color=colour)


def budget_forcing(config: Config) -> Figure:
    """Accuracy against mean total length: each forced model's curve over the budgets, and every model left alone."""
    forcing, main, called = read(config, "forcing"), read(config, "main"), labels(config)
    names = [n for n in ["mean", *config.data.evaluation] if n in set(forcing.set)]
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 5.2))
        grid = figure.add_gridspec(max(1, len(names) // 2), 4 if len(names) > 1 else 2)
        places = [grid[:, :2], *(grid[i // 2, 2 + i % 2] for i in range(len(names) - 1))]
        for place, name in zip(places, names, strict=True):
            axis, large = figure.add_subplot(place), name == names[0]
            for model in config.forced_models:
                own = forcing[(forcing.model == model) & (forcing.set == name)]
                _curve(axis, config, own, f"{called[model]}: budget forcing", large and model == "base")
            for point in main[main.set == name].itertuples():
                colour, marker, _ = look(config, point.schedule)
                axis.errorbar(
                    point.length, point.accuracy, color=colour, marker=marker, linestyle="none", capsize=2, elinewidth=0.9,
                    markersize=10 if point.model == "base" else 6, label=called[point.model],
                    xerr=[[point.length - point.length_low], [point.length_high - point.length]],
                    yerr=[[point.accuracy - point.accuracy_low], [point.accuracy_high - point.accuracy]])
            axis.set_title(title_of(config, name), fontsize=11 if large else 9)
            axis.set_xlim(left=0)
        figure.axes[0].set(xlabel="mean total length (tokens); small numbers: budgets", ylabel="accuracy (pass@1, %)")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)
        return figure


# --- beside the published numbers -------------------------------------------------------------------------------------


def relative_trade_off(config: Config) -> Figure:
    """Accuracy change against length as a share of the base's: ours (filled), published (hollow): the shapes side by side."""
    changes, called, published = read(config, "changes"), labels(config), published_changes()
    ours = changes[(changes.against == "base") & (changes.set == overall(changes))]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 5))
        axis.axhline(0, color="#999999", linewidth=1)
        for p in ours.itertuples():
            colour, marker, _ = look(config, p.model.split("/")[0])
            axis.errorbar(100 + p.length_change, p.accuracy_change, color=colour, marker=marker, linestyle="none", capsize=2,
                          elinewidth=0.9, label=f"ours: {called[p.model]}",
                          xerr=[[p.length_change - p.length_change_low], [p.length_change_high - p.length_change]],
                          yerr=[[p.accuracy_change - p.accuracy_change_low], [p.accuracy_change_high - p.accuracy_change]])
        for source, own in published.groupby("source", sort=False):
            axis.scatter(own.length, own.accuracy_change, marker=PUBLISHED_LOOKS[source], facecolors="none", edgecolors=GREY,
                         label=f"published: {source} ({own.label.iloc[0]})")
        axis.set(xlabel="mean length (% of the base model's)", ylabel="accuracy change (points)", xlim=(0, 110))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncol=3, fontsize=8)
        _name_points(axis, [(p.length, p.accuracy_change, p.model) for p in published.itertuples()])
        return figure


def _name_points(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name beside each point (x, y, name), at the corner where it covers fewest of the points and the other names."""
    axis.figure.canvas.draw()  # only now is it known where the points lie on the page
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axis.transData.transform([point[:2] for point in points])]
    for x, y, name in points:
        texts = [axis.annotate(name, (x, y), (right, up), textcoords="offset points", fontsize=7, color=GREY,
                               ha="left" if right > 0 else "right", va="bottom" if up > 0 else "top")
                 for right in (4, -4) for up in (3, -3)]
        best = min(texts, key=lambda text: text.get_window_extent().count_overlaps(taken))
        taken.append(best.get_window_extent())
        for text in texts:
            if text is not best:
                text.remove()


def efficiency(config: Config) -> Figure:
    """The accuracy-efficiency score: ours with intervals (filled), published (hollow); 0 is each one's own base model."""
    table, called = read(config, "efficiency"), labels(config)
    ours = table[(table.set == overall(table)) & table.score.notna()]
    published = published_changes().dropna(subset=["score"])
    names = [called[m] for m in ours.model] + [f"{p.model} ({p.source}, {p.label})" for p in published.itertuples()]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.28 * len(names)))
        axis.axvline(0, color="#999999", linewidth=1)
        for y, p in enumerate(ours.itertuples()):
            colour, marker, _ = look(config, p.model.split("/")[0])
            axis.errorbar(p.score, y, xerr=[[p.score - p.score_low], [p.score_high - p.score]], color=colour, marker=marker,
                          capsize=2)
        axis.scatter(published.score, range(len(ours), len(names)), marker="o", facecolors="none", edgecolors=GREY)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("accuracy-efficiency score (0: the base model; filled: ours, hollow: published)")
        return figure


# --- problem by problem, equal spend, seeds ---------------------------------------------------------------------------


def problem_changes(config: Config) -> Figure:
    """Every problem's change of accuracy against its change of length, for the last round of each schedule."""
    table, called = read(config, "per_problem"), labels(config)
    models = [m for m in last_rounds(config) if table[table.model == m].length_change.notna().any()]
    jitter = np.random.default_rng(0)  # few samples a problem: many changes are the same number
    with plt.rc_context(STYLE):
        width = max(1, min(3, len(models)))
        shape = (max(1, -(-len(models) // width)), width)
        figure, axes = plt.subplots(*shape, figsize=(3.8 * shape[1], 3.4 * shape[0]), sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(models):]:
            axis.set_visible(False)
        for axis, model in zip(axes.flat, models, strict=False):
            own = table[table.model == model]
            for i, (name, part) in enumerate(own.groupby("set", sort=False)):
                colour, marker, _ = figures.LOOKS[i % len(figures.LOOKS)]
                axis.scatter(part.length_change, part.accuracy_change + jitter.uniform(-2.5, 2.5, len(part)), s=11, marker=marker,
                             facecolors="none", edgecolors=colour, linewidths=0.7, alpha=0.6, label=title_of(config, name))
            shares = [(own.accuracy_change > 0).mean(), (own.accuracy_change == 0).mean(), (own.accuracy_change < 0).mean()]
            axis.set_title("{}\n{:.0%} better, {:.0%} as before, {:.0%} worse".format(called[model], *shares), fontsize=9)
            axis.axhline(0, color="#999999", linewidth=0.8)
            axis.axvline(0, color="#999999", linewidth=0.8)
            axis.set_xlabel("length change (%)")
        axes[0, 0].set_ylabel("accuracy change (points)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)
        return figure


def equal_spend(config: Config) -> Figure:
    """Accuracy bought with tokens: several short responses (pass@k), and one response under a hard cap."""
    spend, caps, called = read(config, "spend"), read(config, "caps"), labels(config)
    with plt.rc_context(STYLE):
        figure, (many, one) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
        for model in ["base", *last_rounds(config)]:
            colour, marker, line = look(config, model.split("/")[0])
            for axis, table, x, y in ((many, spend, "tokens", "passed"), (one, caps, "spent", "accuracy")):
                own = table[(table.model == model) & (table.set == overall(table))] if len(table) else table
                if len(own) and own[x].notna().all():
                    axis.plot(own[x], own[y], color=colour, marker=marker, linestyle=line, markersize=4, label=called[model])
                    axis.fill_between(own[x], own[f"{y}_low"], own[f"{y}_high"], color=colour, alpha=0.1, linewidth=0)
        many.set(title="k responses, one of them right (pass@k)", xlabel="k × mean length (tokens)", ylabel="%", xscale="log")
        many.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        many.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        many.xaxis.set_minor_formatter(NullFormatter())
        one.set(title="one response, stopped at a cap", xlabel="mean tokens spent")
        figure.legend(*many.get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8)
        return figure


def seeds(config: Config) -> Figure:
    """Every comparison seed by seed (small) and over the seeds (large), with 95 % intervals."""
    each, combined = read(config, "seeds"), read(config, "seeds_combined")
    shown = [g for g in combined.itertuples() if g.quantity == "accuracy change" and g.set == overall(combined)]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.9 + 0.55 * len(shown)))
        axis.axvline(0, color="#999999", linewidth=1)
        for y, g in enumerate(shown):
            own = each[(each.comparison == g.comparison) & (each.quantity == g.quantity) & (each.set == g.set)]
            for i, p in enumerate(own.itertuples()):
                axis.errorbar(p.value, y + 0.12 * (i + 1), xerr=[[p.value - p.low], [p.high - p.value]], color=GREY, marker=".",
                              elinewidth=0.7)
            axis.errorbar(g.value, y, xerr=[[g.value - g.low], [g.high - g.value]], color="black", marker="o", capsize=3)
        axis.set_yticks(range(len(shown)), [g.comparison for g in shown], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("accuracy difference (points); grey: one seed each, black: mean over the seeds")
        return figure
