"""Do the numbers of a run follow from its rollouts? `python -m kit verify laptop` is what `make verify RUN=laptop` calls.

Every stored response is graded again, and from the grades all tables that figures are drawn from are computed again, in a folder
of their own; then each is compared with the run's, cell by cell. Nothing of the run is changed. Numbers may differ in their
last digit (the kit writes six), since machines add in different orders.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pandas as pd

from kit.behavior import behavior
from kit.evaluation import comparisons, evaluate, forcing
from kit.rollout import logs, records
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, from_table
from kit.training import selection

CLOSE = 2e-5  # relative; six digits are written
MADE = ("grades/**/*.csv", "forcing/**/*.csv", "metrics/*.csv", "training/**/validation.csv")


def verify(folder: Path) -> tuple[list[str], int]:
    """(the cells that differ, in words; how many were compared) for the run in `folder`. KitError when it is no finished run."""
    run, config = paths.RunPaths(folder), settings_of(folder)
    with tempfile.TemporaryDirectory() as scratch, mock.patch.dict(os.environ, KIT_RESULTS=scratch):
        again = paths.of(config)
        for path in run.root.glob("training/**/log.csv"):
            target = again.root / path.relative_to(run.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        again.root.mkdir(exist_ok=True)
        (again.root / "rollouts").symlink_to(run.root / "rollouts")
        for model in catalog.model_names(config):
            evaluate.write_metrics(config, model, graded(config, run, again, model))
            if config.evaluation.training_prompt and model not in config.logs.models:
                graded(config, run, again, f"{model}/{evaluate.TRAINING_PROMPT}")
        for schedule, k in [("base", 0), *(found[:2] for found in catalog.facts(config).values() if found[1])]:
            if config.schedules:
                validate(config, run, again, schedule, k)
        comparisons.compare_models(config)
        behavior.write_tables(config)
        if config.schedules and config.forcing.budgets:
            for model in config.forced_models:
                forced(config, run, again, model)
            forcing.write_curve(config)
        differences, cells = [], 0
        for path in sorted(path for pattern in MADE for path in again.root.glob(pattern)):
            name = path.relative_to(again.root)
            found, compared = different(run.root / name, path, str(name))
            differences, cells = differences + found, cells + compared
    return differences, cells


def graded(config: Config, run: paths.RunPaths, again: paths.RunPaths, model: str) -> dict[str, pd.DataFrame]:
    """The grades of a model by data set, made again from its stored responses, or from the logs that params name."""
    found = {}
    for name in config.data.evaluation:
        answers = logs.responses(config, model, name) if model in config.logs.models else \
            stored(run.rollouts(model, name), run.grades(model, name))
        found[name] = evaluate.grade(answers)
        files.write_csv(again.grades(model, name), found[name])
    return found


def validate(config: Config, run: paths.RunPaths, again: paths.RunPaths, schedule: str, k: int) -> None:
    """A round's validation table (the base model's: round 0), with the choice of a checkpoint that follows from it."""
    written = sorted((run.training(schedule, k) / "validation").glob("step*.jsonl"), key=lambda p: int(p.stem[4:]))
    rows = [selection.validation_row(config, int(p.stem[4:]), stored(p)) for p in written]
    table = pd.DataFrame(rows)
    if k > 0:
        before = pd.read_csv(again.training(*(("base", 0) if k == 1 else (schedule, k - 1))) / "validation.csv")
        table = selection.with_start(config, schedule, k, before, rows)
        table["selected"] = table.step == selection.choose(config, schedule, table)
    files.write_csv(again.training(schedule, k) / "validation.csv", table)


def forced(config: Config, run: paths.RunPaths, again: paths.RunPaths, model: str) -> None:
    """A model's grades of budget forcing, from its stored rollouts; which thinking was cut is taken from the run."""
    for budget, name in [(b, n) for b in config.forcing.budgets for n in config.data.evaluation]:
        file = run.forcing(model, name) / f"budget{budget}.jsonl"
        answers, cut = stored(file, file.with_suffix(".csv")), pd.read_csv(file.with_suffix(".csv")).forced
        files.write_csv(again.forcing(model, name) / f"budget{budget}.csv", evaluate.grade(answers).assign(forced=cut))


def stored(path: Path, grades: Path | None = None) -> list[records.Rollout]:
    """Rollouts, in the order of the problems in `grades`: a file has them in the order in which they were done."""
    for needed in filter(None, (path, grades)):
        if not needed.is_file():
            raise KitError(f"{needed}: not there, so nothing can be computed from it; run the chain to its end first")
    found = list(records.read(path))
    if grades is None:
        return found
    place = {key: k for k, key in enumerate(pd.read_csv(grades, dtype=str, usecols=["id"]).id)}
    return sorted(found, key=lambda r: place.get(r.id, len(place)))


def different(ours: Path, again: Path, name: str) -> tuple[list[str], int]:
    """(the cells in which two tables differ, in words; how many there are)."""
    if not ours.is_file():
        return [f"{name}: is missing"], 0
    a, b = (pd.read_csv(p, dtype=str, keep_default_na=False) for p in (ours, again))
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return [f"{name}: {len(a)} rows of {', '.join(a.columns)}; from the rollouts {len(b)} of {', '.join(b.columns)}"], 0
    found = [f"{name} line {row}, {column}: {left or 'empty'}; from the rollouts {right or 'empty'}" for column in a.columns
             for row, (left, right) in enumerate(zip(a[column], b[column], strict=True), 2) if not same(left, right)]
    return found, a.size


def same(left: str, right: str) -> bool:
    """Whether two cells say the same, up to the last digit of a number."""
    try:
        return left == right or math.isclose(float(left), float(right), rel_tol=CLOSE, abs_tol=1e-9)
    except ValueError:
        return False


def settings_of(folder: Path) -> Config:
    """The settings that the run's manifest recorded."""
    if not (folder / "manifest.json").is_file():
        known = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/manifest.json"))) or "none yet"
        raise KitError(f"{folder.name}: no run with this name in {folder.parent.name}/; there are {known}")
    manifest = files.read_json(folder / "manifest.json")
    try:
        return from_table(manifest["settings"], "manifest.json")
    except KitError as error:
        raise KitError(f"{folder.name}: another version of the kit made this run; check out its commit, "
                       f"{manifest['commit'][:7]}, to verify it ({str(error).splitlines()[0]})") from None
