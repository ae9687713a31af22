"""The tables of a run as people read them, every number with its 95 % interval; written as CSV and as Markdown.

A function takes the settings and returns a DataFrame of texts; its first column is the index. Nothing is read but CSV files of
the run and params/published.yaml.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.evaluation import reference
from kit.evaluation.metrics import efficiency_score
from kit.evaluation.seeds import FORMS
from kit.report.inputs import has, origin, published, read, rows_of, set_label
from kit.runs import catalog, files, paths
from kit.settings import Config

UNKNOWN = "unknown"  # in place of lengths that a log does not have
MEASURES = {  # CSV -> column -> title
    "first_answer": {"tokens_before": "tokens up to the first statement of the answer", "tokens_after": "tokens after it",
                     "share_after": "share of the response after it (%)"},
    "repetition": {"repeated": "runs of words seen before (%)", "loops": "responses that end in a loop (%)"},
    "perplexity": {"perplexity": "perplexity"},
    "spans": {"thinking": "tokens of the thinking", "answer": "tokens of the answer behind it"},
}


def save(table: pd.DataFrame, config: Config, name: str) -> pd.DataFrame:
    """Write a table as <name>.csv and <name>.md into the run's figures folder; returns it, for a notebook to show."""
    folder, flat = paths.of(config).figures, table.reset_index()
    files.write_csv(folder / f"{name}.csv", flat)
    rows = [flat.columns, ["---"] * len(flat.columns), *flat.to_numpy()]
    lines = ["| " + " | ".join(str(text).replace("|", "\\|") for text in row) + " |" for row in rows]
    files.write_text(folder / f"{name}.md", "\n".join([*lines, "", ", ".join(origin(config, name))]) + "\n")
    return table


def caption(name: str) -> str:
    """What a kept table shows, in words: the first sentence of its function, or the title of a published one."""
    if source := published()["tables"].get(name.removeprefix("published_")):
        return source["title"]
    draw = globals().get(name, difference_table if name in ("one_shot_table", "controls_table") else None)
    return " ".join(inspect.getdoc(draw).split("\n\n")[0].split()) if draw else name.replace("_", " ")


def show(make: Callable[[Config], pd.DataFrame], config: Config) -> pd.DataFrame:
    """Make a table, keep it under its function's name, and return it for a notebook."""
    return save(make(config), config, make.__name__)


def cell(row: pd.Series | object, column: str, form: str = "+.1f", unit: str = "") -> str:
    """`value unit [low, high]` of a row's columns `column`, `column_low`, `column_high`; empty where it is not known."""
    value, low, high = (getattr(row, f"{column}{end}") for end in ("", "_low", "_high"))
    bounds = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return "" if pd.isna(value) else f"{value:{form}}{unit}{bounds}"


def main_table(config: Config) -> pd.DataFrame:
    """Every model on the mean of the sets, and its changes against the base, paired on problems, with 95 % intervals."""
    changes, rows = {r.model: r for r in rows_of(config, "changes") if r.against == "base"}, []
    for r in read(config, "main", overall=True).itertuples():
        against = changes.get(r.model)
        rows.append({"model": r.label, "accuracy (%)": cell(r, "accuracy", ".1f"),
                     "length (tokens)": cell(r, "length", ".0f") or UNKNOWN,
                     "accuracy change (points)": cell(against, "accuracy_change") if against else "",
                     "length change (%)": (cell(against, "length_change", "+.0f") or UNKNOWN) if against else ""})
    return pd.DataFrame(rows).set_index("model")


