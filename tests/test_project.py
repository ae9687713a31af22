"""The project's own files: pins, notebooks, imports, what must not be committed."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from kit.settings import ROOT, read_yaml

NOTEBOOKS, COLAB = (sorted((ROOT / "notebooks").glob(form)) for form in ("*.ipynb", "colab/*.ipynb"))


def pins(lines: list[str]) -> dict[str, str]:
    found = (re.fullmatch(r"([A-Za-z0-9.-]+?)([=><]\S*)", line.split("#")[0].strip()) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def test_environment_yml_has_the_same_pins_as_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = pins([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    conda = read_yaml(ROOT / "environment.yml")["dependencies"]
    listed = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert "-e ." in listed
    assert pins([line for line in listed if line != "-e ."]) == ours
    assert f"vllm{pins(project['optional-dependencies']['vllm'])['vllm']}" in (ROOT / "environment.yml").read_text()
    assert f"torch{ours['torch']}" in (ROOT / "Makefile").read_text()


def test_the_lock_has_the_pins_of_pyproject_and_names_no_place_to_fetch_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = pins([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {line.split(" ; ")[0] for line in lines}
    exact = {f"{name.replace('.', '-')}{version}" for name, version in ours.items() if version.startswith("==")}
    assert exact - locked == set()
    assert all(re.fullmatch(r"#.*|[a-z0-9-]+==[a-z0-9.]+( ; .*)?", line) and "//" not in line for line in lines)


def test_uv_installs_the_same_versions_as_pip_from_the_public_index_alone() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {(p["name"], p["version"]) for p in packages}
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines()
             if not re.search(r"^#|== '(win32|darwin|nt|emscripten)'", line)]
    asked = {tuple(line.split(" ; ")[0].split("==")) for line in lines}
    assert len(asked) > 150 and asked - locked == set()
    assert {p["source"]["registry"] for p in packages if "registry" in p["source"]} == {"https://pypi.org/simple"}
    own = next(p for p in packages if "editable" in p["source"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {key: {entry["name"] for entry in value} for key, value in own["optional-dependencies"].items()}
    assert named == {key: set(pins(value)) for key, value in project["optional-dependencies"].items()}
    assert {entry["name"] for entry in own["dependencies"]} == {name.replace(".", "-") for name in pins(project["dependencies"])}


def test_environment_yml_says_why_each_dependency_is_there() -> None:
    lines = re.findall(r"^\s+(?:# )?- [a-z0-9.-]+[=>]=.*", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    assert len(lines) > 15
    assert all(re.search(r"  # \w", line) for line in lines)


def test_a_folder_imports_only_from_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True, no_logo=True) == 0


def test_importing_all_of_the_kit_imports_no_heavy_package() -> None:
    heavy = ["torch", "transformers", "trl", "vllm", "datasets", "math_verify"]
    found = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "kit").rglob("*.py") if path.stem != "__main__"]
    code = f"import {', '.join('.'.join(path.parts) for path in found)}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(found) > 40 and done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *COLAB], ids=lambda p: p.stem)
def test_what_a_notebook_calls_is_there(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    modules = {alias.asname or alias.name: importlib.import_module(f"{node.module}.{alias.name}") for node in ast.walk(tree)
               if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kit" for alias in node.names
               if importlib.util.find_spec(f"{node.module}.{alias.name}")}
    used = {(node.value.id, node.attr) for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules}
    assert used and [f"{name}.{attribute}" for name, attribute in used if not hasattr(modules[name], attribute)] == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, *COLAB], ids=lambda p: p.stem)
def test_a_notebook_is_clean_short_and_parameterized(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse("".join(tagged[0]["source"])).body:  # plain literals only: papermill misreads the rest
        assert isinstance(node, ast.Assign) and ast.literal_eval(node.value) is not None
    file = "colab-gpu" if path.stem == "gpu" else "laptop"
    assert f'params_file = "params/{file}.yaml"' in "".join(tagged[0]["source"])
    assert len(code) <= 30
    for cell in code:
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 25
        assert not re.search(r"^\s*(def|class) ", source, re.MULTILINE), "logic lives in kit"


@pytest.mark.parametrize("path", COLAB, ids=lambda p: p.stem)
def test_a_notebook_on_colab_installs_the_kit_first_and_only_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, *cells = json.loads(path.read_text())["cells"]
    source = "".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"])
    (place,) = re.findall(r"https://colab\.research\.google\.com/github/([^/]+/[^/]+)/blob/main/(.+?)\)", "".join(top["source"]))
    assert place == (re.search(r"https://github\.com/([\w-]+/[\w-]+)", source)[1], str(path.relative_to(ROOT)))
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(source, {})
    assert called == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    exec(source, {})
    assert [command[:4] for command in called] == [["git", "clone", "--quiet", "--depth"],
                                                   [sys.executable, "-m", "pip", "install"]]


def test_what_jupyter_saves_into_a_notebook_leaves_git_clean_and_an_edit_does_not(tmp_path: Path) -> None:
    """In a clone with the filter that `make lab` sets; saved as JupyterLab does after running the first code cell."""
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "git config filter.notebooks.clean .ci/clean-notebook" in (ROOT / "Makefile").read_text()
    notebook = tmp_path / "notebooks" / NOTEBOOKS[0].name
    notebook.parent.mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    shutil.copy(ROOT / ".ci" / "clean-notebook", tmp_path / ".ci")
    shutil.copy(NOTEBOOKS[0], notebook)
    git("init", "-q")
    git("config", "filter.notebooks.clean", ".ci/clean-notebook")
    git("add", ".")
    git("commit", "-qm", "a")
    saved = json.loads(notebook.read_text())
    saved["metadata"]["language_info"] = {"codemirror_mode": {"name": "ipython"}, "name": "python", "version": "3.13.1"}
    saved["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    cell = next(cell for cell in saved["cells"] if cell["cell_type"] == "code")
    cell |= {"execution_count": 1, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["said\n"]}]}
    settings = types.SimpleNamespace(FileContentsManager=types.SimpleNamespace())
    runpy.run_path(str(ROOT / ".ci" / "jupyter" / "jupyter_server_config.py"), {"c": settings})

    def save() -> None:
        notebook.write_text(json.dumps(saved, indent=1) + "\n")
        settings.FileContentsManager.post_save_hook({"type": "notebook"}, str(notebook), None)

    save()
    assert git("status", "--porcelain") == "" and "said" in notebook.read_text()
    cell["source"].append("\nedited")
    save()
    assert git("status", "--porcelain") == f" M notebooks/{notebook.name}\n"  # and nothing is staged
    changed = git("diff")
    assert r'+    "\nedited"' in changed and "said" not in changed and "3.13.1" not in changed


PAGES = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("notebooks", "params", "kit")),
         ROOT / ".github" / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.parent.name)
def test_a_page_fits_its_column_and_every_link_leads_somewhere(page: Path) -> None:
    """A link's heading is written as code hosts do: lower case, spaces as dashes, other marks left out."""
    def anchors(file: Path) -> set[str]:
        return {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")}

    text = page.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if len(line) > 110 and not line.startswith(("|", "!["))] == []
    code = "\n".join(re.findall(r"```.*?\n(.*?)```", text, re.DOTALL))
    assert [line for line in code.splitlines() if len(line) > 90] == []
    for link in re.findall(r"\]\(((?!https)[^)]+)\)", text):
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists() and (not anchor or anchor in anchors(there)), link


def test_every_params_file_and_every_notebook_is_listed_on_its_folders_page() -> None:
    for folder, ending in (("params", "yaml"), ("notebooks", "ipynb")):
        told = re.findall(r"`([\w.*-]+)`", (ROOT / folder / "README.md").read_text(encoding="utf-8"))
        missing = [path.name for path in (ROOT / folder).glob(f"*.{ending}")
                   if not any(path.match(name) or path.stem == name for name in told)
                   and not path.stem.startswith("own-model-")]  # test_own_model has them there for a while
        assert missing == [], folder


def test_readme_is_two_screens() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= 1000


def test_ruff_is_content() -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
