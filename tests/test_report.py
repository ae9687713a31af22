"""Notebook 06 and the report on a finished run: in seconds, without torch, and safe whatever a model wrote."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import fake_run
import nbformat
import papermill
import pytest
from jupyter_client.launcher import launch_kernel
from jupyter_client.provisioning import local_provisioner
from matplotlib.collections import PathCollection

from kit.evaluation import comparisons, evaluate, forcing, reference, seeds
from kit.report import inputs, style, tables, texts, trade_off
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config
from kit.settings.schema import Model

HOSTILE = "<script>alert(1)</script>&\\\"'"
FIGURES = ("trade_off", "relative_trade_off", "budget_forcing", "equal_spend", "efficiency", "problem_changes", "seeds")


@pytest.fixture(scope="module")
def finished(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two seeds of a run, the first with budget forcing; one label is an attack."""
    folder = tmp_path_factory.mktemp("params")
    first = fake_run.make(fake_run.settings(folder, "fake", (2,), label=HOSTILE.replace("\\", "\\\\").replace('"', '\\"')))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "model_source", lambda settings, model: model)
        patch.setattr(evaluate.engines, "get_engine", lambda model, settings: fake_run.Thinker(settings, fake_run.HABITS[model]))
        forcing.force_models(first)
    comparisons.gather(first)  # for the figures of LIGHT
    for other in seeds.write_params(first):
        fake_run.make(other)
        comparisons.compare_models(other)
    return first


# Imports every module of kit.report that shows no responses and no rewards, draws a figure of each, and says what that needed.
OTHERS = ("__init__", "sidebyside", "explorer", "playground", "exports", "reward_figures")
LIGHT = """
import importlib, sys
report = {{name: importlib.import_module("kit.report." + name) for name in {names}}}
from kit.settings import load
config = load({file!r})
for draw in [report["trade_off"].trade_off, report["training_figures"].validation_points,
             *report["behavior_figures"].available(config)[:1]]:
    report["style"].show(draw, config)
heavy = ["torch", "transformers", "trl", "datasets", "math_verify", "kit.training", "kit.reward"]
print([module for module in heavy if module in sys.modules])
"""


def run_notebook(name: str, settings: Config, first: str = "") -> nbformat.NotebookNode:
    """Execute a notebook as the chain does, with a last cell that says what was imported and how long it took, and a `first`."""
    source = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    if first:
        source.cells.insert(0, nbformat.v4.new_code_cell(first))
    code = "import sys, time, json; print(json.dumps([sorted({'torch', 'trl'} & set(sys.modules)), time.process_time()]))"
    source.cells.append(nbformat.v4.new_code_cell(code))
    copy = paths.of(settings).root / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(source, copy)
    local_provisioner.launch_kernel = launch_kernel  # a test before this one may have made it fork a process that has torch
    return papermill.execute_notebook(str(copy), str(copy), {"params_file": settings.file}, cwd=str(ROOT / "notebooks"),
                                      progress_bar=False)


@pytest.fixture(scope="module")
def drawn(finished: Config) -> nbformat.NotebookNode:
    names = [path.stem for path in (ROOT / "kit" / "report").glob("*.py") if path.stem not in OTHERS]
    return run_notebook("06_figures", finished, LIGHT.format(names=names, file=finished.file))


def test_notebook_06_alone_takes_seconds_and_imports_neither_torch_nor_trl(drawn: nbformat.NotebookNode) -> None:
    heavy, seconds = json.loads(drawn.cells[-1].outputs[0].text)
    longest = 60 if "PYTEST_XDIST_WORKER" in os.environ else 30  # beside other tests a processor is slower
    assert heavy == [] and seconds < longest


def test_drawing_needs_neither_the_trainer_nor_the_grader(drawn: nbformat.NotebookNode) -> None:
    """Before the notebook's own cells: those import the grader, to compare models."""
    assert [out.text for out in drawn.cells[0].outputs if out.get("name") == "stdout"] == ["[]\n"]


def test_every_figure_is_there_as_png_and_svg(drawn: nbformat.NotebookNode, finished: Config) -> None:
    for name in FIGURES:
        file = paths.of(finished).figures / f"{name}.png"
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000
        assert "run fake" in file.with_suffix(".svg").read_text()


