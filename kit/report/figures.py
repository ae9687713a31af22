"""Results files -> tables and figures; reads nothing but CSVs of a run and params/published.yaml.

Every figure is written as PNG and SVG into results/<run>/figures. Series differ in marker and line as well as in colour,
so that they can be told apart in grey and by the colour-blind; published values are hollow and labelled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.runs import catalog, files, manifest, paths
from kit.settings import ROOT, Config, KitError, read_yaml

STYLE: dict[str, Any] = {
    "figure.dpi": 110, "savefig.dpi": 200, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 6, "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a label is a $
}
# Okabe and Ito's colours for the colour-blind, ordered so that neighbours also differ in lightness.
LOOKS = [("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"), ("#E69F00", "v", "-")]
PANELS = [("reward", "reward", 1.0), ("length", "mean length (tokens)", 1.0), ("truncated", "truncated (%)", 100.0)]
BASE_LOOK = ("#000000", "*", "-")
UNKNOWN = "unknown"  # in place of lengths that a log does not have


def read(config: Config, name: str) -> pd.DataFrame:
    """metrics/<name>.csv of the run; KitError when it is not there, damaged, or of models that the params do not name."""
    path = paths.of(config).metrics / f"{name}.csv"
    table = files.read_csv(path)
    strange = sorted(set(table.get("model", [])) - set(catalog.model_names(config)))
    if strange:
        raise KitError(f"{path}: is of {', '.join(map(str, strange))}, which {config.file} does not name; "
                       "run the notebook that makes it (03, 04 or 05) again")
    return table


def mean_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over the data sets, or of the only set."""
    return table[table.set == ("mean" if "mean" in set(table.set) else table.set.iloc[-1])]


def title_of(config: Config, name: str) -> str:
    """What a data set, or the mean over them, is called."""
    return "mean of the sets" if name == "mean" else config.set_labels.get(name, name)


def cell(row: pd.Series | object, label: str, form: str = "+.1f", unit: str = "") -> str:
    """`value unit [low, high]`; empty where it is not known."""
    value, low, high = (getattr(row, f"{label}{end}") for end in ("", "_low", "_high"))
    bounds = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return "" if pd.isna(value) else f"{value:{form}}{unit}{bounds}"


def save(figure: Figure, config: Config, name: str) -> Path:
    """Write PNG and SVG, with run, commit and date in the metadata, and close the figure; returns the PNG's path."""
    folder, facts = paths.of(config).figures, about(config, name)
    svg = {"Title": facts["title"], "Source": facts["source"], "Date": facts["date"]}
    png = {"Title": facts["title"], "Source": facts["source"], "Creation Time": facts["date"], "Software": None}
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # layout and edges are worked out once, not at each of the draws that saving takes
    edges = figure.get_tightbbox().padded(0.1)
    for suffix, metadata in (("svg", svg), ("png", png)):
        with files.atomic(folder / f"{name}.{suffix}", "wb") as file:
            figure.savefig(file, format=suffix, metadata=metadata, bbox_inches=edges)
    plt.close(figure)  # else a notebook shows it as well
    return folder / f"{name}.png"


def about(config: Config, name: str) -> dict[str, str]:
    """Where a table or figure is from: its title with the run's name, the commit that drew it, the date."""
    return {"title": f"{name}, run {config.run}", "source": f"commit {manifest.commit()}", "date": manifest.now()}


def look(config: Config, schedule: str) -> tuple[str, str, str]:
    """Colour, marker and line of a schedule."""
    others = [name for name in dict.fromkeys([*config.schedules, *config.logs.models]) if name != "base"]
    return BASE_LOOK if schedule == "base" else LOOKS[others.index(schedule) % len(LOOKS)]


def label_of(config: Config, schedule: str, round: int, limit: float) -> str:
    """How a model is called in tables and figures."""
    if schedule == "base" or schedule in config.logs.models:
        return config.logs.labels.get(schedule, schedule)
    plan = config.schedules[schedule]
    name = plan.label or schedule
    return f"{name}, {limit:.0f}" if plan.state_limit else name


# --- tables -----------------------------------------------------------------------------------------------------------


