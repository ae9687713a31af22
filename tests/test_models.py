"""What a model's folder must have, tried on real folders that were broken by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.laptop import arithmetic
from kit.rollout import models
from kit.settings import ROOT, Config, KitError, load


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 model in three parts, with the laptop's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("whole")
    tokenizer = arithmetic.make_tokenizer()
    config = Qwen2Config(vocab_size=len(tokenizer) + 8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)
    Qwen2ForCausalLM(config).save_pretrained(folder, max_shard_size="8KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture(scope="module")
def settings() -> Config:
    return load(ROOT / "params" / "smoke.yaml")


def change(file: Path, **values: object) -> None:
    table = json.loads(file.read_text())
    for key, value in values.items():
        table.pop(key, None)
        if value is not None:
            table[key] = value
    file.write_text(json.dumps(table))


def part(folder: Path, number: int) -> Path:
    return folder / f"model-0000{number}-of-00003.safetensors"


def swap_header(folder: Path) -> None:
    data = part(folder, 1).read_bytes()
    part(folder, 1).write_bytes(data[:8] + b"x" + data[9:])


def to_pickle(folder: Path) -> None:
    import torch

    for file in folder.glob("model*"):
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def rename(folder: Path) -> None:
    """As another framework might have saved it."""
    from safetensors.torch import load_file, save_file

    for number in (1, 2, 3):
        save_file({f"module.{name}": tensor for name, tensor in load_file(part(folder, number)).items()}, part(folder, number),
                  metadata={"format": "pt"})
    index = json.loads((folder / models.INDEX).read_text())
    change(folder / models.INDEX, weight_map={f"module.{name}": file for name, file in index["weight_map"].items()})


SPOILT = "not a whole safetensors file (Error while deserializing header: "
BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "not a model that can be loaded (Unrecognized model"),
    ("half a config", lambda f: (f / "config.json").write_text('{"model_'), "is not a valid JSON file"),
    ("another config", lambda f: (f / "config.json").write_text("{}"), "Should have a `model_type` key"),
    ("a part missing", lambda f: part(f, 2).unlink(), "model-00002-of-00003.safetensors: not a whole safetensors file (No such"),
    ("no index", lambda f: (f / models.INDEX).unlink(), "model.safetensors: not a whole safetensors file (No such"),
    ("an empty index", lambda f: (f / models.INDEX).write_text("{}"), "not a model that can be loaded ('weight_map')"),
    ("a part cut off", lambda f: part(f, 3).write_bytes(part(f, 3).read_bytes()[:-5]), SPOILT),
    ("a part longer", lambda f: part(f, 3).write_bytes(part(f, 3).read_bytes() + b"12345"), SPOILT),
    ("a header cut off", lambda f: part(f, 1).write_bytes(part(f, 1).read_bytes()[:100]), SPOILT),
    ("an empty part", lambda f: part(f, 1).write_bytes(b""), SPOILT),
    ("a foreign part", swap_header, SPOILT),
    ("other names", rename, "tensors of the model are not in its weights, such as "),
    ("another size", lambda f: change(f / "config.json", hidden_size=32), "not a model that can be loaded ("),
    ("pickle only", to_pickle, "copy or download it again. Nothing else is read, for a pickle can run code"),
]


@pytest.mark.parametrize(("break_it", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_folder_is_refused_by_name_and_reason(
    folder: Path, settings: Config, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(folder)
    with pytest.raises(KitError) as caught:
        models.load_model(folder, settings)
    assert message in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_folder_loads(folder: Path, settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    models.load_model(folder, settings)
    models.load_tokenizer(folder, settings)
    assert capsys.readouterr().out == ""  # and there is nothing to say about it


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda f: change(f / "config.json", vocab_size=100), "but the model's embedding has 100 rows"),
    (lambda f: change(f / "tokenizer_config.json", eos_token=None), "its tokenizer has no end token"),
], ids=["another model's", "no end"])
def test_a_tokenizer_that_does_not_fit_is_refused(
    folder: Path, settings: Config, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(folder)
    with pytest.raises(KitError) as caught:
        models.load_tokenizer(folder, settings)
    assert message in str(caught.value) and str(folder) in str(caught.value)


def test_a_token_that_was_added_and_never_used_may_lie_beyond_the_embedding(folder: Path, settings: Config) -> None:
    rows = len(models.load_tokenizer(folder, settings))
    file = folder / "tokenizer.json"
    core = json.loads(file.read_text())
    core["added_tokens"].append({**core["added_tokens"][0], "id": rows, "content": "<image>"})
    file.write_text(json.dumps(core))
    assert len(models.load_tokenizer(folder, settings)) == rows + 1


def test_a_missing_pad_token_becomes_the_end_token_and_is_told(
    folder: Path, settings: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = models.load_tokenizer(folder, settings)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert f"{folder}: its tokenizer has no pad token; <eos> is used" in capsys.readouterr().out


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface_hub lays it out, with one model at one revision, and no network."""
    import huggingface_hub

    cached = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(whole, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "v1").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cached / "snapshots" / ("a" * 40)


def test_a_hub_id_is_found_in_the_cache_at_its_revision(hub: Path) -> None:
    assert models.fetch("somebody/tiny", "v1") == str(hub)
    with pytest.raises(KitError, match="somebody/tiny: not a folder here, not downloaded yet, .*`hf download"):
        models.fetch("somebody/tiny", "v2")


def test_a_broken_download_is_refused_too(hub: Path) -> None:
    part(hub, 1).write_bytes(part(hub, 1).read_bytes()[:200])
    with pytest.raises(KitError, match="model-00001-of-00003.safetensors: not a whole safetensors file"):
        models.fetch("somebody/tiny", "v1")


@pytest.mark.parametrize("source", ["./models/none", "/nowhere/model", "a/b/c", "../x"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_told(source: str) -> None:
    with pytest.raises(KitError, match=f"{source}: not a folder here, .* not to be had from the hub"):
        models.fetch(source)
