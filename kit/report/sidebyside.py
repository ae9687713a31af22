"""The same problem answered by several models, side by side: picked by a rule, coloured by phase, as one static HTML page.

Lengths are tokens, or words where a log has no token counts, and then the page says so. No case is picked because it looks good.
A response is hostile text: the template (templates/traces.html) escapes everything, and the page has a policy that lets no script
run and nothing be loaded.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import escape

from kit.behavior import behavior, phases
from kit.evaluation import evaluate
from kit.report.texts import render
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import catalog, files, paths
from kit.settings import Config

SHOWN = 20_000  # characters of a response


@dataclass(frozen=True)
class Side:
    """One response: its model, whole text, length, verdict."""

    model: str
    text: str
    length: float
    verdict: str


@dataclass(frozen=True)
class Case:
    """One problem, the responses of two models or more with one sample number, and by which rule it was picked."""

    rule: str
    name: str
    id: str
    sample: int
    question: str
    answer: str
    sides: tuple[Side, ...]
    unit: str  # of the lengths

    @property
    def before(self) -> Side:
        return self.sides[0]

    @property
    def after(self) -> Side:
        return self.sides[-1]

    @property
    def reduction(self) -> float:
        """By how much the response became shorter, as a share of its length before (negative: longer)."""
        return 1 - self.after.length / max(self.before.length, 1)


def cases_of(config: Config, models: Sequence[str], names: Sequence[str] | None = None) -> list[Case]:
    """All that these models answered to the same problems of the data sets `names` (all), by sample number."""
    run, found = paths.of(config), []
    for name in names or config.data.evaluation:
        found += _side_by_side(name, {
            catalog.label(config, model): (behavior.responses(config, model, name), evaluate.read_grades(run.grades(model, name)))
            for model in models})
    return found


def round_cases(config: Config, schedule: str, round: int) -> list[Case]:
    """What a round's start and the checkpoint that it selected answered to the validation set; none where the start was kept."""
    run = paths.of(config)
    answered = {0: run.validation("base", 0, 0)}  # by round; one that kept its start selected nothing
    for k in range(1, round + 1):
        if step := files.read_json(run.training(schedule, k) / "selected.json")["step"]:
            answered[k] = run.validation(schedule, k, step)
    if round not in answered:
        return []
    both = [list(records.read(path)) for path in [*answered.values()][-2:]]
    before, after = ((answers, evaluate.grade(answers, config.training.reading)) for answers in both)
    return _side_by_side(config.data.validation, {"before the round": before, "after it": after})


def _side_by_side(name: str, models: Mapping[str, tuple[Sequence[Rollout], pd.DataFrame]]) -> list[Case]:
    """Every problem and sample number that all of these models (label -> responses, their grades) have answered."""
    stored = [{r.id: r for r in answers} for answers, _ in models.values()]
    verdicts = [grades.set_index(["id", "sample"]).verdict.to_dict() for _, grades in models.values()]
    found = []
    for key, first in stored[0].items():
        if not all(key in answers for answers in stored):
            continue
        all_of = [answers[key] for answers in stored]
        known = not any(n is None for r in all_of for n in r.model_answer_length)
        for i in range(min(len(r.model_answer) for r in all_of)):
            sides = tuple(
                Side(label, r.model_answer[i], r.model_answer_length[i] if known else len(r.model_answer[i].split()),
                     of_model.get((key, i), "")) for label, r, of_model in zip(models, all_of, verdicts, strict=True))
            found.append(Case("", name, key, i, first.question, first.answer, sides, "tokens" if known else "words"))
    return found


def pick(cases: Sequence[Case]) -> list[Case]:
    """At most one case per rule: the middle of all reductions among those that stayed right, the largest among them, and one that
    broke, right before and wrong after. Ties go by data set, id and text, so that it is always the same one."""
    ordered = sorted(cases, key=lambda c: (c.reduction, c.name, c.id, c.before.text, c.after.text))
    right = [c for c in ordered if c.before.verdict == c.after.verdict == "correct"]
    broke = [c for c in ordered if c.before.verdict == "correct" != c.after.verdict]
    chosen = {"median": right[len(right) // 2 :][:1], "largest": right[-1:], "broke": broke[len(broke) // 2 :][:1]}
    return [dataclasses.replace(c, rule=rule) for rule, found in chosen.items() for c in found]


def write(config: Config) -> tuple[str, Path]:
    """The page of a run, each last round against the base (or the models in `behavior.pairs`): its HTML, and where it is kept."""
    shown = config.behavior.pairs or catalog.last_rounds(config)
    picked = [case for model in shown for case in pick(cases_of(config, ("base", model)))]
    text = page(picked, config, behavior.step_unit(config), f"Side by side: {config.run}")
    return text, files.write_text(paths.of(config).figures / "traces.html", text)


def page(cases: Sequence[Case], config: Config, unit: str = "", title: str = "") -> str:
    """A self-contained page: title, legend, then the cases; on a phone one side below the other. `unit` is what a step is
    (behavior.step_unit); if it is not given, these cases decide."""
    unit = unit or phases.unit_of(side.text for case in cases for side in case.sides)
    cues, words = phases.cues_of(config), behavior.keyword_pattern(tuple(config.keywords.get("hesitation", ())))

    def steps_of(side: Side) -> list[dict[str, object]]:
        """Each step: its phase, kind, and text in pieces, of which every second one is a hesitation word."""
        steps = phases.steps_of(side.text[:SHOWN], unit)
        return [{"phase": phase, "kind": phases.KINDS[phase], "pieces": words.split(step)}
                for step, phase in zip(steps, phases.label(steps, cues), strict=True)]

    return render("traces.html", title=title, unit=unit, labels=config.set_labels, cases=cases, steps_of=steps_of, shown=SHOWN)


def embedded(text: str) -> str:
    """The page as HTML for a notebook's output: in a frame of its own where no script can run."""
    look = "width:100%;height:44rem;border:1px solid #8885"
    return f'<div><iframe sandbox title="responses side by side" srcdoc="{escape(text)}" style="{look}"></iframe></div>'
