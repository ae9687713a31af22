"""Rollouts and grades -> accuracy and length with uncertainty; comparisons between models on the same problems.

Accuracy is pass@1: the mean over problems of the mean over samples; length is the mean over all responses, in tokens: both as
in the official evaluation (where a log has more samples of some problems, each problem counts the same all the same).
Intervals and tests are over problems, each with all its samples (evaluation/uncertainty). Means over data sets weigh each set equally.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from kit.data import problems, prompts
from kit.evaluation import statistics
from kit.reward import grading
from kit.rollout import engines, logs, records
from kit.rollout.records import Rollout, Sampling
from kit.runs import catalog, files, fingerprint, lock, paths
from kit.settings import Config, KitError

CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")  # a lone carriage return, for instance, would end a row of a CSV file
GRADE_COLUMNS = ["id", "sample", "verdict", "answer", "length", "finished", "core"]
TRAINING_PROMPT = "training-prompt"  # the folder, in a model's, of its answers in the training prompt (a control)


# --- responses and grades ---------------------------------------------------------------------------------------------


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
    kept = records.complete(path, problems.load(name, config), how)
    if kept is not None:  # all there: no need to load the model, which may have been thinned away
        return kept
    if engine is None:
        with closing(engines.get_engine(source, config)) as engine:
            return respond(config, source, name, how, path, title, engine, ask)
    seed = zlib.crc32(f"{config.seed} {name}".encode())

    def encode(problem: problems.Problem) -> list[int]:
        return prompts.encode(engine.tokenizer, ask(config.prompts, problem.question))

    with lock.hold(path.parent, f"{paths.of(config).shown}, {title}", patience=20), answering(title), files.telling(path):
        return records.collect(engine, problems.load(name, config), encode, how, path, seed, title)


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
        (r.id, i, g.verdict, CONTROLS.sub(" ", g.answer), r.model_answer_length[i], r.finished[i], r.core)
        for (r, i), g in zip(flat, grades, strict=True)
    ]
    return pd.DataFrame(rows, columns=GRADE_COLUMNS)


def evaluate(config: Config, model: str) -> pd.DataFrame:
    """Evaluate one model on all evaluation sets; writes rollouts, grades and metrics/<model>.csv, returns the metrics."""
    run = paths.of(config)
    logged = model in config.logs.models
    source = "" if logged else catalog.model_source(config, model)
    graded = {}
    with contextlib.ExitStack() as stack:
        engine = None
        for name in config.data.evaluation:
            path, how = run.rollouts(model, name), sampling(config, name)
            if logged:
                answers = logs.responses(config, model, name)
            else:
                if engine is None and records.complete(path, problems.load(name, config), how) is None:
                    engine = stack.enter_context(closing(engines.get_engine(source, config)))
                answers = respond(config, source, name, how, path, f"{model}: {name}", engine)
            graded[name] = regrade(config, model, name, answers)
        if config.evaluation.training_prompt and not logged:
            answer_training_prompt(config, model, engine)
    return measure(config, model, graded)


def regrade(config: Config, model: str, name: str, answers: Sequence[Rollout]) -> pd.DataFrame:
    """The grades of a set: the stored ones if they are of these very responses by this very grader, else made and stored."""
    path = paths.of(config).grades(model, name)
    note = path.with_suffix(".json")
    made_from = {"responses": records.digest(answers), "grader": fingerprint.modules("reward/grading"),
                 "rows": sum(len(r.model_answer) for r in answers)}
    if path.is_file() and note.is_file() and files.read_json(note) == made_from:
        with contextlib.suppress(KitError):
            return read_grades(path)
    files.write_csv(path, grade(answers, "official"))
    files.write_json(note, made_from)
    return read_grades(path)  # so that the first run has just what the next one reads


def measure(config: Config, model: str, graded: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The metrics of a model; writes metrics/<model>.csv."""
    table = statistics.metrics(graded, config.evaluation.resamples, config.seed)
    table.insert(0, "model", model)
    files.write_csv(paths.of(config).metrics / f"{model.replace('/', '-')}.csv", table)
    return table


