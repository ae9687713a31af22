"""Evaluation: a model answers the problems that no training saw, its responses are graded, and the grades are measured.

    responses   rollouts/<model>/<set>.jsonl    `respond`         in the evaluation prompt: no system message, no limit
    grades      grades/<model>/<set>.csv        `grade`           a row per response: its verdict, answer, length
    metrics     metrics/<model>.csv             `write_metrics`   accuracy and length (evaluation/metrics)

Responses on file are not asked for again: an interrupted evaluation goes on where it stopped.
"""

import contextlib
import functools
import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from kit.data import problems, prompts
from kit.evaluation import metrics
from kit.evaluation.metrics import Graded
from kit.reward import grading
from kit.rollout import engines, logs, records
from kit.rollout.records import Engine, Rollout, Sampling
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError, Prompts

Ask = Callable[[Prompts, str], prompts.Messages]  # (the wordings of params, a question) -> the messages
GRADE_COLUMNS = ["id", "sample", "verdict", "answer", "length", "finished", "core"]
UNBOXED = 0.05  # a larger share of answers without a box is a warning
TRAINING_PROMPT = "training-prompt"  # the folder, in a model's, of its answers in the training prompt (a control)


def evaluate_model(config: Config, model: str) -> pd.DataFrame:
    """Evaluate one model on all evaluation sets; writes rollouts, grades and metrics/<model>.csv, returns the metrics."""
    run, names, reading = paths.of(config), config.data.evaluation, config.training.reading
    if model in config.logs.models:  # other code generated the responses
        for name in names:
            files.write_csv(run.grades(model, name), grade(logs.responses(config, model, name), reading))
        return write_metrics(config, model)
    asked: dict[str, Ask] = {model: prompts.evaluation_messages}  # the folder of its responses -> how the question is put
    if config.evaluation.training_prompt:
        asked[f"{model}/{TRAINING_PROMPT}"] = in_training_prompt(config, model)
    with engine_of(config, catalog.model_source(config, model)) as engine:
        for folder, name in itertools.product(asked, names):
            path, title = run.rollouts(folder, name), f"{folder}: {name}"
            cut = forced_samples(config, model, name) if folder == model else 0
            answers = respond(config, engine, name, sampling(config, name), path, title, asked[folder], cut)
            files.write_csv(run.grades(folder, name), grade(answers, reading))
    return write_metrics(config, model)


def forced_samples(config: Config, model: str, name: str) -> int:
    """How many responses to each problem budget forcing cuts of a model's evaluation in place of new ones, for which their token
    ids are kept: where it asks with the same prompt and no budget is larger than these can be; 0 elsewhere."""
    p, f, how = config.prompts, config.forcing, sampling(config, name)
    same = p.text("forcing_user") == p.text("evaluation_user") and not config.evaluation.second_bos
    serve = same and f.budgets and model in config.forced_models and f.budgets[-1] <= how.max_new_tokens
    return f.samples or how.samples if serve and (f.samples or 0) <= how.samples else 0


def in_training_prompt(config: Config, model: str) -> Ask:
    """A control: the training prompt, with the limit that this model was trained under (the base: the lowest that is stated)."""
    schedule, _, limit = catalog.facts(config)[model]
    stated, plan = [plan.limits[-1] for plan in config.schedules.values() if plan.state_limit], config.schedules.get(schedule)
    told = min(stated, default=None) if model == "base" else limit if plan and plan.state_limit else None
    return lambda words, question: prompts.training_messages(words, question, told, plan)


def sampling(config: Config, name: str) -> Sampling:
    """How data set `name` is sampled in an evaluation."""
    e = config.evaluation
    return Sampling(e.samples_by_set.get(name, e.samples), e.temperature, e.top_p, e.max_new_tokens)


