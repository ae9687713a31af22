"""Notebook 07's figures and tables: what each length reward pays, what a group's std makes of it, and what came of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kit.evaluation.frontier import SHARES, method_of
from kit.report.inputs import has, read, rows_of
from kit.report.style import GREY, name_points, panels, plt, styled
from kit.report.tables import cell, published_changes
from kit.reward import length_rewards
from kit.reward.length_rewards import METHODS, advantages, rewards_of, training_of
from kit.runs import catalog, files, paths
from kit.settings import Config, Reward

SIZE = 16  # responses of the groups that are drawn
KINDS = {"all correct": ("#009E73", "-"), "mixed": ("#0072B2", ""), "all wrong": ("#D55E00", "--")}
MARKERS = "osD^vP*Xphd<>"


def settings_of(config: Config) -> dict[str, Reward]:
    """Each method of the run with the settings of its first schedule; the token limit's target is the limit."""
    found: dict[str, Reward] = {}
    for plan in config.schedules.values():
        reward = plan.reward or Reward()
        target = reward.target or (sum(reward.targets) // 2 if reward.targets else plan.limits[0])
        found.setdefault(method_of(plan), Reward(**{**vars(reward), "targets": None, "state_target": None, "target": target}))
    return found


def groups(config: Config) -> pd.DataFrame:
    """A row per method, kind of group and response: length, correct, reward and advantage.

    The lengths of each group are spread evenly up to 1.5 times the base's mean length; in the mixed one every second response is
    wrong. Advantages are normalized as the method's are, for `batch` over these three groups.
    """
    longest = 1.5 * rows_of(config, "main")[0].length
    lengths = np.linspace(longest / SIZE, longest, SIZE).round().astype(int).tolist()
    correct = {"all correct": [True] * SIZE, "mixed": [k % 2 == 0 for k in range(SIZE)], "all wrong": [False] * SIZE}
    rows = []
    for name, reward in settings_of(config).items():
        earned = [rewards_of(reward, right, lengths, reward.target) for right in correct.values()]
        scale = str(training_of(config.training, reward).trl["scale_rewards"])
        for kind, r, a in zip(correct, earned, advantages(earned, scale), strict=True):
            rows.append(pd.DataFrame({"method": name, "scale": scale, "group": kind, "length": lengths, "correct": correct[kind],
                                      "reward": r, "advantage": a}))
    return pd.concat(rows)


@styled
def reward_shapes(config: Config) -> Figure:
    """The reward of a response against its length in a group whose responses are all correct, mixed, or all wrong, by method."""
    return _shapes(config, "reward")


@styled
def advantage_shapes(config: Config) -> Figure:
    """The advantage of a response against its length in the same groups, normalized as each method's own is."""
    return _shapes(config, "advantage")


def _shapes(config: Config, column: str) -> Figure:
    table = groups(config)
    methods = list(dict.fromkeys(table.method))
    figure, axes = panels(len(methods), 4, height=2.3, sharex=True)
    for axis, method in zip(axes, methods, strict=True):
        own = table[table.method == method]
        for kind, (colour, line) in KINDS.items():
            part = own[own.group == kind]
            if kind == "mixed":
                for right, fill in ((True, colour), (False, "none")):
                    shown = part[part.correct == right]
                    axis.plot(shown.length, shown[column], "o", color=colour, markerfacecolor=fill, markersize=4)
            else:
                axis.plot(part.length, part[column], color=colour, linestyle=line)
        axis.set_title(method.replace(", ", ",\n") + (f" ({own.scale.iloc[0]})" if column == "advantage" else ""), fontsize=9)
        axis.axhline(0, color="#999999", linewidth=0.7)
    colour = KINDS["mixed"][0]
    handles = [Line2D([], [], color=c, linestyle=line, label=kind) for kind, (c, line) in KINDS.items() if line]
    handles += [Line2D([], [], color=colour, linestyle="", marker="o", markerfacecolor=fill, label=f"mixed group: {what}")
                for what, fill in (("correct", colour), ("wrong", "none"))]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, fontsize=8)
    figure.supylabel(f"{column}; across: length (tokens)", fontsize=10)
    return figure


