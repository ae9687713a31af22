"""Rollouts and grades -> accuracy and length with uncertainty; comparisons between models on the same problems.

Accuracy is pass@1: the mean over problems of the mean over samples; length is the mean over all responses, in tokens
(FACTS 2). Intervals and tests are over problems, each with all its samples (kit.uncertainty). Means over data sets weigh each
set equally.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kit import disk, fingerprint, grading, lock, paths, problems, prompts, rollout, training, uncertainty, watch
from kit.config import Config, KitError
from kit.rollout import Rollout, Sampling
from kit.uncertainty import bootstrap_weights, interval  # noqa: F401  also for other analyses

GRADE_COLUMNS = ["id", "sample", "verdict", "answer", "length", "finished", "core"]


# --- responses and grades ---------------------------------------------------------------------------------------------


def model_source(config: Config, model: str) -> str:
    """Folder or hub id of `base` or `<schedule>/round<k>`."""
    if model == "base":
        return training.base_model(config)
    schedule, _, round = model.partition("/round")
    if schedule not in config.schedules or not round.isdigit():
        raise KitError(f"there is no model {model} in {config.file}; there are {', '.join(model_names(config))}")
    return training.selected(config, schedule, int(round))


def model_names(config: Config) -> list[str]:
    """`base`, then every round of every schedule."""
    rounds = [f"{s}/round{k}" for s, plan in config.schedules.items() for k in range(1, len(plan.limits) + 1)]
    return ["base", *rounds]


def sampling(config: Config, name: str) -> Sampling:
    """How data set `name` is sampled in an evaluation."""
    e = config.evaluation
    return Sampling(e.samples_by_set.get(name, e.samples), e.temperature, e.top_p, e.max_new_tokens)


def respond(config: Config, source: str, name: str, how: Sampling, path: Path, title: str, engine=None) -> list[Rollout]:
    """Responses of the model at `source` to data set `name`, in the evaluation prompt; kept in `path`."""
    kept = rollout.complete(path, problems.load(name, config), how)
    if kept is not None:  # all there: no need to load the model, which may have been thinned away
        return kept
    engine = engine or rollout.TransformersEngine(source, config)
    seed = zlib.crc32(f"{config.seed} {name}".encode())

    def encode(problem: problems.Problem) -> list[int]:
        return prompts.encode(engine.tokenizer, prompts.evaluation_messages(config.prompts, problem.question))

    with lock.hold(path.parent, f"{paths.of(config).shown}, {title}", patience=20), answering(title), paths.telling(path):
        return rollout.collect(engine, problems.load(name, config), encode, how, path, seed, title)


@contextlib.contextmanager
def answering(title: str) -> Iterator[None]:
    """Tell in one line when the engine breaks off."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "try a smaller evaluation.batch_size and " if "out of memory" in reason else ""
        raise KitError(f"{title}: the engine broke off ({reason}); what it had answered is kept, {hint}run this again") from error


def grade(rollouts: Sequence[Rollout], reading: str = "official") -> pd.DataFrame:
    """One row per response: id, sample, verdict, answer, length (tokens), finished, core (tokens of the shortest)."""
    flat = [(r, i) for r in rollouts for i in range(len(r.model_answer))]
    ids = [r.id for r, _ in flat]
    grades = grading.grade_many([r.model_answer[i] for r, i in flat], [r.answer for r, _ in flat], reading, ids=ids)
    for line in grading.warnings_about(grades, ids):
        print(line)
    rows = [
        (r.id, i, g.verdict, g.answer, r.model_answer_length[i], r.finished[i], r.core)
        for (r, i), g in zip(flat, grades, strict=True)
    ]
    return pd.DataFrame(rows, columns=GRADE_COLUMNS)


def evaluate(config: Config, model: str) -> pd.DataFrame:
    """Evaluate one model on all evaluation sets; writes rollouts, grades and metrics/<model>.csv, returns the metrics."""
    run = paths.of(config)
    source = model_source(config, model)
    engine, graded = None, {}
    for name in config.data.evaluation:
        path, how = run.rollouts(model, name), sampling(config, name)
        if engine is None and rollout.complete(path, problems.load(name, config), how) is None:
            engine = rollout.TransformersEngine(source, config)
        answers = respond(config, source, name, how, path, f"{model}: {name}", engine)
        graded[name] = regrade(config, model, name, answers)
    return measure(config, model, graded)


