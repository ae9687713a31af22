"""Budget forcing, the baseline that pruning has to beat (the paper's; from s1, arXiv 2501.19393).

A model's thinking is stopped at a budget B, an ending is put behind it, and the model answers at once:

    y(B) = y                                        if y closed its thinking (or ended) within its first B tokens
           y_1..B + ending + what the model then says    else

Thinking is generated once per model, long enough for the largest budget (where the evaluation asks with the same prompt, its
responses serve), and cut at each budget, on the token ids that the model wrote. A response's length is all of it: thinking kept,
ending, and answer. An ending that begins with a line break lends it only to thinking that does not end in one (official code).
"""

import dataclasses
import math
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kit.data import problems, prompts
from kit.evaluation import comparisons, evaluate
from kit.evaluation.metrics import Graded, measure, per_problem, share
from kit.evaluation.uncertainty import columns
from kit.rollout import records
from kit.rollout.records import Engine, Response, Rollout, Sampling
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

CHUNK = 8  # tokens that a response which is looked at grows by


def force_models(config: Config) -> pd.DataFrame:
    """Force every model of `forcing.models`; writes metrics/forcing.csv and metrics/forcing_gaps.csv, returns the first."""
    for model in config.forced_models:
        with evaluate.engine_of(config, catalog.model_source(config, model)) as start:
            force(config, model, start())
    return write_curve(config)


def force(config: Config, model: str, engine: Engine) -> None:
    """Force one model at every budget on all evaluation sets; what is on file already is not made again. Writes thinking,
    rollouts and grades (results/<run>/forcing; grades have a column `forced`: was it cut)."""
    for name in config.data.evaluation:
        thoughts, folder = think(config, model, name, engine), paths.of(config).forcing(model, name)
        forced, samples = Forced(config, thoughts, engine), len(thoughts[0].model_answer)
        how = dataclasses.replace(evaluate.sampling(config, name), samples=samples)
        row_of = {t.id: [row] for row, t in enumerate(thoughts)}
        for forced.budget in config.forcing.budgets:
            how = dataclasses.replace(how, max_new_tokens=answer_cap(config, forced.budget))
            seed = zlib.crc32(f"{config.seed} forcing {name} {forced.budget}".encode())
            answers = records.collect(
                lambda own=forced: own, problems.load(name, config), lambda p, rows=row_of: rows[p.id], how,
                folder / f"budget{forced.budget}.jsonl", seed, f"{model}: {name}, budget {forced.budget}")
            graded = evaluate.grade(answers, config.training.reading).assign(forced=(forced.ends > forced.budget).ravel())
            files.write_csv(folder / f"budget{forced.budget}.csv", graded)


def measure_forced(config: Config, model: str) -> pd.DataFrame:
    """`metrics.measure` of a forced model's stored grades at each budget; `forced` is the percentage of responses cut."""
    return pd.concat({budget: measure(evaluate.load_grades(config, model, budget), config.evaluation.resamples, config.seed)
                      for budget in config.forcing.budgets}, names=["budget"]).reset_index("budget")


def think(config: Config, model: str, name: str, engine: Engine) -> list[Rollout]:
    """Responses in budget forcing's prompt, with their token ids, in thinking.jsonl, where later calls find them: the first ones
    of the evaluation that were kept for it, else new ones, up to the largest budget and room for an answer behind it."""
    run, f, how = paths.of(config), config.forcing, evaluate.sampling(config, name)
    path, evaluated, asked = run.forcing(model, name) / "thinking.jsonl", run.rollouts(model, name), problems.load(name, config)
    longest, samples = max(f.budgets) + answer_cap(config, max(f.budgets)), f.samples or how.samples

    def has_ids(r: Rollout) -> bool:
        return [len(ids) for ids in r.model_answer_ids or []] == r.model_answer_length

    if evaluate.forced_samples(config, model, name) and evaluated.is_file() and not path.is_file():
        lists = ("model_answer", "model_answer_length", "finished", "model_answer_ids")
        found = [dataclasses.replace(r, **{key: (getattr(r, key) or [])[:samples] for key in lists})
                 for r in records.read(evaluated)]
        questions = {p.id: p.question for p in asked}
        if all(questions.get(r.id) == r.question and len(r.model_answer) == samples and has_ids(r) for r in found):
            files.write_text(path, "".join(map(records.as_line, found)))
    how = dataclasses.replace(how, samples=samples, max_new_tokens=longest)
    seed = zlib.crc32(f"{config.seed} forcing {name} thinking".encode())
    found = records.collect(lambda: engine, asked, lambda p: prompt(config, p.question, engine.tokenizer), how, path, seed,
                            f"{model}: {name}, thinking", keep_ids=samples)
    if missing := [r.id for r in found if not has_ids(r)]:
        raise KitError(f"{path}: the token ids of {missing[0]} are missing, so its thinking cannot be cut; engine.name: "
                       f"{config.engine.name} gives none (a server that is vLLM's does)")
    return found