@styled
def weight_cancels(config: Config) -> Figure:
    """Advantages of a group for three weights of one length term, divided by the group's std (left) and not divided (right)."""
    longest = 1.5 * rows_of(config, "main")[0].length
    lengths = np.linspace(longest / SIZE, longest, SIZE).round().astype(int).tolist()
    figure, axes = panels(4, 2, height=2.5, sharex=True)
    for axis, (kind, scale) in zip(axes, [(kind, scale) for kind in ("all correct", "mixed") for scale in ("group", "none")],
                                   strict=True):
        correct = [kind == "all correct" or k % 2 == 0 for k in range(SIZE)]
        for weight, line in ((0.05, ":"), (0.2, "--"), (0.8, "-")):
            earned = [rewards_of(Reward(name="kimi", weight=weight), correct, lengths, longest)]
            shown = [(n, a) for n, a, right in zip(lengths, advantages(earned, scale)[0], correct, strict=True) if right]
            axis.plot(*zip(*shown, strict=True), line, color=KINDS[kind][0], label=f"weight {weight:g}")
        axis.set_title(f"{kind}{'' if kind == 'all correct' else ', the correct ones'}; "
                       f"{'over the std of the group' if scale == 'group' else 'not divided'}", fontsize=9)
        axis.legend(fontsize=7)
    figure.supxlabel("length (tokens)", fontsize=10)
    figure.supylabel("advantage (Kimi's reward)", fontsize=10)
    return figure


@styled
def frontier(config: Config) -> Figure:
    """Accuracy against mean length of every setting, means over the seeds with 95 % intervals; settings of a method are joined.

    Pale: another one is at least as short and as accurate. The thin line is the base under budget forcing; the star the base.
    """
    table, called = read(config, "frontier"), catalog.labels(config)
    methods = [method for method in dict.fromkeys(table.method) if method != "base"]
    looks = {method: (colour, MARKERS[k % len(MARKERS)])
             for k, (method, colour) in enumerate(zip(methods, seaborn.husl_palette(len(methods), l=0.5), strict=True))}
    looks["base"] = ("black", "*")
    figure, axis = plt.subplots(figsize=(11, 6.5))
    if has(config, "forcing"):
        forced = read(config, "forcing", overall=True).query("model == 'base'")
        axis.plot(forced.length, forced.accuracy, color=GREY, linewidth=1, marker=".", zorder=1)
    for method, own in table.sort_values("length").groupby("method", sort=False):
        colour, marker = looks[method]
        axis.plot(own.length, own.accuracy, color=colour, linewidth=0.8, alpha=0.4, zorder=1)
        for r in own.itertuples():
            _point(axis, r, colour, marker, 0.25 if r.dominated else 1.0)
    best = table[~table.dominated]
    axis.set(xlabel="mean length (tokens)", ylabel="accuracy (pass@1, %)", xlim=(0, None),
             ylim=(max(0, table.accuracy_low.min() - 2), min(100, table.accuracy_high.max() + 2)))
    name_points(axis, [(r.length, r.accuracy, called[r.model]) for r in best.itertuples()])
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", label=method)
               for method, (colour, marker) in looks.items()]
    handles += [Line2D([], [], color=GREY, marker=".", linewidth=1, label="base under budget forcing")]
    figure.legend(handles=handles, loc="outside lower center", ncol=5, fontsize=8)
    return figure


def _point(axis: Axes, r: object, colour: object, marker: str, alpha: float) -> None:
    across, up = ([[value - low], [high - value]] for value, low, high in (
        (r.length, r.length_low, r.length_high), (r.accuracy, r.accuracy_low, r.accuracy_high)))
    axis.errorbar(r.length, r.accuracy, up, across, color=colour, marker=marker, alpha=alpha, linewidth=0.9, zorder=2 + alpha)