def main_table(config: Config) -> pd.DataFrame:
    """Ours in the paper's layout: a row per model; per set accuracy ± half of the 95 % interval and mean length; the mean
    of the sets; length as a multiple of the shortest correct chain; changes against the base, paired on problems."""
    metrics, changes = read(config, "main"), read(config, "changes")
    rows = []
    for model, own in metrics.groupby("model", sort=False):
        by_set = own.set_index("set")
        first = own.iloc[0]
        row: dict[str, str] = {"model": label_of(config, first.schedule, first["round"], first.limit)}
        for name in [*config.data.evaluation, "mean"]:
            if name in by_set.index:
                row[config.set_labels.get(name, name)] = _cell(by_set.loc[name])
        last = by_set.iloc[-1]
        row["× shortest"] = "" if pd.isna(last.multiple) else f"{last.multiple:.2f}"
        against = changes[(changes.model == model) & (changes.against == "base") & (changes.set == last.name)]
        for _, c in against.iterrows():
            row["accuracy change"] = f"{c.accuracy_change:+.1f} [{c.accuracy_change_low:+.1f}, {c.accuracy_change_high:+.1f}]"
            change = f"{c.length_change:+.0f} % [{c.length_change_low:+.0f}, {c.length_change_high:+.0f}]"
            row["length change"] = UNKNOWN if pd.isna(c.length_change) else change
        rows.append(row)
    return pd.DataFrame(rows).fillna("").set_index("model")


def _cell(row: pd.Series) -> str:
    length = UNKNOWN if pd.isna(row.length) else f"{row.length:.0f}"
    return f"{row.accuracy:.1f} ± {(row.accuracy_high - row.accuracy_low) / 2:.1f} / {length}"


def keyword_table(config: Config) -> pd.DataFrame:
    """Keywords per response of every model, with 95 % intervals, and the change against the base in percent."""
    words, metrics = mean_rows(read(config, "keywords")), read(config, "main").groupby("model").first()
    rows: dict[str, dict[str, str]] = {}
    for (label, model), own in words.groupby(["keywords", "model"], sort=False):
        base = words[(words.keywords == label) & (words.model == "base")].per_response.iloc[0]
        w, m = own.iloc[0], metrics.loc[model]
        row = rows.setdefault(label_of(config, m.schedule, m["round"], m.limit), {})
        row[f"{label} per response"] = f"{w.per_response:.2f} [{w.per_response_low:.2f}, {w.per_response_high:.2f}]"
        row[f"{label}, change"] = "" if model == "base" or not base else f"{100 * (w.per_response / base - 1):+.0f} %"
        row[f"{label} per 1,000 tokens"] = UNKNOWN if pd.isna(w.per_1000_tokens) else f"{w.per_1000_tokens:.1f}"
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="model"))


def published_titles() -> dict[str, str]:
    """The published tables: name in params/published.yaml -> title."""
    return {name: t["title"] for name, t in read_yaml(ROOT / "params" / "published.yaml")["tables"].items()}


def published_table(name: str = "autothink") -> pd.DataFrame:
    """One published table (accuracy % / mean tokens) with its label; cells nobody could source stay empty."""
    published = read_yaml(ROOT / "params" / "published.yaml")
    table = published["tables"][name]
    rows = []
    for entry in table["rows"]:
        row = {"model": entry["model"], "label": table["label"]}
        values = {s: entry["cells"][s] for s in published["sets"]}
        for s, (accuracy, length) in values.items():
            own = entry.get("labels", {}).get(s)
            row[s] = " / ".join(["–" if accuracy is None else f"{accuracy:g}", "–" if length is None else f"{length:g}"])
            row[s] = "" if accuracy is None and length is None else row[s] + (f" ({own})" if own else "")
        mean = entry.get("mean") or [_mean([v[i] for v in values.values()]) for i in (0, 1)]
        row["mean"] = "" if mean == [None, None] else " / ".join("–" if m is None else f"{m:g}" for m in mean)
        change = entry.get("change", {})
        row["accuracy change"] = f"{change['accuracy']:+.1f}" if change else ""
        row["length change"] = f"{change['length']:+d} %" if change else ""
        rows.append(row)
    return pd.DataFrame(rows).set_index("model")


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else round(sum(values) / len(values), 1)  # type: ignore[arg-type]


