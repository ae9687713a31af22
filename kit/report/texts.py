"""Texts from templates (kit/report/templates): pages, and what a run shows in computed sentences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from kit.report.inputs import has, read
from kit.report.tables import MEASURES, cell, differences
from kit.runs import catalog
from kit.settings import Config

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
    names = ("changes", "forcing_gaps", "spend_gaps", "seeds_combined")
    rows = {name: list(read(config, name, overall=True).itertuples()) if has(config, name) else [] for name in names}
    rows |= {name: list(differences(config, name).itertuples()) if has(config, name) else [] for name in ("one_shot", "controls")}
    stated = {name for name, plan in config.schedules.items() if plan.state_limit}
    gaps = read(config, "forcing_gaps").itertuples() if has(config, "forcing_gaps") else ()
    pruned = [r for r in gaps if r.shared and catalog.facts(config)[r.model][0] in stated]
    moves = list(read(config, "moves").itertuples()) if has(config, "moves") else []
    measured = {title: read(config, source, overall=True).set_index("label")[column]
                for source, columns in MEASURES.items() if has(config, source) for column, title in columns.items()}
    text = render("sentences.txt", **rows, pruned=pruned, moves=moves, measured=measured, cell=cell, which=which, config=config,
                  base=catalog.label(config, "base"))
    found: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            found[line[2:]] = sentences = []
        else:
            sentences.append(line)
    return {heading: sentences for heading, sentences in found.items() if sentences}