def set_table(config: Config) -> pd.DataFrame:
    """Every model on every set, in the paper's layout: accuracy (%, ± half of the 95 % interval) / mean length (tokens).

    `× shortest` is length as a multiple of the shortest correct response (known for generated problems only).
    """
    found: dict[str, dict[str, str]] = {}
    for r in read(config, "main").itertuples():
        length = UNKNOWN if pd.isna(r.length) else f"{r.length:.0f}"
        row = found.setdefault(r.label, {})
        row[config.set_labels.get(r.set, r.set)] = f"{r.accuracy:.1f} ± {(r.accuracy_high - r.accuracy_low) / 2:.1f} / {length}"
        row.pop("× shortest", None)  # the last set's, which is the mean
        row["× shortest"] = "" if pd.isna(r.multiple) else f"{r.multiple:.2f}"
    return filled(pd.DataFrame(found.values(), index=pd.Index(found, name="model")))


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns in which no row has anything."""
    return table.loc[:, (table.fillna("") != "").any()].fillna("")


def forcing_table(config: Config) -> pd.DataFrame:
    """Budget forcing, per model and budget: accuracy and total length of the mean of the sets, share of responses forced."""
    return pd.DataFrame([
        {"model": r.label, "budget": r.budget, "accuracy (%)": cell(r, "accuracy", ".1f"),
         "total length (tokens)": cell(r, "length", ".0f"), "forced (%)": f"{r.forced:.0f}"} for r in rows_of(config, "forcing")
    ]).set_index(["model", "budget"])


def gap_table(config: Config) -> pd.DataFrame:
    """Per model and set: its accuracy, the budget-forcing curve's at the same length, and the paired difference."""
    return pd.DataFrame([
        {"model": r.label, "set": set_label(config, r.set), "length (tokens)": f"{r.length:.0f}",
         "accuracy (%)": cell(r, "accuracy", ".1f"), "base, forced to this length (%)": cell(r, "forced", ".1f"),
         "difference (points)": cell(r, "gap"),
         "above, intervals apart": ("yes" if r.above else "no") if r.shared else "no such length"}
        for r in rows_of(config, "forcing_gaps", overall=False)
    ]).set_index(["model", "set"])


def spend_table(config: Config) -> pd.DataFrame:
    """For the tokens of one response of the base: how many responses of each model, and their pass@k against its pass@1."""
    columns = ["model", "responses for the base's tokens", "k", "pass@k (%)", "base, pass@1 (%)", "difference (points)"]
    return pd.DataFrame([
        (r.label, f"{r.affords:.1f}", f"{r.k:.1f}", cell(r, "passed", ".1f"), f"{r.base:.1f}", cell(r, "gap"))
        for r in rows_of(config, "spend_gaps") if pd.notna(r.gap)
    ], columns=columns).set_index("model")


def differences(config: Config, name: str) -> list[Any]:
    """The rows of `one_shot` or `controls` over all sets; `what` says in what the two models differ."""
    told = {"without a limit": "a limit, against the same RL without one",
            "training prompt": "asked in the training prompt, its limit stated"}
    found = rows_of(config, name)
    what = [f"limit {r.limit}" if name == "one_shot" else told.get(r.control) or what_differs(config, r.model) for r in found]
    labels = [r.label + ", training prompt" * (r.model == r.against) for r in found]
    return list(pd.DataFrame(found).assign(what=what, label=labels).itertuples(index=False))


def what_differs(config: Config, model: str) -> str:
    """In what a control's settings differ from its counterpart's."""
    own = config.schedules[catalog.facts(config)[model][0]]
    other = config.schedules[own.compare_with or ""]
    told = {"state_limit": "limit not stated in the prompt", "limits": f"limits {', '.join(map(str, own.limits))}",
            "reading": f"{own.reading or config.training.reading} reading of the reward"}
    return ", ".join(told.get(key, key) for key, value in vars(own).items()
                     if value != getattr(other, key) and key not in ("label", "compare_with"))


