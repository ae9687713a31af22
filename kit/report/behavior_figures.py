"""Figures of notebook 05: keywords, phases, repetition, perplexity, lengths of correct and of wrong responses.

For these analyses the paper's text gives the direction (hesitation goes, core stays, perplexity "nearly unchanged") and no
number that could be sourced, so nothing published is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pandas as pd
import seaborn
import seaborn.objects as so
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kit.report.inputs import has, read, set_label
from kit.report.style import GREY, curves, legend, panels, plot, points, styled
from kit.report.tables import MEASURES
from kit.runs import catalog
from kit.settings import Config

# Phases of one kind share a colour, in shades and hatches; wedges carry the phase's number too.
KINDS = {"framing": "#8c8c8c", "core": "#009E73", "checking": "#0072B2", "hesitation": "#D55E00", "unlabelled": "#222222"}
HATCHES = ("", "//", "\\\\", "..", "xx")
SMALLEST_NUMBERED = 4.0  # percent


def _bars(config: Config, found: list[tuple[pd.DataFrame, str, str]], columns: int) -> Figure:
    """Panels of (table, column, title): a horizontal bar per model with its 95 % interval, the first model on top."""
    figure, axes = panels(len(found), columns, height=1 + 0.32 * max(len(table) for table, _, _ in found), sharey=True)
    for axis, (table, column, title) in zip(axes, found, strict=True):
        bar = so.Bar(width=0.65, alpha=0.75, edgewidth=0)
        drawn = plot(config, table, column, "label").add(bar, legend=False)
        interval = so.Range(color="black", linewidth=0.9)
        drawn = drawn.add(interval, color=None, xmin=f"{column}_low", xmax=f"{column}_high", legend=False)
        drawn.on(axis).plot()
        for y, row in enumerate(table.to_dict("records")):
            known, end = pd.notna(row[column]), max(row[column], row[f"{column}_high"])
            axis.annotate(f" {row[column]:.3g}" if known else " not known", (end if known else 0, y), fontsize=8, va="center",
                          color="black" if known else GREY)
        axis.set(xlabel="", ylabel="", xlim=(0, max(0.5, 1.15 * table[[column, f"{column}_high"]].max(axis=None))))
        axis.set_title(textwrap.fill(title, 36), fontsize=10)
        axis.tick_params(labelleft=axis.get_subplotspec().is_first_col())  # seaborn names the models at every panel
    return figure


@styled
def keyword_bars(config: Config) -> Figure:
    """Keywords of each list per response and per 1,000 tokens, mean of the sets, with 95 % intervals."""
    return _bars(config, [(own, column, f"{words} words {unit}")
                          for words, own in read(config, "keywords", overall=True).groupby("keywords", sort=False)
                          for column, unit in (("per_response", "per response"), ("per_1000_tokens", "per 1,000 tokens"))], 2)


@styled
def first_answer_bars(config: Config) -> Figure:
    """Tokens before and after a response has first stated its answer, and the share after it, mean of the sets."""
    table = read(config, "first_answer", overall=True)
    return _bars(config, [(table, column, title) for column, title in MEASURES["first_answer"].items()], 3)


@styled
def repetition_bars(config: Config) -> Figure:
    """Repeated runs of words and responses that end in a loop, mean of the sets, with 95 % intervals."""
    table = read(config, "repetition", overall=True)
    return _bars(config, [(table, column, title) for column, title in MEASURES["repetition"].items()], 2)


@styled
def perplexity_points(config: Config) -> Figure:
    """Perplexity of the traces under a fixed reference model, for each set and their mean, with 95 % intervals."""
    table = read(config, "perplexity")
    table["title"] = [set_label(config, s).replace(" (", "\n(") for s in table.set]
    figure, (axis,) = panels(1, 1, width=9, height=3.2)
    points(axis, config, table, "title", "perplexity", 6, so.Dodge(by=["color"]))
    axis.set(ylabel="perplexity (1: no surprise)", xlabel="")
    axis.set_ylim(bottom=1)
    source = table.reference.iloc[0]
    axis.set_title(f"Reference model: {'a second small one, trained with another seed' if source == 'trained' else source}")
    legend(figure, config, table.model)
    return figure


@styled
def phase_donuts(config: Config) -> Figure:
    """A donut per model: the share of steps in each phase, mean of the sets; in the middle the number of steps per response."""
    table = read(config, "phases", overall=True)
    return _donuts(table[table.labeller == "rules"], "label")


@styled
def judge_donuts(config: Config) -> Figure:
    """Donuts of the share of steps in each phase, by a language model and by the rules, for the same steps of each model."""
    table = read(config, "phases_judge", overall=True)
    return _donuts(table.assign(both=table.label + ", by " + table.labeller), "both")


def _donuts(table: pd.DataFrame, by: str) -> Figure:
    names, seen = list(dict.fromkeys(table[by])), set(table[table.share > 0].phase)
    looks = {}
    for kind, own in table[table.phase.isin(seen)].drop_duplicates("phase").groupby("kind", sort=False):
        shades = seaborn.light_palette(KINDS[kind], len(own) + 1)[1:]
        looks |= {phase: {"facecolor": shades[k], "hatch": HATCHES[k]} for k, phase in enumerate(own.phase)}
    listed = [phase for phase in dict.fromkeys(table.phase) if phase in seen]
    figure, axes = panels(len(names), min(3, len(names)), height=3.3)
    for axis, name in zip(axes, names, strict=True):
        own = table[table[by] == name].set_index("phase").reindex(listed)
        shares = own.share.fillna(0.0).clip(lower=0.0)
        if shares.sum() > 0:
            numbers = [f"{k}" if share >= SMALLEST_NUMBERED else "" for k, share in enumerate(shares, 1)]
            axis.pie(shares, labels=numbers, startangle=90, counterclock=False, labeldistance=1.06, textprops={"fontsize": 8},
                     colors=[looks[phase]["facecolor"] for phase in listed], hatch=[looks[phase]["hatch"] for phase in listed],
                     wedgeprops={"width": 0.38, "edgecolor": "white", "linewidth": 0.8})
        axis.text(0, 0, f"{own.per_response.sum():.1f} steps\na response", ha="center", va="center", fontsize=9)
        axis.set_title(name, fontsize=10, loc="center")
    handles = [Patch(**looks[phase], edgecolor="white", label=f"{k}. {phase}") for k, phase in enumerate(listed, 1)]
    figure.legend(handles=handles, loc="outside lower center", ncol=2, fontsize=8)
    return figure


@styled
def length_curves(config: Config) -> Figure:
    """Percentiles of the lengths of correct (solid, with 95 % bands) and of wrong (dashed, hollow) responses, a panel per set.

    Shown are the base and the last round of each schedule.
    """
    table = read(config, "percentiles")
    shown, sets = table[table.model.isin(["base", *catalog.last_rounds(config)])], list(dict.fromkeys(table.set))
    figure, axes = panels(len(sets), min(2, len(sets)), height=3.1)
    for axis, name in zip(axes, sets, strict=True):
        own = shown[shown.set == name]
        right, wrong = own[own.verdict == "correct"], own[own.verdict == "wrong"]
        curves(axis, config, right, "percentile", "length", linestyle="-", pointsize=4)
        curves(axis, config, wrong, "percentile", "length", band=False, linestyle="--", pointsize=4, fillcolor="white")
        if own.length.isna().all():
            axis.annotate("no lengths in these logs", (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY)
        axis.set(title=set_label(config, name), xlabel="percentile of the responses", ylabel="length (tokens)")
        axis.set_ylim(bottom=0)
    kinds = [Line2D([], [], color=GREY, linestyle=line, label=label) for label, line in (("correct", "-"), ("wrong", "--"))]
    legend(figure, config, shown.model, columns=6, more=kinds)
    return figure


def available(config: Config) -> list[Callable[[Config], Figure]]:
    """The figures of notebook 05 whose tables are there."""
    sources = {keyword_bars: "keywords", phase_donuts: "phases", judge_donuts: "phases_judge", first_answer_bars: "first_answer",
               repetition_bars: "repetition", perplexity_points: "perplexity", length_curves: "percentiles"}
    return [draw for draw, source in sources.items() if has(config, source)]
