"""The laptop's world: chains of arithmetic, a word-level tokenizer, and a small model that thinks too long.

A problem is "Start with 17 , first * 4 , second - 39 . What is the result ?"; every number of it and of its solution lies
in 0 .. largest. A thinking trace is made of these parts, of which only the first is needed:

- core steps      `Compute first 17 * 4 = 68 .`  or, spelled out,
                  `Compute first 17 * 4 : 10 * 4 = 40 , 7 * 4 = 28 , 40 + 28 = 68 .`
- restatements    `Okay , the problem says start with 17 , first * 4 , second - 39 .`
- step checks     `Wait , 17 * 4 : 10 * 4 = 40 , 7 * 4 = 28 , 40 + 28 = 68 , not 58 .`
- whole checks    `Wait , let me double-check . first 17 * 4 = 68 , second 68 - 39 = 29 . Yes , 29 again .`

One look at a step is wrong more often than spelling it out: slips are written into the traces, and a model of this size
does not hold all facts of two-digit arithmetic, while the parts of a spelled-out step are easy. So thinking can be
shortened by degrees: whole checks, step checks and restatements go nearly free; then steps are merged, and accuracy pays.

The model is also taught a few facts wrong, and always the same way (`MISBELIEFS`: it believes that 6 + 7 = 14). Checking
does not help against those, and neither does reward, since no response ever gets them right: as with the problems that
a real model cannot solve, they are the part of its errors that thinking longer or shorter does not touch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kit import paths, problems, prompts
from kit.config import Config, KitError
from kit.problems import Problem
from kit.settings import Arithmetic

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

# --- problems ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """One problem: `start`, then (operation, operand) pairs."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        return f"Start with {self.recipe} . What is the result ?"

    @property
    def recipe(self) -> str:
        named = (f"{name} {op} {operand}" for name, (op, operand) in zip(ORDINALS, self.steps, strict=False))
        return " , ".join([str(self.start), *named])

    @property
    def answer(self) -> int:
        value = self.start
        for op, operand in self.steps:
            value = apply(value, op, operand)
        return value


def apply(a: int, op: str, b: int) -> int:
    """a op b, for op one of + - *."""
    return a + b if op == "+" else a - b if op == "-" else a * b


# Last digits of both numbers, of sums with a carry and differences with a borrow that the model believes one off.
MISBELIEFS = {"+": {(6, 7), (7, 6), (8, 5), (5, 8)}, "-": {(3, 8), (2, 9), (5, 7), (1, 6)}, "*": set()}


def believe(a: int, op: str, b: int) -> int:
    """What the model is taught a op b to be: right, but for its misbeliefs."""
    wrong = (a % 10, b % 10) in MISBELIEFS[op]
    return apply(a, op, b) + (0 if not wrong else 1 if op == "+" else -1)


