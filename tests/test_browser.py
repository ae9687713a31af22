"""What people see, in a real browser without a window: JupyterLab on loopback, the report and the gallery.

`make test-browser` installs what is needed. Screenshots are kept where KIT_SHOTS names a folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_run
import nbconvert
import pytest

from kit.evaluation import comparisons
from kit.report import explorer, gallery
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, load

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

TOKEN = "a-token-of-the-tests"
PARAMS = f"""
extends: {ROOT / 'params' / 'smoke.yaml'}
run: lab
training: {{steps: 12, checkpoint_every: 2}}
schedules: {{iterative: {{label: iterative, limits: [60]}}}}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of a browser; Debian's Chromium, or playwright's own."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@pytest.fixture
def shot(page: Any, tmp_path: Path) -> Callable[[str], None]:
    """Take a screenshot."""
    folder = Path(os.environ.get("KIT_SHOTS", tmp_path))
    return lambda name: page.screenshot(path=folder / f"{name}.png")


@pytest.fixture(scope="module")
def trained(results: Path) -> Config:
    """The smoke run with its base model, and the params that the notebooks in the lab are given."""
    file = results / "lab.yaml"
    file.write_text(PARAMS)
    subprocess.run([sys.executable, "-m", "kit", "run", str(file), "01_base_model"], cwd=ROOT, check=True, capture_output=True)
    return load(file)


@pytest.fixture(scope="module")
def fake(results: Path) -> Config:
    """A finished run whose responses were written by rules."""
    made = fake_run.make(fake_run.settings(results))
    comparisons.compare_models(made)
    return made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, results: Path) -> Iterator[Callable[..., str]]:
    """JupyterLab on loopback; called with a notebook's name and settings, it gives the address of a copy with these params (and
    of its cells, these ids only)."""
    folder = tmp_path_factory.mktemp("lab")
    for place, setting in (("notebook-extension/tracker", '{"windowingMode": "none"}'),  # else cells out of sight are not there
                           ("apputils-extension/notification", '{"fetchNews": "false", "checkForUpdates": false}')):
        settings = folder / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(setting)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.root_dir": folder,
               "IdentityProvider.token": TOKEN, "LabApp.user_settings_dir": folder / "settings"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *(f"--{k}={v}" for k, v in options.items())],
            env={**os.environ, "PYTHONPATH": str(ROOT), "KIT_RESULTS": str(results)}, stdout=log, stderr=log, cwd=folder)

    def address(notebook: str, config: Config, cells: tuple[str, ...] | None = None) -> str:
        text = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
        text["cells"] = [cell for cell in text["cells"] if cells is None or cell["id"] in cells]
        for cell in text["cells"]:
            cell["source"] = [line.replace("params/laptop.yaml", str(results / f"{config.run}.yaml")) for line in cell["source"]]
        (folder / f"{notebook}.ipynb").write_text(json.dumps(text))
        return f"http://127.0.0.1:{port}/lab/tree/{notebook}.ipynb?token={TOKEN}&reset"

    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def run_all(page: Any) -> None:
    """Wait until the kernel is idle, then the menu's Run All Cells."""
    page.locator(".jp-Notebook").wait_for(timeout=120_000)
    page.locator("#jp-main-statusbar").get_by_text("(ipykernel) | Idle").wait_for(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def in_place(page: Any) -> Any:
    """The plot of the running round."""
    return page.locator('img[alt*="step "][alt*=" of 12"]')


def test_a_round_is_seen_while_it_trains_is_stopped_by_the_button_and_goes_on(
    page: Any, lab: Callable[..., str], trained: Config, shot: Callable[[str], None]
) -> None:
    place = paths.of(trained).training("iterative", 1)
    page.goto(lab("02_prune_round", trained))
    run_all(page)
    in_place(page).wait_for(timeout=300_000)
    page.wait_for_function("document.querySelector('img[alt*=\" of 12\"]').naturalWidth > 300")
    first = in_place(page).get_attribute("alt")
    page.wait_for_function(f"document.querySelector('img[alt*=\" of 12\"]').alt !== {json.dumps(first)}", timeout=120_000)
    assert in_place(page).count() == 1  # redrawn in place
    in_place(page).scroll_into_view_if_needed()
    shot("training")
    while not catalog.checkpoints(paths.of(trained).models("iterative", 1)):
        time.sleep(0.2)
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    error = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output pre").filter(
        has_text="interrupted after step")
    error.first.wait_for(timeout=120_000)
    assert len(error.first.inner_text().strip().splitlines()) == 1
    error.first.scroll_into_view_if_needed()
    shot("stopped")
    before = files.read_csv(place / "log.csv")
    assert 2 <= len(before) < 12
    kept = catalog.checkpoints(paths.of(trained).models("iterative", 1))[-1]
    written = (kept / "trainer_state.json").stat().st_mtime_ns
    run_all(page)
    page.locator(".jp-RenderedMarkdown", has_text="Selected: step").wait_for(timeout=600_000)
    assert list(files.read_csv(place / "log.csv").step) == list(range(1, 13))
    assert (kept / "trainer_state.json").stat().st_mtime_ns == written  # it went on from there
    for alt in ("Reward, mean length", "step 12 of 12"):
        assert page.locator(f'img[alt*="{alt}"]').first.evaluate("picture => picture.naturalWidth") > 300
    frame = page.locator('iframe[title="responses side by side"]')
    frame.scroll_into_view_if_needed()
    assert frame.content_frame.locator("td.side").count() == 2
    shot("trained")