def difference_table(config: Config, name: str) -> pd.DataFrame:
    """Pairs of models that differ in one thing, mean of the sets, and their paired differences."""
    return pd.DataFrame([
        {"what differs": r.what, "model": r.label, "against": r.against_label,
         "accuracy (%) / length": f"{r.accuracy:.1f} / {r.length:.0f}",
         "the other's": f"{r.other_accuracy:.1f} / {r.other_length:.0f}",
         "accuracy difference (points)": cell(r, "accuracy_change"),
         "length difference": cell(r, "length_change", "+.0f", " %"),
         "p": "< 0.001" if r.p_value < 0.001 else f"{r.p_value:.3f}"} for r in differences(config, name)
    ]).set_index("what differs")


def seed_table(config: Config) -> pd.DataFrame:
    """Mean over the seeds with its t-interval, the seeds' own values, and their spread beside what the problems alone explain."""
    return pd.DataFrame([
        {"comparison": r.comparison, "quantity": f"{r.quantity} ({r.unit})",
         "mean [95 %]": "{0.value:{1}} [{0.low:{1}}, {0.high:{1}}]".format(r, FORMS[r.quantity]),
         "seeds": r.by_seed, "sd between seeds": f"{r.sd:.1f}", "sd expected from the problems alone": f"{r.sd_problems:.1f}"}
        for r in rows_of(config, "seeds_combined")
    ]).set_index(["comparison", "quantity"])


def reference_table(made: dict[str, Any], own: Config | None = None) -> pd.DataFrame:
    """The headline figures of a reference: mean over its seeds with its 95 % interval, and what a new run is expected to show;
    with the settings of a run, also that run's value."""
    rows, values = [], reference.headlines(own).set_index(["comparison", "quantity"]).value if own else {}
    for figure in made["figures"]:
        name, form = (figure["comparison"], figure["quantity"]), FORMS[figure["quantity"]]
        row = {"comparison": name[0], "quantity": f"{name[1]} ({figure['unit']})"}
        if name in values:
            row["this run"] = f"{values[name]:{form}}" + ("" if reference.inside(values[name], figure) else " (outside)")
        row |= {f"mean of {len(made['seeds'])} seeds [95 %]": "{mean:{0}} [{low:{0}}, {high:{0}}]".format(form, **figure),
                "expected of a new run": "{from:{0}} to {to:{0}}".format(form, **figure),
                "sd between runs": f"{figure['sd']:{form.lstrip('+')}}"}
        if len(again := figure.get("same_base", [])) > 1:
            row["sd, same base model"] = f"{np.std(again, ddof=1):{form.lstrip('+')}}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("").set_index(["comparison", "quantity"])


def published_table(name: str = "autothink", part: str = "tables") -> pd.DataFrame:
    """One published table (accuracy % / mean tokens) with its label; cells nobody could source stay empty, columns go. `part`:
    `tables`, or `rewards`, those of other ways of rewarding brevity."""
    def pair(values: Sequence[float | None]) -> str:
        return "" if set(values) == {None} else " / ".join("–" if v is None else f"{v:g}" for v in values)

    source, rows = published(), []
    for entry in source[part][name]["rows"]:
        row, labels = {"model": entry["model"], "label": source[part][name]["label"]}, entry.get("labels", {})
        cells = {s: entry["cells"][s] for s in source["sets"]}
        row |= {s: pair(values) + (f" ({labels[s]})" if s in labels else "") for s, values in cells.items()}
        means = [None if None in values else round(sum(values) / len(values), 1) for values in zip(*cells.values(), strict=True)]
        row["mean"] = pair(entry.get("mean") or means)
        if change := entry.get("change"):
            row |= {"accuracy change": f"{change['accuracy']:+.1f}", "length change": f"{change['length']:+d} %"}
        rows.append(row)
    return filled(pd.DataFrame(rows).set_index("model"))


