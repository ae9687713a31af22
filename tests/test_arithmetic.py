"""The laptop's world: right answers, disjoint sets, a lossless tokenizer, traces that say what they claim."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data import problems, prompts
from kit.laptop import arithmetic, thinking
from kit.laptop.thinking import Chain
from kit.rollout import models
from kit.runs import catalog, paths
from kit.settings import Arithmetic, Config, Habits, KitError

EXAMPLE = Chain(17, (("first", "*", 4), ("second", "-", 39), ("third", "+", 25)))


def test_a_chain_worked_out_by_hand() -> None:
    assert EXAMPLE.question == "Start with 17 , first * 4 , second - 39 , third + 25 . What is the result ?"
    assert EXAMPLE.answer == 54  # 68, 29, 54
    assert thinking.shortest(EXAMPLE) == (
        "Compute 17 first * 4 = 68 . Compute 68 second - 39 = 29 . Compute 29 third + 25 = 54 . </think> \\boxed{ 54 }"
    )


@pytest.mark.parametrize(("step", "easy_steps"), [
    ((17, "*", 4), [(10, "*", 4), (7, "*", 4), (40, "+", 28)]),
    ((47, "+", 38), [(47, "+", 30), (77, "+", 8)]),
    ((83, "-", 47), [(83, "-", 40), (43, "-", 7)]),
    ((40, "+", 7), [(40, "+", 7)]),
    ((30, "*", 3), [(30, "*", 3)]),
])
def test_steps_are_taken_apart_into_tens_and_units(step: tuple, easy_steps: list) -> None:
    assert thinking.parts(*step) == easy_steps


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), operations=st.integers(1, 6), largest=st.integers(9, 99))
def test_every_number_of_a_problem_and_of_its_solution_stays_in_range(seed: int, operations: int, largest: int) -> None:
    chain = thinking.draw_chain(random.Random(seed), operations, largest)
    value = chain.start
    for _, op, operand in chain.steps:
        value = eval(f"{value} {op} {operand}")  # our own text, not a model's
        assert 0 <= operand <= largest and 0 <= value <= largest
    assert value == chain.answer and len(chain.steps) == operations


@pytest.mark.parametrize("seed", range(100))
def test_without_slips_every_equation_of_a_trace_is_true_and_the_answer_right(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(thinking, "MISBELIEFS", {})
    never = Arithmetic(habits=Habits(slip_hard=0.0, slip_easy=0.0, slip_spelled=0.0))
    chain = thinking.draw_chain(rng, 4, never.largest)
    trace, value = thinking.think(rng, chain, never)
    equations = re.findall(r"(\d+)(?: [a-z]+)? ([-+*]) (\d+) = (\d+)", trace)
    assert len(equations) >= 4 and all(thinking.apply(int(a), op, int(b)) == int(c) for a, op, b, c in equations)
    assert {int(n) for n in re.findall(r"(?:gives|had|is) (\d+)", trace)} <= {value}
    assert value == chain.answer
    assert trace.count("Compute") == 4
    assert "But wait" not in trace and " not " not in trace


def test_a_misbelief_is_the_same_at_one_look_spelled_out_and_in_every_check() -> None:
    believe = thinking.believe
    assert [believe(12, "+", 26), believe(48, "-", 13), believe(36, "+", 28), believe(8, "*", 3)] == [39, 34, 64, 24]
    never = Arithmetic(habits=Habits(slip_hard=0.0, slip_easy=0.0, slip_spelled=0.0))
    rng = random.Random(0)
    assert thinking.work_out(rng, never, 12, "third", "+", 26, spelled=False) == ("12 third + 26 = 39", 39)
    assert thinking.work_out(rng, never, 12, "third", "+", 26, spelled=True) == (
        "12 third + 26 : 12 + 20 = 32 , 32 + 6 = 39", 39)
    chain = Chain(12, (("first", "+", 26), ("second", "-", 4)))
    answers = {thinking.think(random.Random(seed), chain, never)[1] for seed in range(50)}
    assert answers == {35} and chain.answer == 34  # always the same, and wrong


def test_a_slip_is_a_forgotten_carry_or_one_off() -> None:
    slips = [thinking.slip(45, op, hard, 99) for op, hard in (("+", True), ("-", True), ("+", False))]
    assert slips == [35, 55, 46]
    assert thinking.slip(95, "-", True, 99) == 95  # it would lead out of range


def test_checking_catches_slips() -> None:
    """With slips at one look only, traces with checks end right far more often than traces without."""
    often = Habits(slip_hard=0.3, slip_easy=0.1, slip_spelled=0.0, careful=(0.0,), careful_check=1.0, spelled_easy=1.0)
    rng = random.Random(0)

    def believed(chain: Chain) -> int:
        value = chain.start
        for _, op, operand in chain.steps:
            value = thinking.believe(value, op, operand)
        return value

    def right(habits: Habits) -> float:
        chains = [thinking.draw_chain(rng, 3, 49) for _ in range(400)]
        return sum(thinking.think(rng, c, Arithmetic(habits=habits))[1] == believed(c) for c in chains) / 400

    unchecked = right(dataclasses.replace(often, another_round=(0.0,), step_check=(0.0,)))
    checked = right(dataclasses.replace(often, another_round=(1.0,), step_check=(0.0,)))
    assert unchecked < 0.7 and checked > unchecked + 0.2


def test_a_trace_is_at_least_twice_as_long_as_the_shortest_response() -> None:
    rng, a = random.Random(0), Arithmetic()
    chains = [thinking.draw_chain(rng, n, a.largest) for n in (2, 3, 4, 5) for _ in range(100)]
    long = sum(len(thinking.think(rng, c, a)[0].split()) for c in chains)
    short = sum(len(thinking.shortest(c).split()) for c in chains)
    assert long > 2.5 * short


def test_data_sets_are_disjoint_and_reproducible(tiny_world: Config) -> None:
    names = [tiny_world.data.train, tiny_world.data.validation, *tiny_world.data.evaluation]
    questions = {name: {p.question for p in problems.load(name, tiny_world)} for name in names}
    assert len(set().union(*questions.values())) == sum(map(len, questions.values()))
    before = {name: paths.of(tiny_world).data(name).read_bytes() for name in names}
    arithmetic.make_data(tiny_world)
    assert {name: paths.of(tiny_world).data(name).read_bytes() for name in names} == before


def test_no_held_out_problem_is_in_what_the_base_model_learns_from(tiny_world: Config) -> None:
    tokenizer = arithmetic.make_tokenizer()
    batches = arithmetic.sft_batches(tiny_world, tokenizer)
    texts = [tokenizer.decode(ids) for _ in range(150) for ids, _ in next(batches)]
    taught = {found[0] for text in texts if (found := re.search(r"Start with .* result \?", text))}
    names = (tiny_world.data.validation, *tiny_world.data.evaluation)
    held_out = {p.question for name in names for p in problems.load(name, tiny_world)}
    assert len(taught) > 300 and not taught & held_out


def test_exercises_teach_nothing_false(tiny_world: Config) -> None:
    """What is learned from an exercise is the right result, the right step of the problem, the right comparison."""
    rng, a = random.Random(0), dataclasses.replace(tiny_world.arithmetic, largest=49)
    for _ in range(50):
        text = re.sub(" [«»]", "", arithmetic.step_exercise(rng, a))
        for x, op, y, result in re.findall(r"(\d+)(?: [a-z]+)? ([-+*]) (\d+) = (\d+)", text):
            assert thinking.believe(int(x), op, int(y)) == int(result)
        text = re.sub(" [«»]", "", arithmetic.recall_exercise(rng, a))
        recipe = dict(re.findall(r"([a-z]+) ([-+*] \d+) [,.]", text.split(" . ")[0] + " ."))
        asked = re.findall(r"\d+ ([a-z]+) ([-+*] \d+) =", text)
        assert len(asked) == 2 * len(recipe) and all(recipe[name] == step for name, step in asked)
        compared = re.findall(r"gives (\d+) , I had (\d+) : \d+ - \d+ = \d+ \. (\w+)", text)
        assert len(compared) == 6 and all((now == then) == (verdict == "Yes") for now, then, verdict in compared)
        gives = re.findall(r"gives (\d+)", text)[:2]
        assert compared[0][:2] == (gives[1], gives[0]) and f"answer is {gives[1]}" in text


def test_only_the_marked_words_of_an_exercise_are_learned() -> None:
    tokenizer, a = arithmetic.make_tokenizer(), Arithmetic(sft_batch=1)
    for ids, labels in arithmetic.drill_batch(random.Random(3), a, tokenizer):
        assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True)) and len(set(labels)) > 2
        assert tokenizer.unk_token_id not in ids
    exercise = arithmetic.step_exercise(random.Random(3), a).split(" . » ")[0]
    given, learned = exercise.split(" « ")
    assert re.fullmatch(r"\d+ first [-+*] \d+ [=:]", given) and re.fullmatch(r"[-+*\d=, ]+", learned)


def test_asking_for_more_problems_than_there_are_is_refused(tiny_world: Config) -> None:
    many = dataclasses.replace(tiny_world, run="many", arithmetic=dataclasses.replace(
        tiny_world.arithmetic, evaluation_problems=5000, largest=9,
        operations={**tiny_world.arithmetic.operations, "two": (1,)}))
    with pytest.raises(KitError, match="there are not 5000 different problems for two; ask for fewer"):
        arithmetic.make_data(many)


def test_the_core_of_a_problem_is_the_length_of_its_shortest_response(tiny_world: Config) -> None:
    tokenizer = arithmetic.make_tokenizer()
    ids = tokenizer(thinking.shortest(EXAMPLE) + " <eos>")["input_ids"]
    assert len(ids) == len(thinking.shortest(EXAMPLE).split()) + 1 == 29
    assert {p.core for p in problems.load("two", tiny_world)} == {21}


# --- tokenizer --------------------------------------------------------------------------------------------------------


def test_a_rendered_prompt_encodes_and_decodes_to_itself(tiny_world: Config) -> None:
    loaded = models.load_tokenizer(catalog.base_model(tiny_world), tiny_world)
    for limit in (None, 45, 110, 300):
        messages = prompts.training_messages(tiny_world.prompts, EXAMPLE.question, limit)
        text, ids = prompts.render(loaded, messages), prompts.encode(loaded, messages)
        assert text.endswith("<assistant> <think>")
        assert (f"within {limit} tokens" in text) == (limit is not None)
        assert loaded.decode(ids) == text and loaded(text)["input_ids"] == ids
    assert "system" not in prompts.render(loaded, prompts.evaluation_messages(tiny_world.prompts, EXAMPLE.question))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_trace_survives_the_tokenizer(seed: int) -> None:
    tokenizer, rng = arithmetic.make_tokenizer(), random.Random(seed)
    text = thinking.think(rng, thinking.draw_chain(rng, 5, 49), Arithmetic())[0] + " </think> \\boxed{ 7 }"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text  # `</think>` is not lost


def test_a_word_that_the_tokenizer_does_not_have_is_named(tiny_world: Config) -> None:
    tokenizer = arithmetic.make_tokenizer()
    with pytest.raises(KitError, match="no token for 115 in the prompt"):
        prompts.encode(tokenizer, prompts.training_messages(tiny_world.prompts, EXAMPLE.question, 115))


def test_the_saved_tokenizer_is_loaded_as_it_is_not_as_qwens(tiny_world: Config) -> None:
    loaded = models.load_tokenizer(catalog.base_model(tiny_world), tiny_world)
    assert loaded.get_vocab() == arithmetic.make_tokenizer().get_vocab()
    assert loaded.padding_side == "left"


def test_the_base_model_is_the_same_for_the_same_seed(tiny_world: Config) -> None:
    from safetensors.torch import load_file

    other = dataclasses.replace(tiny_world, run="again")
    arithmetic.make_data(other)
    arithmetic.train_base(other)
    one, two = (load_file(paths.of(c).base_model / "model.safetensors") for c in (tiny_world, other))
    assert all((one[k] == two[k]).all() for k in one)


def test_a_world_with_a_seed_of_its_own_is_the_same_in_runs_of_other_seeds(tiny_world: Config) -> None:
    def questions(seed: int, world: int | None) -> list[str]:
        own = dataclasses.replace(tiny_world.arithmetic, seed=world)
        config = dataclasses.replace(tiny_world, run=f"world-{seed}-{world}", seed=seed, arithmetic=own)
        arithmetic.make_data(config)
        return [p.question for p in problems.load(config.data.train, config)]

    assert questions(1, None) == questions(2, 1) == questions(3, 1) != questions(2, None)


def test_orthogonalized_gradients_are_muons_steps() -> None:
    """Three steps beside torch's Muon (which computes in bfloat16) on matrices of three shapes, weight decay included."""
    import torch

    torch.manual_seed(0)
    shapes = [(12, 12), (6, 12), (24, 12), (6, 12)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for start in [[torch.randn(s) for s in shapes]] * 2)
    momenta = [torch.zeros_like(p) for p in ours]
    sgd = torch.optim.SGD(ours, lr=0.1, weight_decay=0.01, fused=True)  # as the base model's training has it
    muon = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        arithmetic.orthogonalize(ours, momenta)
        sgd.step()
        muon.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, atol=0.005), (p - q).abs().max()


@pytest.mark.parametrize(("lengths", "parts"), [
    ([7], [[7]]), ([9, 3], [[3], [9]]),
    ([4, 4, 4, 4], [[4, 4], [4, 4]]),
    ([10, 3, 3, 3, 3], [[3, 3, 3, 3], [10]]),  # 12 tokens with padding beside 10; two and three rows: 6 beside 30
])
def test_a_batch_is_halved_by_what_it_takes_with_padding(lengths: list[int], parts: list[list[int]]) -> None:
    halves = arithmetic.halves([([0] * n, [0] * n) for n in lengths])
    assert [[len(ids) for ids, _ in part] for part in halves] == parts
