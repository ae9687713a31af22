"""Do the numbers of a run follow from its rollouts? `python -m kit verify laptop` is what `make verify RUN=laptop` calls.

Every stored response is graded again, and from the grades all tables that figures are drawn from are computed again, in a folder
of their own; then each is compared with the run's, cell by cell. Nothing of the run is changed. Numbers may differ in their
last digit (the kit writes six), since machines add in different orders.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from kit.behavior import behavior
from kit.evaluation import comparisons, evaluate, forcing
from kit.rollout import logs, records
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, from_table
from kit.training import selection

CLOSE = 2e-5  # relative; six digits are written


def verify(folder: Path) -> tuple[list[str], int]:
    """(the cells that differ, in words; how many were compared) for the run in `folder`. KitError when it is no finished run."""
    config, differences, cells = settings_of(folder), [], 0
    with tempfile.TemporaryDirectory() as scratch, mock.patch.dict(os.environ, KIT_RESULTS=scratch):
        again = paths.of(config).root
        for part in filter(Path.is_dir, (folder / name for name in ("rollouts", "grades", "training", "forcing"))):
            shutil.copytree(part, again / part.name, copy_function=os.symlink)
        try:
            compute(config)
        except KitError as error:
            raise KitError(f"{str(error).replace(str(again), folder.name)} ({folder.name} is not finished, or damaged)") from None
        for path in sorted(path for path in again.rglob("*.csv") if not path.is_symlink()):  # what was written anew
            found, compared = different(folder / path.relative_to(again), path, str(path.relative_to(again)))
            differences, cells = differences + found, cells + compared
    return differences, cells


def compute(config: Config) -> None:
    """Everything that follows from stored responses, in the order of the notebooks."""
    run = paths.of(config)
    for schedule, k, _ in catalog.facts(config).values():
        if schedule in config.schedules or config.schedules and schedule == "base":
            validate(config, schedule, k)
    for model in catalog.model_names(config):
        logged = model in config.logs.models
        told = [f"{model}/{evaluate.TRAINING_PROMPT}"] if config.evaluation.training_prompt and not logged else []
        for folder, name in itertools.product([model, *told], config.data.evaluation):
            answers = logs.responses(config, model, name) if logged else records.read(run.rollouts(folder, name))
            grade(config, answers, run.grades(folder, name))
        evaluate.write_metrics(config, model)
    comparisons.compare_models(config)
    behavior.write_tables(config)
    if config.schedules and config.forcing.budgets:
        for model, name, budget in itertools.product(config.forced_models, config.data.evaluation, config.forcing.budgets):
            file = run.forcing(model, name) / f"budget{budget}.jsonl"
            grade(config, records.read(file), file.with_suffix(".csv"))
        forcing.write_curve(config)


def grade(config: Config, answers: Iterable[records.Rollout], path: Path) -> None:
    """Write the grades of these responses over those in `path`, in whose order they are put: a file of responses has them in the
    order in which they were done. Which thinking was cut (`forced`) is taken over."""
    before = files.read_csv(path, dtype={"id": str})
    place = {id: k for k, id in enumerate(before.id)}
    table = evaluate.grade(sorted(answers, key=lambda r: place.get(r.id, len(place))), config.training.reading)
    if "forced" in before:
        table["forced"] = before.forced
    files.write_csv(path, table)


def validate(config: Config, schedule: str, k: int) -> None:
    """A round's validation table (the base model's: round 0), with the choice of a checkpoint that follows from it."""
    place = paths.of(config).training(schedule, k)
    written = {int(path.stem.removeprefix("step")): path for path in (place / "validation").glob("step*.jsonl")}
    if not written:
        raise KitError(f"{place}: no validated checkpoints yet")
    rows = [selection.validation_row(config, step, list(records.read(written[step]))) for step in sorted(written)]
    files.write_csv(place / "validation.csv", selection.chosen(config, schedule, k, rows) if k else pd.DataFrame(rows))


def different(ours: Path, again: Path, name: str) -> tuple[list[str], int]:
    """(the cells in which two tables differ by more than a number's last digit, in words; how many there are)."""
    if not ours.is_file():
        return [f"{name}: is missing"], 0
    a, b = (pd.read_csv(p, dtype=str, keep_default_na=False) for p in (ours, again))
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return [f"{name}: {len(a)} rows of {', '.join(a.columns)}; from the rollouts {len(b)} of {', '.join(b.columns)}"], 0
    x, y = (table.apply(pd.to_numeric, errors="coerce").astype(float) for table in (a, b))
    wrong = (a != b) & ~np.isclose(x, y, rtol=CLOSE, atol=1e-9)
    return [f"{name} line {row + 2}, {column}: {a[column][row] or 'empty'}; from the rollouts {b[column][row] or 'empty'}"
            for column in a for row in np.flatnonzero(wrong[column])], a.size


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
