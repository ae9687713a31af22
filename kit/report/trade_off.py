"""Figures of accuracy against length: pruning, budget forcing, published models, equal spend, problem by problem, seeds."""

import pandas as pd
import seaborn
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from kit.report.inputs import has, published, read, rows_of, set_label
from kit.report.style import GREY, STYLE, WIDTH, curves, legend, looks, name_points, panels, panels_by, plt, points, say, tell
from kit.report.tables import published_changes
from kit.runs import catalog
from kit.settings import Config


def trade_off(config: Config) -> Figure:
    """Accuracy against mean length of every model, with 95 % intervals: the mean of the sets (large) and each set (small)."""
    named = [(r.length, r.accuracy, r.label) for r in rows_of(config, "main")]
    return _by_set(config, ["base"], named, "mean length (tokens)", close=True)


def budget_forcing(config: Config) -> Figure:
    """Accuracy against mean total length under budget forcing (lines, with 95 % bands) and of every model left alone
    (markers)."""
    stopped = [r for r in rows_of(config, "forcing") if r.model == "base" and r.forced > 0]
    budgets = [(r.length, r.accuracy, f"{r.budget}") for r in stopped]
    figure = _by_set(config, config.forced_models, budgets, "mean total length (tokens); at the points: the base's budget")
    return tell(figure, (f"base, budget {r.budget}: {r.accuracy:.1f} % at {r.length:.0f} tokens" for r in stopped))


