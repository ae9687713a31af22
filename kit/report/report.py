"""`results/<run>/report.html`: all of a run on one page that needs nothing else: no network, no script, no other file.

Everything it shows is read from the run's folder: tables and figures of results/<run>/figures, the manifest, the computed
sentences. Every string is escaped, and the page's own content policy forbids scripts and any address but embedded images, so
that what a model wrote cannot do anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pandas as pd
import yaml

from kit.report import behavior_figures, comparison_tables, figures
from kit.report.comparison_tables import has, overall
from kit.report.figures import cell
from kit.runs import files, paths
from kit.settings import Config

# Heading: the figures and tables below it, by file name; what a run does not have is left out, what is named nowhere comes last.
SECTIONS: dict[str, tuple[str, ...]] = {
    "The main table": ("main_table",),
    "Length against accuracy": ("trade_off", "relative_trade_off"),
    "Budget forcing": ("budget_forcing", "forcing_table", "gap_table"),
    "One-shot against iterative, controls": ("one_shot_table", "controls_table"),
    "Several seeds": ("seeds", "seed_table"),
    "What a user buys": ("equal_spend", "spend_table", "efficiency", "problem_changes"),
    "Training": ("training_curves", "validation_points"),
    "What the tokens are spent on": (
        "keyword_table", "keyword_bars", "behavior_table", "phase_donuts", "judge_donuts", "agreement_table", "measure_table",
        "attempt_bars", "repetition_bars", "perplexity_points", "length_curves", "length_table"),
    "Published numbers": ("published_paper", "published_autothink", "published_lapo", "published_decs"),
}
MORE = "More"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; } caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 16rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; } figure { margin: 1rem 0; }
figcaption { font-size: .85rem; opacity: .8; } pre { overflow-x: auto; font-size: .8rem; } nav a { margin-right: .8rem; }
"""


