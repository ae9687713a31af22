"""The gallery: small pages that say what they were made from, and that belong to the kit and the params as they are."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kit.report import gallery, sidebyside, style
from kit.report.sidebyside import Case, Side
from kit.runs import files, paths
from kit.settings import ROOT, Config, KitError, load

PAGES = sorted(gallery.FOLDER.glob("*.ipynb"))
OURS = [path for path in PAGES if path.stem.startswith("laptop_")]


def test_all_pages_together_are_small_and_hold_no_state_of_widgets() -> None:
    assert sum(path.stat().st_size for path in PAGES) < 3_000_000
    for path in PAGES:
        page = nbformat.read(path, as_version=4)
        assert "widgets" not in page.metadata
        outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
        assert outputs and not [output for output in outputs if gallery.WIDGETS in output.get("data", {})]


@pytest.mark.parametrize("page", OURS, ids=lambda path: path.stem)
def test_a_page_belongs_to_the_kit_and_the_params(page: Path) -> None:
    changed = gallery.changed(page)
    assert not changed, f"{changed}: the page shows another kit's run; `make gallery` makes it anew"
    kept = nbformat.read(page, as_version=4)
    source = nbformat.read(ROOT / "notebooks" / f"{kept.metadata.kit.notebook}.ipynb", as_version=4)
    ours = [cell.source for cell in kept.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    assert ours == [cell.source for cell in source.cells]


@pytest.fixture
def made(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Path]:
    """Executed notebooks of a run, each with a noisy picture, a frame, a bar and a warning; the gallery is elsewhere."""
    config, noise = load(ROOT / "params" / "smoke.yaml"), io.BytesIO()
    colours = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    PIL.Image.fromarray(colours).save(noise, "PNG")
    sides = Side("a", "x < 1 .", 3, "correct"), Side("b", "y", 1, "correct")
    case = Case("median", "two", "p", 0, "<b>?", "7", sides, "tokens")
    frame = sidebyside.embedded(sidebyside.page([case], config))
    shown = style.Picture(data=noise.getvalue(), alt="what it shows, 10 % < 20 %")._repr_mimebundle_()
    outputs = [new_output("display_data", shown),
               new_output("display_data", {"text/html": frame}), new_output("display_data", {gallery.WIDGETS: {}}),
               new_output("stream", name="stderr", text="warning"), new_output("stream", name="stdout", text="kept")]
    for name in ("00_run_all", "02_prune_round-iterative-1", "05_behavior", "06_figures"):
        cell = new_code_cell("1", outputs=outputs, metadata={"papermill": {"duration": 1}, "tags": ["parameters"]})
        page = new_notebook(cells=[new_markdown_cell("# Title"), cell], metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3"}, "widgets": {"state": "much"}})
        paths.of(config).notebooks.mkdir(parents=True, exist_ok=True)
        nbformat.write(page, paths.of(config).notebooks / f"{name}.ipynb")
    monkeypatch.setattr(gallery, "FOLDER", tmp_path)
    return config, gallery.make(config)[1]


def test_a_page_keeps_what_readers_see_in_few_colours(made: tuple[Config, Path]) -> None:
    page = nbformat.read(made[1], as_version=4)
    assert made[1].name == "smoke_02_prune_round.ipynb" and set(page.metadata) == {"kernelspec", "language_info", "kit"}
    cell = page.cells[1]
    assert cell.metadata == {"tags": ["parameters"]}
    picture, frame, text = cell.outputs
    shown = PIL.Image.open(io.BytesIO(base64.b64decode(picture.data["image/png"])))
    assert shown.size == (160, 120) and len(shown.getcolors()) == 64
    assert picture.metadata["image/png"]["alt"] == "what it shows, 10 % < 20 %"
    html = frame.data["text/html"]
    assert "<iframe" not in html and "<style" not in html and html.count('<td class="side">') == 2
    assert "x &lt; 1 ." in html and "&lt;b&gt;?" in html and text.text == "kept"  # what a model wrote stays text


def test_a_page_tells_which_setting_or_code_is_no_longer_as_it_was(made: tuple[Config, Path]) -> None:
    assert gallery.changed(made[1]) == ""
    page = nbformat.read(made[1], as_version=4)
    page.metadata.kit.made_from |= {"training.learning_rate": 0.5, "code: kit/reward/token_limit.py": "another"}
    nbformat.write(page, made[1])
    assert gallery.changed(made[1]) == "kit/reward/token_limit.py changed, training.learning_rate is 0.0003, was 0.5"


def test_a_run_of_other_code_or_settings_gets_no_pages(made: tuple[Config, Path]) -> None:
    config, page = made
    before = gallery.made_from(config)
    files.write_json(paths.of(config).stages / "02_prune_round-iterative-1.json", {"inputs": before | {"file: a.csv": [1]}})
    assert gallery.make(config)[1] == page
    files.write_json(paths.of(config).stages / "06_figures.json", {"inputs": before | {"seed": 9}})
    with pytest.raises(KitError, match=r"smoke was made from something else \(seed is 1, was 9\); run params/smoke.yaml again"):
        gallery.make(config)
