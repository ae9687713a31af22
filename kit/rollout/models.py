"""Whether a folder holds a model that can be loaded, told in one line before the heavy work starts.

Weights are read from safetensors only: a pickle runs whatever its author put into it. A safetensors file begins with 8 bytes
(the length of its header, little-endian) and the header, JSON that gives each tensor's shape and its place in the rest; so
a glance at the header says whether the file is whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kit.runs import paths
from kit.settings import KitError

INDEX = "model.safetensors.index.json"
FILES = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"]  # .py is read only with trust_remote_code
CONVERT = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes safetensors, if you trust the file"


def fetch(source: str | Path, revision: str | None = None) -> str:
    """The folder of a model: a local one, or the hub's, downloaded (safetensors only) where it is not there yet; checked.

    With a folder in place of the id, TRL and vLLM too get the pinned revision and nothing but these files.
    """
    if Path(source).is_dir():
        check(source)
        return str(source)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(source)):
        raise KitError(f"{source}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = snapshot_download(str(source), revision=revision, allow_patterns=FILES)
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise KitError(f"{source}: not a folder here, and not downloaded yet while the hub cannot be reached; where it can, "
                           f"`hf download {source}` fetches it") from None
        raise KitError(f"{source}: no such folder, and the hub does not give it ({str(error).strip().splitlines()[0]})") from None
    check(folder)
    return folder


def check(folder: str | Path) -> None:
    """Refuse a folder that is not a whole model in safetensors; KitError names the folder or file and what is wrong with it."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise KitError(f"{folder}: a LoRA adapter, not a model; merge it into its base model and name that folder "
                           "(a round's own checkpoints have it in merged/)")
        raise KitError(f"{folder}: not a model (config.json is missing)")
    config = _json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise KitError(f"{folder / 'config.json'}: names no model_type, so this is not a transformers model")
    for name in _weight_files(folder):
        check_safetensors(folder / name)


def _weight_files(folder: Path) -> list[str]:
    """Names of the folder's weight files; KitError when there are none or the index names some that are missing."""
    if (folder / INDEX).is_file():
        listed = _json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise KitError(f"{folder / INDEX}: has no weight_map")
        names = sorted(set(listed.values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise KitError(f"{folder}: half-written, {INDEX} names {len(names)} files and {len(missing)} are missing "
                           f"({', '.join(missing[:3])}{', …' if missing[3:] else ''}); copy or download it again")
        return names
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    if any(re.search(r"-of-\d+\.safetensors$", name) for name in names):
        raise KitError(f"{folder}: half-written, its weights are in parts but {INDEX} is missing; copy or download it again")
    if "model.safetensors" in names:
        return ["model.safetensors"]
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
    if pickles:
        raise KitError(f"{folder}: only pickle weights ({pickles[0]}), which can run code when they are loaded; the kit reads "
                       f"safetensors. {CONVERT}")
    raise KitError(f"{folder}: config.json but no weights (model.safetensors or {INDEX}); copy or download it again")


def check_safetensors(file: Path) -> None:
    """Refuse a safetensors file that is cut off or has no readable header."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            raise KitError(f"{file}: cut off in its header ({size} bytes); copy or download it again")
        try:
            tensors = {k: v for k, v in json.loads(handle.read(length)).items() if k != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise KitError(f"{file}: not a safetensors file (its header cannot be read)") from None
    if size != 8 + length + end:
        raise KitError(f"{file}: {size} bytes where its header says {8 + length + end}: cut off or overwritten; "
                       "copy or download it again")


def fitting(tokenizer: Any, source: str | Path, revision: str | None = None) -> Any:
    """The tokenizer, if it fits the model at `source`: it has a chat template and an end token, and no token id beyond the
    model's embedding. A missing pad token becomes the end token, with a note."""
    from huggingface_hub import try_to_load_from_cache

    if not tokenizer.chat_template:
        raise KitError(f"{source}: its tokenizer has no chat template (chat_template.jinja, or chat_template in "
                       "tokenizer_config.json), and prompts are written with it; is this the instruction-tuned model?")
    if tokenizer.eos_token_id is None:
        raise KitError(f"{source}: its tokenizer has no end token (eos_token in tokenizer_config.json): no response would end")
    file = Path(source) / "config.json"
    if not Path(source).is_dir():  # a hub id; its config.json was fetched along with the tokenizer
        file = Path(str(try_to_load_from_cache(str(source), "config.json", revision=revision)))
    if file.is_file():
        config = _json(file)
        rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
        last = max(tokenizer.get_vocab().values())
        if isinstance(rows, int) and last >= rows:
            raise KitError(f"{source}: its tokenizer has token ids up to {last}, but the model's embedding has {rows} rows: "
                           "the tokenizer is another model's")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        print(f"{source}: its tokenizer has no pad token; {tokenizer.eos_token} is used, which is masked like any padding")
    return tokenizer


def _json(file: Path) -> dict[str, Any]:
    try:
        table = paths.read_json(file)
    except (ValueError, OSError) as error:
        raise KitError(f"{file}: cannot be read as JSON ({error}); copy or download it again") from None
    if not isinstance(table, dict):
        raise KitError(f"{file}: should be a JSON object")
    return table