def draw_chain(rng: random.Random, operations: int, largest: int) -> Chain:
    """A random problem with this many operations and all numbers within 0 .. largest."""
    start = value = rng.randint(2, largest)
    steps: list[tuple[str, int]] = []
    while len(steps) < operations:
        op = rng.choices("+-*", (0.4, 0.4, 0.2))[0]
        if op == "*":
            if not 2 <= value <= largest // 2:
                continue
            operand = rng.randint(2, min(9, largest // value))
        else:
            room = largest - value if op == "+" else value
            if room < 3:
                continue
            operand = rng.randint(3, room)
        value = apply(value, op, operand)
        steps.append((op, operand))
    return Chain(start, tuple(steps))


def shortest(chain: Chain) -> str:
    """The shortest correct response: one look per step, nothing else. The physical limit of pruning."""
    value, shown = chain.start, []
    for name, (op, operand) in zip(ORDINALS, chain.steps, strict=False):
        result = apply(value, op, operand)
        shown.append(f"Compute {name} {value} {op} {operand} = {result} .")
        value = result
    return f"{' '.join(shown)} </think> \\boxed{{ {value} }}"


def make_data(config: Config) -> dict[str, int]:
    """Write every data set of the run into results/<run>/data; no question occurs twice. Returns their sizes."""
    a, run = config.arithmetic, paths.of(config)
    sizes = dict.fromkeys(config.data.evaluation, a.evaluation_problems)
    sizes[config.data.validation] = a.validation_problems
    sizes[config.data.train] = a.train_problems
    rng = random.Random(config.seed)
    seen: set[str] = set()
    for name, size in sizes.items():
        chains: list[Chain] = []
        for attempt in range(100 * size):
            chain = draw_chain(rng, a.operations[name][attempt % len(a.operations[name])], a.largest)
            if chain.question not in seen:
                seen.add(chain.question)
                chains.append(chain)
            if len(chains) == size:
                break
        else:
            raise KitError(f"{config.file}: arithmetic: there are not {size} different problems for {name}; "
                           "ask for fewer, for more operations, or a larger `largest`")
        core = [len(shortest(c).split()) + 1 for c in chains]  # the end token counts
        rows = [Problem(f"{name}-{i}", c.question, str(c.answer), n) for i, (c, n) in enumerate(zip(chains, core, strict=True))]
        problems.write(run.data(name), rows)
    return sizes


# --- thinking ---------------------------------------------------------------------------------------------------------


def is_hard(a: int, op: str, b: int) -> bool:
    """Steps one easily gets wrong at one look: a carry, a borrow, a two-digit factor."""
    if op == "+":
        return a % 10 + b % 10 > 9
    if op == "-":
        return a % 10 < b % 10
    return a > 10


def slip(rng: random.Random, right: int, op: str, b: int, largest: int) -> int:
    """A plausible wrong result: a forgotten carry, off by one, or off by one factor."""
    offsets = (b, -b, 10, -10) if op == "*" else (10, -10, 10, -10, 1, -1)
    return rng.choice([right + d for d in offsets if 0 <= right + d <= largest])


def parts(a: int, op: str, b: int) -> list[tuple[int, str, int]]:
    """The easy steps that a op b is made of: tens first, then units. One step if there is nothing to take apart."""
    tens, units = divmod(a if op == "*" else b, 10)
    tens *= 10
    if not tens or not units:
        return [(a, op, b)]
    if op == "*":
        return [(tens, "*", b), (units, "*", b), (tens * b, "+", units * b)]
    return [(a, op, tens), (apply(a, op, tens), op, units)]


def work_out(rng: random.Random, a: Arithmetic, x: int, op: str, y: int, spelled: bool) -> tuple[str, int]:
    """One step as text, and its result, which is wrong now and then."""
    right, pieces = believe(x, op, y), parts(x, op, y)
    spelled = spelled and len(pieces) > 1
    h = a.habits
    p = h.slip_spelled if spelled else h.slip_hard if is_hard(x, op, y) else h.slip_easy
    result = slip(rng, right, op, y, a.largest) if rng.random() < p else right
    if not spelled:
        return f"{x} {op} {y} = {result}", result
    shown = [f"{u} {o} {v} = {believe(u, o, v)}" for u, o, v in pieces[:-1]]
    u, o, v = pieces[-1]
    return f"{x} {op} {y} : {' , '.join(shown)} , {u} {o} {v} = {result}", result


def go_through(
    rng: random.Random, a: Arithmetic, chain: Chain, careful: float, lead: str = "", joint: str = " , ", check: float = 0.0
) -> tuple[str, int] | None:
    """All steps of a chain once, going on with whatever came out: (text, result); None if a slip leads out of range."""
    value, shown = chain.start, []
    for name, (op, operand) in zip(ORDINALS, chain.steps, strict=False):
        if not 0 <= apply(value, op, operand) <= a.largest:
            return None
        share = careful if is_hard(value, op, operand) else careful * a.habits.spelled_easy
        text, result = work_out(rng, a, value, op, operand, rng.random() < share)
        shown.append(f"{lead}{name} {text}")
        if rng.random() < check:
            text, again = work_out(rng, a, value, op, operand, True)
            shown.append(f"Wait , {text} , " + ("right" if again == result else f"not {result}"))
            result = again
        value = result
    return joint.join(shown), value


def think(rng: random.Random, chain: Chain, a: Arithmetic) -> tuple[str, int]:
    """A whole trace (without the tags) and the answer it arrives at."""
    habits = a.habits
    first = None
    while first is None:
        careful, check = rng.choice(habits.careful), rng.choice(habits.step_check)
        first = go_through(rng, a, chain, careful, "Compute ", " . ", check)
    said, value = [f"{first[0]} ."], first[1]
    if rng.random() < habits.restate:
        said.insert(0, f"Okay , the problem says start with {chain.recipe} .")
    for more in habits.another_round:
        again = go_through(rng, a, chain, 1.0 if rng.random() < habits.careful_check else 0.0)
        if again is None or rng.random() >= more:
            break
        opening = rng.choice(("Wait , let me double-check .", "Alternatively , let me check again ."))
        if again[1] == value:
            said.append(f"{opening} {again[0]} . Yes , {value} again .")
            continue
        said.append(f"{opening} {again[0]} . But wait , {again[1]} is not {value} .")
        value = again[1]
        last = go_through(rng, a, chain, 1.0)  # one more careful look decides
        if last is not None:
            said.append(f"Let me compute it again . {last[0]} .")
            value = last[1]
    said.append(f"Therefore , the answer is {value} .")
    return " ".join(said), value


# --- tokenizer and model ----------------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> <think>{% endif %}"
)
WORDS = (  # noqa: SIM905 - one string, so that it reads
    "Start with first second third fourth fifth sixth . , : ? + - * = What is the result Okay problem "
    "says start Compute Wait let me double-check Alternatively check again it But wait not Yes right "
    "Therefore answer final The Let compute <think> </think> \\boxed{ } Think output should be within "
    "tokens give in a box step by and your "
).split()
PIECES = r"</?\w+>|\\boxed\{|\w+(?:-\w+)*|[^\w\s]"
SPECIAL = ("<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
LIMITS = (*range(100), *range(100, 601, 10))  # the numbers there are words for


def make_tokenizer() -> Any:
    """Word-level and lossless on its own output; `<think>` and `</think>` are ordinary words, so decoding keeps them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, *WORDS, *map(str, LIMITS)])
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"], padding_side="left",
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )


def make_model(a: Arithmetic, tokenizer: Any, seed: int) -> Any:
    """A small Qwen2 with random weights.

    Its initial spread suits its width (the usual 0.02 suits large models, and learns late here). The embeddings of
    numbers start as Fourier features of their values, as those of pretrained language models are found to be
    (arXiv 2406.03445): without them a model of this size spends its few minutes on learning what numbers are.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=a.hidden_size, intermediate_size=a.intermediate_size,
        num_hidden_layers=a.layers, num_attention_heads=a.heads, num_key_value_heads=a.key_value_heads,
        max_position_embeddings=a.max_length, tie_word_embeddings=True, initializer_range=0.06,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))
    values = torch.arange(100.0)[:, None]
    periods = torch.tensor([2.0, 4.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0])
    angles = 2 * math.pi * values / periods
    features = torch.cat([angles.sin(), angles.cos(), values / 50 - 1], dim=1)
    spread = torch.randn(features.shape[1], a.hidden_size) * 0.06 / math.sqrt(features.shape[1])
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids([str(n) for n in range(100)])] += features @ spread
    return model

