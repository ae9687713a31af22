r"""How fast is the kit where the time goes? `make bench` runs this: python tests/bench_speed.py [--run laptop] [--out FOLDER]

On the base model of a finished run, each two or three ways in turns, so that what else the machine does falls on all alike:

- responses: 512 of the base model to its training problems, sampled by `kit.rollout.sampling`, by transformers' own `generate`,
  and, where `make test-vllm` has made its environment, by vLLM's CPU engine; response tokens per second;
- steps: of the round without a tight limit, by the kit, and by TRL's trainer as it comes, with its own reward; seconds a step;
- the chain: seconds of a core by part of the stages of that run, as its account.csv tells them.

Printed and written (sampling.csv, steps.csv, chain.csv): the median and the range over the turns, and the median and the range
of each turn's ratio.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import mock

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from kit.data import problems, prompts
from kit.rollout import engines, models
from kit.rollout.records import Sampling
from kit.runs import catalog, files, paths
from kit.settings import ROOT, Config, KitError, load
from kit.training import rounds

RESPONSES, TURNS, STEPS, VLLM = 512, 5, 4, ROOT / ".venv-vllm" / "bin" / "python"
CHILD = """
import json, sys, time
from vllm import LLM, SamplingParams
model, longest, ends = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
llm = LLM(model, dtype="float32", max_model_len=longest + 128, enforce_eager=True, seed=1)
for line in sys.stdin:
    how = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=longest, stop_token_ids=ends, detokenize=False)
    prompts = [{"prompt_token_ids": ids} for ids in json.loads(line)]
    began = time.perf_counter()
    made = sum(len(o.token_ids) for answer in llm.generate(prompts, how, use_tqdm=False) for o in answer.outputs)
    print("made", made, time.perf_counter() - began, flush=True)
