"""`results/<run>/report.html`: all of a run on one page that needs nothing else: no network, no script, no other file.

Everything on it is read from the run's folder: tables and figures of results/<run>/figures, the manifest, the computed sentences.
The pages are jinja2 templates (kit/report/templates) that escape every text, and their own content policy lets no script run and
no address but embedded images be loaded. So what a model wrote can do nothing.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from kit.report import sentences
from kit.report.inputs import read, set_label
from kit.report.style import description
from kit.report.tables import cell
from kit.runs import files, paths
from kit.settings import Config

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
    """Write the report from what the run has so far; returns its path. What stands where is the template's matter."""
    run = paths.of(config)
    figures = {p.stem: (description(p), base64.b64encode(p.read_bytes()).decode()) for p in sorted(run.figures.glob("*.png"))}
    tables = {p.stem: pd.read_csv(p, dtype=str, keep_default_na=False) for p in sorted(run.figures.glob("*.csv"))}
    manifest = files.read_json(run.manifest) if run.manifest.is_file() else {}
    overall = {name: list(read(config, name, overall=True).itertuples()) for name in ("main", "changes")}
    text = render(
        "report.html", config=config, manifest=manifest, figures=figures, tables=tables, main=list(read(config, "main").itertuples()),
        overall=overall, conclusions=sentences.conclusions(config), cell=cell, set_label=set_label,
        stages={p.stem: f"{files.read_json(p).get('seconds', 0):.0f}" for p in sorted(run.stages.glob("*.json"))},
        settings=yaml.safe_dump(manifest.get("settings", {}), allow_unicode=True, sort_keys=False, width=100))
    with files.atomic(run.root / "report.html") as file:
        file.write(text)
    return run.root / "report.html"
