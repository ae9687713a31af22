"""Models and tokenizers: checked and loaded. What is wrong with a folder is told in one line before the heavy work starts.

Weights are read from safetensors only: a pickle runs whatever its author put into it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit.data.prompts import TAGS
from kit.runs import files
from kit.settings import Config, KitError

INDEX = "model.safetensors.index.json"
FILES = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"]  # .py is read only with trust_remote_code
AGAIN = "copy or download it again"


def fetch(source: str | Path, revision: str | None = None) -> str:
    """The folder of a model: a local one, or the hub's, downloaded (safetensors only) where it is not there yet; checked.

    With a folder in place of the id, TRL and vLLM too get the pinned revision and nothing but these files.
    """
    folder = str(source)
    if not Path(source).is_dir():
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", folder):
            raise KitError(f"{source}: no such folder, and not a hub id (owner/name)")
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(folder, revision=revision, allow_patterns=FILES)
        except OSError as error:  # all of the hub's own are
            raise KitError(f"{source}: not a folder here, not downloaded yet, and not to be had from the hub "
                           f"({files.first_line(error)}); where it can be reached, `hf download {source}` fetches it") from None
    check(Path(folder))
    return folder


def check(folder: Path) -> None:
    """Refuse a folder that is not a whole model in safetensors; KitError names the folder or file and what is wrong with it."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise KitError(f"{folder}: a LoRA adapter, not a model; a round's own checkpoints have the whole model in merged/")
    if not isinstance(_json(folder / "config.json").get("model_type"), str):
        raise KitError(f"{folder / 'config.json'}: names no model_type, so this is not a transformers model")
    names = {"model.safetensors"}
    if (folder / INDEX).is_file():
        names = set(dict(_json(folder / INDEX).get("weight_map") or {}).values())
        if not names:
            raise KitError(f"{folder / INDEX}: has no weight_map")
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        there = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin", ".pt", ".pth")]
        raise KitError(f"{folder}: {len(missing)} of {len(names)} weight files are missing ({', '.join(missing[:3])}), there are "
                       f"{', '.join(there[:3]) or 'none'}; {AGAIN}. Only safetensors are read, for a pickle can run code when it "
                       "is loaded; save_pretrained writes them")
    for name in sorted(names):
        check_safetensors(folder / name)


def check_safetensors(file: Path) -> None:
    """Refuse a safetensors file that is cut off, overwritten or none at all; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        raise KitError(f"{file}: cut off, overwritten, or not a safetensors file ({error}, {file.stat().st_size} bytes); "
                       f"{AGAIN}") from None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise KitError(f"{file.parent}: not a model ({file.name} is missing)")
    table = files.read_json(file)
    if not isinstance(table, dict):
        raise KitError(f"{file}: should be a JSON object")
    return table


# --- loading ----------------------------------------------------------------------------------------------------------


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
        raise KitError(f"{source}: not a model that can be loaded ({files.first_line(error)})") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _own(source: str | Path, config: Config) -> tuple[Any, Any]:
    """(config, generation config) of a model that need not be loaded."""
    from transformers import AutoConfig, GenerationConfig

    where = {"revision": config.model.revision, "trust_remote_code": config.model.trust_remote_code}
    try:
        model = AutoConfig.from_pretrained(source, **where)
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: not a model ({files.first_line(error)})") from None
    with suppress(OSError):  # the file is optional
        return model, GenerationConfig.from_pretrained(source, **where)
    return model, GenerationConfig.from_model_config(model)


def end_tokens(source: str | Path, config: Config, tokenizer: Any) -> set[int]:
    """Every token id that ends a response: a second end token is a finish, not a truncation."""
    ids = _own(source, config)[1].eos_token_id
    return {i for i in (*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id) if i is not None}


def longest(source: str | Path, config: Config) -> int:
    """How many tokens prompt and response may have together, where a server has the model."""
    wanted = config.data.prompt_cap + config.evaluation.max_new_tokens
    return config.engine.max_model_len or min(wanted, getattr(_own(source, config)[0], "max_position_embeddings", wanted))


def load_tokenizer(source: str | Path, config: Config) -> Any:
    """The tokenizer of a folder or hub id, padding on the left, `<think>` and `</think>` kept when decoding.

    A tokenizer.json is taken as it stands. AutoTokenizer goes by the model type instead and would put Qwen2's byte-level
    rules over the laptop's word-level vocabulary, or over another family's, without a word. KitError where there is no chat
    template, no end token, or a token id beyond the model's embedding. A missing pad token becomes the end token, with a note.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    if Path(source).is_dir() and not (Path(source) / "tokenizer_config.json").is_file():
        raise KitError(f"{source}: no tokenizer here (tokenizer_config.json is missing)")
    where, trust = {"revision": config.model.revision, "padding_side": "left"}, config.model.trust_remote_code

    def file(name: str) -> str | None:
        return cached_file(str(source), name, revision=config.model.revision, _raise_exceptions_for_missing_entries=False)

    try:
        if file("tokenizer.json") and not trust:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **where)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **where)
        described = file("config.json")
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: its tokenizer cannot be loaded ({files.first_line(error)})") from None
    if not tokenizer.chat_template:
        raise KitError(f"{source}: its tokenizer has no chat template (chat_template.jinja, or chat_template in "
                       "tokenizer_config.json), and prompts are written with it; is this the instruction-tuned model?")
    if tokenizer.eos_token_id is None:
        raise KitError(f"{source}: its tokenizer has no end token (eos_token in tokenizer_config.json): no response would end")
    rows, last = _json(Path(described)).get("vocab_size") if described else None, max(tokenizer.get_vocab().values())
    if isinstance(rows, int) and last >= rows:
        raise KitError(f"{source}: its tokenizer has token ids up to {last}, but the model's embedding has {rows} rows: "
                       "the tokenizer is another model's")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        print(f"{source}: its tokenizer has no pad token; {tokenizer.eos_token} is used, which is masked like any padding")
    return _keep_tags(tokenizer)


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
