"""A finished run without a trained model: its responses are written by the laptop world's own generator of traces.

Everything behind the responses is real: grading, metrics, budget forcing's cutting, comparisons, figures, report.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from kit.behavior import behavior
from kit.data import problems, prompts
from kit.evaluation import evaluate, metrics
from kit.laptop import arithmetic, thinking
from kit.laptop.thinking import Chain
from kit.rollout import records
from kit.rollout.records import Response, Sampling
from kit.runs import catalog, files, manifest, paths
from kit.settings import ROOT, Config, Habits, load

LONG = Habits(careful=(1.0,), another_round=(1.0, 1.0), step_check=(0.8,), restate=1.0, slip_spelled=0.02)
SHORT = Habits(careful=(0.0,), another_round=(0.0,), step_check=(0.0,), restate=0.0, conclude=0.0, slip_hard=0.1, slip_easy=0.05)
MIDDLE = Habits(careful=(0.5,), another_round=(0.0,), step_check=(0.2,), restate=0.0, conclude=1.0)
HABITS = {"base": LONG, "no-limit/round1": LONG, "iterative/round1": MIDDLE, "iterative/round2": SHORT, "one-shot/round1": SHORT,
          "untold/round1": MIDDLE}


PARAMS = """
extends: {smoke}
run: {run}
seed: 1
seeds: {seeds}
arithmetic: {{train_problems: 40, validation_problems: 10, evaluation_problems: 20}}
evaluation: {{samples: 4, max_new_tokens: 400, resamples: 300, training_prompt: true}}
forcing: {{budgets: [10, 30, 60], samples: 2, answer_tokens: 8}}
schedules:
  iterative: {{label: iterative, limits: [60, 30]}}
  one-shot: {{label: one-shot, limits: [30]}}
  no-limit: {{label: no limit, limits: [300], state_limit: false, select: last}}
  untold: {{label: "{label}", limits: [30], state_limit: false, compare_with: one-shot}}
"""


def settings(folder: Path, run: str = "fake", seeds: Sequence[int] = (), label: str = "limit 30, untold") -> Config:
    """Smoke settings with 20 problems a set, two rounds, their one-shot counterpart, and two controls; written to `folder`."""
    file = folder / f"{run}.yaml"
    file.write_text(PARAMS.format(smoke=ROOT / "params" / "smoke.yaml", run=run, seeds=list(seeds), label=label))
    return load(file)


def chain_of(text: str) -> Chain:
    """The problem that a prompt or question states."""
    text = text.split("What is")[0]  # what was thought about it repeats its words
    steps = re.findall(r"(first|second|third|fourth|fifth|sixth) ([-+*]) (\d+)", text)
    return Chain(int(re.search(r"Start with (\d+)", text)[1]), tuple((name, op, int(n)) for name, op, n in steps))


class Thinker:
    """An engine that thinks as `habits` say; behind budget forcing's ending it is right if it has seen the last step."""

    batch_size = 16

    def __init__(self, settings: Config, habits: Habits = LONG) -> None:
        self.world = dataclasses.replace(settings.arithmetic, habits=habits)
        self.tokenizer = arithmetic.make_tokenizer()
        self.ending = settings.prompts.text("forcing_ending")
        self.calls: list[tuple[int, int]] = []  # (prompts, max_new_tokens) of each

    def generate(self, prompts: Sequence[list[int]], how: Sampling, seeds: Sequence[int]) -> Iterator[tuple[int, list[Response]]]:
        rng, tok = random.Random(seeds[0]), self.tokenizer
        self.calls.append((len(prompts), how.max_new_tokens))
        for k, prompt in enumerate(prompts):
            text, ids = tok.decode(prompt), []
            for _ in range(how.samples):
                chain = chain_of(text)
                said = f"\\boxed{{ {chain.answer if text.count('Compute') == len(chain.steps) else 0} }}"
                if not text.endswith(self.ending):
                    trace, value = thinking.think(rng, chain, self.world)
                    said = f"{trace} </think> \\boxed{{ {value} }}"
                ids.append([*tok(said)["input_ids"], tok.eos_token_id][: how.max_new_tokens])
            yield k, [records.as_response(i, {tok.eos_token_id}, tok) for i in ids]

    def close(self) -> None:
        pass


def make(settings: Config) -> Config:
    """Write data, rollouts, grades, metrics, training logs and a manifest of every model of the run."""
    arithmetic.make_data(settings)
    run, rng = paths.of(settings), random.Random(settings.seed)
    for model in catalog.model_names(settings):
        graded = {}
        for told in ("", f"/{evaluate.TRAINING_PROMPT}"):
            for name in settings.data.evaluation:
                world = dataclasses.replace(settings.arithmetic, habits=HABITS[model])
                found = []
                for p in problems.load(name, settings):
                    traces = [thinking.think(rng, chain_of(p.question), world) for _ in range(settings.evaluation.samples)]
                    texts = [f"{trace} </think> \\boxed{{ {value} }}" for trace, value in traces]
                    found.append(records.record(p, [Response(t, len(t.split()) + 1, True) for t in texts]))
                with files.atomic(run.rollouts(model + told, name)) as file:
                    file.writelines(json.dumps(dataclasses.asdict(r)) + "\n" for r in found)
                graded[name] = evaluate.grade(found)
                files.write_csv(run.grades(model + told, name), graded[name])
            if not told:
                table = metrics.measure(graded, settings.evaluation.resamples, settings.seed)
                table.insert(0, "model", model)
                files.write_csv(run.metrics / f"{model.replace('/', '-')}.csv", table)
    for schedule, plan in settings.schedules.items():
        for k, limit in enumerate(plan.limits, 1):
            log = [{"step": s, "limit": limit, "reward": 0.5, "length": 60.0, "truncated": 0.1} for s in (1, 2)]
            points = [{"step": s, "accuracy": 80.0, "accuracy_low": 75.0, "accuracy_high": 85.0, "length": 60.0 - s,
                       "selected": s == 2, "schedule": schedule, "round": k, "limit": limit} for s in (0, 1, 2)]
            files.write_csv(run.training(schedule, k) / "log.csv", pd.DataFrame(log))
            files.write_csv(run.training(schedule, k) / "validation.csv", pd.DataFrame(points))
    question = problems.load(settings.data.evaluation[0], settings)[0].question
    rendered = prompts.render(arithmetic.make_tokenizer(), prompts.evaluation_messages(settings.prompts, question))
    facts = {"settings": dataclasses.asdict(settings), "versions": manifest.versions(), "commit": "0000000",
             "device": "CPU", "written": "2026-01-01T00:00:00+00:00", "prompts": {"evaluation": rendered}}
    files.write_json(run.manifest, facts)
    behavior.write_tables(settings)
    return settings
