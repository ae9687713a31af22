"""Tables and figures from CSVs alone, and published numbers that stay what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import PIL.Image
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from kit.report import style, tables, texts, trade_off, training_figures
from kit.runs import files, paths
from kit.settings import ROOT, Config, KitError, Schedule, load, read_yaml


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run with metrics as `comparisons.gather` writes them, made up."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    settings = dataclasses.replace(load("params/smoke.yaml"), schedules={
        "iterative": Schedule(limits=(70,), label="iterative"),
        "no-limit": Schedule(limits=(250,), label="no limit", state_limit=False)})
    models = [("base", "base", 0, None, 80.0, 90.0), ("iterative/round1", "iterative", 1, 70, 81.0, 45.0),
              ("no-limit/round1", "no-limit", 1, 250, 82.0, 91.0)]
    main = [
        {"model": m, "schedule": s, "round": r, "limit": limit, "set": name, "accuracy": a, "accuracy_low": a - 2,
         "accuracy_high": a + 2, "length": n, "length_low": n - 3, "length_high": n + 3, "core": 20.0, "multiple": n / 20,
         "truncated": 0.0}
        for m, s, r, limit, a, n in models for name in ("two", "three", "mean")
    ]
    changes = [
        {"model": m, "against": against, "set": "mean", "accuracy_change": d, "accuracy_change_low": d - 2,
         "accuracy_change_high": d + 0.5, "p_value": 0.3, "problems": 96, "detectable": 3.0,
         "length_change": -50.0, "length_change_low": -52.0, "length_change_high": -48.0}
        for m, against, d in (("iterative/round1", "base", 1.0), ("iterative/round1", "no-limit/round1", -1.0),
                              ("no-limit/round1", "base", 2.0))
    ]
    steps = [
        {"step": k, "schedule": s, "round": 1, "limit": limit, "total_step": k, "reward": 0.5, "length": 60.0, "truncated": 0.1}
        for s, limit in (("iterative", 70), ("no-limit", 250)) for k in (1, 2, 3)
    ]
    points = [
        {"step": k, "schedule": s, "round": 1, "limit": 70, "accuracy": 80.0, "accuracy_low": 78.0, "accuracy_high": 82.0,
         "length": 90.0 - 10 * k, "selected": k == 2}
        for s in ("iterative", "no-limit") for k in (0, 1, 2)
    ]
    words = [
        {"model": m, "set": "mean", "keywords": w, "per_response": v, "per_response_low": v, "per_response_high": v,
         "per_1000_tokens": 9.0}
        for w, by_model in (("hesitation", (2.0, 0.5, 2.0)), ("core", (3.0, 3.0, 3.0)))
        for (m, *_), v in zip(models, by_model, strict=True)
    ]
    for name, rows in (("main", main), ("changes", changes), ("training", steps), ("validation", points), ("keywords", words)):
        files.write_csv(paths.of(settings).metrics / f"{name}.csv", pd.DataFrame(rows))
    return settings


def test_the_main_table_has_accuracy_length_and_both_changes_and_the_sets_stand_in_the_papers_layout(made_up: Config) -> None:
    table = tables.main_table(made_up)
    assert list(table.index) == ["base", "iterative, 70", "no limit"]
    assert list(table.columns) == ["accuracy (%)", "length (tokens)", "accuracy change (points)", "length change (%)"]
    assert list(table.loc["base"]) == ["80.0 [78.0, 82.0]", "90 [87, 93]", "", ""]
    assert list(table.loc["iterative, 70"])[2:] == ["+1.0 [-1.0, +1.5]", "-50 [-52, -48]"]
    sets = tables.set_table(made_up)
    assert list(sets.columns)[-1] == "× shortest" and sets.loc["iterative, 70", "× shortest"] == "2.25"
    assert sets.loc["base", "mean"] == "80.0 ± 2.0 / 90"


def test_a_column_in_which_nothing_is_known_is_left_out() -> None:
    assert "length change" in tables.published_table("paper") and "length change" not in tables.published_table("autothink")


def test_keywords_are_compared_with_the_base(made_up: Config) -> None:
    table = tables.keyword_table(made_up)
    assert table.loc["iterative, 70", "hesitation, change"] == "-75 %"
    assert table.loc["iterative, 70", "core, change"] == "+0 %"


def test_a_conclusion_is_computed_and_says_when_nothing_could_be_shown(made_up: Config) -> None:
    found = texts.conclusions(made_up)["Against the base model and the control"]
    assert found[0].startswith("iterative, 70 against base: length -50 % [-52, -48], accuracy +1.0 points [-1.0, +1.5]")
    shown = "These 96 problems show a change from 3.0 points on."
    assert found[0].endswith(f"no difference in accuracy could be shown. {shown}")
    assert found[1].startswith("iterative, 70 against no limit:") and found[1].endswith(f"accuracy is lower. {shown}")


@pytest.mark.parametrize("draw", [trade_off.trade_off, training_figures.training_curves, training_figures.validation_points])
def test_each_figure_is_written_as_png_and_svg_with_the_runs_name_and_what_it_shows(made_up: Config, draw: Callable) -> None:
    image = style.show(draw, made_up)
    path = paths.of(made_up).figures / f"{draw.__name__}.png"
    assert path.read_bytes().startswith(b"\x89PNG") and b"run smoke" in path.read_bytes()
    assert "run smoke" in path.with_suffix(".svg").read_text()
    caption, alternative = style.described(path)
    assert caption.startswith(draw.__doc__.strip().split(",")[0]) and image.alt == alternative and caption in alternative
    with PIL.Image.open(path) as picture:
        assert picture.width >= 200 * 7 and image.width == pytest.approx(picture.width * 96 / 200, abs=1)


def test_the_alternative_text_says_what_is_drawn(made_up: Config) -> None:
    alternative = style.show(trade_off.trade_off, made_up).alt
    assert "iterative, 70 81.0 % at 45 tokens" in alternative and "base 80.0 % at 90 tokens" in alternative


def test_a_name_covers_no_point_no_line_and_no_other_name(made_up: Config) -> None:
    """Three points closer to each other than their names are wide, joined by a line, at the panel's edge."""
    figure, axis = style.plt.subplots(figsize=(3, 3))
    at = [(0.95, 0.5, "first of them"), (0.97, 0.53, "second of them"), (0.96, 0.56, "third of them")]
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.plot([x for x, _, _ in at], [y for _, y, _ in at], marker="o")
    style.name_points(axis, at)
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [box.count_overlaps(boxes) for box in boxes] == [1, 1, 1]  # each its own
    line = axis.lines[0].get_path().transformed(axis.transData)
    assert not any(line.intersects_bbox(box, filled=False) for box in boxes)
    assert all(axis.bbox.contains(*corner) for box in boxes for corner in (box.p0, box.p1))