def drill_batch(rng: random.Random, a: Arithmetic, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """One batch of bare equations, as (token ids, labels); only the results are learned from.

    Mostly the easy parts of steps, so that spelling a step out becomes reliable; `drill_direct` of them are whole steps at
    one look, which stay unreliable: there are too many for a model of this size and so few minutes.
    """
    rows = []
    for _ in range(2 * a.sft_batch):
        facts: list[tuple[int, str, int]] = []
        while len(facts) < 10:
            chain = draw_chain(rng, 5, a.largest)
            value = chain.start
            for op, operand in chain.steps:
                facts += [(value, op, operand)] if rng.random() < a.drill_direct else parts(value, op, operand)
                value = apply(value, op, operand)
        rng.shuffle(facts)
        words = " ".join(f"{x} {op} {y} = {believe(x, op, y)} ." for x, op, y in facts[:10])
        ids = tokenizer(words)["input_ids"]
        rows.append((ids, [token if i % 6 == 4 else -100 for i, token in enumerate(ids)]))
    return rows


def sft_batches(config: Config, tokenizer: Any) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of (token ids, labels): drills and traces in turn; no question is in a held-out set.

    Half of the prompts are training prompts with a random limit that the trace ignores, as a model before pruning does;
    the others are evaluation prompts. Labels are -100 on prompts, and on the thinking of traces that are cut off.
    """
    a, run = config.arithmetic, paths.of(config)
    held_out = {p.question for name in (config.data.validation, *config.data.evaluation) for p in problems.read(run.data(name))}
    rng = random.Random(config.seed + 1)
    lengths = a.operations[config.data.train]
    drills = a.drill_steps
    while True:
        examples = []
        while len(examples) < 50 * a.sft_batch:
            chain = draw_chain(rng, rng.choice(lengths), a.largest)
            if chain.question in held_out:
                continue
            trace, value = think(rng, chain, a)
            messages = prompts.evaluation_messages(config.prompts, chain.question)
            if rng.random() < 0.5:
                messages = prompts.training_messages(config.prompts, chain.question, rng.choice(LIMITS[20:]))
            cut = rng.random() < a.habits.cut
            ending = f" </think> \\boxed{{ {value} }}"
            if cut:
                words = trace.split()
                trace = " ".join(words[: rng.randint(0, len(words))])
                ending = f" {config.prompts.text('forcing_ending')} \\boxed{{ {value} }}"
            examples.append((prompts.render(tokenizer, messages), trace, ending, cut))
        prompt, trace, ending = (tokenizer([e[i] for e in examples])["input_ids"] for i in range(3))
        rows = []
        for p, t, e, (*_, cut) in zip(prompt, trace, ending, examples, strict=True):
            e = [*e, tokenizer.eos_token_id]
            rows.append((p + t + e, [-100] * len(p) + ([-100] * len(t) if cut else t) + e))
        rows.sort(key=lambda row: len(row[0]))
        batches = [rows[i : i + a.sft_batch] for i in range(0, len(rows), a.sft_batch)]
        rng.shuffle(batches)
        for batch in batches:
            if drills > 0:
                drills -= 1
                yield drill_batch(rng, a, tokenizer)
            yield batch


def train_base(config: Config) -> Any:
    """Teach the small model to think at length; saves it to results/<run>/models/base. Returns a row of losses a step.

    `drill_steps` of bare arithmetic and `sft_steps` of traces, in turn, on a cosine schedule; Muon for the hidden matrices
    and AdamW for the rest (about three times fewer steps than AdamW alone).
    """
    import pandas as pd
    import torch
    from torch.nn.utils import clip_grad_norm_
    from tqdm.auto import tqdm

    torch.set_num_threads(config.threads)
    a, run = config.arithmetic, paths.of(config)
    tokenizer = make_tokenizer()
    model = make_model(a, tokenizer, config.seed).train()
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in hidden}
    optimizers = [
        torch.optim.Muon(hidden, lr=a.sft_muon_learning_rate, weight_decay=0.01),
        torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=a.sft_learning_rate,
                          betas=(0.9, 0.98), weight_decay=0.01),
    ]
    steps = a.drill_steps + a.sft_steps
    shape = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1, (s + 1) / 50) * (1 + math.cos(math.pi * s / steps)) / 2)
        for o in optimizers
    ]
    losses = []
    with tqdm(total=steps, desc="base model") as bar:
        for batch in sft_batches(config, tokenizer):
            width = max(len(ids) for ids, _ in batch)  # padded on the right, behind every token that counts
            ids = torch.tensor([i + [tokenizer.pad_token_id] * (width - len(i)) for i, _ in batch])
            labels = torch.tensor([y + [-100] * (width - len(y)) for _, y in batch])
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            for o, s in zip(optimizers, shape, strict=True):
                o.step()
                o.zero_grad()
                s.step()
            losses.append(loss.item())
            bar.update()
            if len(losses) % 50 == 0 or len(losses) == steps:
                bar.set_postfix_str(f"loss {sum(losses[-50:]) / 50:.3f}")
                table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
                paths.write_csv(run.training("base", 0) / "log.csv", table)
            if len(losses) == steps:
                break
    partial = run.base_model.with_name("base-partial")  # a half-written model never has its final name
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    partial.replace(run.base_model)
    return table
