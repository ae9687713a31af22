"""Figures of training: reward, length and truncated share step by step; the checkpoints that the selection rule chose from."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kit.report.inputs import published, read, set_label
from kit.report.style import GREY, LOOKS, Picture, curves, legend, looks, name_points, panels, points, styled, tell
from kit.runs import catalog, files, paths
from kit.settings import Config

# Column of a round's log, its title, by what it is multiplied.
PANELS = (("reward", "reward", 1), ("length", "mean length (tokens)", 1), ("truncated", "truncated (%)", 100))


def round_curves(config: Config, schedule: str, round: int) -> Figure:
    """Reward, mean length and truncated share at every training step of one round, with its limit drawn in."""
    log = files.read_csv(paths.of(config).training(schedule, round) / "log.csv")
    return _one_round(log, catalog.steps_of(config, schedule), f"{catalog.schedule_label(config, schedule)}, round {round}")


@styled
def live_curves(rows: Sequence[Mapping[str, Any]], steps: int, title: str) -> Picture:
    """The same from the rows of a round's log so far, as a picture for a notebook; `title` says where the round stands."""
    figure, data = _one_round(pd.DataFrame(rows), steps, title), io.BytesIO()
    figure.savefig(data, format="png")
    return Picture(data=data.getvalue(), width=round(96 * figure.get_figwidth()), alt=f"{title}. {figure.get_label()}")


def _one_round(log: pd.DataFrame, steps: int, title: str) -> Figure:
    """The three panels of one round with `steps` steps; without seaborn, which takes longer than a step of a small model."""
    figure, first, last = Figure(figsize=(7.5, 2.4)), log.iloc[0], log.iloc[-1]
    for axis, (column, name, unit) in zip(figure.subplots(1, 3), PANELS, strict=True):
        axis.plot(log.step, unit * log[column], color=LOOKS[0][0], marker="o", markersize=3)
        axis.margins(y=0.2)  # room for the limit's name
        if column == "length":
            axis.plot(log.step, log.limit, color=LOOKS[1][0], linestyle="--")
            axis.annotate(f"limit {last.limit:.0f}", (last.step, last.limit), xytext=(0, 3), fontsize=8,
                          textcoords="offset points", color=LOOKS[1][0], ha="right" if 2 * last.step > steps else "left")
        axis.set(title=name, xlabel="training step", xlim=(0, steps + 1), ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title, fontsize=10)
    return tell(figure, [
        f"reward {first.reward:.2f} to {last.reward:.2f}", f"truncated {first.truncated:.0%} to {last.truncated:.0%}",
        f"length {first.length:.0f} to {last.length:.0f} tokens, limit {last.limit:.0f}"])


def training_curves(config: Config) -> Figure:
    """Reward, mean length and truncated share of every training step, all rounds in a row, with the limits drawn in."""
    log, told = read(config, "training"), []
    log = log.assign(truncated=100 * log.truncated)
    figure, axes = panels(3, 3, height=2.3)
    for axis, (column, title, _) in zip(axes, PANELS, strict=True):
        curves(axis, config, log, "total_step", column, "schedule", marker="")
        axis.set(title=title, xlabel="training step", ylabel="", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    for schedule, of_schedule in log.groupby("schedule", sort=False):
        look = {"color": looks(config)[schedule][0]}
        first, last = of_schedule.iloc[0], of_schedule.iloc[-1]
        told.append(f"{catalog.schedule_label(config, schedule)}: from step {first.total_step} to {last.total_step} reward "
                    f"{first.reward:.2f} to {last.reward:.2f}, length {first.length:.0f} to {last.length:.0f} tokens")
        for _, own in of_schedule.groupby("round"):
            begin, end = own.iloc[0], own.iloc[-1]
            for axis in axes if end.total_step < last.total_step else ():
                axis.axvline(end.total_step + 0.5, linewidth=0.6, alpha=0.5, **look)
            if config.schedules[schedule].state_limit:
                axes[1].step(own.total_step, own.limit, where="mid", linewidth=0.9, alpha=0.7, **look)
                axes[1].annotate(f"limit {begin.limit:.0f}", (begin.total_step, begin.limit), xytext=(2, 3),
                                 textcoords="offset points", fontsize=8, **look)
    legend(figure, config, log.schedule, marker=False, line=True)
    return tell(figure, told)


def validation_points(config: Config) -> Figure:
    """Every checkpoint on the validation set, the selected ones ringed, with their limits; beside it the paper's 4k round."""
    table, source = read(config, "validation"), published()["validation_curve"]
    figure, (ours, theirs) = panels(2, 2, height=3, width_ratios=(3, 2))
    curves(ours, config, table, "length", "accuracy", "schedule", band=False, marker="", linewidth=0.9)
    points(ours, config, table.drop(columns="length_low", errors="ignore"), "length", "accuracy", 4, by="schedule")
    chosen, base = table[table.selected], table[table.step == 0].iloc[0]
    ring = ours.plot(chosen.length, chosen.accuracy, "o", color="none", markeredgecolor="black", markersize=11, label="selected")
    star = ours.plot(base.length, base.accuracy, "*", color="black", markersize=10, label="base")
    ours.set(title=f"ours: {set_label(config, config.data.validation)}", xlabel="mean length (tokens)", ylabel="accuracy (%)")
    steps = pd.DataFrame(source["points"], index=["accuracy", "length"]).T
    theirs.plot(steps.length, steps.accuracy, color=GREY, marker="o", markerfacecolor="none", linewidth=0.9)
    theirs.margins(x=0.2)
    theirs.set(title=f"published: DS-1.5B, limit {source['limit']} ({source['label']})", xlabel="mean length (tokens)",
               ylabel="accuracy on AIME22+23 (%)", ylim=(15, 25))
    theirs.xaxis.set_major_formatter("{x:,.0f}")
    theirs.xaxis.get_major_locator().set_params(nbins=4)
    legend(figure, config, table.schedule, line=True, columns=3, more=[*star, *ring])
    name_points(ours, [(r.length, r.accuracy, f"{r.limit:.0f}") for r in chosen.itertuples()])
    ends = steps.index[[0, -1]]
    name_points(theirs, [(p.length, p.accuracy, f"step {p.Index}" if p.Index in ends else "") for p in steps.itertuples()])
    return tell(figure, (f"{catalog.schedule_label(config, r.schedule)}, limit {r.limit:.0f}: step {r.step} selected, "
                         f"{r.accuracy:.1f} % at {r.length:.0f} tokens" for r in chosen.itertuples()))