def regrade(config: Config, model: str, name: str, answers: Sequence[Rollout]) -> pd.DataFrame:
    """The grades of a set: the stored ones if they are of these very responses by this very grader, else made and stored."""
    path = paths.of(config).grades(model, name)
    note = path.with_suffix(".json")
    made_from = {"responses": rollout.digest(answers), "grader": fingerprint.modules("grading")}
    if path.is_file() and note.is_file() and paths.read_json(note) == made_from:
        return read_grades(path)
    graded = grade(answers, "official")
    paths.write_csv(path, graded)
    paths.write_json(note, made_from)
    return graded


def measure(config: Config, model: str, graded: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The metrics of a model; writes metrics/<model>.csv."""
    table = metrics(graded, config.evaluation.resamples, config.seed)
    table.insert(0, "model", model)
    paths.write_csv(paths.of(config).metrics / f"{model.replace('/', '-')}.csv", table)
    return table


def read_grades(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str, "answer": str}, keep_default_na=False)


def load_grades(config: Config, model: str) -> dict[str, pd.DataFrame]:
    """The stored grades of a model, by data set."""
    found = {}
    for name in config.data.evaluation:
        path = paths.of(config).grades(model, name)
        if not path.is_file():
            raise KitError(f"{path}: not there yet; run notebooks/03_evaluate.ipynb first")
        found[name] = read_grades(path)
    return found


def validate_base(config: Config) -> pd.DataFrame:
    """Validation of the base model: step 0 of every first round. Writes training/base/round0/validation.csv."""
    table = pd.DataFrame([_validate(config, "base", 0, 0, training.base_model(config))])
    paths.write_csv(paths.of(config).training("base", 0) / "validation.csv", table)
    return table


def _validate(config: Config, schedule: str, round: int, step: int, source: str) -> dict[str, object]:
    e = config.evaluation
    how = Sampling(config.selection.samples, e.temperature, e.top_p, e.max_new_tokens)
    path, title = paths.of(config).validation(schedule, round, step), f"validation, {schedule} round {round}, step {step}"
    return validation_row(config, step, respond(config, source, config.data.validation, how, path, title))


def validation_row(config: Config, step: int, answers: Sequence[Rollout]) -> dict[str, object]:
    """The metrics of one checkpoint on the validation set."""
    return {"step": step, **metrics({config.data.validation: grade(answers)}, config.evaluation.resamples, config.seed).iloc[0]}


def with_start(config: Config, schedule: str, round: int, before: pd.DataFrame, rows: list[dict[str, object]]) -> pd.DataFrame:
    """A round's validation table: step 0 is what `before`, the table of the round before (or the base model's), ended with."""
    start = before[before.selected].iloc[-1] if round > 1 else before.iloc[-1]
    table = pd.DataFrame([{**start.to_dict(), "step": 0}, *rows])
    return table.assign(schedule=schedule, round=round, limit=config.schedules[schedule].limits[round - 1])


def choose(config: Config, schedule: str, table: pd.DataFrame) -> int:
    """The step of the checkpoint to go on with, by the schedule's rule; 0, the round's start, when none qualifies."""
    points = [training.Point(r.step, r.accuracy, r.length) for r in table.itertuples() if r.step > 0]
    if config.schedules[schedule].select == "last":
        return points[-1].step
    chosen = training.select(points, table.accuracy.iloc[0], config.selection.tolerance)
    return chosen.step if chosen else 0


def validate_round(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """Validation of each checkpoint of a round, and the choice among them; writes validation.csv and selected.json.

    Step 0 is the round's start: what the round before selected, or the base model.
    """
    run, plan, rule = paths.of(config), config.schedules[schedule], config.selection
    origin = ("base", 0) if round == 1 else (schedule, round - 1)
    before = pd.read_csv(run.training(*origin) / "validation.csv")
    rows = []
    for checkpoint in training.checkpoints(run.models(schedule, round)):
        rows.append(_validate(config, schedule, round, int(checkpoint.name.split("-")[1]), str(checkpoint)))
    table = with_start(config, schedule, round, before, rows)
    if not rows:
        raise KitError(f"{run.models(schedule, round)}: no checkpoint to choose from; train this round first")
    step = choose(config, schedule, table)
    if step == 0:
        print(f"warning: no checkpoint keeps {1 - rule.tolerance:.0%} of the start's accuracy ({table.accuracy[0]:.1f} %), so "
              "the round's start is kept; try more steps, a smaller learning rate, or a higher limit")
    table["selected"] = table.step == step
    paths.write_csv(run.training(schedule, round) / "validation.csv", table)
    began = training.start_name(config, training.start_of_round(config, schedule, round))
    paths.write_json(run.training(schedule, round) / "selected.json",
                     {"step": step, "rule": plan.select, "tolerance": rule.tolerance, "start": began})
    log = pd.read_csv(run.training(schedule, round) / "log.csv").to_dict("records")
    for warning in watch.about_validation(log, table.to_dict("records"), rule.tolerance):
        print(f"warning, {schedule} round {round} step {warning.step}: {warning}")
    disk.thin(training.checkpoints(run.models(schedule, round)), Path(training.selected(config, schedule, round)),
              config.training.keep_checkpoints)
    return table


def models_of(config: Config, schedule: str) -> list[str]:
    """The models of one schedule, or the base model."""
    found = [m for m in model_names(config) if m.split("/")[0] == schedule]
    if not found:
        raise KitError(f"{config.file} has no schedule {schedule}; it has base, {', '.join(config.schedules)}")
    return found


def summarize(config: Config) -> None:
    """Gather what the stages wrote into the files that figures are drawn from, and compare the models.

    Writes metrics/main.csv (a row per model and set), changes.csv (each model against the base, and against the last
    round of each control that saw no limit), training.csv, validation.csv.
    """
    run, e = paths.of(config), config.evaluation
    names = model_names(config)
    facts = {"base": ("base", 0, np.nan)}
    for schedule, plan in config.schedules.items():
        facts |= {f"{schedule}/round{k}": (schedule, k, limit) for k, limit in enumerate(plan.limits, 1)}
    graded = {model: load_grades(config, model) for model in names}
    tables = [pd.read_csv(run.metrics / f"{m.replace('/', '-')}.csv") for m in names]
    for table, model in zip(tables, names, strict=True):
        table["schedule"], table["round"], table["limit"] = facts[model]
    paths.write_csv(run.metrics / "main.csv", pd.concat(tables))
    controls = [f"{s}/round{len(p.limits)}" for s, p in config.schedules.items() if not p.state_limit]
    changes = []
    for model in names:
        for against in [n for n in ("base", *controls) if n != model and model != "base"]:
            change = compare(graded[against], graded[model], e.resamples, config.seed)
            changes.append(change.assign(model=model, against=against))
    paths.write_csv(run.metrics / "changes.csv", pd.concat(changes))
    for file in ("training", "validation"):
        parts = []
        for schedule, plan in config.schedules.items():
            before = 0
            for k in range(1, len(plan.limits) + 1):
                part = pd.read_csv(run.training(schedule, k) / ("log.csv" if file == "training" else "validation.csv"))
                parts.append(part.assign(schedule=schedule, round=k, total_step=part.step + before))
                before += part.step.max()
        paths.write_csv(run.metrics / f"{file}.csv", pd.concat(parts))


# --- statistics -------------------------------------------------------------------------------------------------------


def per_problem(grades: pd.DataFrame) -> pd.DataFrame:
    """A row per problem, in id order: accuracy (percent over its samples), mean length, mean multiple of the core."""
    g = grades.assign(correct=100.0 * (grades.verdict == "correct"), truncated=100.0 * ~grades.finished.astype(bool))
    columns = ["correct", "length", "truncated", "core"]
    g["core"] = pd.to_numeric(g.core, errors="coerce")
    return g.groupby("id", sort=True)[columns].mean().rename(columns={"correct": "accuracy"})


def metrics(graded: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """A row per data set, and `mean` over them when there are several.

    Columns: accuracy (percent), length (tokens), multiple (length / shortest correct chain), each with `_low` and
    `_high` (95 %); truncated (percent of responses); length of correct and of wrong responses; counts of verdicts.
    """
    rows, tables, samples = [], [], []
    for k, (name, grades) in enumerate(graded.items()):
        table = per_problem(grades)
        tables.append(table)
        samples.append(len(grades) / len(table))
        right = grades.verdict == "correct"
        rows.append({
            "set": name, "problems": len(table), "samples": len(grades) // len(table),
            **_estimates([table], samples[-1:], resamples, seed + k),
            "truncated": table.truncated.mean(),
            "length_correct": grades.length[right].mean(), "length_wrong": grades.length[~right].mean(),
            **{f"n_{v.replace(' ', '_')}": int((grades.verdict == v).sum()) for v in grading.VERDICTS},
        })
    if len(rows) > 1:
        mean = pd.DataFrame(rows).mean(numeric_only=True)
        counts = {c: int(sum(r[c] for r in rows)) for c in rows[0] if c.startswith("n_") or c == "problems"}
        rows.append({**mean, **counts, **_estimates(tables, samples, resamples, seed), "set": "mean"})
    return pd.DataFrame(rows)


def _estimates(tables: list[pd.DataFrame], samples: list[float], resamples: int, seed: int) -> dict[str, float]:
    """Accuracy, length and multiple, means over the sets, with their intervals."""
    accuracy, length, core = ([t[c].to_numpy(dtype=float) for t in tables] for c in ("accuracy", "length", "core"))
    found = {}
    for name, value, (low, high) in (
        ("accuracy", _mean(accuracy), uncertainty.accuracy_interval(accuracy, samples)),
        ("length", _mean(length), uncertainty.ratio_interval(length, list(map(np.ones_like, length)), resamples, seed)),
        ("multiple", _mean(length) / _mean(core), uncertainty.ratio_interval(length, core, resamples, seed)),
    ):
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return {**found, "core": _mean(core)}


def _mean(values: list[np.ndarray]) -> float:
    return float(np.mean([v.mean() for v in values]))


def compare(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """b minus a, paired on problems: change of accuracy (points) and of length (percent), 95 % intervals, per set and mean.

    `p_value` is two-sided, of the change of accuracy; `detectable` (points) is the smallest true change of accuracy that so
    many problems of this kind would show four times out of five (kit.uncertainty.Change).
    """
    pairs: list[tuple[str, pd.DataFrame, pd.DataFrame]] = []
    for name in a:
        left, right = per_problem(a[name]), per_problem(b[name])
        if not left.index.equals(right.index):
            raise KitError(f"{name}: the two models were not evaluated on the same problems")
        pairs.append((name, left, right))
    rows = [_change(name, [(left, right)], resamples, seed + k) for k, (name, left, right) in enumerate(pairs)]
    if len(pairs) > 1:
        rows.append(_change("mean", [pair[1:] for pair in pairs], resamples, seed))
    return pd.DataFrame(rows)


def _change(name: str, pairs: list[tuple[pd.DataFrame, pd.DataFrame]], resamples: int, seed: int) -> dict[str, float | str]:
    change = uncertainty.paired_change([(right.accuracy - left.accuracy).to_numpy() for left, right in pairs])
    before, after = ([t.length.to_numpy(dtype=float) for t in side] for side in zip(*pairs, strict=True))
    low, high = uncertainty.ratio_interval(after, before, resamples, seed)
    return {"set": name, "problems": sum(len(left) for left, _ in pairs),
            "accuracy_change": change.mean, "accuracy_change_low": change.low, "accuracy_change_high": change.high,
            "p_value": change.p_value, "detectable": change.detectable,
            "length_change": 100 * (_mean(after) / _mean(before) - 1), "length_change_low": 100 * (low - 1),
            "length_change_high": 100 * (high - 1)}


def compare_seeds(pairs: Sequence[tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]]) -> pd.DataFrame:
    """`compare` for several seeds, each a pair (a, b) of grades on the same problems: one row per set, and mean.

    The interval is for other seeds and other problems. `seed_sd` (points) is how much the seeds' own changes differ;
    `length_change` (percent) is the mean of theirs.
    """
    names, rows = list(pairs[0][0]), []
    tables = {name: [(per_problem(a[name]), per_problem(b[name])) for a, b in pairs] for name in names}
    for name, own in tables.items():
        if any(not t.index.equals(own[0][0].index) for pair in own for t in pair):
            raise KitError(f"{name}: the seeds were not evaluated on the same problems")
    for name, chosen in [*((n, [n]) for n in names), *([("mean", names)] if len(names) > 1 else [])]:
        accuracy = [np.array([b.accuracy - a.accuracy for a, b in tables[n]]) for n in chosen]
        lengths = zip(*(_linear_ratio([tables[n][s] for n in chosen]) for s in range(len(pairs))), strict=True)
        length = [np.array(own) for own in lengths]
        row: dict[str, float | str] = {"set": name, "seeds": len(pairs), "problems": sum(v.shape[1] for v in accuracy)}
        for what, values in (("accuracy", accuracy), ("length", length)):
            seeds = uncertainty.combine_seeds(values)
            row |= {f"{what}_change": seeds.change.mean, f"{what}_change_low": seeds.change.low,
                    f"{what}_change_high": seeds.change.high, f"{what}_seed_sd": seeds.seed_sd}
            if what == "accuracy":
                row |= {"p_value": seeds.change.p_value, "detectable": seeds.change.detectable}
        rows.append(row)
    return pd.DataFrame(rows)


def _linear_ratio(pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> list[np.ndarray]:
    """For each set a value per problem; their mean is the change of the mean length in percent (the ratio's linear expansion)."""
    before, after = ([t.length.to_numpy(dtype=float) for t in side] for side in zip(*pairs, strict=True))
    ratio = _mean(after) / _mean(before)
    return [100 * (ratio - 1 + (y - ratio * x) / _mean(before)) for x, y in zip(before, after, strict=True)]