def _by_set(config: Config, forced: list[str], named: list[tuple[float, float, str]], x: str, close: bool = False) -> Figure:
    """A large panel for the mean of the sets, its lengths called `x` and some points `named`, a small one for each set: models as
    points, `forced` ones as curves over budgets. `close`: rounds are joined by a line, and the accuracy is zoomed in on."""
    main = read(config, "main")
    forcing = read(config, "forcing") if has(config, "forcing") else main.iloc[:0]
    names = [name for name in ["mean", *config.data.evaluation] if name in set(main.set)]
    rows = -(-(len(names) - 1) // 4)  # of small panels
    figure = plt.figure(figsize=(WIDTH, 3.4 + 1.6 * rows))
    grid = figure.add_gridspec(1 + rows, min(4, len(names) - 1) or 1, height_ratios=[2] + [1] * rows)
    for k, name in enumerate(names):
        axis = figure.add_subplot(grid[1 + (k - 1) // 4, (k - 1) % 4] if k else grid[0, :])
        own, curve = main[main.set == name], forcing[(forcing.set == name) & forcing.model.isin(forced)]
        curves(axis, config, curve, "length", "accuracy", marker=".", linestyle="-", linewidth=1)
        if close:
            curves(axis, config, own, "length", "accuracy", "schedule", band=False, marker="", linewidth=0.9)
            axis.set_ylim(max(0, own.accuracy_low.min() - 8), min(100, own.accuracy_high.max() + 3))
        points(axis, config, own, "length", "accuracy", 5 if k else 7)
        _published(axis, config, name)
        if own.core.notna().all():
            axis.axvline(own.core.iloc[0], color=GREY, linewidth=1, linestyle=":")
        if own.length.isna().all():
            say(axis, "lengths unknown")
        axis.set_title(set_label(config, name).replace(" (", "\n(" if k else " ("), fontsize=8 if k else 10)
        axis.tick_params(labelsize=7 if k else 9)
        axis.set(xlabel="" if k else x, ylabel="" if k else "accuracy (pass@1, %)", xlim=(0, None))
    curve = Line2D([], [], color=GREY, marker=".", linewidth=1, label="the same model under budget forcing")
    chain = Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="shortest correct chain")
    more = [line for line, drawn in ((curve, forcing.model.isin(forced)), (chain, main.core.notna())) if drawn.any()]
    legend(figure, config, main.schedule if close else main.model, line=close, columns=3, more=more)
    name_points(figure.axes[0], named)
    overall = main[main.set == names[0]].dropna(subset=["length"])
    return tell(figure, (f"{r.label} {r.accuracy:.1f} % at {r.length:.0f} tokens" for r in overall.itertuples()))


def _published(axis: Axes, config: Config, name: str) -> None:
    """The published values of this very model family on this set, hollow and labelled."""
    source = published()
    family = source["models"].get(config.model.source)
    found = pd.DataFrame([
        (f"published {table}", f"{entry['model']}, {table} ({facts['label']})", *entry["cells"].get(name, [None, None]))
        for table, facts in source["tables"].items() for entry in facts["rows"] if family and entry["model"].startswith(family)
    ], columns=["model", "name", "accuracy", "length"]).dropna()
    points(axis, config, found, "length", "accuracy")
    name_points(axis, [(r.length, r.accuracy, r.name) for r in found.itertuples()])


def relative_trade_off(config: Config) -> Figure:
    """Accuracy change against length as a share of the base's: ours (filled, with 95 % intervals) and published (hollow)."""
    ours, theirs = read(config, "changes", overall=True).query("against == 'base'"), published_changes()
    ours = ours.assign(**{f"length{end}": 100 + ours[f"length_change{end}"] for end in ("", "_low", "_high")}, name=ours.label)
    ours = ours.dropna(subset=["length"])
    figure, (axis,) = panels(1, 1, height=4)
    axis.axhline(0, color="#999999", linewidth=1)
    points(axis, config, ours, "length", "accuracy_change", 7)
    points(axis, config, theirs, "length", "accuracy_change")
    axis.set(xlabel="mean length (% of the base model's)", ylabel="accuracy change (points)",
             xlim=(0, max(110, 5 + ours.length_high.max())))
    called = dict(zip(theirs.model, theirs.model + " (" + theirs.letter + ")", strict=True))
    shown = list(pd.concat([ours, theirs]).itertuples())
    legend(figure, config, [r.model for r in shown], called, columns=3)
    name_points(axis, [(r.length, r.accuracy_change, r.name) for r in shown])
    return tell(figure, (f"{r.label} {r.accuracy_change:+.1f} points at {r.length:.0f} % of the length" for r in shown))


def efficiency(config: Config) -> Figure:
    """The accuracy-efficiency score: ours (filled, with 95 % intervals) and published (hollow); 0 is each one's own base."""
    table = pd.concat([read(config, "efficiency", overall=True), published_changes()]).dropna(subset=["score"])
    figure, (axis,) = panels(1, 1, height=0.4 + 0.25 * len(table))
    axis.axvline(0, color="#999999", linewidth=1)
    points(axis, config, table, "score", "label")
    axis.invert_yaxis()  # the first model on top
    axis.grid(visible=False, axis="y")
    axis.set(xlabel="accuracy-efficiency score (0: the base model; filled: ours, hollow: published)", ylabel="")
    return tell(figure, (f"{r.label} {r.score:.2f}" for r in table.itertuples()))


def equal_spend(config: Config) -> Figure:
    """Accuracy bought with tokens, with 95 % bands: one of several responses right (left), one under a hard cap (right)."""
    shown = ["base", *catalog.last_rounds(config)]
    figure, (many, one) = panels(2, 2, height=3, sharey=True)
    for axis, name, x, y in ((many, "spend", "tokens", "passed"), (one, "caps", "spent", "accuracy")):
        table = read(config, name, overall=True)
        if len(table) and table[x].notna().any():
            curves(axis, config, table[table.model.isin(shown)], x, y, markersize=4)
        else:
            say(axis, "lengths unknown")
    many.set(title="k responses, one of them right (pass@k)", xlabel="k × mean length (tokens)", ylabel="%", xscale="log")
    many.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    many.xaxis.set_major_formatter("{x:,.0f}")
    many.xaxis.set_minor_formatter("")
    one.set(title="one response, stopped at a cap", xlabel="mean tokens spent", ylabel="")
    legend(figure, config, shown, line=True)
    return tell(figure, (f"{r.label} gives {r.affords:.1f} responses for the tokens of one of the base's, one of them right for "
                         f"{r.passed:.1f} % of the problems (the base: {r.base:.1f} %)"
                         for r in rows_of(config, "spend_gaps") if r.gap == r.gap))


def problem_changes(config: Config) -> Figure:
    """How many problems changed by how much in accuracy and in length, after each schedule's last round; darker: more of them."""
    table, told = read(config, "per_problem").dropna(subset=["length_change"]), []
    shown = table[table.model.isin(catalog.last_rounds(config))]
    figure, parts = panels_by(shown, "model", 3, height=2.5, sharex=True, sharey=True)
    if not parts:
        say(figure.axes[0], "lengths unknown")
    for axis, model, own in parts:
        seaborn.histplot(own, x="length_change", y="accuracy_change", binwidth=(10, 20), binrange=((-100, 100), (-110, 110)),
                         ax=axis, color=looks(config)[model][0], cbar=True, cbar_kws={"label": "problems"})
        label, better, worse = own.label.iloc[0], (own.accuracy_change > 0).mean(), (own.accuracy_change < 0).mean()
        shares = f"{better:.0%} better", f"{1 - better - worse:.0%} as before, {worse:.0%} worse"
        told.append(f"{label} {', '.join(shares)}")
        axis.set_title("\n".join([label, *shares]), fontsize=8)
        axis.axhline(0, color="#999999", linewidth=0.8)
        axis.axvline(0, color="#999999", linewidth=0.8)
        axis.set(xlabel="length change (%)", ylabel="accuracy change (points)" if axis is figure.axes[0] else "")
    return tell(figure, told)


def seeds(config: Config) -> Figure:
    """Every comparison of accuracy seed by seed (grey) and over the seeds (black), with 95 % intervals."""
    each, combined = (read(config, name, overall=True).query("quantity == 'accuracy change'")
                      for name in ("seeds", "seeds_combined"))
    figure, (axis,) = panels(1, 1, height=0.4 + 0.5 * combined.comparison.nunique())
    axis.axvline(0, color="#999999", linewidth=1)
    where = {"x": "value", "y": "comparison", "xmin": "low", "xmax": "high"}
    drawn = so.Plot(combined.reset_index(), **where).theme(STYLE)
    for mark in (so.Range(color=GREY, linewidth=0.7), so.Dot(color=GREY, pointsize=4)):
        drawn = drawn.add(mark, so.Dodge(), so.Shift(y=0.15), data=each.reset_index(), group="seed", **where)
    over = so.Shift(y=-0.25)
    drawn.add(so.Range(color="black"), over).add(so.Dot(color="black", pointsize=7), over).on(axis).plot()
    axis.set(xlabel="accuracy difference (points); grey: one seed each, black: mean over the seeds", ylabel="")
    return tell(figure, (f"{r.comparison} {r.value:+.1f} points [{r.low:+.1f}, {r.high:+.1f}]" for r in combined.itertuples()))
