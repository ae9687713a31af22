"""Rollouts and grades -> accuracy and length with uncertainty; comparisons between models on the same problems.

Accuracy is pass@1: the mean over problems of the mean over samples; length is the mean over all responses, in tokens
(FACTS 2). Every interval is a percentile bootstrap over problems: a problem is drawn with all its samples, because
samples of one problem are not independent. Means over data sets weigh each set equally, and resample within each.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from kit import engines, grading, logs, paths, problems, prompts, rollout, training
from kit.config import Config, KitError
from kit.rollout import Rollout, Sampling

GRADE_COLUMNS = ["id", "sample", "verdict", "answer", "length", "finished", "core"]
TRAINING_PROMPT = "training-prompt"  # the folder, in a model's, of its answers in the training prompt (a control)


# --- responses and grades ---------------------------------------------------------------------------------------------


def model_source(config: Config, model: str) -> str:
    """Folder or hub id of `base` or `<schedule>/round<k>`."""
    if model == "base" and config.schedules:
        return training.base_model(config)
    if model in config.logs.models:
        raise KitError(f"{config.file}: of {model} there are logs only (logs.models.{model}), so it cannot be asked anything new")
    schedule, _, round = model.partition("/round")
    if schedule not in config.schedules or not round.isdigit():
        raise KitError(f"there is no model {model} in {config.file}; there are {', '.join(model_names(config))}")
    return training.selected(config, schedule, int(round))


def model_names(config: Config) -> list[str]:
    """`base`, every round of every schedule, and the models that are known by their logs."""
    rounds = [f"{s}/round{k}" for s, plan in config.schedules.items() for k in range(1, len(plan.limits) + 1)]
    return list(dict.fromkeys(["base", *rounds, *config.logs.models]))


def sampling(config: Config, name: str) -> Sampling:
    """How data set `name` is sampled in an evaluation."""
    e = config.evaluation
    return Sampling(e.samples_by_set.get(name, e.samples), e.temperature, e.top_p, e.max_new_tokens)


def how(config: Config, model: str) -> str:
    """How the responses of a model come about, in a line."""
    if model in config.logs.models:
        return f"responses that other code generated, from {', '.join(Path(p).name for p in config.logs.models[model].values())}"
    e = config.evaluation
    other = "".join(f" ({n} for {name})" for name, n in e.samples_by_set.items())
    drawn = f"temperature {e.temperature}, top-p {e.top_p}, at most {e.max_new_tokens} tokens"
    return f"{e.samples} samples a problem{other}, {drawn}"


def respond(
    config: Config, source: str, name: str, how: Sampling, path: Path, title: str, engine=None, ask=prompts.evaluation_messages
) -> list[Rollout]:
    """Responses of the model at `source` to data set `name`, in the evaluation prompt unless `ask` is another; kept in `path`."""
    if engine is None:
        with closing(engines.get_engine(source, config)) as engine:
            return respond(config, source, name, how, path, title, engine, ask)
    seed = zlib.crc32(f"{config.seed} {name}".encode())

    def encode(problem: problems.Problem) -> list[int]:
        return prompts.encode(engine.tokenizer, ask(config.prompts, problem.question))

    return rollout.collect(engine, problems.load(name, config), encode, how, path, seed, title)


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
    logged = model in config.logs.models
    source = "" if logged else model_source(config, model)
    graded = {}
    with nullcontext() if logged else closing(engines.get_engine(source, config)) as engine:
        for name in config.data.evaluation:
            path = run.rollouts(model, name)
            if logged:
                answers = logs.responses(config, model, name)
            else:
                answers = respond(config, source, name, sampling(config, name), path, f"{model}: {name}", engine)
            graded[name] = grade(answers, "official")
            paths.write_csv(run.grades(model, name), graded[name])
        if config.evaluation.training_prompt and not logged:
            answer_training_prompt(config, model, engine)
    table = metrics(graded, config.evaluation.resamples, config.seed)
    table.insert(0, "model", model)
    paths.write_csv(run.metrics / f"{model.replace('/', '-')}.csv", table)
    return table


def answer_training_prompt(config: Config, model: str, engine) -> None:
    """A control: the same evaluation in the training prompt, with the limit that this model was trained under.

    The base is told the lowest limit that any schedule states. Rollouts and grades go to <model>/training-prompt.
    """
    schedule, _, round = model.partition("/round")
    if model == "base":
        limit = min((plan.limits[-1] for plan in config.schedules.values() if plan.state_limit), default=None)
    else:
        plan = config.schedules[schedule]
        limit = plan.limits[int(round) - 1] if plan.state_limit else None
    told, run = f"{model}/{TRAINING_PROMPT}", paths.of(config)
    for name in config.data.evaluation:
        answers = respond(config, "", name, sampling(config, name), run.rollouts(told, name), f"{told}: {name}", engine,
                          lambda words, question: prompts.training_messages(words, question, limit))
        paths.write_csv(run.grades(told, name), grade(answers, "official"))


def load_grades(config: Config, model: str) -> dict[str, pd.DataFrame]:
    """The stored grades of a model, by data set."""
    found = {}
    for name in config.data.evaluation:
        path = paths.of(config).grades(model, name)
        if not path.is_file():
            raise KitError(f"{path}: not there yet; run notebooks/03_evaluate.ipynb first")
        unknown = {column: [""] for column in ("length", "finished", "core")}
        found[name] = pd.read_csv(path, dtype={"id": str, "answer": str}, keep_default_na=False, na_values=unknown)
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
    graded = grade(respond(config, source, config.data.validation, how, path, title))
    return {"step": step, **metrics({config.data.validation: graded}, e.resamples, config.seed).iloc[0]}


def validate_round(config: Config, schedule: str, round: int) -> pd.DataFrame:
    """Validation of each checkpoint of a round, and the choice among them; writes validation.csv and selected.json.

    Step 0 is the round's start: what the round before selected, or the base model.
    """
    run, plan, rule = paths.of(config), config.schedules[schedule], config.selection
    origin = ("base", 0) if round == 1 else (schedule, round - 1)
    before = pd.read_csv(run.training(*origin) / "validation.csv")
    start = before[before.selected].iloc[-1] if round > 1 else before.iloc[-1]
    rows: list[dict[str, object]] = [{**start.to_dict(), "step": 0}]
    for checkpoint in training.checkpoints(run.models(schedule, round)):
        step = training.step_of(checkpoint)
        rows.append(_validate(config, schedule, round, step, training.checkpoint_model(config, schedule, round, step)))
    table = pd.DataFrame(rows).assign(schedule=schedule, round=round, limit=plan.limits[round - 1])
    points = [training.Point(r.step, r.accuracy, r.length) for r in table.itertuples() if r.step > 0]
    if not points:
        raise KitError(f"{run.models(schedule, round)}: no checkpoint to choose from; train this round first")
    chosen = points[-1] if plan.select == "last" else training.select(points, start.accuracy, rule.tolerance)
    if chosen is None:
        print(f"warning: no checkpoint keeps {1 - rule.tolerance:.0%} of the start's accuracy ({start.accuracy:.1f} %), so the "
              "round's start is kept; try more steps, a smaller learning rate, or a higher limit")
    step = chosen.step if chosen else 0
    table["selected"] = table.step == step
    paths.write_csv(run.training(schedule, round) / "validation.csv", table)
    began = training.start_name(config, training.start_of_round(config, schedule, round))
    paths.write_json(run.training(schedule, round) / "selected.json",
                     {"step": step, "rule": plan.select, "tolerance": rule.tolerance, "start": began})
    return table


def models_of(config: Config, schedule: str) -> list[str]:
    """The models of one schedule, or the base model."""
    found = [m for m in model_names(config) if m.split("/")[0] == schedule]
    if not found:
        known = dict.fromkeys(["base", *config.schedules, *config.logs.models])
        raise KitError(f"{config.file} has no schedule {schedule}; it has {', '.join(known)}")
    return found


def summarize(config: Config) -> None:
    """Gather what the stages wrote into the files that figures are drawn from, and compare the models.

    Writes metrics/main.csv (a row per model and set), changes.csv (each model against the base, and against the last
    round of each control that saw no limit), and of what was trained training.csv and validation.csv.
    """
    run, e = paths.of(config), config.evaluation
    names = model_names(config)
    facts = {name: (name, 0, np.nan) for name in ("base", *config.logs.models)}
    for schedule, plan in config.schedules.items():
        facts |= {f"{schedule}/round{k}": (schedule, k, limit) for k, limit in enumerate(plan.limits, 1)}
    graded = {model: load_grades(config, model) for model in names}
    tables = [pd.read_csv(run.metrics / f"{m.replace('/', '-')}.csv") for m in names]
    for table, model in zip(tables, names, strict=True):
        table["schedule"], table["round"], table["limit"] = facts[model]
    paths.write_csv(run.metrics / "main.csv", pd.concat(tables))
    controls = [f"{s}/round{len(p.limits)}" for s, p in config.schedules.items() if not p.state_limit and p.compare_with is None]
    changes = []
    for model in names:
        for against in [n for n in ("base", *controls) if n != model and model != "base"]:
            change = compare(graded[against], graded[model], e.resamples, config.seed)
            changes.append(change.assign(model=model, against=against))
    nothing = pd.DataFrame(columns=["model", "against", "set"])
    paths.write_csv(run.metrics / "changes.csv", pd.concat(changes) if changes else nothing)
    for file in ("training", "validation") if config.schedules else ():
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
    """A row per problem, in id order: accuracy (percent over its samples), mean length, truncated (percent), mean core.

    What a log does not tell of every response (length, truncated) is NaN.
    """
    g = grades.assign(correct=100.0 * (grades.verdict == "correct"), truncated=100.0 * (1.0 - grades.finished.astype(float)))
    columns = ["correct", "length", "truncated", "core"]
    g[["length", "core"]] = g[["length", "core"]].apply(pd.to_numeric)
    return g.groupby("id", sort=True)[columns].mean(skipna=False).rename(columns={"correct": "accuracy"})


def bootstrap_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) weights of a bootstrap over n problems; each row sums to 1."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of bootstrap replicates; NaN when nothing is known."""
    if np.isnan(values).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def metrics(graded: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """A row per data set, and `mean` over them when there are several.

    Columns: accuracy (percent), length (tokens), multiple (length / shortest correct chain), each with `_low` and
    `_high` (95 %); truncated (percent of responses); length of correct and of wrong responses; counts of verdicts. What is not
    known of every response is NaN, in the mean over the sets too: a mean of some would look like one of all.
    """
    rows, replicates = [], []
    for k, (name, grades) in enumerate(graded.items()):
        table = per_problem(grades)
        weights = bootstrap_weights(len(table), resamples, seed + k)
        drawn = {c: weights @ table[c].to_numpy() for c in ("accuracy", "length", "core")}
        replicates.append(drawn)
        right, lengths = grades.verdict == "correct", pd.to_numeric(grades.length)
        rows.append({
            "set": name, "problems": len(table), "samples": len(grades) // len(table),
            **_estimates(table.mean(skipna=False), drawn),
            "truncated": table.truncated.mean(skipna=False),
            "length_correct": lengths[right].mean(skipna=False), "length_wrong": lengths[~right].mean(skipna=False),
            **{f"n_{v.replace(' ', '_')}": int((grades.verdict == v).sum()) for v in grading.VERDICTS},
        })
    if len(rows) > 1:
        mean = pd.DataFrame(rows).mean(numeric_only=True)
        for column in ("length", "truncated", "core"):
            mean[column] = np.mean([row[column] for row in rows])
        counts = {c: int(sum(r[c] for r in rows)) for c in rows[0] if c.startswith("n_") or c == "problems"}
        drawn = {c: np.mean([d[c] for d in replicates], axis=0) for c in replicates[0]}
        rows.append({**mean, **counts, **_estimates(mean, drawn), "set": "mean"})
    return pd.DataFrame(rows)


def _estimates(point: pd.Series, drawn: dict[str, np.ndarray]) -> dict[str, float]:
    low_a, high_a = interval(drawn["accuracy"])
    low_l, high_l = interval(drawn["length"])
    found = {"accuracy": point["accuracy"], "accuracy_low": low_a, "accuracy_high": high_a,
             "length": point["length"], "length_low": low_l, "length_high": high_l, "core": point["core"]}
    if np.isnan(point["core"]):
        return {**found, "multiple": np.nan, "multiple_low": np.nan, "multiple_high": np.nan}
    low_m, high_m = interval(drawn["length"] / drawn["core"])
    return {**found, "multiple": point["length"] / point["core"], "multiple_low": low_m, "multiple_high": high_m}


def compare(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame], resamples: int, seed: int) -> pd.DataFrame:
    """b minus a, paired on problems: change of accuracy (points) and of length (percent), 95 % intervals, per set and mean.

    `p_value` is two-sided, from the same bootstrap: twice the smaller share of replicates on one side of zero.
    """
    changes: list[tuple[str, np.ndarray, np.ndarray]] = []  # set; accuracy change and both lengths: point, replicates
    for k, name in enumerate(a):
        left, right = per_problem(a[name]), per_problem(b[name])
        if not left.index.equals(right.index):
            raise KitError(f"{name}: the two models were not evaluated on the same problems")
        values = np.column_stack([right.accuracy - left.accuracy, left.length, right.length])
        weights = bootstrap_weights(len(left), resamples, seed + k)
        changes.append((name, values.mean(axis=0), weights @ values))
    if len(changes) > 1:
        changes.append(("mean", np.mean([p for _, p, _ in changes], axis=0), np.mean([d for *_, d in changes], axis=0)))
    return pd.DataFrame([_change(*change) for change in changes])


def _change(name: str, point: np.ndarray, drawn: np.ndarray) -> dict[str, float | str]:
    low_a, high_a = interval(drawn[:, 0])
    low_l, high_l = interval(100 * (drawn[:, 2] / drawn[:, 1] - 1))
    tail = min((drawn[:, 0] <= 0).mean(), (drawn[:, 0] >= 0).mean())
    return {"set": name, "accuracy_change": point[0], "accuracy_change_low": low_a, "accuracy_change_high": high_a,
            "p_value": min(1.0, 2 * max(tail, 1 / (len(drawn) + 1))),
            "length_change": 100 * (point[2] / point[1] - 1), "length_change_low": low_l, "length_change_high": high_l}
