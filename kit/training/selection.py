"""The paper's choice among a round's checkpoints, whole: their validation, the rule, and what is written down.

    of the checkpoints with  accuracy >= (1 - tolerance) x accuracy of the round's start,  the one with the shortest responses

both on the validation set (paper, section 4.1; tolerance 10 %; AIME 2022 and 2023 there). When none qualifies, the round's
start is kept, as step 0.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kit.evaluation import evaluate, metrics
from kit.rollout.records import Rollout, Sampling
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError
from kit.training import checkpoints, trl_fields


def select(table: pd.DataFrame, start_accuracy: float, tolerance: float = 0.10) -> int:
    """The step of the shortest checkpoint whose accuracy is at least (1 - tolerance) x `start_accuracy`, that of the round's
    starting model on the same problems; the earlier of equally short ones; 0 when none qualifies. `table`: a row per checkpoint
    with `step`, `accuracy` (percent or share, the same for all) and `length` (mean, tokens)."""
    rounded = 1 - 1e-6  # the start's may come from a file, which has six digits
    fit = table[table.accuracy >= (1 - tolerance) * start_accuracy * rounded].sort_values(["length", "step"])
    return int(fit.step.iloc[0]) if len(fit) else 0


def validation_row(config: Config, step: int, answers: Sequence[Rollout]) -> dict[str, object]:
    """The metrics of one checkpoint on the validation set."""
    graded = {config.data.validation: evaluate.grade(answers, config.training.reading)}
    return {"step": step, **metrics.measure(graded, config.evaluation.resamples, config.seed).iloc[0]}


def _validate(config: Config, schedule: str, round: int, step: int, source: str) -> dict[str, object]:
    """`validation_row` of the model at `source`; its responses are kept beside the round's log."""
    e = config.evaluation
    sampling = Sampling(config.selection.samples, e.temperature, e.top_p, e.max_new_tokens)
    path, title = paths.of(config).validation(schedule, round, step), f"validation, {schedule} round {round}, step {step}"
    with evaluate.engine_of(config, source) as engine:
        return validation_row(config, step, evaluate.respond(config, engine, config.data.validation, sampling, path, title))


def validate_base(config: Config) -> pd.DataFrame:
    """Validation of the base model: step 0 of every first round. Writes training/base/round0/validation.csv."""
    table = pd.DataFrame([_validate(config, "base", 0, 0, catalog.base_model(config))])
    files.write_csv(paths.of(config).training("base", 0) / "validation.csv", table)
    return table


def validation_before(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """The validation table that a round's step 0 comes from: the round before's, or the base model's. KitError where it is not
    there yet, which is worth knowing before the round is trained."""
    path = paths.of(config).training(*("base", 0) if round == 1 else (schedule, round - 1)) / "validation.csv"
    if not path.is_file():
        notebook = "01_base_model" if round == 1 else f"02_prune_round with schedule={schedule} round={round - 1}"
        raise KitError(f"{path}: not there yet, and this round's choice needs it; run notebook {notebook} first, to its end")
    return files.read_csv(path)


def chosen(config: Config, schedule: str, round: int, rows: list[dict[str, object]]) -> pd.DataFrame:
    """A round's validation table: its checkpoints' `rows` behind step 0, which the table of the round before (the base model's)
    ended with; `selected` is the checkpoint to go on with, by the schedule's rule."""
    plan, before = config.schedules[schedule], validation_before(config, schedule, round)
    start = before[before.selected].iloc[-1] if round > 1 else before.iloc[-1]
    table = pd.DataFrame([{**start.to_dict(), "step": 0}, *rows])
    last = plan.select == "last"
    best = table.step.iloc[-1] if last else select(table[table.step > 0], table.accuracy[0], config.selection.tolerance)
    return table.assign(schedule=schedule, round=round, limit=plan.limits[round - 1], selected=table.step == best)


def validate_round(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """Validation of each checkpoint of a round, and the choice among them; writes validation.csv and selected.json."""
    run, tolerance = paths.of(config), config.selection.tolerance
    place, found = run.training(schedule, round), catalog.checkpoints(run.models(schedule, round))
    if not found:
        raise KitError(f"{run.models(schedule, round)}: no checkpoint to choose from; train this round first")
    table = chosen(config, schedule, round, [
        _validate(config, schedule, round, step, catalog.checkpoint_model(config, schedule, round, step))
        for step in map(catalog.step_of, found)])
    row = table[table.selected].iloc[0]
    if row.step == 0:
        print(f"warning: no checkpoint keeps {1 - tolerance:.0%} of the start's accuracy ({table.accuracy[0]:.1f} %), so "
              "the round's start is kept; try more steps, a smaller learning rate, or a higher limit")
    files.write_csv(place / "validation.csv", table)
    files.write_json(place / "selected.json", {
        "step": int(row.step), "rule": config.schedules[schedule].select, "tolerance": tolerance,
        "start": catalog.start_name(config, catalog.start_of_round(config, schedule, round))})
    selected = {f"selected/{name}": float(row[name]) for name in ("step", "accuracy", "length", "truncated")}
    trl_fields.log_to_trackers(config, schedule, round, {"limit": float(row.limit), **selected})
    checkpoints.thin(found, Path(catalog.selected(config, schedule, round)), config.training.keep_checkpoints)
    return table