def write(config: Config) -> Path:
    """Write the page from what the run has so far; returns its path."""
    run = paths.of(config)
    manifest = files.read_json(run.manifest) if run.manifest.is_file() else {}
    parts = [
        ("In words", bullets(s for _, sentences in conclusions(config) for s in sentences)),
        ("Caveats", bullets(caveats(config, str(manifest.get("commit", ""))))),
        *pictures_and_tables(run.figures),
        ("How it was made", made(config, manifest)),
    ]
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a> ' for title, _ in parts)
    body = "".join(f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{text}</section>' for title, text in parts)
    shown = escape(f"ThinkPrune, run {config.run}")
    with files.atomic(run.root / "report.html") as file:
        file.write(
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f"<title>{shown}</title><style>{STYLE}</style></head><body><h1>{shown}</h1>"
            f"<p>{escape(subtitle(config, manifest))}</p><nav>{links}</nav>{body}</body></html>\n")
    return run.root / "report.html"


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def subtitle(config: Config, manifest: dict) -> str:
    """What was run, on what, when."""
    what = f"base model {config.model.source}, seed {config.seed}" if config.schedules else "models known by their logs"
    parts = [f"{config.file}, {what}"]
    parts += [f"{key} {str(manifest[key])[:60]}" for key in ("device", "commit", "written") if key in manifest]
    return " · ".join(parts)


def bullets(sentences: Iterator[str] | list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>"


def conclusions(config: Config) -> list[tuple[str, list[str]]]:
    """(heading, computed sentences) of every comparison that the run has."""
    def differences(name: str) -> list[str]:
        return comparison_tables.difference_conclusions(config, name) if has(config, name) else []

    found = [
        ("Against the base model and the control", figures.conclusions(config)),
        ("Budget forcing", comparison_tables.forcing_conclusions(config)),
        ("One-shot against iterative", differences("one_shot")),
        ("Controls", differences("controls")),
        ("Behavior", behavior_figures.conclusions(config) if has(config, "moves") else []),
        ("Equal spend", comparison_tables.spend_conclusions(config) if has(config, "spend_gaps") else []),
        ("Several seeds", comparison_tables.seed_conclusions(config)),
    ]
    return [(heading, sentences) for heading, sentences in found if sentences]


def caveats(config: Config, commit: str = "") -> list[str]:
    """What a reader should keep in mind, computed where it can be."""
    main, changes, called = figures.read(config, "main"), figures.read(config, "changes"), comparison_tables.labels(config)
    found = []
    if len(changes):
        own = changes[changes.set == overall(changes)]
        sizes = ", ".join(f"{figures.title_of(config, r.set)} {r.problems:.0f}"
                          for r in main[(main.model == "base") & (main.set != "mean")].itertuples())
        found.append(f"Problems per set: {sizes}.")
        if own.detectable.notna().any():
            found.append(f"A true change of accuracy must be of {own.detectable.min():.1f} to {own.detectable.max():.1f} points, "
                         "by model, to be shown four times out of five.")
        for r in own[own.against == "base"].itertuples():
            plan = config.schedules.get(r.model.split("/")[0])
            if plan is not None and not plan.state_limit and plan.compare_with is None:
                found.append(f"The control without a limit changes length by {cell(r, 'length_change', '+.0f', ' %')} and "
                             f"accuracy by {cell(r, 'accuracy_change')} points: that much is not the limit's doing.")
    if config.schedules:
        found.append(f"{1 + len(config.seeds)} seeds." if config.seeds else
                     f"One seed ({config.seed}): another training run can end elsewhere.")
    for r in main[(main.set == overall(main)) & (main.truncated > 1)].itertuples():
        found.append(f"{called[r.model]}: {r.truncated:.1f} % of the responses ran into the token cap of the evaluation.")
    for verdict, what in (("timeout", "answers ran into the grader's deadline"), ("unparseable_gold", "golds were unreadable")):
        count = int(main[main.set != "mean"].get(f"n_{verdict}", pd.Series(dtype=int)).sum())
        found += [f"{count} {what}."] if count else []
    if config.schedules and config.model.source == "arithmetic":
        found.append("A small model on generated arithmetic: how far length falls and what accuracy does can be compared with "
                     "the paper, numbers cannot.")
    found.append("Published numbers: harnesses differ by up to 12 points on the same base model; compare within one table only.")
    reading = {"official": "a box in unfinished thinking counts as well", "strict": "only what follows the thinking counts"}
    if config.schedules:
        found.append(f"The reward reads answers the {config.training.reading} way: {reading[config.training.reading]}.")
    if commit.endswith("+changes"):
        found.append("The working tree differed from the commit named above.")
    return found


def pictures_and_tables(folder: Path) -> Iterator[tuple[str, str]]:
    """(heading, HTML) of every table and figure in the folder."""
    there = {path.stem for pattern in ("*.png", "*.csv") for path in folder.glob(pattern)}
    rest = tuple(sorted(there - {name for names in SECTIONS.values() for name in names}))
    for title, names in {**SECTIONS, MORE: rest}.items():
        text = "".join(_picture(folder / f"{n}.png") + _table(folder / f"{n}.csv") for n in names if n in there)
        if text:
            yield title, text


def _picture(path: Path) -> str:
    if not path.is_file():
        return ""
    data, name = base64.b64encode(path.read_bytes()).decode(), escape(path.stem.replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


def _table(path: Path) -> str:
    if not path.is_file():
        return ""
    return table_html(pd.read_csv(path, dtype=str, keep_default_na=False), path.stem.replace("_", " "))


def table_html(table: pd.DataFrame, caption: str) -> str:
    """A table of texts, escaped; long cells may wrap."""
    def row(tag: str, values: list[object]) -> str:
        cells = (f'<{tag}{" class=wrap" if len(str(v)) > 60 else ""}>{escape(str(v))}</{tag}>' for v in values)
        return "<tr>" + "".join(cells) + "</tr>"

    body = "".join(row("td", list(values)) for values in table.to_numpy())
    return (f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
            f"<thead>{row('th', list(table.columns))}</thead><tbody>{body}</tbody></table></div>")


def made(config: Config, manifest: dict) -> str:
    """Versions, prompts, stages and all settings."""
    versions = pd.DataFrame([(k, str(v)) for k, v in manifest.get("versions", {}).items()], columns=["package", "version"])
    seconds = [(p.stem, f"{files.read_json(p).get('seconds', 0):.0f}") for p in sorted(paths.of(config).stages.glob("*.json"))]
    prompts = "".join(f"<h3>Prompt: {escape(str(stage))}</h3><pre>{escape(str(text))}</pre>"
                      for stage, text in manifest.get("prompts", {}).items())
    settings = yaml.safe_dump(manifest.get("settings", {}), allow_unicode=True, sort_keys=False, width=100)
    return (table_html(versions, "versions") + table_html(pd.DataFrame(seconds, columns=["stage", "seconds"]), "stages") + prompts
            + f"<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>")
