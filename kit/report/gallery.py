"""The gallery: executed notebooks of a run as a code host shows them to readers without a kernel, in notebooks/gallery.

Small: pictures in 64 colours, no state of widgets. A page holds what it was made from, so that `changed` can tell when it no
longer belongs to the kit and the params: by the rule by which the runner would do a stage again (runs/fingerprint).
"""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import PIL.Image

from kit.runs import files, fingerprint, manifest, paths
from kit.settings import ROOT, Config, KitError, load

FOLDER = ROOT / "notebooks" / "gallery"
COLOURS = 64
CONTENT = ("behavior.phases", "seeds")  # of these a stage's record has what is in them
WIDGETS = "application/vnd.jupyter.widget-view+json"
# What style.Picture and sidebyside.embedded write.
PICTURE = re.compile(r'<img alt="([^"]*)" style="(?:[^"]*width:(\d+)px)?[^"]*" src="data:image/png;base64,([^"]*)">')
FRAME = re.compile(r'<iframe sandbox[^>]*? srcdoc="([^"]*)"[^>]*></iframe>')


def make(config: Config) -> list[Path]:
    """Write the pages of a finished run: the runner, its first schedule's first round, behavior, figures; of one that compares
    rewards, notebook 07. Returns their paths.

    KitError for a run of other code or settings than there are now.
    """
    if not config.schedules:
        raise KitError(f"{config.file}: a gallery is of a run that prunes; this one has no schedules")
    run, now, was = paths.of(config), made_from(config), {}
    for marker in sorted(run.stages.glob("*.json")):  # the figures', which is the last, has all settings but training's
        was |= {name: value for name, value in files.read_json(marker)["inputs"].items() if name in now and name not in CONTENT}
    if other := fingerprint.told(was, {name: now[name] for name in was}):
        raise KitError(f"{run.shown} was made from something else ({other}); run {config.file} again")
    shown = {"00_run_all": "", "02_prune_round": f"-{next(iter(config.schedules))}-1", "05_behavior": "", "06_figures": ""}
    if any(schedule.reward for schedule in config.schedules.values()):
        shown = {"07_rewards": ""}
    written = []
    for notebook, stage in shown.items():
        copy = run.notebooks / f"{notebook}{stage}.ipynb"
        files.read_json(copy)  # in one line where it is missing or damaged
        page = nbformat.read(copy, as_version=4)
        slim(page)
        page.metadata["kit"] = {"params": config.file, "commit": manifest.commit(), "notebook": notebook, "made_from": now}
        written.append(files.write_text(FOLDER / f"{config.run}_{notebook}.ipynb", nbformat.writes(page) + "\n"))
    return written


def slim(page: nbformat.NotebookNode) -> None:
    """Leave of an executed notebook what its readers see."""
    page.metadata = {"kernelspec": page.metadata.kernelspec, "language_info": {"name": "python"}}
    for cell in page.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [smaller(output) for output in cell.outputs
                            if WIDGETS not in output.get("data", {}) and output.get("name") != "stderr"]


def smaller(output: Any) -> Any:
    """An output with its picture in few colours, and the pages in its frames, which a code host leaves out, as plain HTML."""
    shown = output.get("data", {}).get("text/html", "")
    if picture := PICTURE.fullmatch(shown):
        alt, small = html.unescape(picture[1]), io.BytesIO()
        whole = PIL.Image.open(io.BytesIO(base64.b64decode(picture[3]))).convert("RGB")
        whole.quantize(COLOURS, dither=PIL.Image.Dither.NONE).save(small, "PNG", optimize=True)
        output["data"] = {"image/png": base64.b64encode(small.getvalue()).decode(), "text/plain": alt}
        output["metadata"]["image/png"] = {"alt": alt} | ({"width": int(picture[2])} if picture[2] else {})
    elif shown:
        output["data"]["text/html"] = FRAME.sub(
            lambda frame: html.unescape(frame[1]).partition("<main>")[2].partition("</main>")[0], shown)
    return output


def made_from(config: Config) -> dict[str, Any]:
    """What the numbers of a run hang on, by name: its settings, and the code of its notebooks and of what they import."""
    found = fingerprint.settings(config)
    for notebook in sorted((ROOT / "notebooks").glob("0[0-7]_*.ipynb")):
        found |= fingerprint.code(notebook)
    return json.loads(manifest.scrubbed(json.dumps(found), config))


def changed(page: Path) -> str:
    """What is no longer as it was when a page was made, in words; empty where it still belongs."""
    kit = nbformat.read(page, as_version=4).metadata.kit
    return fingerprint.told(kit.made_from, made_from(load(kit.params)))