def answer_training_prompt(config: Config, model: str, engine) -> None:
    """A control: the same evaluation in the training prompt, with the limit that this model was trained under.

    The base is told the lowest limit that any schedule states. Rollouts and grades go to <model>/training-prompt.
    """
    limit: float | None
    if model == "base":
        limit = min((plan.limits[-1] for plan in config.schedules.values() if plan.state_limit), default=None)
    else:
        schedule, _, limit = catalog.facts(config)[model]
        limit = limit if config.schedules[schedule].state_limit else None
    told, run = f"{model}/{TRAINING_PROMPT}", paths.of(config)
    for name in config.data.evaluation:
        answers = respond(config, catalog.model_source(config, model), name, sampling(config, name), run.rollouts(told, name),
                          f"{told}: {name}", engine, lambda words, question: prompts.training_messages(words, question, limit))
        regrade(config, told, name, answers)


def read_grades(path: Path) -> pd.DataFrame:
    """A stored table of grades; KitError when it is damaged."""
    unknown, note = {column: [""] for column in ("length", "finished", "core")}, path.with_suffix(".json")
    try:
        table = pd.read_csv(path, dtype={"id": str, "answer": str}, keep_default_na=False, na_values=unknown)
        fine = list(table.columns) == GRADE_COLUMNS and not table.duplicated(["id", "sample"]).any()
        table = table.astype({"length": float, "core": float}) if fine else table
    except ValueError:
        fine = False
    if not fine or note.is_file() and files.read_json(note).get("rows", len(table)) != len(table):
        raise KitError(f"{path}: damaged; run notebooks/03_evaluate.ipynb again, which grades the stored responses anew")
    return table


def load_grades(config: Config, model: str) -> dict[str, pd.DataFrame]:
    """The stored grades of a model, by data set."""
    found = {}
    for name in config.data.evaluation:
        path = paths.of(config).grades(model, name)
        if not path.is_file():
            raise KitError(f"{path}: not there yet; run notebooks/03_evaluate.ipynb first")
        found[name] = read_grades(path)
    return found


def summarize(config: Config) -> None:
    """Gather what the stages wrote into the files that figures are drawn from, and compare the models.

    Writes metrics/main.csv (a row per model and set), changes.csv (each model against the base, and against the last
    round of each control that saw no limit), and of what was trained training.csv and validation.csv.
    """
    run, e = paths.of(config), config.evaluation
    names = catalog.model_names(config)
    found = catalog.facts(config)
    graded = {model: load_grades(config, model) for model in names}
    tables = [files.read_csv(run.metrics / f"{m.replace('/', '-')}.csv") for m in names]
    for table, model in zip(tables, names, strict=True):
        table["schedule"], table["round"], table["limit"] = found[model]
    files.write_csv(run.metrics / "main.csv", pd.concat(tables))
    controls = [catalog.last_round(config, s) for s, p in config.schedules.items() if not p.state_limit and p.compare_with is None]
    changes = []
    for model in names:
        for against in [n for n in ("base", *controls) if n != model and model != "base"]:
            change = statistics.compare(graded[against], graded[model], e.resamples, config.seed)
            changes.append(change.assign(model=model, against=against))
    nothing = pd.DataFrame(columns=["model", "against", "set"])
    files.write_csv(run.metrics / "changes.csv", pd.concat(changes) if changes else nothing)
    for file in ("training", "validation") if config.schedules else ():
        parts = []
        for schedule, plan in config.schedules.items():
            before = 0
            for k in range(1, len(plan.limits) + 1):
                part = files.read_csv(run.training(schedule, k) / ("log.csv" if file == "training" else "validation.csv"))
                parts.append(part.assign(schedule=schedule, round=k, total_step=part.step + before))
                before += part.step.max()
        files.write_csv(run.metrics / f"{file}.csv", pd.concat(parts))
