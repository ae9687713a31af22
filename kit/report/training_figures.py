"""Figures of training: reward, length and truncated share step by step; the checkpoints that the selection rule chose from."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kit.report.inputs import published, read, set_label
from kit.report.style import GREY, curves, legend, looks, name_points, panels, styled
from kit.runs import catalog, files, paths
from kit.settings import Config

PANELS = {"reward": ("reward", 1), "length": ("mean length (tokens)", 1), "truncated": ("truncated (%)", 100)}


@styled
def round_curves(config: Config, schedule: str, round: int) -> Figure:
    """Reward, mean length and truncated share at every training step of one round, with its limit drawn in."""
    log = files.read_csv(paths.of(config).training(schedule, round) / "log.csv")
    figure, axes = _step_by_step(config, log.assign(schedule=schedule, total_step=log.step))
    axes[1].axhline(log.limit.iloc[0], color=GREY, linewidth=1, linestyle="--")
    figure.suptitle(f"{catalog.schedule_label(config, schedule)}, round {round}")
    return figure


@styled
def training_curves(config: Config) -> Figure:
    """Reward, mean length and truncated share of every training step, all rounds in a row, with the limits drawn in.

    Thin upright lines stand between rounds.
    """
    log = read(config, "training")
    figure, axes = _step_by_step(config, log)
    for schedule, own in log.groupby("schedule", sort=False):
        colour, _, _ = looks(config)[schedule]
        if config.schedules[schedule].state_limit:
            axes[1].step(own.total_step, own.limit, where="mid", color=colour, linewidth=0.9, alpha=0.7)
            for limit, part in own.groupby("limit", sort=False):
                axes[1].annotate(f"limit {limit:.0f}", (part.total_step.iloc[0], limit), fontsize=8, color=colour,
                                 xytext=(2, 3), textcoords="offset points")
        for end in own.groupby("round").total_step.max().iloc[:-1]:
            for axis in axes:
                axis.axvline(end + 0.5, color=colour, linewidth=0.6, alpha=0.5)
    legend(figure, config, [(name, catalog.schedule_label(config, name)) for name in config.schedules], marker=False, line=True)
    return figure


def _step_by_step(config: Config, log: pd.DataFrame) -> tuple[Figure, list[Axes]]:
    """Three panels over `total_step`, a line per schedule."""
    figure, axes = panels(3, 3, height=3)
    for axis, (column, (title, scale)) in zip(axes, PANELS.items(), strict=True):
        curves(axis, config, log.assign(**{column: scale * log[column]}), "total_step", column, "schedule", marker="")
        axis.set(title=title, xlabel="training step", ylabel="")
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


@styled
def validation_points(config: Config) -> Figure:
    """Every checkpoint on the validation set, the selected ones ringed; beside it the paper's own 4k round (hollow)."""
    table, source = read(config, "validation"), published()["validation_curve"]
    figure, (ours, theirs) = panels(2, 2, height=4, width_ratios=(3, 2))
    for schedule, own in table.groupby("schedule", sort=False):
        curves(ours, config, own.drop(columns="accuracy_low"), "length", "accuracy", "schedule", pointsize=4, linewidth=0.9)
        ours.vlines(own.length, own.accuracy_low, own.accuracy_high, color=looks(config)[schedule][0], linewidth=0.6, alpha=0.6)
    ring = {"marker": "o", "color": "none", "markeredgecolor": "black", "markersize": 12, "linestyle": "none"}
    star = {"marker": "*", "color": "black", "markersize": 11, "linestyle": "none"}
    chosen, start = table[table.selected], table[table.step == 0].iloc[0]
    ours.plot(chosen.length, chosen.accuracy, **ring)
    ours.plot(start.length, start.accuracy, **star)
    ours.set(title=f"ours: {set_label(config, config.data.validation)}", xlabel="mean length (tokens)", ylabel="accuracy (pass@1, %)")
    points = pd.DataFrame(source["points"], index=["accuracy", "length"]).T
    theirs.plot(points.length, points.accuracy, color=GREY, marker="o", markerfacecolor="none", linewidth=0.9)
    theirs.margins(x=0.12)
    theirs.set(title=f"published: DS-1.5B, limit {source['limit']} ({source['label']})", xlabel="mean length (tokens)",
               ylabel="accuracy on AIME22+23 (%)", ylim=(15, 25))
    called = [(name, catalog.schedule_label(config, name)) for name in dict.fromkeys(table.schedule)]
    more = [Line2D([], [], label=label, **look) for label, look in (("base", star), ("selected", ring))]
    legend(figure, config, called, line=True, columns=6, more=more)
    named = {step: f"step {step}" for step in (points.index[0], points.index[-1])}
    name_points(theirs, [(p.length, p.accuracy, named.get(p.Index, "")) for p in points.itertuples()])
    return figure