@contextlib.contextmanager
def engine_of(config: Config, source: str) -> Iterator[Callable[[], Engine]]:
    """The engine of the model at `source`, as a function that starts it when it is first called: where all responses are on file
    the model, which may have been thinned away, is not loaded."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(contextlib.closing(engines.get_engine(source, config))))


def respond(
    config: Config, engine: Callable[[], Engine], name: str, sampling: Sampling, path: Path, title: str,
    ask: Ask = prompts.evaluation_messages, keep_ids: int = 0,
) -> list[Rollout]:
    """A model's responses to data set `name`, in the evaluation prompt unless `ask` writes another; kept in `path`. `title` says
    in a message and beside the progress what this is. KitError when the engine breaks off."""
    known, seed = problems.load(name, config), zlib.crc32(f"{config.seed} {name}".encode())
    plain = [p for p in known if not p.verifier and not path.is_file()]
    for line in grading.check_golds([p.answer for p in plain], [p.id for p in plain]):
        print(f"{name}: {line}")

    def encode(p: problems.Problem) -> list[int]:
        tokenizer = engine().tokenizer
        first = [tokenizer.bos_token_id] if config.evaluation.second_bos else []
        if first == [None]:
            raise KitError(f"{config.file}: evaluation.second_bos: this model's tokenizer has no beginning token")
        return first + prompts.encode(tokenizer, ask(config.prompts, p.question))

    with files.hold(path.parent, f"{paths.of(config).shown}, {title}", patience=20):
        try:
            with files.telling(path):
                return records.collect(engine, known, encode, sampling, path, seed, title, keep_ids)
        except (RuntimeError, OSError) as error:
            why = files.first_line(error)
            hint = "try a smaller evaluation.batch_size and " if "out of memory" in why else ""
            raise KitError(f"{title}: the engine broke off ({why}); its answers so far are kept, {hint}run this again") from error


def grade(rollouts: Sequence[Rollout], reading: str = "last-number") -> pd.DataFrame:
    """A row per response: id, sample, verdict, answer, length (tokens), finished, core (tokens of the shortest chain). The
    verdict is that of the reward in training: whether a response ended by itself counts here as it does there."""
    flat = [(r, i) for r in rollouts for i in range(len(r.model_answer))]
    texts, ends = [r.model_answer[i] for r, i in flat], [r.finished[i] for r, i in flat]
    grades = grading.grade_many(texts, [r.answer for r, _ in flat], reading, ends, [r.verifier for r, _ in flat])
    unboxed = sum(g.verdict == "no answer" and bool(grading.extract_answer(text, finished=end))
                  for text, g, end in zip(texts, grades, ends, strict=True)) if reading == "official" else 0
    for line in warnings_about(grades, [r.id for r, _ in flat], unboxed):
        print(line)
    control = r"[\x00-\x1f\x7f]+"  # a lone carriage return, for instance, would end a row of a CSV file
    rows = [(r.id, i, g.verdict, re.sub(control, " ", g.answer), r.model_answer_length[i], r.finished[i], r.core)
            for (r, i), g in zip(flat, grades, strict=True)]
    return pd.DataFrame(rows, columns=GRADE_COLUMNS).astype({"length": float, "core": float})


def golds(config: Config) -> dict[str, str]:
    """Question -> right answer, of all evaluation sets."""
    return {p.question.strip(): p.answer for name in config.data.evaluation for p in problems.load(name, config)}


def verdict(config: Config, text: str, gold: str) -> str:
    """The verdict of one whole response."""
    return grading.grade(text, gold, config.training.reading, finished=True).verdict


def warnings_about(grades: Sequence[grading.Grade], ids: Sequence[object], unboxed: int = 0) -> list[str]:
    """A line each: of more than 0.1 % timeouts, of unparseable golds with their problems' ids, of too many answers in no box."""
    lines, n, late = [], len(grades), sum(grade.verdict == "timeout" for grade in grades)
    if late > 0.001 * n:
        lines.append(f"warning: {late} of {n} answers ({late / n:.2%}) ran into the grader's deadline")
    broken = [str(name) for name, grade in zip(ids, grades, strict=True) if grade.verdict == "unparseable gold"]
    if broken:
        lines.append(f"warning: unparseable gold answers ({len(broken)} responses): {', '.join(dict.fromkeys(broken))}")
    if unboxed > UNBOXED * n:
        lines.append(f"warning: {unboxed} of {n} responses answer without a box, which the official reading does not count; "
                     "training: {reading: last-number} reads them")
    return lines


def read_grades(path: Path, notebook: str = "03_evaluate") -> pd.DataFrame:
    """A stored table of grades (budget forcing's has a column `forced` more); KitError when it is not there or damaged."""
    if not path.is_file():
        raise KitError(f"{path}: not there yet; run notebooks/{notebook}.ipynb first")
    unknown, types = {column: [""] for column in GRADE_COLUMNS[4:]}, {"id": str, "answer": str, "length": float, "core": float}
    with contextlib.suppress(ValueError):
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=unknown)
        if list(table)[:7] == GRADE_COLUMNS and not table.duplicated(["id", "sample"]).any():
            return table
    raise KitError(f"{path}: damaged; run notebooks/{notebook}.ipynb again, which grades the stored responses anew")


def load_grades(config: Config, model: str, budget: int | None = None) -> Graded:
    """The stored grades of a model, by data set; with `budget`, of its responses forced at that budget (evaluation/forcing)."""
    run = paths.of(config)
    return {name: read_grades(run.grades(model, name)) if budget is None
            else read_grades(run.forcing(model, name) / f"budget{budget}.csv", "04_budget_forcing")
            for name in config.data.evaluation}


def write_metrics(config: Config, model: str) -> pd.DataFrame:
    """The metrics of a model from its stored grades; writes metrics/<model>.csv."""
    table = metrics.measure(load_grades(config, model), config.evaluation.resamples, config.seed)
    table.insert(0, "model", model)
    files.write_csv(paths.of(config).metrics / f"{model.replace('/', '-')}.csv", table)
    return table
