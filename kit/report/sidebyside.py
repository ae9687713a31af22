"""The same problem before and after pruning, side by side: picked by a rule, coloured by phase, as one static HTML page.

Pairs are of one problem and one sample number; lengths are tokens (words where a log has no token counts, and then the page
says so). `pick` takes the pair in the middle of all reductions among pairs that stayed right, the largest reduction among
them, and one that broke: right before, wrong after. No pair is picked because it looks good.

A response is hostile text: the template (templates/traces.html) escapes everything, and the page has a policy that lets no script
run and nothing be loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import escape

from kit.behavior import behavior, phases
from kit.evaluation import evaluate
from kit.report.texts import render
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

SHOWN = 20_000  # characters of a response


@dataclass(frozen=True)
class Side:
    """One response: its model, whole text, length, verdict."""

    model: str
    text: str
    length: float
    verdict: str


@dataclass(frozen=True)
class Pair:
    """One problem before and after, and by which rule it was picked."""

    rule: str
    name: str
    id: str
    question: str
    answer: str
    before: Side
    after: Side
    unit: str  # of the lengths

    @property
    def reduction(self) -> float:
        """By how much the response became shorter, as a share of its length before (negative: longer)."""
        return 1 - self.after.length / max(self.before.length, 1)


def pairs_of(config: Config, *models: str) -> list[Pair]:
    """Every pair of responses of two models to the same problem, with the same sample number."""
    graded = {model: evaluate.load_grades(config, model) for model in models}
    found = []
    for name in config.data.evaluation:
        verdicts = {m: g[name].set_index(["id", "sample"]).verdict.to_dict() for m, g in graded.items()}
        stored = [{r.id: r for r in behavior.responses(config, m, name)} for m in models]
        for key in stored[0].keys() & stored[1].keys():
            both = [responses[key] for responses in stored]
            known = all(isinstance(n, int | float) and n == n for r in both for n in r.model_answer_length)
            for i in range(min(len(r.model_answer) for r in both)):
                sides = [Side(m, r.model_answer[i], r.model_answer_length[i] if known else len(r.model_answer[i].split()),
                              verdicts[m].get((key, i), "")) for m, r in zip(models, both, strict=True)]
                found.append(Pair("", name, key, both[0].question, both[0].answer, *sides, unit="tokens" if known else "words"))
    return found


def pick(pairs: Sequence[Pair]) -> list[Pair]:
    """At most one pair per rule, in the rules' order; ties go by data set, id and text, so that it is always the same one."""
    ordered = sorted(pairs, key=lambda p: (p.reduction, p.name, p.id, p.before.text, p.after.text))
    right = [p for p in ordered if p.before.verdict == p.after.verdict == "correct"]
    broke = [p for p in ordered if p.before.verdict == "correct" != p.after.verdict]
    chosen = {"median": right[len(right) // 2 :][:1], "largest": right[-1:], "broke": broke[len(broke) // 2 :][:1]}
    return [dataclasses.replace(p, rule=rule) for rule, found in chosen.items() for p in found]


def write(config: Config) -> tuple[str, Path]:
    """The page of a run, each last round against the base (or the models in `behavior.pairs`): its HTML, and where it is kept."""
    names = catalog.model_names(config)
    if unknown := [name for name in config.behavior.pairs if name not in names]:
        raise KitError(f"`behavior.pairs` names {unknown[0]}; there are {', '.join(names)}")
    shown = config.behavior.pairs or catalog.last_rounds(config)
    text = page([p for model in shown for p in pick(pairs_of(config, names[0], model))], config, behavior.step_unit(config))
    path = paths.of(config).figures / "traces.html"
    with files.atomic(path) as file:
        file.write(text)
    return text, path


def page(pairs: Sequence[Pair], config: Config, unit: str) -> str:
    """A self-contained page: legend, then the pairs. Works without a network, on a phone one side below the other."""
    cues, words = phases.cues_of(config), behavior.keyword_pattern(tuple(config.keywords.get("hesitation", ())))

    def steps_of(side: Side) -> list[dict[str, object]]:
        """Each step: its phase, kind, and text in pieces, of which every second one is a hesitation word."""
        steps = phases.steps_of(side.text[:SHOWN], unit)
        return [{"phase": phase, "kind": phases.KINDS[phase], "pieces": words.split(step)}
                for step, phase in zip(steps, phases.label(steps, cues), strict=True)]

    return render("traces.html", run=config.run, unit=unit, labels=config.set_labels, called=catalog.labels(config),
                  pairs=pairs, steps_of=steps_of, shown=SHOWN)


def embedded(text: str) -> str:
    """The page as HTML for a notebook's output: in a frame of its own where no script can run."""
    return f'<iframe sandbox srcdoc="{escape(text)}" style="width:100%;height:44rem;border:1px solid #8885"></iframe>'
