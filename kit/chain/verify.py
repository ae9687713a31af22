"""Do the numbers of a run follow from its rollouts? `python -m kit verify laptop` is what `make verify RUN=laptop` calls.

Every stored response is graded again, and from the grades all tables that figures are drawn from are computed again, in a folder
of their own; then each is compared with the run's, cell by cell. Nothing of the run is changed. Numbers may differ in their
last digit (the kit writes six), since machines add in different orders.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kit.behavior import behavior
from kit.evaluation import comparisons, evaluation, forcing
from kit.rollout import records
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, from_table
from kit.training import selection

CLOSE = 2e-5  # relative; six digits are written


def verify(folder: Path) -> tuple[list[str], int]:
    """(the cells that differ, in words; how many were compared) for the run in `folder`. KitError when it is no finished run."""
    run, settings = paths.RunPaths(folder), settings_of(folder)
    with tempfile.TemporaryDirectory() as scratch, results_in(scratch):
        again = paths.of(settings)
        for path in run.root.glob("training/**/log.csv"):
            target = again.root / path.relative_to(run.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        (again.root / "rollouts").symlink_to(run.root / "rollouts")
        for model in catalog.model_names(settings):
            graded = {}
            for name in settings.data.evaluation:
                graded[name] = evaluation.grade(stored(run.rollouts(model, name), run.grades(model, name)))
                files.write_csv(again.grades(model, name), graded[name])
            evaluation.measure(settings, model, graded)
            if settings.evaluation.training_prompt and model not in settings.logs.models:
                told = f"{model}/{evaluation.TRAINING_PROMPT}"
                for name in settings.data.evaluation:
                    answers = stored(run.rollouts(told, name), run.grades(told, name))
                    files.write_csv(again.grades(told, name), evaluation.grade(answers))
        if settings.schedules:
            validate(settings, run, again)
        evaluation.summarize(settings)
        comparisons.summarize(settings)
        behavior.write_tables(settings)
        if settings.schedules and settings.forcing.budgets:
            force(settings, run, again)
        differences, cells = [], 0
        made = ("grades/**/*.csv", "forcing/**/*.csv", "metrics/*.csv", "training/**/validation.csv")
        for path in sorted(path for pattern in made for path in again.root.glob(pattern)):
            name = path.relative_to(again.root)
            found, compared = different(run.root / name, path, str(name))
            differences, cells = differences + found, cells + compared
    return differences, cells


def validate(settings: Config, run: paths.RunPaths, again: paths.RunPaths) -> None:
    """The validation tables of all rounds, with the choice of checkpoints that follows from them."""
    rounds = [("base", 0), *((s, k) for s, plan in settings.schedules.items() for k in range(1, len(plan.limits) + 1))]
    for schedule, k in rounds:
        logs = sorted((run.training(schedule, k) / "validation").glob("step*.jsonl"), key=lambda p: int(p.stem[4:]))
        rows = [selection.validation_row(settings, int(p.stem[4:]), stored(p)) for p in logs]
        table = pd.DataFrame(rows)
        if k > 0:
            before = pd.read_csv(again.training(*(("base", 0) if k == 1 else (schedule, k - 1))) / "validation.csv")
            table = selection.with_start(settings, schedule, k, before, rows)
            table["selected"] = table.step == selection.choose(settings, schedule, table)
        files.write_csv(again.training(schedule, k) / "validation.csv", table)


def force(settings: Config, run: paths.RunPaths, again: paths.RunPaths) -> None:
    """Budget forcing's tables, from its stored rollouts; which thinking was cut is taken from the run."""
    tables = []
    for model in settings.forced_models:
        graded: dict[int, dict[str, pd.DataFrame]] = {budget: {} for budget in settings.forcing.budgets}
        for budget, name in [(b, n) for b in graded for n in settings.data.evaluation]:
            file = run.forcing(model, name) / f"budget{budget}.jsonl"
            cut = pd.read_csv(file.with_suffix(".csv")).forced
            graded[budget][name] = evaluation.grade(stored(file, file.with_suffix(".csv"))).assign(forced=cut)
            files.write_csv(again.forcing(model, name) / f"budget{budget}.csv", graded[budget][name])
        tables.append(forcing.measure(settings, model, graded))
    forcing.write(settings, tables)


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
    found = []
    for column in a.columns:
        for row, (left, right) in enumerate(zip(a[column], b[column], strict=True), 2):
            if left != right and not same(left, right):
                found.append(f"{name} line {row}, {column}: {left or 'empty'}; from the rollouts {right or 'empty'}")
    return found, a.size


def same(left: str, right: str) -> bool:
    try:
        return math.isclose(float(left), float(right), rel_tol=CLOSE, abs_tol=1e-9)
    except ValueError:
        return False


def settings_of(folder: Path) -> Config:
    """The settings that the run's manifest recorded."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        known = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/manifest.json"))) or "none yet"
        raise KitError(f"{folder.name}: no run with this name in {folder.parent.name}/; there are {known}")
    return from_table(files.read_json(manifest)["settings"], str(manifest.name))


@contextlib.contextmanager
def results_in(folder: str) -> Iterator[None]:
    """Have the kit write its results below `folder`."""
    before = os.environ.get("KIT_RESULTS")
    os.environ["KIT_RESULTS"] = folder
    try:
        yield
    finally:
        del os.environ["KIT_RESULTS"]
        if before is not None:
            os.environ["KIT_RESULTS"] = before
