"""Notebook 08's playground: a problem of one's own, answered by models beside each other, under a token limit (budget forcing).

Models are named as the run names them, or are folders of checkpoints, or hub ids; the params' engine answers, or a server.
"""

import dataclasses
import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import escape

from kit.evaluation import evaluate, forcing
from kit.report.texts import HIDDEN
from kit.rollout.records import Engine, Response
from kit.runs import catalog, files
from kit.settings import Config, KitError


class Playground:
    """Models that can be asked. Four of them stay loaded, those that were asked last."""

    def __init__(self, config: Config, server: str = "") -> None:
        from kit.rollout import engines

        own = dataclasses.replace(config.engine, name="server", url=server) if server else config.engine
        self.config, self.golds = dataclasses.replace(config, engine=own), evaluate.golds(config)

        @functools.lru_cache(maxsize=4)
        def engine(model: str) -> Engine:
            named = model in catalog.model_names(config)
            return engines.get_engine(catalog.model_source(config, model) if named else model, self.config)

        self.engine = engine

    def told(self, question: str, response: Response, cut: bool, limit: int) -> str:
        """Length of a response, what the limit did to it, and its verdict where the answer is known."""
        found = [f"{response.length} tokens" + (f", thinking stopped at {limit}" if cut else "")]
        if response.finished and (gold := self.golds.get(question.strip())):
            found.append(f"{evaluate.verdict(self.config, response.text, gold)} (the answer is {gold})")
        return ", ".join(found)

    def compare(self, models: Sequence[str], question: str, limits: Sequence[int], seed: int = 0) -> pd.DataFrame:
        """What each model answers under each limit: a row per limit, in a model's column length, verdict, end of its text."""
        table: dict[str, list[str]] = {}
        for model in models:
            for limit in limits:
                *_, (response, cut) = forcing.stream_forced(self.config, self.engine(model), question, limit, seed)
                table.setdefault(model, []).append(f"{self.told(question, response, cut, limit)}: … {response.text[-60:]}")
        return pd.DataFrame(table, index=pd.Index(limits, name="limit"))

    def widget(self, models: Sequence[str], question: str, limit: int) -> Any:
        """The controls, and below them the models' responses, which grow while they are written."""
        import ipywidgets as widgets

        wide = {"layout": {"width": "100%"}, "style": {"description_width": "5rem"}}
        names = catalog.model_names(self.config)
        chosen = [widgets.Combobox(value=model, options=names, description="model", **wide) for model in models]
        asked = widgets.Textarea(value=question, rows=3, description="problem", **wide)
        longest = self.config.evaluation.max_new_tokens
        slider = widgets.IntSlider(value=min(limit, longest), min=1, max=longest, description="limit", **wide)
        stopped, seeds = threading.Event(), itertools.count()  # another response each time
        ask, stop = widgets.Button(description="Ask", button_style="primary"), widgets.Button(description="Stop", disabled=True)
        views = [widgets.HTML(layout={"width": "100%"}) for _ in models]

        def show(view: Any, head: object, text: str = "") -> None:
            look = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4"
            view.value = f'<div style="{look}"><b>{escape(head)}</b>\n{escape(HIDDEN.sub("�", text))}</div>'

        def work(question: str, limit: int, models: Sequence[str], seed: int) -> None:
            try:
                going = {}
                for view, model in zip(views, models, strict=True):
                    name = catalog.labels(self.config).get(model, model)
                    show(view, f"{name}: loading")
                    going[view] = name, forcing.stream_forced(self.config, self.engine(model), question, limit, seed)
                    show(view, f"{name}: thinking")
                while going and not stopped.is_set():  # in turn, some tokens each
                    for view, (name, answers) in tuple(going.items()):
                        if (answer := next(answers, None)) is None:
                            del going[view]
                        else:
                            show(view, f"{name}: {self.told(question, *answer, limit)}", answer[0].text)
            except (KitError, RuntimeError, OSError, ValueError) as error:
                show(views[-1], files.first_line(error))
            finally:
                ask.disabled, stop.disabled = False, True

        def begin(_: Any) -> None:
            ask.disabled, stop.disabled = True, False
            stopped.clear()
            given = asked.value, slider.value, [box.value for box in chosen], next(seeds)
            threading.Thread(target=work, args=given, daemon=True).start()

        ask.on_click(begin)
        stop.on_click(lambda _: stopped.set())
        return widgets.VBox([asked, widgets.HBox(chosen), slider, widgets.HBox([ask, stop]), widgets.HBox(views)])