class Page(HTMLParser):
    """What is on a page: open elements, addresses, texts of table cells; complains about what is not closed."""

    EMPTY = ("meta", "img", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: dict[str, int] = {}
        self.texts: list[str] = []
        self.handlers: list[str] = []
        self.outside_scroll = self.outside_main = self.unreachable = self.undescribed = 0
        self.scroll: list[bool] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "pre" or given.get("class") in ("scroll", "steps"):  # what scrolls can be reached by keyboard, and has a name
            self.unreachable += given.get("tabindex") != "0" or not given.get("aria-label")
        self.undescribed += tag == "img" and len(given.get("alt") or "") < 60
        self.outside_main += tag in ("h1", "p", "table", "img", "details") and "main" not in self.open
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action", "data", "srcset")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.outside_scroll += tag == "table" and not any(self.scroll)
        if tag not in self.EMPTY:
            self.open.append(tag)
            self.scroll.append(dict(attributes).get("class") == "scroll")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        self.scroll.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_is_one_page_that_needs_nothing_else(drawn: nbformat.NotebookNode, finished: Config) -> None:
    text = (paths.of(finished).root / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and page.tags["img"] >= len(FIGURES) + 2 and page.tags["table"] >= 10
    for address in page.addresses:
        assert address.startswith(("#", "data:image/png;base64,")), address[:80]
        if address.startswith("data:"):
            assert base64.b64decode(address.split(",")[1]).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags) and page.handlers == []
    assert 'name="viewport" content="width=device-width' in text and "default-src 'none'" in text
    assert page.outside_main == page.unreachable == page.undescribed == 0  # what axe-core found amiss once
    folded = text.index("<details>")
    assert text.index("The claim under test") < text.index("<img") < text.index("accuracy change (points)") < folded
    assert text.count("<table>", 0, folded) == 1 and 3 <= text.count("<li>", 0, folded) <= 5
    assert page.outside_scroll == 0 and "color-scheme: light dark" in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    everything = "".join(page.texts)
    for heading, found in texts.conclusions(finished).items():
        assert found and all(sentence in everything for sentence in found), heading
    for words in ("One-shot against iterative", "Budget forcing", "max_grad_norm: 1.0", "math-verify", "2 seeds.", "<user>"):
        assert words in everything


def test_what_a_model_or_a_params_file_says_is_text_and_nothing_else(drawn: nbformat.NotebookNode, finished: Config) -> None:
    text = (paths.of(finished).root / "report.html").read_text()
    assert HOSTILE in catalog.labels(finished).values()
    assert "<script" not in text and HOSTILE in "".join(Page(text).texts)


def test_the_run_shows_every_comparison_it_has(drawn: nbformat.NotebookNode, finished: Config) -> None:
    found = texts.conclusions(finished)
    assert list(found) == ["In short", "Against the base model and the control", "Budget forcing", "One-shot against iterative",
                           "Controls", "Behavior", "Equal spend", "Several seeds"]
    assert found["Budget forcing"][0].startswith("Pruned models lie above the budget-forcing curve at every length they share")
    table = tables.difference_table(finished, "controls")
    assert set(table.index) == {"a limit, against the same RL without one", "limit not stated in the prompt",
                                          "asked in the training prompt, its limit stated"}
    assert tables.forcing_table(finished).index[0] == ("base", 10)
    seen = tables.seed_table(finished)
    assert ("iterative, 30 minus one-shot, 30", "accuracy change (points)") in seen.index
    assert len(seen.loc["base", "seeds"].iloc[0].split(" · ")) == 2


def test_each_seed_stands_beside_the_mean_over_the_seeds(drawn: nbformat.NotebookNode, finished: Config) -> None:
    (axis,) = trade_off.seeds(finished).axes
    values = [x for points in axis.collections for x, _ in points.get_offsets() if isinstance(points, PathCollection)]
    shown = inputs.read(finished, "seeds", overall=True).query("quantity == 'accuracy change'").value
    mean = inputs.read(finished, "seeds_combined", overall=True).query("quantity == 'accuracy change'").value
    assert sorted(values) == pytest.approx(sorted([*shown, *mean]))


def test_a_run_is_held_against_the_reference_of_its_params_file(
    drawn: nbformat.NotebookNode, finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference of two seeds: both lie within it; a figure that is far outside is named, and so are other settings."""
    shipped = tmp_path / "shipped.json"
    monkeypatch.setattr(reference, "path_of", lambda params: shipped)
    assert reference.compare(finished)[1] == []
    made = reference.make(finished, finished.file)
    files.write_json(shipped, made)
    table, (verdict,) = reference.compare(finished)
    assert verdict.startswith(f"{len(table)} of {len(table)} figures lie within the range expected of a new run")
    assert made["seeds"] == [finished.seed, 2] and len(table.query("comparison == 'base'")) == 3
    (moved,) = (f for f in made["figures"] if (f["comparison"], f["quantity"]) == ("base", "accuracy"))
    moved["from"], moved["to"] = 99.0, 100.0
    files.write_json(shipped, made)
    verdict, outside = reference.compare(finished)[1]
    assert verdict.startswith(f"{len(table) - 1} of {len(table)}") and "base: accuracy" in outside and "99.0 to 100.0" in outside
    assert "(outside)" in tables.reference_table(made, finished).loc[("base", "accuracy (%)"), "this run"]
    sentence = texts.conclusions(finished)["One-shot against iterative"][0]
    assert "Of the method, over 2 seeds" in sentence
    made["settings"]["evaluation.samples"] += 1
    files.write_json(shipped, made)
    assert "No verdict" in reference.compare(finished)[1][0] and "evaluation.samples" in reference.compare(finished)[1][0]
    assert "Of the method" not in texts.conclusions(finished)["One-shot against iterative"][0]


def test_runs_of_other_seeds_and_of_one_base_model_join_the_reference(drawn: nbformat.NotebookNode, finished: Config) -> None:
    """The same two runs once more as those of other seeds: a range of two is wide, so all lie within it; then one does not."""
    made = reference.make(finished, finished.file) | {"seeds": [7, 8]}
    before = texts.reference_blocks(made)["notebooks/README.md"]
    assert "Do such ranges hold?" not in before and "Whose luck is it?" not in before
    base = made["figures"][0]
    assert (base["comparison"], base["quantity"], len(base["values"])) == ("base", "accuracy", 2)
    one, two = base["values"]
    reference.extend(made, finished)
    reference.vary(made, finished)
    base = made["figures"][0]
    assert base["values"] == [one, two, one, two] and base["mean"] == pytest.approx((one + two) / 2, abs=1e-3)
    assert base["sd"] == pytest.approx(abs(one - two) / 3**0.5, abs=1e-3), "of four: twice the squares over 3"
    assert len(made["seeds"]) == 4 and made["more"]["before"] == 2 and made["left_out"] is not None
    text = texts.reference_blocks(made)["notebooks/README.md"]
    assert "100 % of their figures lie inside." in text
    again = f"{abs(one - two) / 2**0.5:.1f}"
    assert f"| base | {base['sd']:.1f}, {again} |" in text
    assert again == tables.reference_table(made).loc[("base", "accuracy (%)"), "sd, same base model"]
    base["values"][2:] = [1e3, 1e3]
    assert "; fewer than 1 of 2:\nbase: accuracy (0)." in texts.reference_blocks(made)["notebooks/README.md"]


def test_published_values_of_the_runs_own_model_are_drawn_in(finished: Config) -> None:
    figure = style.plt.figure()
    axis = figure.add_subplot()
    named = dataclasses.replace(finished, model=Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"))
    trade_off._published(axis, named, "math500")
    labels = {text.get_text() for text in axis.texts}
    assert "DS-1.5B, paper (Q)" in labels and "DS-1.5B-iter2k, autothink (T)" in labels
    assert not any("DeepScaleR" in label or "iter2k, paper" in label for label in labels)  # another model; no number there
    assert axis.collections and all(alpha == 0 for c in axis.collections for *_, alpha in c.get_facecolor())  # hollow
    trade_off._published(axis, finished, "two")
    assert len(axis.texts) == len(labels)


def test_notebook_07_draws_the_frontier_of_any_finished_run_without_torch(finished: Config) -> None:
    notebook = run_notebook("07_rewards", finished)
    assert json.loads(notebook.cells[-1].outputs[0].text)[0] == []
    table = files.read_csv(paths.of(finished).figures / "frontier_table.csv").set_index("setting")
    assert table.loc["no limit", "method"] == "none" and (table.method == "token_limit").sum() == 3
    assert {"frontier", "reward_shapes", "advantage_shapes"} <= {path.stem for path in paths.of(finished).figures.glob("*.png")}
