"""Notebook 05's explorer: a problem, some models, a sample number are picked; their responses stand side by side.

What is shown is `sidebyside.page`, in a frame where no script can run. It needs a kernel; figures/traces.html does not.
"""

import functools
from collections.abc import Sequence
from typing import Any

from markupsafe import escape

from kit.behavior import behavior
from kit.report import sidebyside
from kit.report.sidebyside import Case
from kit.runs import catalog
from kit.settings import Config, KitError

FILTERS = {"all": "all responses", "broke": "broke: the first model right, another not",
           "saved most": "saved most: all right, the largest reduction first"}


def kept(cases: Sequence[Case], wanted: str) -> list[Case]:
    """The cases that a filter (a key of FILTERS) lets through, in its order."""
    if wanted == "broke":
        return [c for c in cases if c.before.verdict == "correct" and any(side.verdict != "correct" for side in c.sides)]
    if wanted == "saved most":
        return sorted((c for c in cases if all(side.verdict == "correct" for side in c.sides)), key=saved, reverse=True)
    return list(cases)


def saved(case: Case) -> float:
    """By how much the shortest response is shorter than the first model's, as a share of that."""
    return 1 - min(side.length for side in case.sides) / max(case.before.length, 1)


def explorer(config: Config) -> Any:
    """The controls and the page below them, as a widget. KitError when nothing has been evaluated yet."""
    import ipywidgets as widgets

    first, *others = catalog.model_names(config)
    unit, wide = behavior.step_unit(config), {"layout": {"width": "100%"}, "style": {"description_width": "7rem"}}
    models = widgets.SelectMultiple(
        options=[(catalog.label(config, name), name) for name in others], value=catalog.last_rounds(config)[:1],
        rows=min(6, len(others) or 1), description="beside " + catalog.label(config, first), **wide)
    sets = [(config.set_labels.get(name, name), name) for name in config.data.evaluation]
    name = widgets.Dropdown(options=sets, description="data set", **wide)
    wanted = widgets.Dropdown(options=[(text, key) for key, text in FILTERS.items()], description="show", **wide)
    problem, sample = widgets.Dropdown(description="problem", **wide), widgets.Dropdown(description="sample", **wide)
    count, view = widgets.HTML(), widgets.HTML()
    cases = functools.lru_cache(maxsize=8)(lambda chosen, name: sidebyside.cases_of(config, (first, *chosen), [name]))
    found: dict[str, list[Case]] = {}  # problem -> its cases, in the filter's order

    def choose(_: Any = None) -> None:
        found.clear()
        try:
            for case in kept(cases(models.value, name.value), wanted.value):
                found.setdefault(case.id, []).append(case)
            count.value = f"{len(found)} problems, {sum(map(len, found.values()))} samples"
        except KitError as error:
            count.value = str(escape(error))
        problem.options = [(f"{key}: {own[0].question[:80]} ({-saved(own[0]):+.0%})", key) for key, own in found.items()]
        problem.index = 0 if found else None
        take_problem()

    def take_problem(_: Any = None) -> None:
        sample.options = [(f"{case.sample + 1}: " + ", ".join(f"{side.length:.0f} {side.verdict}" for side in case.sides), k)
                          for k, case in enumerate(found.get(problem.value, []))]
        sample.index = 0 if sample.options else None
        take_sample()

    def take_sample(_: Any = None) -> None:
        shown = [found[problem.value][sample.value]] if sample.value is not None else []
        view.value = sidebyside.embedded(sidebyside.page(shown, config, unit)) if shown else ""

    for control in (models, name, wanted):
        control.observe(choose, "value")
    problem.observe(take_problem, "value")
    sample.observe(take_sample, "value")
    choose()
    return widgets.VBox([models, widgets.HBox([name, wanted]), widgets.HBox([problem, sample]), count, view])