def save_table(table: pd.DataFrame, config: Config, name: str) -> Path:
    """A table as CSV and as Markdown in the run's figures folder; returns the CSV's path.

    Run, commit and date are the Markdown's last line, and for the CSV, which has no place for them, <name>.csv-metadata.json (the
    W3C's "CSV on the web").
    """
    folder, facts = paths.of(config).figures, about(config, name)
    flat = table.reset_index()
    files.write_csv(folder / f"{name}.csv", flat)
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [flat.columns, ["---"] * len(flat.columns), *flat.to_numpy()]]
    with files.atomic(folder / f"{name}.md") as file:
        file.write("\n".join([*lines, "", ", ".join(facts.values())]) + "\n")
    facts = {f"dc:{key}": value for key, value in facts.items()}
    beside = folder / f"{name}.csv-metadata.json"
    files.write_json(beside, {"@context": "http://www.w3.org/ns/csvw", "url": f"{name}.csv", **facts})
    return folder / f"{name}.csv"


# --- figures ----------------------------------------------------------------------------------------------------------


def trade_off(config: Config) -> Figure:
    """Accuracy against mean length, with 95 % intervals: the mean of the sets (large) and each set (small)."""
    metrics = read(config, "main")
    names = [n for n in ["mean", *config.data.evaluation] if n in set(metrics.set)]
    rows = max(1, (len(names) - 1 + 1) // 2)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 5.2))
        grid = figure.add_gridspec(rows, 4 if len(names) > 1 else 2)
        places = [grid[:, :2], *(grid[i // 2, 2 + i % 2] for i in range(len(names) - 1))]
        for place, name in zip(places, names, strict=True):
            axis = figure.add_subplot(place)
            large = name == names[0]
            _trade_off_panel(axis, config, metrics[metrics.set == name], large)
            title = title_of(config, name)
            axis.set_title(title, fontsize=11 if large else 9)
        return figure


def _trade_off_panel(axis: Axes, config: Config, metrics: pd.DataFrame, large: bool) -> None:
    core = metrics.core.iloc[0]
    if not pd.isna(core):
        axis.axvline(core, color="#777777", linewidth=1, linestyle=(0, (1, 2)))
        if large:
            axis.annotate("shortest correct chain", (core, 0.3), xycoords=("data", "axes fraction"), rotation=90,
                          fontsize=8, color="#555555", xytext=(3, 0), textcoords="offset points")
    for schedule, own in metrics.groupby("schedule", sort=False):
        colour, marker, line = look(config, str(schedule))
        plan = config.schedules.get(str(schedule))
        label = label_of(config, str(schedule), 0, 0) if plan is None else plan.label or str(schedule)
        axis.errorbar(
            own.length, own.accuracy, color=colour, marker=marker, linestyle=line, capsize=2, elinewidth=0.9, label=label,
            markersize=11 if schedule == "base" and large else 5 + large,
            xerr=[own.length - own.length_low, own.length_high - own.length],
            yerr=[own.accuracy - own.accuracy_low, own.accuracy_high - own.accuracy],
        )
        if large and plan is not None and plan.state_limit:
            place = (5, -11) if list(config.schedules).index(str(schedule)) % 2 == 0 else (-14, 9)  # schedules may meet
            for point in own.itertuples():
                axis.annotate(f"{point.limit:.0f}", (point.length, point.accuracy), xytext=place, fontsize=8,
                              textcoords="offset points", color=colour)
    if metrics.length.isna().all():
        axis.text(0.5, 0.5, "lengths unknown", transform=axis.transAxes, ha="center", color="#555555")
        axis.set(xticks=[], yticks=[])
    axis.set_xlim(left=0)
    if large:
        axis.set_xlabel("mean length (tokens)" + "; numbers at the points: token limit of the round" * bool(config.schedules))
        axis.set_ylabel("accuracy (pass@1, %)")
        axis.legend(loc="lower right")
    else:
        axis.tick_params(labelsize=8)


def round_curves(log: pd.DataFrame, title: str) -> Figure:
    """The same three panels for one round, from its log.csv."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11, 2.8))
        for axis, (column, name, scale) in zip(axes, PANELS, strict=True):
            axis.plot(log.step, scale * log[column], color=LOOKS[0][0], marker=".")
            axis.set(title=name, xlabel="training step")
            axis.set_ylim(bottom=0)
        axes[1].axhline(log.limit.iloc[0], color="#777777", linewidth=1, linestyle="--")
        figure.suptitle(title)
        return figure


def training_curves(config: Config) -> Figure:
    """Reward, mean length and truncated share of every training step, all rounds in a row, with the limits drawn in."""
    log = read(config, "training")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
        for schedule, own in log.groupby("schedule", sort=False):
            colour, _, line = look(config, str(schedule))
            plan = config.schedules[str(schedule)]
            for axis, (column, _, scale) in zip(axes, PANELS, strict=True):
                axis.plot(own.total_step, scale * own[column], color=colour, linestyle=line, label=plan.label or schedule)
            if plan.state_limit:
                axes[1].step(own.total_step, own.limit, where="mid", color=colour, linewidth=0.9, alpha=0.7)
                for limit, part in own.groupby("limit", sort=False):
                    axes[1].annotate(f"limit {limit:.0f}", (part.total_step.iloc[0], limit), fontsize=8, color=colour,
                                     xytext=(2, 3), textcoords="offset points")
            ends = own.groupby("round").total_step.max().iloc[:-1]
            for axis in axes:
                for end in ends:
                    axis.axvline(end + 0.5, color=colour, linewidth=0.6, alpha=0.5)
        for axis, (_, title, _) in zip(axes, PANELS, strict=True):
            axis.set_title(title)
            axis.set_xlabel("training step")
            axis.set_ylim(bottom=0)
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(config.schedules))
        return figure


def validation_points(config: Config) -> Figure:
    """Every checkpoint on the validation set, the selected ones ringed; beside it the paper's own 4k round (hollow)."""
    table = read(config, "validation")
    curve = read_yaml(ROOT / "params" / "published.yaml")["validation_curve"]
    with plt.rc_context(STYLE):
        figure, (ours, theirs) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
        for schedule, own in table.groupby("schedule", sort=False):
            colour, marker, line = look(config, str(schedule))
            ours.plot(own.length, own.accuracy, color=colour, marker=marker, linestyle=line, linewidth=0.9,
                      markersize=4, label=config.schedules[str(schedule)].label or schedule)
            ours.vlines(own.length, own.accuracy_low, own.accuracy_high, color=colour, linewidth=0.6, alpha=0.6)
            chosen = own[own.selected]
            ours.scatter(chosen.length, chosen.accuracy, s=160, facecolors="none", edgecolors="black", linewidths=1.3, zorder=5)
        start = table[table.step == 0].iloc[0]
        ours.scatter([start.length], [start.accuracy], marker="*", s=130, color="black", zorder=6, label="base")
        ours.scatter([], [], s=110, facecolors="none", edgecolors="black", linewidths=1.3, label="selected")
        ours.set(title=f"ours: {config.set_labels.get(config.data.validation, config.data.validation)}",
                 xlabel="mean length (tokens)", ylabel="accuracy (pass@1, %)")
        ours.legend(loc="best")
        points = pd.DataFrame(curve["points"], index=["accuracy", "length"]).T
        theirs.plot(points.length, points.accuracy, color="#555555", marker="o", markerfacecolor="none", linewidth=0.9)
        for step in (points.index[0], points.index[-1]):
            theirs.annotate(f"step {step}", (points.length[step], points.accuracy[step]), fontsize=8, xytext=(4, 6),
                            textcoords="offset points")
        theirs.set(title=f"published: DS-1.5B, limit {curve['limit']} ({curve['label']})", xlabel="mean length (tokens)",
                   ylabel="accuracy on AIME22+23 (%)", ylim=(15, 25))
        return figure


def conclusions(config: Config) -> list[str]:
    """What the run shows, one computed sentence per pruned model and comparison."""
    changes, main = read(config, "changes"), read(config, "main")
    sentences = []
    for c in changes[changes.set == ("mean" if "mean" in set(changes.set) else changes.set.iloc[-1])].itertuples():
        first = main[main.model == c.model].iloc[0]
        name = label_of(config, first.schedule, first["round"], first.limit)
        plan = config.schedules.get(c.against.split("/")[0])
        other = plan.label or c.against if plan else label_of(config, c.against, 0, 0)
        shorter = "length unknown" if pd.isna(c.length_change) else (
            f"length {c.length_change:+.0f} % [{c.length_change_low:+.0f}, {c.length_change_high:+.0f}]")
        sure = "no difference in accuracy could be shown" if c.accuracy_change_low <= 0 <= c.accuracy_change_high else (
            "accuracy is higher" if c.accuracy_change > 0 else "accuracy is lower")
        p_value = "p < 0.001" if c.p_value < 0.001 else f"p = {c.p_value:.3f}"
        sentences.append(
            f"{name} against {other}: {shorter}, "
            f"accuracy {c.accuracy_change:+.1f} points [{c.accuracy_change_low:+.1f}, {c.accuracy_change_high:+.1f}] "
            f"({p_value}): {sure}. These {c.problems} problems show a change from {c.detectable:.1f} points on."
        )
    return sentences