def test_the_explorer_follows_what_is_picked(
    page: Any, lab: Callable[..., str], fake: Config, shot: Callable[[str], None]
) -> None:
    page.goto(lab("05_behavior", fake, ("05-01", "05-02", "05-03", "explorer")))
    run_all(page)
    frame = page.frame_locator('iframe[title="responses side by side"]')
    frame.locator("td.side").first.wait_for(timeout=120_000)
    assert frame.locator("td.side").count() == 2 and frame.locator(".step.core").count() > 1  # one is the legend's
    lists = page.locator(".widget-dropdown select, .jupyter-widgets select:not([multiple])")
    heads, right = frame.locator("td.side h3"), re.compile("tokens, correct$")
    lists.nth(1).select_option(explorer.FILTERS["broke"])
    playwright.expect(heads.nth(1)).not_to_have_text(right)
    playwright.expect(heads.nth(0)).to_have_text(right)
    shot("explorer")
    page.locator("select[multiple]").select_option(["iterative, 60", "iterative, 30"])
    playwright.expect(heads).to_have_count(3)
    lists.nth(1).select_option(explorer.FILTERS["saved most"])
    playwright.expect(heads).to_have_text([right] * 3)


def test_two_models_answer_beside_each_other_and_the_limit_stops_them(
    page: Any, lab: Callable[..., str], trained: Config, shot: Callable[[str], None]
) -> None:
    """After the round of the first test."""
    page.goto(lab("08_try_it", trained))
    run_all(page)
    ask, heads = page.get_by_role("button", name="Ask"), page.locator(".widget-html b, .jupyter-widgets b")
    page.get_by_text("One response each proves nothing").wait_for(timeout=300_000)
    ask.click()
    page.wait_for_function("[...document.querySelectorAll('b')].filter(b => /\\d+ tokens/.test(b.innerText)).length >= 2")
    page.locator("button:not([disabled])", has_text="Ask").wait_for(timeout=120_000)
    shot("playground")
    limit = page.locator(".widget-readout").first
    limit.click()
    limit.fill("5")
    limit.press("Enter")
    ask.click()
    page.wait_for_function("[...document.querySelectorAll('b')].filter(b => /stopped at 5/.test(b.innerText)).length == 2")
    assert heads.count() >= 2
    shot("playground-limited")


# --- pages without a kernel -------------------------------------------------------------------------------------------


def look_over(page: Any, path: Path, shot: Callable[[str], None]) -> None:
    """No serious fault for people who cannot see or use a mouse (axe-core; the colours of code are nbconvert's), and no sideways
    scrolling on a phone."""
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(path.as_uri())
    found = Axe().run(page, {"exclude": [[".highlight"]]}).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    shown = page.evaluate("[...document.images].map(picture => [picture.naturalWidth > 300, picture.alt.length > 10])")
    assert shown and all(map(all, shown))
    shot(path.stem)
    page.set_viewport_size({"width": 360, "height": 740})
    wide = page.evaluate("document.documentElement.scrollWidth")
    shot(f"{path.stem}-phone")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert wide <= 360


def test_the_report_is_readable_on_a_phone_and_for_everybody(page: Any, fake: Config, shot: Callable[[str], None]) -> None:
    from kit.report import style, texts, trade_off

    style.show(trade_off.trade_off, fake)
    look_over(page, texts.write_report(fake), shot)


@pytest.mark.parametrize("notebook", sorted(gallery.FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_page_of_the_gallery_is_readable_on_a_phone_and_for_everybody(
    page: Any, notebook: Path, tmp_path: Path, shot: Callable[[str], None]
) -> None:
    """As nbconvert shows it, without its pale numbers of cells; what a code host does to it cannot be tested here."""
    path = tmp_path / f"{notebook.stem}.html"
    exporter = nbconvert.HTMLExporter(template_name="lab", exclude_input_prompt=True, exclude_output_prompt=True)
    path.write_text(exporter.from_filename(notebook)[0], encoding="utf-8")
    look_over(page, path, shot)
