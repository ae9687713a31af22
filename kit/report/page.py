"""`results/<run>/report.html`: all of a run on one page that needs nothing else: no network, no script, no other file.

Everything on it is read from the run's folder: tables and figures of results/<run>/figures, the manifest, the computed sentences.
The pages are jinja2 templates (kit/report/templates) that escape every text, and their own content policy lets no script run and
no address but embedded images be loaded. So what a model wrote can do nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from kit.report import sentences
from kit.report.style import description
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
        "keyword_table", "keyword_bars", "behavior_table", "phase_donuts", "judge_donuts", "measure_table",
        "first_answer_bars", "repetition_bars", "perplexity_points", "length_curves", "length_table"),
    "Published numbers": ("published_paper", "published_autothink", "published_lapo", "published_decs"),
}
# Control characters, and those that change the direction of writing: a text could hide something behind them.
HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render(template: str, **values: Any) -> str:
    """A page of kit/report/templates. Every value is escaped; characters that could hide something are shown as �."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else HIDDEN.sub("�", str(value)))
    return pages.get_template(template).render(values)


def write(config: Config) -> Path:
    """Write the report from what the run has so far; returns its path."""
    run = paths.of(config)
    manifest = files.read_json(run.manifest) if run.manifest.is_file() else {}
    there = {path.stem for pattern in ("*.png", "*.csv") for path in run.figures.glob(pattern)}
    listed = {name for names in SECTIONS.values() for name in names}
    sections = {**SECTIONS, "More": tuple(sorted(there - listed))}
    shown = [(title, _items(run.figures, names)) for title, names in sections.items() if there & set(names)]
    conclusions = sentences.conclusions(config)
    stages = [(p.stem, f"{files.read_json(p).get('seconds', 0):.0f}") for p in sorted(run.stages.glob("*.json"))]
    text = render(
        "report.html", run=config.run, subtitle=subtitle(config, manifest), sections=shown,
        opening=_items(run.figures, ["trade_off"]), first=[found[0] for _, found in conclusions], conclusions=conclusions,
        caveats=sentences.caveats(config, str(manifest.get("commit", ""))), prompts=manifest.get("prompts", {}),
        versions=_table("versions", ["package", "version"], manifest.get("versions", {}).items()),
        stages=_table("stages", ["stage", "seconds"], stages),
        settings=yaml.safe_dump(manifest.get("settings", {}), allow_unicode=True, sort_keys=False, width=100))
    with files.atomic(run.root / "report.html") as file:
        file.write(text)
    return run.root / "report.html"


def subtitle(config: Config, manifest: dict) -> str:
    """What was run, on what, when."""
    what = f"base model {config.model.source}, seed {config.seed}" if config.schedules else "models known by their logs"
    parts = [f"{config.file}, {what}"]
    parts += [f"{key} {str(manifest[key])[:60]}" for key in ("device", "commit", "written") if key in manifest]
    return " · ".join(parts)


def _items(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """The figures (`text`, `data`) and tables (`title`, `columns`, `rows`) of these names that are there."""
    found: list[dict[str, Any]] = []
    for name in names:
        picture, table = folder / f"{name}.png", folder / f"{name}.csv"
        if picture.is_file():
            found.append({"text": description(picture), "data": base64.b64encode(picture.read_bytes()).decode()})
        if table.is_file():
            cells = pd.read_csv(table, dtype=str, keep_default_na=False)
            found.append(_table(name.replace("_", " "), cells.columns, cells.to_numpy()))
    return found


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> dict[str, Any]:
    return {"title": title, "columns": list(columns), "rows": [list(map(str, row)) for row in rows], "data": ""}
