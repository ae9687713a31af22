"""`results/<run>/report.html`: all of a run on one page that needs nothing else: no network, no script, no other file.

Everything on it is read from the run's folder: tables and figures of results/<run>/figures, the manifest, the computed sentences.
The pages are jinja2 templates (kit/report/templates) that escape every text, and their own content policy lets no script run and
no address but embedded images be loaded. So what a model wrote can do nothing.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd
import yaml

from kit.report.inputs import read, set_label
from kit.report.style import description
from kit.report.tables import cell
from kit.report.texts import conclusions, render
from kit.runs import files, paths
from kit.settings import Config


def write(config: Config) -> Path:
    """Write the report from what the run has so far; returns its path. What stands where is the template's matter."""
    run = paths.of(config)
    figures = {p.stem: (description(p), base64.b64encode(p.read_bytes()).decode()) for p in sorted(run.figures.glob("*.png"))}
    tables = {p.stem: pd.read_csv(p, dtype=str, keep_default_na=False) for p in sorted(run.figures.glob("*.csv"))}
    manifest = files.read_json(run.manifest) if run.manifest.is_file() else {}
    overall = {name: list(read(config, name, overall=True).itertuples()) for name in ("main", "changes")}
    text = render(
        "report.html", config=config, manifest=manifest, figures=figures, tables=tables, main=list(read(config, "main").itertuples()),
        overall=overall, conclusions=conclusions(config), cell=cell, set_label=set_label,
        stages={p.stem: f"{files.read_json(p).get('seconds', 0):.0f}" for p in sorted(run.stages.glob("*.json"))},
        settings=yaml.safe_dump(manifest.get("settings", {}), allow_unicode=True, sort_keys=False, width=100))
    with files.atomic(run.root / "report.html") as file:
        file.write(text)
    return run.root / "report.html"
