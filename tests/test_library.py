"""The kit in somebody else's scripts: the examples of kit/README.md, with the kit installed, outside of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import families
import pytest

from kit.settings import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "kit" / "README.md").read_text(), re.DOTALL)
# What a test cannot have: the hub's models, and so many tokens.
SMALLER = {"Qwen/Qwen2.5-1.5B-Instruct": "tiny", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "tiny", "=4000": "=8",
           "(4000": "(8", "1000": "4", "=500": "=4", 'output_dir="out"': 'output_dir="out", max_steps=1, bf16=False'}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the kit's wheel has in it, built from a copy of the project that is gone."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("kit", "params", "notebooks"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "gallery"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"  # uv's environments have no pip
    subprocess.run([sys.executable, "-c", build, site], cwd=source, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    shutil.rmtree(source)
    return site


def tiny_model(folder: Path) -> None:
    """A model of a few thousand parameters that has learned nothing."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tok = families.make_tokenizer("qwq", ["What is 3 + 4? Put the answer into \\boxed{}. </think> **Final Answer:**\n\n"] * 9)
    torch.manual_seed(0)
    GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=len(tok), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)).save_pretrained(folder)
    tok.save_pretrained(folder)


def test_every_example_runs_where_only_the_installed_kit_is(installed: Path, tmp_path: Path) -> None:
    assert len(EXAMPLES) == 6 and all(len(code.splitlines()) <= 15 for code in EXAMPLES)
    tiny_model(tmp_path / "tiny")
    for name, said in (("base", 3), ("pruned", 4)):
        rows = [{"question": f"4+{k}?", "answer": str(4 + k), "model_answer": [f"\\boxed{{{said + k}}}"],
                 "model_answer_length": [said]} for k in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, code in enumerate(EXAMPLES):
        for long, short in SMALLER.items():
            code = code.replace(long, short)
        (tmp_path / f"example{number}.py").write_text(code)
    every = "import kit, runpy; print(kit.__file__)\nfor k in range(6): runpy.run_path(f'example{k}.py', run_name='__main__')"
    printed = python(installed, tmp_path, every)
    assert printed.startswith(str(installed))
    assert "'train_runtime'" in printed and "['correct', 'no answer', 'wrong']" in printed
    assert re.search(r"accuracy_change +100\.0", printed) and re.search(r"length_change +33\.3", printed)
    assert re.search(r"58 % \[\d+, \d+\]\n\+12\.5 points \[-?\+?\d+\.\d, \+\d+\.\d\]", printed)
    assert printed.endswith("(4000, 3000, 2000) 32000\n")


def test_an_installed_kit_has_params_and_notebooks_and_writes_where_it_is_called_from(installed: Path, tmp_path: Path) -> None:
    for files in ("params/*.yaml", "params/*/*.yaml", "params/reference/*.json", "notebooks/*.ipynb", "kit/report/templates/*"):
        here = [path.relative_to(ROOT).as_posix().removeprefix("kit/") for path in ROOT.glob(files)]
        assert here and all((installed / "kit" / path).is_file() for path in here)
    code = "from kit.runs import manifest, paths; from kit.settings import load\n" \
           "print(paths.of(load('params/smoke.yaml')).root, manifest.commit())"
    assert python(installed, tmp_path, code) == f"{tmp_path}/results/smoke unknown\n"
    code = "import os; from kit.chain import stages; os.chdir(stages.NOTEBOOKS); " \
           "os.system(f'{os.sys.executable} -c \"from kit.runs import paths; print(paths.results())\"')"  # as kernels are started
    assert python(installed, tmp_path, code) == f"{tmp_path}/results\n"
    (tmp_path / "mine.csv").write_text("question,answer\n1+1?,2\n2+2?,4\n3+3?,6\n")
    (tmp_path / "test.csv").write_text("question,answer\nWho is it?,me\n")
    code = "from kit.chain import commands; commands.main('new mine --model o/m --train mine.csv --test test.csv'.split())"
    assert python(installed, tmp_path, code).startswith("params/mine.yaml: written") and (tmp_path / "params/mine.yaml").is_file()


def python(installed: Path, folder: Path, code: str) -> str:
    """What a Python prints that is started in this folder and has the installed kit."""
    environment = {name: value for name, value in os.environ.items() if name != "KIT_RESULTS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**environment, "PYTHONPATH": str(installed)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