def published_changes(part: str = "tables") -> pd.DataFrame:
    """Published pruned models against the base of their table (`part`: as in `published_table`), means over the four sets:
    accuracy change (points), length (% of the base's), score; empty where a number is lacking. Derived (D) from given means."""
    rows = []
    for source, table in published()[part].items():
        for entry in table["rows"]:
            accuracy, length = np.array(list(entry["cells"].values()), dtype=float).mean(axis=0)  # None becomes nan
            if entry["kind"] == "base":
                base = accuracy, length
            elif change := entry.get("change"):
                rows.append((source, entry["model"], table["label"], change["accuracy"], 100 + change["length"], np.nan))
            else:
                rows.append((source, entry["model"], f"D from {table['label']}", accuracy - base[0], 100 * length / base[1],
                             float(efficiency_score(accuracy, length, *base))))
    found = pd.DataFrame(rows, columns=["source", "name", "letter", "accuracy_change", "length", "score"])
    return found.assign(model="published " + found.source, label=found["name"] + " (" + found.source + ", " + found.letter + ")")


def keyword_table(config: Config) -> pd.DataFrame:
    """Keywords per response of every model, with 95 % intervals, and the change against the base in percent."""
    rows: dict[str, dict[str, str]] = {}
    for words, of_words in read(config, "keywords", overall=True).groupby("keywords", sort=False):
        base = of_words[of_words.model == "base"].per_response.iloc[0]
        for r in of_words.itertuples():
            row = rows.setdefault(r.label, {})
            row[f"{words} per response"] = cell(r, "per_response", ".2f")
            row[f"{words}, change"] = "" if r.model == "base" or not base else f"{100 * (r.per_response / base - 1):+.0f} %"
            row[f"{words} per 1,000 tokens"] = UNKNOWN if pd.isna(r.per_1000_tokens) else f"{r.per_1000_tokens:.1f}"
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="model"))


def behavior_table(config: Config) -> pd.DataFrame:
    """What moved: words, and steps by kind in a mean response, and their change against the base, paired on problems."""
    rows: dict[str, dict[str, str]] = {catalog.label(config, "base"): {}}
    for r in rows_of(config, "moves", overall=False):
        change = cell(r, "change", "+.0f", " %")
        next(iter(rows.values()))[r.quantity] = f"{r.before:.2f}"
        rows.setdefault(r.label, {})[r.quantity] = f"{r.after:.2f}" + (f" ({change})" if change else "")
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="model"))


def measure_table(config: Config, form: str = ".1f") -> pd.DataFrame:
    """First statement of the answer, repetition and perplexity with their 95 % intervals, mean of the sets; a row per model."""
    return pd.DataFrame({
        title: {r.label: cell(r, column, form) for r in rows_of(config, source)}
        for source, titles in MEASURES.items() if has(config, source) for column, title in titles.items()
    }).rename_axis("model")


def best_length_table(config: Config) -> pd.DataFrame:
    """Per set: the length at which the base is most accurate within problems, and the mean length of each model in its place."""
    table, main = read(config, "inverted_u"), read(config, "main")
    rows = []
    for best in table[(table.model == "base") & table.best].drop_duplicates("set").itertuples():
        own = main[main.set == best.set].set_index("label").length
        rows.append({"set": set_label(config, best.set), "base is best at (tokens)": f"{best.length:.0f}",
                     "above the problem's own (points)": cell(best, "above", "+.1f"),
                     **{label: f"{n:.0f} ({n / best.length:.2f}×)" for label, n in own.items()}})
    return pd.DataFrame(rows).set_index("set")


def length_table(config: Config) -> pd.DataFrame:
    """Percentiles of the lengths (tokens) of correct and of wrong responses, a row per model, set and verdict."""
    table = read(config, "percentiles")
    table = table.assign(cell=[cell(r, "length", ".0f") for r in table.itertuples()], model=table.label,
                         set=[set_label(config, s) for s in table.set], percentile=[f"{p} %" for p in table.percentile])
    keys, order = ["model", "set", "verdict", "responses"], list(dict.fromkeys(table.percentile))
    return table.set_index([*keys, "percentile"]).cell.unstack(sort=False)[order]
