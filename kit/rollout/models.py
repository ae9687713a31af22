"""Models and tokenizers: checked and loaded. What is wrong with a folder is told in one line before the heavy work starts.

Weights are read from safetensors only: a pickle runs whatever its author put into it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kit.data.prompts import TAGS
from kit.runs import files
from kit.settings import Config, KitError

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
    """Refuse a safetensors file that is cut off, overwritten or none at all; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        raise KitError(f"{file}: cut off, overwritten, or not a safetensors file ({error}, {file.stat().st_size} bytes); "
                       "copy or download it again") from None


# --- loading ---------------------------------------------------------------------------------------------------------


def load_model(source: str | Path, config: Config) -> Any:
    """A causal language model from a folder or hub id: safetensors only, no remote code unless params allow it."""
    import torch
    from transformers import AutoModelForCausalLM

    source = fetch(source, config.model.revision)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, dtype=getattr(torch, config.model.dtype),
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: not a model that can be loaded ({str(error).splitlines()[0]})") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(source: str | Path, config: Config) -> Any:
    """The tokenizer of a folder or hub id, padding on the left, `<think>` and `</think>` kept when decoding.

    A tokenizer.json is taken as it stands. AutoTokenizer goes by the model type instead and would put Qwen2's byte-level
    rules over the laptop's word-level vocabulary, or over another family's, without a word.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    if Path(source).is_dir() and not (Path(source) / "tokenizer_config.json").is_file():
        raise KitError(f"{source}: no tokenizer here (tokenizer_config.json is missing)")
    trust, revision = config.model.trust_remote_code, config.model.revision
    try:
        whole = cached_file(str(source), "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        if whole and not trust:
            found = PreTrainedTokenizerFast.from_pretrained(source, padding_side="left", revision=revision)
        else:
            found = AutoTokenizer.from_pretrained(source, padding_side="left", revision=revision, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    return fitting(_keep_tags(found), source, revision)


def _keep_tags(tokenizer: Any) -> Any:
    """Makes the thinking tags ordinary tokens where they are special ones, which `skip_special_tokens` would drop."""
    from tokenizers import Tokenizer

    core = json.loads(tokenizer.backend_tokenizer.to_str())
    hidden = [token for token in core["added_tokens"] if token["content"] in TAGS and token["special"]]
    if hidden:
        for token in hidden:
            token["special"] = False
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    return tokenizer


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
        table = files.read_json(file)
    except (ValueError, OSError) as error:
        raise KitError(f"{file}: cannot be read as JSON ({error}); copy or download it again") from None
    if not isinstance(table, dict):
        raise KitError(f"{file}: should be a JSON object")
    return table