"""


def asked(config: Config, tokenizer: object) -> list[list[int]]:
    """The prompts of 512 training problems, as token ids."""
    known = problems.load(config.data.train, config)[:RESPONSES]
    return [prompts.encode(tokenizer, prompts.training_messages(config.prompts, p.question, None)) for p in known]


def sampler(config: Config, plain: bool) -> Callable[[list[list[int]]], int]:
    """Responses to prompts by the kit's loop or transformers' own, at temperature 1; returns how many tokens they have in all."""
    engine = engines.TransformersEngine(catalog.base_model(config), config)
    how = Sampling(1, 1.0, 1.0, config.evaluation.max_new_tokens)

    def responses(ids: list[list[int]]) -> int:
        kept = engines.sample
        engines.sample = None if plain else kept  # `custom_generate=None` is transformers' own loop
        try:
            return sum(answer.length for _, answers in engine.generate(ids, how, [random.randrange(2**31)]) for answer in answers)
        finally:
            engines.sample = kept

    return responses


def with_wider_heads(source: str, folder: str, size: int = 32) -> str:
    """The same Qwen2 model as a Llama model whose heads have `size` places: what is added is zero. vLLM's CPU engine knows heads
    of 32 places, not of the laptop model's 24.

    Rotary positions turn place i of a head with place i + half; base ** (size / old) gives place i the frequency that it had.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    old = AutoModelForCausalLM.from_pretrained(source).eval()
    c, head = old.config, old.config.hidden_size // old.config.num_attention_heads

    def wider(values: torch.Tensor, scale: float = 1) -> torch.Tensor:
        halves = values.view(-1, 2, head // 2, *values.shape[1:]) * scale
        return torch.cat([halves, halves.new_zeros(len(halves), 2, (size - head) // 2, *values.shape[1:])], dim=2).flatten(0, 2)

    state = {}
    for name, values in old.state_dict().items():
        if "_proj" in name and "self_attn" in name:
            if "o_proj" in name:
                values, state[name.replace("weight", "bias")] = wider(values.T).T.contiguous(), torch.zeros(c.hidden_size)
            else:  # the scores are divided by the root of the size
                values = wider(values, (size / head) ** 0.5 if "q_proj" in name else 1)
        state[name] = values
    theta = c.rope_parameters["rope_theta"] ** (size / head)
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "eos_token_id", "pad_token_id")
    new = LlamaForCausalLM(LlamaConfig(**{key: getattr(c, key) for key in kept}, head_dim=size, attention_bias=True,
                                       rope_parameters={"rope_theta": theta, "rope_type": "default"})).eval()
    new.load_state_dict(state)
    ids = torch.arange(2, 200)[None]
    assert torch.allclose(old(ids).logits, new(ids).logits, atol=1e-3)
    new.save_pretrained(folder)
    models.load_tokenizer(source, load("params/laptop.yaml")).save_pretrained(folder)
    return folder


class VLLMOnCPU:
    """vLLM's CPU engine in a process and an environment of its own, on one core like the others."""

    def __init__(self, config: Config, ends: set[int]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        model = with_wider_heads(catalog.base_model(config), self.folder.name)
        command = [str(VLLM), "-c", CHILD, model, str(config.evaluation.max_new_tokens), json.dumps([*ends])]
        more = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(config.threads),
                "VLLM_CPU_KVCACHE_SPACE": "2"}
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      text=True, env=os.environ | more)

    def __call__(self, ids: list[list[int]]) -> tuple[int, float]:
        self.child.stdin.write(json.dumps(ids) + "\n")
        self.child.stdin.flush()
        for line in self.child.stdout:
            if line.startswith("made "):
                _, made, seconds = line.split()
                return int(made), float(seconds)
        raise KitError("vLLM's CPU engine ended; see it with .venv-vllm/bin/python -c 'import vllm'")


def sampling(config: Config) -> pd.DataFrame:
    """A row per turn and way: response tokens per second."""
    tokenizer = models.load_tokenizer(catalog.base_model(config), config)
    ids = asked(config, tokenizer)
    ways = {"kit.rollout.sampling": sampler(config, plain=False), "transformers' generate": sampler(config, plain=True)}
    if VLLM.exists():
        ways["vLLM's CPU engine"] = VLLMOnCPU(config, models.end_tokens(catalog.base_model(config), config, tokenizer))
    rows = []
    for turn in range(TURNS + 1):  # the first one warms up
        for way, respond in ways.items():
            began = time.perf_counter()
            made = respond(ids)
            tokens, seconds = made if isinstance(made, tuple) else (made, time.perf_counter() - began)
            if turn:
                rows.append({"turn": turn, "way": way, "value": tokens / seconds})
    return pd.DataFrame(rows)


def steps(config: Config) -> pd.DataFrame:
    """A row per turn and way: seconds of a step of the round with the highest limit, without each turn's first step."""
    free = max(config.schedules, key=lambda name: config.schedules[name].limits[0])
    limits = config.schedules[free].limits[:1]
    few = dataclasses.replace(config.schedules[free], limits=limits, steps=STEPS, checkpoint_every=STEPS)
    small, rows = dataclasses.replace(config, schedules={free: few}, run="bench"), []
    for turn in range(1, TURNS + 1):
        for way, train in {"kit.training": ours, "TRL as it comes": plain_trl}.items():
            with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
                here = Path(folder) / "bench"
                here.mkdir()
                for part in ("data", "models/base"):
                    (here / part).parent.mkdir(exist_ok=True)
                    (here / part).symlink_to(paths.of(config).root.resolve() / part)
                os.environ["KIT_RESULTS"] = folder
                rows.append({"turn": turn, "way": way, "value": median(train(small, free)[1:])})
    return pd.DataFrame(rows)


def ours(config: Config, schedule: str) -> list[float]:
    """Seconds of each step of a round by the kit."""
    with contextlib.redirect_stderr(io.StringIO()):
        rounds.train_round(config, schedule, 1)
    return files.read_csv(paths.of(config).training(schedule, 1) / "log.csv").seconds.tolist()


def plain_trl(config: Config, schedule: str) -> list[float]:
    """The same with TRL's trainer, generation and reward: what one would write without the kit."""
    from datasets import Dataset
    from trl import GRPOTrainer
    from trl.rewards import accuracy_reward

    start, tokenizer, rows = rounds.prepare(config, schedule, 1)
    data = Dataset.from_list([{"prompt": row["prompt"], "solution": f"${row['answer']}$"} for row in rows])
    plan = config.schedules[schedule]
    args = rounds.grpo_settings(config, paths.of(config).models(schedule, 1), plan.limits[0], STEPS, 1, save_steps=STEPS)
    trainer = GRPOTrainer(model=start, args=args, reward_funcs=accuracy_reward, train_dataset=data, processing_class=tokenizer)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return [row["step_time"] for row in trainer.state.log_history if "step_time" in row]


def compared(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Per way: median and range over the turns, and the median and range of the kit's advantage, turn by turn."""
    wide = table.pivot(index="turn", columns="way", values="value")
    own = next(way for way in wide if way.startswith("kit."))
    faster = wide.rdiv(wide[own], axis=0) if "per second" in unit else wide.div(wide[own], axis=0)
    rows = []
    for way in table.way.unique():
        of, factor = wide[way], faster[way]
        rows.append({"way": way, unit: of.median(), "lowest": of.min(), "highest": of.max(), "kit is faster by": factor.median(),
                     "at least": factor.min(), "at most": factor.max()})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="laptop", help="a finished run of params/laptop.yaml (results/<run>)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench", help="folder of the tables")
    arguments = parser.parse_args()
    config = dataclasses.replace(load("params/laptop.yaml"), run=arguments.run)
    if not paths.of(config).base_model.is_dir():
        sys.exit(f"error: {paths.of(config).shown} has no base model; make reproduce makes one")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, unit, measure in (("sampling", "response tokens per second", sampling), ("steps", "seconds a step", steps)):
        table = compared(measure(config), unit)
        table.round(3).to_csv(arguments.out / f"{name}.csv", index=False)
        print(table.round(2).to_string(index=False), flush=True)
    whole = files.read_json(paths.of(config).notebooks / "00_run_all.ipynb")["metadata"]["papermill"]["duration"]
    chain = files.read_csv(paths.of(config).account).groupby("part", sort=False).seconds.sum().sort_values(ascending=False)
    chain.to_csv(arguments.out / "chain.csv")
    print(f"{paths.of(config).shown}: {whole or 0:.0f} s by the clock; seconds of a core by part of its stages:")
    print(chain.round(1).to_string())


if __name__ == "__main__":
    main()
