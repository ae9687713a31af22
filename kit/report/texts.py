"""Texts from templates (kit/report/templates): what a run shows in computed sentences, and the report, all of it on one page.

The report needs nothing else: no network, no script, no other file. Pages escape every text, and their own content policy lets no
script run and no address but embedded images be loaded. So what a model wrote can do nothing.
"""

import base64
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from kit.evaluation import reference
from kit.report.inputs import rows_of, set_label
from kit.report.style import described
from kit.report.tables import caption, cell, differences, measure_table, reference_table
from kit.runs import catalog, files, paths
from kit.runs.manifest import account
from kit.settings import ROOT, Config, load, yaml_text

MARKERS = ("<!-- written by: python -m kit reference -->", "<!-- end of what it wrote -->")
# Control characters, and those that change the direction of writing: a text could hide something behind them.
HIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render(template: str, **values: Any) -> str:
    """A template filled in. In HTML every value is escaped; characters that could hide something are shown as � everywhere."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else HIDDEN.sub("�", str(value)))
    return pages.get_template(template).render(values)


def which(row: Any, column: str, higher: str, lower: str, none: str = "no difference could be shown", least: float = 0) -> str:
    """Which of three statements the 95 % interval of a difference allows; what is up to `least` counts as none."""
    low, high = getattr(row, f"{column}_low"), getattr(row, f"{column}_high")
    return higher if low > least else lower if high < -least else none


def conclusions(config: Config) -> dict[str, list[str]]:
    """Heading -> sentences of every comparison that the run has; their wording stands in templates/sentences.txt."""
    stated = [name for name, schedule in config.schedules.items() if schedule.state_limit]
    found = {name: rows_of(config, name) for name in ("changes", "forcing_gaps", "spend_gaps", "seeds_combined")}
    found |= {name: differences(config, name) for name in ("one_shot", "controls")}
    text = render(
        "sentences.txt", **found, measured=measure_table(config, ".3g").fillna("").to_dict(), cell=cell, which=which,
        config=config, needed=reference.seeds_needed, reference=reference.of(config) or {},
        main={r.model: r for r in rows_of(config, "main")},
        moves=rows_of(config, "moves", overall=False),
        best=catalog.last_round(config, stated[0]) if stated else catalog.model_names(config)[-1],
        pruned=[r for r in rows_of(config, "forcing_gaps", overall=False)
                if r.shared and catalog.facts(config)[r.model][0] in stated])
    said: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            said[line[2:]] = sentences = []
        else:
            sentences.append(line)
    return {heading: sentences for heading, sentences in said.items() if sentences}


def reference_blocks(made: dict[str, Any]) -> dict[str, str]:
    """What README.md and notebooks/README.md say of a reference, each between the two markers."""
    rows: dict[str, dict[str, dict[str, str]]] = {}
    for figure, (mean, expected, *sds) in zip(made["figures"], reference_table(made).to_numpy(), strict=True):
        name, quantity = figure["comparison"].removesuffix(" minus base"), figure["quantity"].removesuffix(" change")
        rows.setdefault(name, {})[quantity] = {
            "mean": mean.replace(" [", f" {figure['unit']} ["), "range": expected, "sd": ", ".join(filter(None, sds))}
    config = load(made["params"])
    ends = {catalog.label(config, catalog.last_round(config, name)): plan.free for name, plan in config.schedules.items()}
    control = next(label for label, free in ends.items() if free)
    return {page: render("reference.md", page=page, made=made, rows=rows, needed=reference.seeds_needed, control=control,
                         against={label: reference.apart(made, label, control) for label, free in ends.items() if not free},
                         median=np.median, held=reference.held(made) if "more" in made else {}).strip()
            for page in ("README.md", "notebooks/README.md")}


def write_readme(made: dict[str, Any]) -> None:
    """Put the `reference_blocks` into their files."""
    for page, block in reference_blocks(made).items():
        before, rest = (ROOT / page).read_text(encoding="utf-8").split(MARKERS[0])
        files.write_text(ROOT / page, f"{before}{MARKERS[0]}\n{block}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")


def write_report(config: Config) -> Path:
    """Write results/<run>/report.html from what the run has so far; returns its path. Its order is the template's matter."""
    run = paths.of(config)
    figures = {p.stem: (*described(p), base64.b64encode(p.read_bytes()).decode()) for p in sorted(run.figures.glob("*.png"))}
    tables = {p.stem: pd.read_csv(p, dtype=str, keep_default_na=False) for p in sorted(run.figures.glob("*.csv"))}
    manifest = files.read_json(run.manifest) if run.manifest.is_file() else {}
    text = render(
        "report.html", config=config, manifest=manifest, figures=figures, tables=tables, cell=cell, set_label=set_label,
        main=rows_of(config, "main", overall=False), overall=rows_of(config, "main"), changes=rows_of(config, "changes"),
        conclusions=conclusions(config), captions={name: caption(name) for name in tables},
        account=account(config).astype(str), settings=yaml_text(manifest.get("settings", {})))
    return files.write_text(run.root / "report.html", text)