def answer_cap(config: Config, budget: int) -> int:
    """Tokens that an answer behind `budget` tokens of thinking may have."""
    return min(config.forcing.answer_tokens, max(config.evaluation.max_new_tokens - budget, 1))


def prompt(config: Config, question: str, tokenizer: Any) -> list[int]:
    """Token ids of budget forcing's prompt."""
    return prompts.encode(tokenizer, prompts.evaluation_messages(config.prompts, question, "forcing_user"))


def thinking_end(ids: Sequence[int], finished: bool, tokenizer: Any) -> float:
    """Tokens up to and including `</think>`; of a response that ended without it, all; infinity when it was still thinking."""
    tag = prompts.TAGS[1]
    if tag not in tokenizer.decode(ids):
        return len(ids) if finished else math.inf
    return bisect_left(range(len(ids)), True, key=lambda n: tag in tokenizer.decode(ids[:n]))


def stopped(ids: Sequence[int], budget: int, tokenizer: Any, ending: str) -> list[int]:
    """Thinking cut at `budget` tokens, and the ending, behind which the model answers. A line break that the ending begins with
    is left out where the thinking ends in one. (Rendered as an assistant message it would lose its thinking: DeepSeek's and QwQ's
    templates cut all before `</think>`.)"""
    kept = list(ids[:budget])
    broken = tokenizer.decode(kept[-1:]).endswith("\n")
    return kept + prompts.tokenize(tokenizer, ending.removeprefix("\n") if broken else ending)


class Forced:
    """An engine for `records.collect` whose responses are stored thinking, cut at `budget` tokens and answered. The "prompt" of a
    problem is its row in `thoughts` (a list of one number). `ends` is (problems, samples): the tokens of each response's
    thinking; where that is more than the budget, it is cut."""

    def __init__(self, config: Config, thoughts: Sequence[Rollout], engine: Engine) -> None:
        self.thoughts, self.engine, self.tokenizer, self.batch_size = thoughts, engine, engine.tokenizer, engine.batch_size
        self.prompts = [prompt(config, t.question, self.tokenizer) for t in thoughts]
        self.ending = config.prompts.text("forcing_ending")
        self.ends = np.array([[thinking_end(*pair, self.tokenizer) for pair in zip(t.model_answer_ids, t.finished, strict=True)]
                              for t in thoughts])
        self.budget = 0

    def generate(self, rows: Sequence[list[int]], how: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, list[Response]]]:
        """Responses left alone where they are ready, answers to cut thinking where not; answers are at most `how` long."""
        chosen = [self.thoughts[row] for row, in rows]
        found = [[Response(*parts) for parts in zip(t.model_answer, t.model_answer_length, t.finished, strict=True)]
                 for t in chosen]
        cut = [(i, s) for i, (row,) in enumerate(rows) for s in range(how.samples) if self.ends[row, s] > self.budget]
        begun = [stopped(chosen[i].model_answer_ids[s], self.budget, self.tokenizer, self.ending) for i, s in cut]
        starts = [self.prompts[rows[i][0]] + begin for (i, _), begin in zip(cut, begun, strict=True)]
        missing = Counter(i for i, _ in cut)
        yield from ((i, found[i]) for i in range(len(rows)) if not missing[i])
        own = [seeds[i] + s for i, s in cut]
        for j, (answer,) in self.engine.generate(starts, dataclasses.replace(how, samples=1), own) if cut else ():
            i, s = cut[j]
            text = self.tokenizer.decode([*begun[j], *answer.ids], skip_special_tokens=True)
            found[i][s] = Response(text, len(begun[j]) + answer.length, answer.finished)
            missing[i] -= 1
            if not missing[i]:
                yield i, found[i]


def stream_forced(config: Config, engine: Engine, question: str, budget: int, seed: int) -> Iterator[tuple[Response, bool]]:
    """(a response to this question as it grows, CHUNK tokens at a time, whether its thinking was stopped at `budget` tokens), to
    the end of `Forced`; for any engine that can go on from token ids."""
    e, tokenizer, start = config.evaluation, engine.tokenizer, prompt(config, question, engine.tokenizer)
    ids, cut, finished, longest = [], False, False, budget
    for answering in (False, True):
        if answering and not finished:
            cut = thinking_end(ids, False, tokenizer) > budget
            ids = stopped(ids, budget, tokenizer, config.prompts.text("forcing_ending")) if cut else ids
            longest, seed = answer_cap(config, budget) if cut else max(e.max_new_tokens - budget, 1), seed + 1
        begun, added = len(ids), True
        while added and not finished and len(ids) - begun < longest:
            few = Sampling(1, e.temperature, e.top_p, min(CHUNK, longest - len(ids) + begun))
            ((_, (more,)),) = engine.generate([[*start, *ids]], few, [seed + len(ids) - begun])
            added = more.ids or tokenizer(more.text, add_special_tokens=False)["input_ids"]  # a server may tell no ids
            ids, finished = [*ids, *added], more.finished
            yield Response(tokenizer.decode(ids, skip_special_tokens=True), len(ids), finished, ids), cut


