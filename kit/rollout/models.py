"""Models and tokenizers, loaded. What is wrong with a folder is told in one line before the heavy work starts.

Weights are read from safetensors only: a pickle runs whatever its author put into it.
"""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from kit.data.prompts import TAGS
from kit.runs import files
from kit.settings import Config, KitError

INDEX = "model.safetensors.index.json"
FILES = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"]  # .py is read only with trust_remote_code


def fetch(source: str | Path, revision: str | None = None) -> str:
    """The folder of a model: a local one, or the hub's, downloaded (safetensors only) where it is not there yet; its weights are
    whole files. With a folder in place of the id, TRL and vLLM too get the pinned revision and nothing but these files."""
    folder = str(source)
    if not Path(source).is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(folder, revision=revision, allow_patterns=FILES)
        except (OSError, ValueError) as error:  # all of the hub's own are
            raise KitError(f"{source}: not a folder here, not downloaded yet, and not to be had from the hub "
                           f"({files.first_line(error)}); where it can be reached, `hf download {source}` fetches it") from None
    if (Path(folder) / "adapter_config.json").is_file():
        raise KitError(f"{source}: a LoRA adapter, not a model; a round's whole model lies in its `merged` folder")
    index = Path(folder) / INDEX
    parts = files.read_json(index).get("weight_map", {}).values() if index.is_file() else ["model.safetensors"]
    for name in sorted(set(parts)):
        check_safetensors(Path(folder) / name)
    return folder


def check_safetensors(file: Path) -> None:
    """Refuse a safetensors file that is missing, cut off, overwritten or none at all; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        raise KitError(f"{file}: not a whole safetensors file ({error}); copy or download it again. Nothing else is read, for a "
                       "pickle can run code when it is loaded; save_pretrained writes safetensors") from None


def load_model(source: str | Path, config: Config) -> Any:
    """A causal language model from a folder or hub id: safetensors only, no remote code unless params allow it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # "Loading weights", left over in every notebook, and "Writing model shards"
    source, m = fetch(source, config.model.revision), config.model
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, dtype=getattr(torch, m.dtype), trust_remote_code=m.trust_remote_code,
            output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise KitError(f"{source}: not a model that can be loaded ({files.first_line(error)})") from None
    if missing := sorted(found["missing_keys"]):
        raise KitError(f"{source}: {len(missing)} tensors of the model are not in its weights, such as {missing[0]}, and would "
                       "be random; are the weights another model's, or saved with other names?")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def end_tokens(source: str | Path, config: Config, tokenizer: Any) -> set[int]:
    """Every token id that ends a response: a second end token is a finish, not a truncation. The model is not loaded."""
    from transformers import AutoConfig, GenerationConfig

    where = {"revision": config.model.revision, "trust_remote_code": config.model.trust_remote_code}
    try:
        ids = GenerationConfig.from_model_config(AutoConfig.from_pretrained(source, **where)).eos_token_id
        with suppress(OSError):  # this file is optional
            ids = GenerationConfig.from_pretrained(source, **where).eos_token_id
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: not a model ({files.first_line(error)})") from None
    return {i for i in (*(ids if isinstance(ids, list) else [ids]), tokenizer.eos_token_id) if i is not None}


def load_tokenizer(source: str | Path, config: Config) -> Any:
    """The tokenizer of a folder or hub id, padding on the left, `<think>` and `</think>` kept when decoding. A tokenizer.json is
    taken as it stands: AutoTokenizer goes by the model type and would put Qwen2's byte-level rules over another vocabulary.
    KitError where there is no end token, or a token id beyond the model's embedding."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    m = config.model
    where = {"revision": m.revision, "_raise_exceptions_for_missing_entries": False}
    try:
        as_it_stands = cached_file(str(source), "tokenizer.json", **where) and not m.trust_remote_code
        tokenizer = (PreTrainedTokenizerFast if as_it_stands else AutoTokenizer).from_pretrained(
            source, padding_side="left", revision=m.revision, trust_remote_code=m.trust_remote_code)
        described = cached_file(str(source), "config.json", **where)
    except (OSError, ValueError) as error:
        raise KitError(f"{source}: its tokenizer cannot be loaded ({files.first_line(error)})") from None
    if tokenizer.eos_token_id is None:
        raise KitError(f"{source}: its tokenizer has no end token (eos_token in tokenizer_config.json): no response would end")
    rows = files.read_json(Path(described)).get("vocab_size") if described else None
    added = set(tokenizer.get_added_vocab().values()) - {tokenizer.eos_token_id}  # some families add tokens that no model has
    if rows and (last := max(set(tokenizer.get_vocab().values()) - added)) >= rows:
        raise KitError(f"{source}: its tokenizer has token ids up to {last}, but the model's embedding has {rows} rows: "
                       "the tokenizer is another model's")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        print(f"{source}: its tokenizer has no pad token; {tokenizer.eos_token} is used, which is masked like any padding")
    if config.prompts and config.prompts.template_arguments:  # for whoever renders a prompt, TRL too
        tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, **config.prompts.template_arguments)
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in core["added_tokens"]:
        token["special"] &= token["content"] not in TAGS  # `skip_special_tokens` would drop them
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    return tokenizer
