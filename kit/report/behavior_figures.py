"""Figures of notebook 05: keywords, phases, repetition, perplexity, lengths of correct and of wrong responses.

Nothing published is drawn: the paper's text gives the direction of these analyses, and no number of them could be sourced.
"""

import textwrap
from collections.abc import Callable

import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kit.report.inputs import has, read, set_label
from kit.report.style import GREY, curves, legend, looks, panels, panels_by, points, say, tell
from kit.report.tables import MEASURES
from kit.runs import catalog
from kit.settings import Config

# Phases of one kind share a colour, in shades and hatches.
KINDS = {"framing": "#8c8c8c", "core": "#009E73", "checking": "#0072B2", "hesitation": "#D55E00", "unlabelled": "#222222"}
HATCHES = ("", "//", "\\\\", "..", "xx")
SMALLEST_NAMED = 5.0  # percent
WORDS = 9  # the most frequent ones


def _bars(config: Config, found: list[tuple[pd.DataFrame, str, str]], columns: int) -> Figure:
    """Panels of (table, column, title): a horizontal bar per model with its 95 % interval, the first model on top."""
    figure, axes = panels(len(found), columns, height=0.6 + 0.24 * max(len(table) for table, _, _ in found), sharey=True)
    colours = looks(config)
    axes[0].invert_yaxis()  # of all panels
    for axis, (table, column, title) in zip(axes, found, strict=True):
        high = f"{column}_high"
        axis.barh(table.label, table[column], 0.65, color=[colours[model][0] for model in table.model], alpha=0.75)
        axis.hlines(table.label, table[f"{column}_low"], table[high], "black", linewidth=0.9)
        ends, told = table[[column, high]].max(axis=1).fillna(0), []
        for y, (label, value, end) in enumerate(zip(table.label, table[column], ends, strict=True)):
            text, colour = (" not known", GREY) if pd.isna(value) else (f" {value:.3g}", "black")
            axis.annotate(text, (end, y), fontsize=7.5, va="center", color=colour)
            told.append(f"{label} {value:.3g}")
        most = ends.max()
        axis.set(xlabel="", ylabel="", xlim=(0, 1.25 * most if most > 0 else 1))
        axis.set_title(textwrap.fill(title, 54 // columns), fontsize=8.5)
        axis.tick_params(labelsize=8)
        axis.grid(visible=False, axis="y")
        axis.locator_params(axis="x", nbins=4 if most > 0 else 1)
        tell(figure, [f"{title}: {', '.join(told)}"])
    return figure


def keyword_bars(config: Config) -> Figure:
    """Each keyword per response, mean of the sets, with 95 % intervals: words of hesitation, and of core computation."""
    by_word = read(config, "words", overall=True).groupby(["keywords", "word"], sort=False)
    most = by_word.per_response.max().nlargest(WORDS).index
    return _bars(config, [(own, "per_response", f"{name[1]} ({name[0]})") for name, own in by_word if name in most], 3)


def first_answer_bars(config: Config) -> Figure:
    """Tokens before and after a response has first stated its answer, and the share after it, mean of the sets."""
    table = read(config, "first_answer", overall=True)
    return _bars(config, [(table, column, title) for column, title in MEASURES["first_answer"].items()], 3)


def repetition_bars(config: Config) -> Figure:
    """Repeated runs of words and responses that end in a loop, mean of the sets, with 95 % intervals."""
    table = read(config, "repetition", overall=True)
    return _bars(config, [(table, column, title) for column, title in MEASURES["repetition"].items()], 2)


def perplexity_points(config: Config) -> Figure:
    """Perplexity of the traces under a fixed reference model, for each set and their mean, with 95 % intervals."""
    table = read(config, "perplexity").sort_values("set", key=lambda names: names != "mean", kind="stable")
    figure, parts = panels_by(table, "set", 3, height=0.6 + 0.2 * table.model.nunique(), sharey=True, sharex=True)
    for axis, name, own in parts:
        points(axis, config, own, "perplexity", "label", 5)
        axis.set_title(set_label(config, name), fontsize=8.5)
        axis.tick_params(labelsize=8, labelbottom=True)
        axis.grid(visible=False, axis="y")
        axis.margins(y=0.1)
        axis.set(xlabel="", ylabel="")
    parts[0][0].invert_yaxis()  # of all panels: the first model on top
    source = table.reference.iloc[0]
    model = "a second small one, trained with another seed" if source == "trained" else source
    figure.supxlabel(f"perplexity (1: no surprise); reference model: {model}", fontsize=8.5)
    return tell(figure, (f"{r.label} {r.perplexity:.3g}" for r in parts[0][2].itertuples()))


def phase_donuts(config: Config) -> Figure:
    """A donut per model: the share of steps in each phase, mean of the sets; in the middle the number of steps per response."""
    return _donuts(read(config, "phases", overall=True), "label")


def judge_donuts(config: Config) -> Figure:
    """Donuts of the share of steps in each phase, by a language model and by the rules, for the same steps of each model."""
    table = read(config, "phases_judge", overall=True)
    return _donuts(table.assign(both=table.label + ", by " + table.labeller), "both")


def _donuts(table: pd.DataFrame, by: str) -> Figure:
    seen, looks = table[table.share > 0].drop_duplicates("phase"), {}
    for kind, colour in KINDS.items():  # phases of one kind side by side
        phases = seen[seen.kind == kind].phase
        looks |= dict(zip(phases, zip(seaborn.light_palette(colour, len(phases) + 1)[1:], HATCHES, strict=False), strict=True))
    figure, parts = panels_by(table, by, 2, height=2.1)
    for axis, name, of_name in parts:
        own = of_name.set_index("phase").reindex(list(looks))
        shares = own.share.fillna(0.0).clip(lower=0.0)
        if shares.sum() > 0:
            labels = [textwrap.fill(phase, 20) if share >= SMALLEST_NAMED else "" for phase, share in shares.items()]
            colours, hatches = zip(*looks.values(), strict=True)
            _, texts = axis.pie(
                shares, labels=labels, startangle=90, counterclock=False, labeldistance=1.08, textprops={"fontsize": 7},
                colors=colours, hatch=hatches, wedgeprops={"width": 0.38, "edgecolor": "white", "linewidth": 0.8})
            for text in texts:  # above and below the ring a name of several lines would reach into it
                height = text.get_position()[1]
                text.set_va("bottom" if height > 0.6 else "top" if height < -0.6 else "center")
        steps = f"{own.per_response.sum():.1f} steps"
        axis.text(0, 0, f"{steps}\na response", ha="center", va="center", fontsize=7.5)
        axis.set_title(name, fontsize=8.5, loc="center", pad=10)
        tell(figure, [f"{name}: {steps} a response; " + ", ".join(
            f"{share:.0f} % {phase}" for phase, share in shares.sort_values(ascending=False).items() if share >= SMALLEST_NAMED)])
    handles = [Patch(color=colour, label=kind) for kind, colour in KINDS.items() if kind in set(seen.kind)]
    figure.legend(handles=handles, loc="outside lower center", ncol=5, fontsize=8)
    return figure


def length_curves(config: Config) -> Figure:
    """Percentiles of the lengths of correct (solid, with 95 % bands) and of wrong (dashed, hollow) responses, a panel per set."""
    table = read(config, "percentiles")
    shown = table[table.model.isin(["base", *catalog.last_rounds(config)])]
    figure, parts = panels_by(shown, "set", 2, height=2.2, sharex=True)
    for axis, name, own in parts:
        right, wrong = own[own.verdict == "correct"], own[own.verdict == "wrong"]
        curves(axis, config, right, "percentile", "length", linestyle="-", markersize=4)
        curves(axis, config, wrong, "percentile", "length", band=False, linestyle="--", markersize=4, markerfacecolor="white")
        if own.length.isna().all():
            say(axis, "lengths unknown")
        axis.set(title=set_label(config, name), xlabel="percentile of the responses", ylabel="length (tokens)", ylim=(0, None))
        axis.label_outer()
    kinds = [Line2D([], [], color=GREY, linestyle=line, label=label) for label, line in (("correct", "-"), ("wrong", "--"))]
    legend(figure, config, shown.model, columns=3, more=kinds)
    return tell(figure, (f"{r.label}, {set_label(config, r.set)}: half of the {r.verdict} ones have at most {r.length:.0f} tokens"
                         for r in shown[shown.percentile == 50].itertuples()))


def inverted_u(config: Config) -> Figure:
    """Accuracy above the problem's own against length, with 95 % bands, a panel per set: the base and last rounds of schedules.

    The dotted line is where the base is most accurate, if that is one place; at the end of a curve the best length may lie beyond
    it. Models whose responses to a problem are too much of one length for three bins are left out.
    """
    table = read(config, "inverted_u")
    shown = table[table.model.isin(["base", *catalog.last_rounds(config)[:5]])]
    shown = shown.groupby(["model", "set"]).filter(lambda bins: len(bins) > 2 or bins.name[0] == "base")
    figure, parts = panels_by(shown, "set", 2, height=3.1)
    for axis, name, own in parts:
        curves(axis, config, own, "length", "above", markersize=4)
        bests = own[(own.model == "base") & own.best].length
        for best in bests if len(bests) == 1 else ():  # else several are equally good
            axis.axvline(best, color=GREY, linewidth=0.8, linestyle=":")
        axis.set(title=set_label(config, name), xlabel="length within problems (tokens)",
                 ylabel="above the problem's own (points)", xlim=(0, None))
    legend(figure, config, shown.model, line=True, columns=6)
    return figure


def available(config: Config) -> list[Callable[[Config], Figure]]:
    """The figures of notebook 05 whose tables are there."""
    sources = {keyword_bars: "words", phase_donuts: "phases", judge_donuts: "phases_judge", first_answer_bars: "first_answer",
               repetition_bars: "repetition", perplexity_points: "perplexity", length_curves: "percentiles",
               inverted_u: "inverted_u"}
    return [draw for draw, source in sources.items() if has(config, source)]