def example(config: Config, model: str = "base") -> pd.DataFrame:
    """One response at each budget, as it was forced, and its verdict: the first response to the problem of the first data set
    whose thinking was cut at most budgets."""
    name, texts = config.data.evaluation[0], []
    firsts = {budget: evaluate.load_grades(config, model, budget)[name].query("sample == 0") for budget in config.forcing.budgets}
    table = pd.concat(firsts, names=["budget"]).reset_index("budget")
    table = table[table.id == table.groupby("id").forced.sum().idxmax()].set_index("budget")
    for budget, id in table.id.items():
        stored = records.read(paths.of(config).forcing(model, name) / f"budget{budget}.jsonl")
        texts.append(next(r.model_answer[0] for r in stored if r.id == id))
    return table.assign(response=texts)[["forced", "response", "answer", "verdict"]]


def write_curve(config: Config) -> pd.DataFrame:
    """From the stored grades metrics/forcing.csv, what `measure_forced` gives, and metrics/forcing_gaps.csv (`against_curve`)."""
    folder, forced = paths.of(config).metrics, config.forced_models
    table = pd.concat({model: measure_forced(config, model) for model in forced}, names=["model"]).reset_index("model")
    files.write_csv(folder / "forcing.csv", table)
    curve = [evaluate.load_grades(config, "base", budget) for budget in config.forcing.budgets if "base" in forced]
    points = {model: evaluate.load_grades(config, model) for model in catalog.model_names(config) if curve and model != "base"}
    gaps = [against_curve(curve, point, config.evaluation.resamples, config.seed).assign(model=model)
            for model, point in points.items()]
    empty = pd.DataFrame(columns=["model", "set", "length", "shared", "above"])
    files.write_csv(folder / "forcing_gaps.csv", pd.concat(gaps) if gaps else empty)
    return table


def against_curve(curve: Sequence[Graded], point: Graded, resamples: int, seed: int) -> pd.DataFrame:
    """A model against a budget-forcing curve at the model's own length, paired on problems; a row per set, and their mean.

    The curve goes through (mean length, accuracy) of the budgets, and is interpolated linearly at the model's mean length; so are
    the ends of the budgets' intervals. The difference is a bootstrap's: all of this is computed again in each resample of the
    problems. Columns: accuracy (percent), length (tokens), `forced` (the curve's accuracy there), `gap` = accuracy - forced
    (points), all but length with `_low` and `_high` (95 %); `shared`: the curve reaches this length (else `forced` and `gap` are
    empty); `above`: accuracy's interval lies above the curve's, without touching it.
    """
    models = dict(enumerate([*curve, point]))
    rows, drawn = [], comparisons.paired_draws(models, per_problem, resamples, seed)
    for name in dict.fromkeys(name for name, _ in drawn):
        found, tables = zip(*(drawn[name, model] for model in models), strict=True)
        values = np.array(found)  # (models, columns of `per_problem`, draws), the point last
        forced, lengths, (accuracy, length, *_) = values[:-1, 0], values[:-1, 1], values[-1]
        shares = pd.DataFrame([share("accuracy", own, "accuracy") for own in tables])
        lows, highs = shares.accuracy_low.to_numpy(), shares.accuracy_high.to_numpy()
        order = np.argsort(lengths, axis=0)
        lengths, forced = np.take_along_axis(lengths, order, 0), np.take_along_axis(forced, order, 0)
        there = np.array([np.interp(x, xs, ys) for x, xs, ys in zip(length, lengths.T, forced.T, strict=True)])
        ends = [np.interp(length[0], lengths[:, 0], own[order[:, 0]]) for own in (lows, highs)]
        shared = bool(lengths[0, 0] <= length[0] <= lengths[-1, 0])
        if not shared:
            there, ends = np.full_like(there, np.nan), [np.nan, np.nan]
        rows.append({
            "set": name, "length": length[0], "shared": shared, **columns("accuracy", accuracy[0], (lows[-1], highs[-1])),
            **columns("forced", there[0], ends), **comparisons.estimate("gap", accuracy - there),
            "above": bool(lows[-1] > ends[1])})
    return pd.DataFrame(rows)