@styled
def published_frontiers(config: Config) -> Figure:
    """Published length rewards on DS-1.5B, a panel per harness: accuracy change against length as a share of that harness's base.

    Means over the four sets. Harnesses are not to be compared with each other, nor with ours.
    """
    table = published_changes("rewards")
    sources = list(dict.fromkeys(table.source))
    figure, axes = panels(len(sources), 3, height=4, sharex=True, sharey=True)
    for axis, source in zip(axes, sources, strict=True):
        own = table[table.source == source]
        axis.plot(own.length, own.accuracy_change, "o", color=GREY, markerfacecolor="none")
        axis.axhline(0, color="#999999", linewidth=1)
        axis.set(title=source, xlabel="mean length (% of the base's)", xlim=(0, 110))
        name_points(axis, list(own[["length", "accuracy_change", "name"]].itertuples(index=False)))
    axes[0].set_ylabel("accuracy change (points)")
    return figure


def frontier_table(config: Config) -> pd.DataFrame:
    """Every setting: what its advantages are divided by, accuracy and length over the seeds, whether it is dominated."""
    plans = {catalog.last_round(config, name): plan for name, plan in config.schedules.items()}
    rows = []
    for r in sorted(read(config, "frontier").itertuples(), key=lambda r: r.length):
        plan = plans.get(r.model)
        rows.append({
            "setting": r.label, "method": r.method,
            "accuracy (%)": cell(r, "accuracy", ".1f"), "length (tokens)": cell(r, "length", ".0f"),
            "thinking + answer": "" if pd.isna(r.thinking) else f"{r.thinking:.0f} + {r.length - r.thinking:.0f}",
            "advantages over": training_of(config.training, plan.reward or Reward()).trl["scale_rewards"] if plan else "",
            "dominated": "yes" if r.dominated else ""})
    return pd.DataFrame(rows).set_index("setting")


def volume_table(config: Config) -> pd.DataFrame:
    """Every method: hypervolume (percent), best accuracy at three lengths, means over the seeds; with how many settings."""
    table = files.read_csv(paths.of(config).metrics / "volumes.csv")
    columns = ["volume", *(f"at {share:.0%}" for share in SHARES)]
    n, means = table.groupby("method", sort=False)[columns].agg("count"), table.groupby("method")[columns + ["settings"]].mean()
    shown = means.sort_values("volume", ascending=False)
    for column in columns[1:]:  # a length that a setting reaches with some seeds only
        reached = {method: f"– ({n[column][method]} of {n.volume[method]} seeds)" for method in shown.index}
        shown[column] = [f"{value:.1f}" if n[column][method] == n.volume[method] else reached[method]
                         for method, value in shown[column].items()]
    return shown.assign(volume=shown.volume.map("{:.1f}".format), settings=shown.settings.astype(int))


def pair_sentences(config: Config) -> list[str]:
    """A sentence for each pair of methods with equally many settings."""
    told = []
    for r in rows_of(config, "reward_pairs", overall=False):
        verdict = f"{r.method} buys more" if r.difference_low > 0 else f"{r.other} buys more" if r.difference_high < 0 else \
            "no difference could be shown"
        told.append(f"{r.method} minus {r.other}: {cell(r, 'difference')} points of hypervolume over {r.seeds} seeds: {verdict}.")
    return told


def method_table(config: Config) -> pd.DataFrame:
    """Every method of the kit: its formula, its own normalization, its settings, and in how many schedules the run has it."""
    used = [plan.reward.name if plan.reward else "token_limit" for plan in config.schedules.values()]
    return pd.DataFrame([
        {"method": name, "reward": (m.function.__doc__ or "").split("\n")[0], "advantages over": m.scale,
         "settings": ", ".join(f"{k} {v:g}" for k, v in length_rewards.settings_of(m.function).items() if v is not None),
         "schedules here": used.count(name)} for name, m in METHODS.items()]).set_index("method")
