"""Notebook 07's figures and tables: what each length reward pays, what a group's std makes of it, and what came of it."""

import itertools

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kit.evaluation.frontier import CORRECT, SHARES, SIZE, advantages_of, groups, scale_of
from kit.evaluation.uncertainty import paired_change
from kit.report.inputs import has, read, rows_of
from kit.report.style import GREY, name_points, panels, panels_by, plt
from kit.report.tables import cell, published_changes
from kit.report.texts import which
from kit.runs import catalog, files, paths
from kit.settings import Config

KINDS = {"all correct": ("#009E73", "-"), "mixed": ("#0072B2", ""), "all wrong": ("#D55E00", "--")}
MARKERS = "osD^vP*Xphd<>"


def lengths_of(config: Config) -> list[int]:
    """Lengths (tokens) of a group's responses, spread evenly up to 1.5 times the base's mean length."""
    longest = 1.5 * rows_of(config, "main")[0].length
    return np.linspace(longest / SIZE, longest, SIZE).round().astype(int).tolist()


def reward_shapes(config: Config) -> Figure:
    """The reward of a response against its length in a group whose responses are all correct, mixed, or all wrong, by method."""
    return _shapes(config, "reward")


def advantage_shapes(config: Config) -> Figure:
    """The advantage of a response against its length in the same groups, normalized as each method's own is."""
    return _shapes(config, "advantage")


def _shapes(config: Config, column: str) -> Figure:
    by_method = groups(config, lengths_of(config)).groupby("method", sort=False)
    figure, axes = panels(len(by_method), 4, height=2.3, sharex=True)
    for axis, (method, own) in zip(axes, by_method, strict=True):
        for kind, part in own.groupby("group", sort=False):
            colour, line = KINDS[kind]
            if line:
                axis.plot(part.length, part[column], color=colour, linestyle=line)
                continue
            for right, fill in ((True, colour), (False, "none")):
                shown = part[part.correct == right]
                axis.plot(shown.length, shown[column], "o", color=colour, markerfacecolor=fill, markersize=4)
        axis.set_title(method.replace(", ", ",\n") + (f" ({own.scale.iloc[0]})" if column == "advantage" else ""), fontsize=9)
        axis.axhline(0, color="#999999", linewidth=0.7)
    colour = KINDS["mixed"][0]
    handles = [Line2D([], [], color=c, linestyle=line, label=kind) for kind, (c, line) in KINDS.items() if line]
    handles += [Line2D([], [], color=colour, linestyle="", marker="o", markerfacecolor=fill, label=f"mixed group: {what}")
                for what, fill in (("correct", colour), ("wrong", "none"))]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, fontsize=8)
    figure.supylabel(f"{column}; across: length (tokens)", fontsize=10)
    return figure


def weight_cancels(config: Config) -> Figure:
    """Advantages of a group for three weights of one length term, divided by the group's std (left) and not divided (right)."""
    lengths, rows = lengths_of(config), {"all correct": "all correct", "mixed": "mixed, the correct ones"}
    figure, axes = panels(4, 2, height=2.5, sharex=True)
    scales = {"group": "over the std of the group", "none": "not divided"}
    for axis, (kind, scale) in zip(axes, itertools.product(rows, scales), strict=True):
        right = np.array(CORRECT[kind])
        for weight, line in ((0.05, ":"), (0.2, "--"), (0.8, "-")):
            axis.plot(np.array(lengths)[right], advantages_of("kimi", weight, kind, lengths, scale)[right], line,
                      color=KINDS[kind][0], label=f"weight {weight:g}")
        axis.set_title(f"{rows[kind]}; {scales[scale]}", fontsize=9)
        axis.legend(fontsize=7)
    figure.supxlabel("length (tokens)", fontsize=10)
    figure.supylabel("advantage (Kimi's reward)", fontsize=10)
    return figure