def test_every_model_is_a_point_at_its_length_and_accuracy(made_up: Config) -> None:
    large = trade_off.trade_off(made_up).axes[0]
    drawn = {tuple(at) for points in large.collections if isinstance(points, PathCollection) for at in points.get_offsets()}
    assert drawn == {(90, 80), (45, 81), (91, 82)}


def test_a_round_is_drawn_from_its_own_log(made_up: Config) -> None:
    log = pd.DataFrame({"step": [1, 2], "limit": 70, "reward": 0.5, "length": 60.0, "truncated": [0.2, 0.1]})
    files.write_csv(paths.of(made_up).training("iterative", 1) / "log.csv", log)
    reward, length, truncated = training_figures.round_curves(made_up, "iterative", 1).axes
    assert list(truncated.lines[0].get_ydata()) == [20, 10] and list(length.lines[1].get_ydata()) == [70, 70]
    live = training_figures.live_curves(log.to_dict("records"), 30, "step 2 of 30")
    assert live.alt == "step 2 of 30. reward 0.50 to 0.50; truncated 20% to 10%; length 60 to 60 tokens, limit 70."
    assert live.data.startswith(b"\x89PNG")


def test_models_differ_in_colour_and_schedules_in_marker_and_line_too(made_up: Config) -> None:
    three = dataclasses.replace(made_up, schedules={**made_up.schedules, "iterative": Schedule(limits=(70, 50, 30))})
    known = style.looks(three)
    rounds = [known[f"iterative/round{k}"] for k in (1, 2, 3)]
    assert len({to_hex(colour) for colour, _, _ in rounds}) == 3 and to_hex(rounds[-1][0]) == to_hex(known["iterative"][0])
    assert len({known[name][1:] for name in ("base", "iterative", "no-limit")}) == 3