def frontier(config: Config) -> Figure:
    """Accuracy against mean length of every setting, means over the seeds with 95 % intervals; settings of a method are joined.

    Pale: another one is at least as short and as accurate. The thin line is the base under budget forcing; the star the base.
    """
    table, called = read(config, "frontier"), catalog.labels(config)
    methods = [method for method in dict.fromkeys(table.method) if method != "base"]
    colours = seaborn.husl_palette(len(methods), l=0.5)
    looks = dict(zip(methods, zip(colours, itertools.cycle(MARKERS), strict=False), strict=True)) | {"base": ("black", "*")}
    figure, axis = plt.subplots(figsize=(11, 6.5))
    if has(config, "forcing"):
        forced = read(config, "forcing", overall=True).query("model == 'base'")
        axis.plot(forced.length, forced.accuracy, color=GREY, linewidth=1, marker=".", zorder=1)
    for method, own in table.sort_values("length").groupby("method", sort=False):
        colour, marker = looks[method]
        axis.plot(own.length, own.accuracy, color=colour, linewidth=0.8, alpha=0.4, zorder=1)
        for dominated, some in own.groupby("dominated"):
            alpha = 0.25 if dominated else 1.0
            up, across = ([some[c] - some[f"{c}_low"], some[f"{c}_high"] - some[c]] for c in ("accuracy", "length"))
            axis.errorbar(some.length, some.accuracy, up, across, color=colour, marker=marker, linestyle="", elinewidth=0.9,
                          alpha=alpha, zorder=2 + alpha)
    axis.set(xlabel="mean length (tokens)", ylabel="accuracy (pass@1, %)", xlim=(0, None),
             ylim=(max(0, table.accuracy_low.min() - 2), min(100, table.accuracy_high.max() + 2)))
    name_points(axis, [(r.length, r.accuracy, called[r.model]) for r in table[~table.dominated].itertuples()])
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", label=method)
               for method, (colour, marker) in looks.items()]
    handles += [Line2D([], [], color=GREY, marker=".", linewidth=1, label="base under budget forcing")]
    figure.legend(handles=handles, loc="outside lower center", ncol=5, fontsize=8)
    return figure


def published_frontiers(config: Config) -> Figure:
    """Published length rewards on DS-1.5B, a panel per harness: accuracy change against length as a share of that harness's base.

    Means over the four sets. Harnesses are not to be compared with each other, nor with ours.
    """
    figure, parts = panels_by(published_changes("rewards"), "source", 3, height=4, sharex=True, sharey=True)
    for axis, source, own in parts:
        axis.plot(own.length, own.accuracy_change, "o", color=GREY, markerfacecolor="none")
        axis.axhline(0, color="#999999", linewidth=1)
        axis.set(title=source, xlabel="mean length (% of the base's)", xlim=(0, 110))
        name_points(axis, list(own[["length", "accuracy_change", "name"]].itertuples(index=False)))
    figure.axes[0].set_ylabel("accuracy change (points)")
    return figure


def frontier_table(config: Config) -> pd.DataFrame:
    """Every setting: what its advantages are divided by, accuracy and length over the seeds, whether it is dominated."""
    scales = {catalog.last_round(config, name): scale_of(config, plan) for name, plan in config.schedules.items()}
    return pd.DataFrame([
        {"setting": r.label, "method": r.method,
         "accuracy (%)": cell(r, "accuracy", ".1f"), "length (tokens)": cell(r, "length", ".0f"),
         "thinking + answer": "" if pd.isna(r.thinking) else f"{r.thinking:.0f} + {r.length - r.thinking:.0f}",
         "advantages over": scales.get(r.model, ""), "dominated": "yes" if r.dominated else ""}
        for r in read(config, "frontier").sort_values("length", kind="stable").itertuples()
    ]).set_index("setting")


def volume_table(config: Config) -> pd.DataFrame:
    """Every method: hypervolume (percent), best accuracy at three lengths, means over the seeds with 95 % t intervals; with how
    many settings."""
    def shown(values: pd.Series) -> str:
        if values.isna().any():  # a length that a setting reaches with some seeds only
            return f"– ({values.count()} of {len(values)} seeds)"
        mean, low, high = paired_change([values])[:3]
        return f"{mean:.1f} [{low:.1f}, {high:.1f}]" if len(values) > 1 else f"{mean:.1f}"

    by_method = files.read_csv(paths.of(config).metrics / "volumes.csv").groupby("method", sort=False)
    order = by_method.volume.mean().sort_values(ascending=False).index
    table = by_method[["volume", *(f"at {share:.0%}" for share in SHARES)]].agg(shown)
    return table.assign(settings=by_method.settings.first()).loc[order]


def pair_sentences(config: Config) -> list[str]:
    """A sentence for each pair of methods with equally many settings."""
    return [f"{r.method} minus {r.other}: {cell(r, 'difference')} points of hypervolume over {r.seeds} seeds: "
            f"{which(r, 'difference', f'{r.method} buys more', f'{r.other} buys more')}."
            for r in rows_of(config, "reward_pairs", overall=False)]