def test_ten_schedules_look_different_from_one_another(made_up: Config) -> None:
    many = dataclasses.replace(made_up, schedules={f"s{k}": Schedule(limits=(70,)) for k in range(10)})
    assert len({style.looks(many)[f"s{k}"] for k in range(10)}) == 10


def test_the_figure_grows_with_the_number_of_sets(made_up: Config) -> None:
    main = files.read_csv(paths.of(made_up).metrics / "main.csv")
    names = [f"set{k}" for k in range(13)]  # a large one and three rows of small ones
    files.write_csv(paths.of(made_up).metrics / "main.csv", pd.concat(main[main.set == "two"].assign(set=name) for name in names))
    figure = trade_off.trade_off(dataclasses.replace(made_up, data=dataclasses.replace(made_up.data, evaluation=tuple(names))))
    figure.draw_without_rendering()
    sides = [min(box.width, box.height) / figure.dpi for box in (axis.get_window_extent() for axis in figure.axes)]
    assert len(sides) == 13 and min(sides) > 1.0  # inches


def test_a_bar_in_a_label_does_not_end_a_cell_of_a_markdown_table(made_up: Config) -> None:
    tables.save(tables.set_table(dataclasses.replace(made_up, set_labels={"two": "2 | steps"})), made_up, "piped")
    assert "| 2 \\| steps |" in (paths.of(made_up).figures / "piped.md").read_text().splitlines()[0]


def test_a_missing_results_file_is_one_line(made_up: Config) -> None:
    with pytest.raises(KitError, match="main.csv: not there yet; run the notebooks before this one"):
        tables.main_table(dataclasses.replace(made_up, run="elsewhere"))


def test_published_numbers_are_those_of_their_sources() -> None:
    """Read off the sources, once more and by hand: a slip in the YAML would be a false quotation."""
    published = read_yaml(ROOT / "params" / "published.yaml")
    rows = {r["model"]: r["cells"] for r in published["tables"]["autothink"]["rows"]}
    assert rows["DS-1.5B"] == {"math500": [83.1, 5622], "aime24": [27.5, 17322], "amc23": [62.5, 10981],
                               "olympiadbench": [43.7, 11555]}
    assert rows["DS-1.5B-iter2k"]["amc23"] == [64.9, 3300] and rows["QwQ-32B"]["olympiadbench"] == [69.0, 9445]
    assert [published["validation_curve"]["points"][s] for s in (20, 100, 180)] == [[20.7, 17712], [20.8, 11849], [20.6, 9336]]
    assert {t["label"] for t in published["tables"].values()} == {"Q", "T"}


def test_cells_nobody_could_source_stay_empty_and_derived_ones_say_so() -> None:
    table = tables.published_table("paper")
    assert table.loc["DS-1.5B", "olympiadbench"] == "– / 10346 (D)"
    assert table.loc["DS-1.5B-iter2k", "math500"] == "" and table.loc["DS-1.5B-iter2k", "mean"] == "– / 3574"
    assert table.loc["QwQ-32B pruned", "length change"] == "-49 %"
