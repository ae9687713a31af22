"""Engines: which one params choose, and a server's answers, whole and in their place, however it misbehaves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_server import END, FakeServer, response_ids, running

from kit.data.problems import Problem
from kit.evaluation import evaluate
from kit.rollout import engines, models, records, server
from kit.rollout.records import Response, Sampling
from kit.runs import catalog, manifest, paths
from kit.settings import ROOT, Config, KitError, load

PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9], [20], [21, 22], [5, 6, 7]]  # the last is the first again
HOW = Sampling(3, 0.8, 0.95, 8)
SEEDS = [100, 200, 300, 400, 500]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.01)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def source(tiny_world: Config) -> str:
    return catalog.base_model(tiny_world)


@pytest.fixture
def serve(tiny_world: Config, source: str) -> Iterator[Callable[..., tuple[FakeServer, engines.ServerEngine]]]:
    """A server that may misbehave, and the engine that asks it."""
    tokenizer = models.load_tokenizer(source, tiny_world)
    opened: list[Any] = []

    def start(mishap: Callable[[dict, int], Any] | None = None, **settings: Any) -> tuple[FakeServer, Any]:
        fake = FakeServer(source, lambda ids: tokenizer.decode(ids, skip_special_tokens=True), mishap)
        context = running(fake)
        context.__enter__()
        engine = engines.get_engine(source, with_engine(tiny_world, name="server", url=fake.url, **settings))
        opened.extend([context, engine])
        return fake, engine

    yield start
    for context, engine in zip(opened[::2], opened[1::2], strict=True):
        engine.close()
        context.__exit__(None, None, None)


def with_engine(config: Config, **settings: Any) -> Config:
    quick = {"timeout": 30.0, "retries": 3, "concurrency": 8}
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, **{**quick, **settings}))


def expected(tokenizer: Any) -> dict[int, list[Response]]:
    """What an undisturbed server gives to PROMPTS, worked out without it."""
    def one(prompt: list[int], seed: int) -> Response:
        ids = response_ids(prompt, seed, HOW.max_new_tokens)
        return Response(tokenizer.decode(ids, skip_special_tokens=True), len(ids), ids[-1] == END)

    return {k: [one(p, s + i) for i in range(HOW.samples)] for k, (p, s) in enumerate(zip(PROMPTS, SEEDS, strict=True))}


def test_params_choose_the_engine(tiny_world: Config, source: str) -> None:
    with closing(engines.get_engine(source, tiny_world)) as engine:
        assert isinstance(engine, engines.TransformersEngine) and engine.batch_size == 16
    with closing(engines.get_engine(source, with_engine(tiny_world, name="server"))) as engine:
        assert isinstance(engine, engines.ServerEngine) and engine.batch_size is None


def test_vllm_that_is_not_installed_is_told_in_one_line(tiny_world: Config, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(KitError, match=r"engine.name is vllm, but vLLM is not installed; .* pip install -e '.\[vllm\]'"):
        engines.get_engine(source, with_engine(tiny_world, name="vllm"))


def test_nothing_of_the_sampling_settings_in_a_models_folder_gets_into_the_responses(
    tiny_world: Config, source: str, tmp_path: Path
) -> None:
    """Each of them, put into the folder's generation_config.json, would change what the model writes."""
    greedy, drawn = Sampling(1, 0.0, 1.0, 24), Sampling(4, 1.0, 0.95, 24)
    folder = shutil.copytree(source, tmp_path / "model")
    file = folder / "generation_config.json"
    own = {"repetition_penalty": 1.3, "min_p": 0.5, "no_repeat_ngram_size": 2, "typical_p": 0.2, "top_k": 3, "temperature": 0.1,
           "top_p": 0.1, "suppress_tokens": [7, 8, 9], "min_new_tokens": 20, "num_beams": 2, "do_sample": True}
    with closing(engines.get_engine(source, tiny_world)) as engine:
        expected = [list(engine.generate(PROMPTS, how, SEEDS)) for how in (greedy, drawn)]
    for name, value in own.items():
        file.write_text(json.dumps({**json.loads((Path(source) / file.name).read_text()), name: value}))
        with closing(engines.get_engine(folder, tiny_world)) as engine:
            assert [list(engine.generate(PROMPTS, how, SEEDS)) for how in (greedy, drawn)] == expected, name


def test_every_sample_is_a_request_with_a_seed_of_its_own_and_lands_in_its_place(serve: Callable) -> None:
    fake, engine = serve()
    found = dict(engine.generate(PROMPTS, HOW, SEEDS))
    assert found == expected(engine.tokenizer)
    assert sorted(body["seed"] for body in fake.asked) == sorted(s + i for s in SEEDS for i in range(3))
    assert all(body["prompt"] in PROMPTS and body["stop_token_ids"] == [END] and body["n"] == 1 for body in fake.asked)
    assert any(not r.finished for group in found.values() for r in group) and found[0] != found[4]
    assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == found


@pytest.mark.parametrize("mishap", [
    500, 503, 429, ("retry", "0"), "garbage", "half", "nothing", "twice", "unfinished", "miscounted", "hang up", "hang",
], ids=str)
def test_what_went_wrong_once_is_asked_again_and_no_response_is_lost_or_doubled(serve: Callable, mishap: Any) -> None:
    spoiled = {301} if mishap == "hang" else {100, 301, 502}
    settings = {"timeout": 1.0} if mishap == "hang" else {}
    fake, engine = serve(lambda body, nth: mishap if body["seed"] in spoiled and nth == 1 else None, **settings)
    assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == expected(engine.tokenizer)
    assert {int(key.split()[-1]): n for key, n in fake.tries.items() if n > 1} == dict.fromkeys(spoiled, 2)
    assert len(fake.asked) == 15 + len(spoiled)


@pytest.mark.parametrize(("mishap", "reason"), [
    (500, "/completions: status 500: oh no; given up after at most 2 tries"), (404, "/completions: status 404: oh no"),
    (401, "status 401"), ("garbage", "not a usable answer"), ("half", "RemoteProtocolError"), ("nothing", "not a usable answer"),
    ("hang", "no answer within 1 s; given up"), (("retry", "86400"), "status 429: slow down; given up"),
], ids=str)
def test_what_stays_wrong_is_one_line_with_url_and_reason_and_what_is_done_is_kept(
    serve: Callable, tmp_path: Path, mishap: Any, reason: str
) -> None:
    problems = [Problem(f"p{i}", f"question {i}", str(i)) for i in range(5)]

    def collect(path: Path, engine: Any) -> list[records.Rollout]:
        return records.collect(lambda: engine, problems, lambda p: PROMPTS[int(p.answer)], HOW, path, seed=7)

    broken = True
    settings = {"timeout": 1.0 if mishap == "hang" else 30.0, "retries": 1, "concurrency": 2}
    fake, engine = serve(lambda body, _: mishap if broken and body["prompt"] == PROMPTS[3] else None, **settings)
    with pytest.raises(KitError) as caught:
        collect(tmp_path / "r.jsonl", engine)
    assert fake.url in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)
    kept = [json.loads(line)["id"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted(kept) == ["p0", "p1", "p2"]
    broken, before = False, len(fake.asked)
    whole = collect(tmp_path / "r.jsonl", engine)
    assert len(fake.asked) - before == 2 * 3  # only what was missing is asked
    assert whole == collect(tmp_path / "undisturbed.jsonl", engine)


def test_a_server_that_is_not_there_is_told_soon(tiny_world: Config, source: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        engine = engines.get_engine(source, with_engine(tiny_world, name="server", url=url, retries=9))
        with closing(engine), pytest.raises(KitError, match=f"{url}/models: ConnectError .*; given up after at most 3 tries"):
            list(engine.generate(PROMPTS, HOW, SEEDS))


def test_the_pause_that_a_server_asks_for_is_kept(serve: Callable) -> None:
    _, engine = serve(lambda body, nth: ("retry", "1") if nth == 1 else None)
    started = time.monotonic()
    list(engine.generate(PROMPTS[:1], HOW, SEEDS[:1]))
    assert time.monotonic() - started >= 1.0


def test_a_server_that_answers_drop_by_drop_is_given_up(serve: Callable) -> None:
    fake, engine = serve(lambda *_: "drip", timeout=0.4, retries=1)
    started = time.monotonic()
    with pytest.raises(KitError, match="no answer within 0.4 s; given up"):
        list(engine.generate(PROMPTS[:1], HOW, SEEDS[:1]))
    assert time.monotonic() - started < 5


def test_no_more_requests_at_a_time_than_params_allow(serve: Callable) -> None:
    fake, engine = serve(concurrency=3)
    list(engine.generate(PROMPTS * 4, HOW, SEEDS * 4))
    assert fake.most_at_once == 3


def test_who_stops_listening_stops_the_requests(serve: Callable) -> None:
    fake, engine = serve(concurrency=2)
    answers = engine.generate(PROMPTS * 20, HOW, list(range(0, 1000, 10)))
    next(answers)
    answers.close()
    time.sleep(0.1)
    before = len(fake.asked)
    time.sleep(0.1)
    assert len(fake.asked) == before < 30
    assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == expected(engine.tokenizer)


def test_a_server_that_takes_text_only_is_given_text_and_its_own_counts_are_believed(serve: Callable) -> None:
    fake, engine = serve()
    fake.takes_ids = False
    found = dict(engine.generate(PROMPTS, HOW, SEEDS))
    text = engine.tokenizer.decode(PROMPTS[0])
    ids = response_ids(text, 100, HOW.max_new_tokens)
    assert found[0][0] == Response(engine.tokenizer.decode(ids, skip_special_tokens=True), len(ids), ids[-1] == END)
    assert all("stop_token_ids" not in body and isinstance(body["prompt"], str) for body in fake.asked)


def test_a_server_that_reads_the_text_as_other_tokens_is_refused(serve: Callable) -> None:
    fake, engine = serve()
    fake.takes_ids, fake.extra_tokens = False, 1  # as if it put a second beginning token there
    with pytest.raises(KitError, match="reads a prompt as 4 tokens where the tokenizer of .* has 3"):
        list(engine.generate(PROMPTS, HOW, SEEDS))


def test_lengths_are_never_guessed(serve: Callable) -> None:
    fake, engine = serve()
    fake.gives_usage = False
    with pytest.raises(KitError, match=r"not a usable answer \(AttributeError: .*_tokens'"):
        list(engine.generate(PROMPTS, HOW, SEEDS))


@pytest.mark.parametrize("word", ["eos_token", "stop_sequence"])
def test_other_words_for_an_end_are_understood(serve: Callable, word: str) -> None:
    """As text-generation-inference, and servers of other vendors, say it."""
    fake, engine = serve()
    fake.stop = word
    assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == expected(engine.tokenizer)


def test_a_server_that_does_not_count_cached_prompts_is_believed(serve: Callable) -> None:
    fake, engine = serve()
    fake.usage = {"prompt_tokens": 0}
    assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == expected(engine.tokenizer)


def test_a_count_that_cannot_be_is_made_again_with_the_models_tokenizer(serve: Callable) -> None:
    """Some servers say 1 for every response; without its token ids the length is that of its text."""
    fake, engine = serve()
    fake.takes_ids, fake.usage = False, {"completion_tokens": 1}
    for responses in dict(engine.generate(PROMPTS, HOW, SEEDS)).values():
        for r in responses:
            assert r.length == len(engine.tokenizer(r.text, add_special_tokens=False)["input_ids"]) + r.finished > 1


def test_a_server_that_lists_no_models_is_used_where_params_name_the_model(
    serve: Callable, tiny_world: Config, source: str
) -> None:
    fake, engine = serve(served_as={source: source})
    fake.lists_models = False
    unnamed = engines.get_engine(source, with_engine(tiny_world, name="server", url=fake.url))
    with pytest.raises(KitError, match="404"):
        list(unnamed.generate(PROMPTS, HOW, SEEDS))
    unnamed.close()
    other = fake.model = "a-name-of-its-own"
    named = engines.get_engine(source, with_engine(tiny_world, name="server", url=fake.url, served_as={source: other}))
    assert dict(named.generate(PROMPTS, HOW, SEEDS)) == expected(named.tokenizer)
    named.close()


def test_a_server_with_another_model_is_refused(serve: Callable, tiny_world: Config, source: str) -> None:
    fake, engine = serve()
    fake.model = "somebody/else"
    with pytest.raises(KitError, match=f"serves somebody/else, not {source}; start it with `vllm serve {source}`"):
        list(engine.generate(PROMPTS, HOW, SEEDS))
    settings = with_engine(tiny_world, name="server", url=fake.url, served_as={source: "somebody/else"})
    with closing(engines.get_engine(source, settings)) as engine:
        assert dict(engine.generate(PROMPTS, HOW, SEEDS)) == expected(engine.tokenizer)


def test_a_prompt_that_fills_the_model_is_refused_and_a_long_one_leaves_less_room(serve: Callable) -> None:
    fake, engine = serve(max_model_len=12)
    list(engine.generate([[5] * 7], HOW, [0]))
    assert {body["max_tokens"] for body in fake.asked} == {5}
    with pytest.raises(KitError, match="a prompt of 12 tokens leaves no room for a response: engine.max_model_len is 12"):
        list(engine.generate([[5] * 12], HOW, [0]))


def test_the_key_comes_from_the_environment_and_stays_out_of_files_and_messages(
    serve: Callable, tiny_world: Config, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KitError, match="there is no environment variable KIT_TEST_KEY"):
        serve(key_variable="KIT_TEST_KEY")
    monkeypatch.setenv("KIT_TEST_KEY", "sesame-123")
    fake, engine = serve(lambda *_: 403, key_variable="KIT_TEST_KEY")
    with pytest.raises(KitError) as caught:
        list(engine.generate(PROMPTS, HOW, SEEDS))
    assert fake.authorization == {"Bearer sesame-123"} and "sesame" not in str(caught.value)
    settings = with_engine(dataclasses.replace(tiny_world, run="key"), key_variable="KIT_TEST_KEY")
    manifest.write_manifest(settings, {})
    assert "KIT_TEST_KEY" in paths.of(settings).manifest.read_text() and "sesame" not in paths.of(settings).manifest.read_text()


def test_a_model_is_evaluated_through_a_server(serve: Callable, tiny_world: Config, tmp_path: Path) -> None:
    fake, _ = serve()
    settings = with_engine(dataclasses.replace(tiny_world, run=tmp_path.name), name="server", url=fake.url)
    paths.of(settings).root.symlink_to(paths.of(tiny_world).root)
    name, how = tiny_world.data.evaluation[0], Sampling(2, 0.6, 0.95, 20)
    with evaluate.engine_of(settings, catalog.base_model(tiny_world)) as engine:
        found = evaluate.respond(settings, engine, name, how, tmp_path / "r.jsonl", "")
    assert len(found) == 8 and len(fake.asked) == 16
    graded = evaluate.grade(found)
    assert list(graded.length) == [n for r in found for n in r.model_answer_length]


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": "vlm"}, "`engine.name` is 'vlm'; should be 'transformers', 'vllm' or 'server'"),
    ({"url": "127.0.0.1:8000"}, "`engine.url` should be an address like http://127.0.0.1:8000/v1"),
    ({"url": "http://me:secret@host/v1"}, "with no user or key in it"),
    ({"url": "file:///etc/passwd"}, "`engine.url` should be an address"),
    ({"key_variable": "sk-abcDEF123"}, "`engine.key_variable` should be the name of an environment variable"),
    ({"concurrency": 0}, "`engine.concurrency` is 0; should be greater than 0"),
    ({"retries": -1}, "`engine.retries` is -1; should be greater than or equal to 0"),
    ({"gpu_memory_utilization": 1.5}, "`engine.gpu_memory_utilization` is 1.5; should be less than or equal to 1"),
], ids=lambda v: str(v)[:40])
def test_bad_engine_settings_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps({"extends": "laptop.yaml", "engine": changes}))
    (tmp_path / "laptop.yaml").write_text((ROOT / "params" / "laptop.yaml").read_text())
    with pytest.raises(KitError) as caught:
        load(tmp_path / "mine.yaml")
    assert message in str(caught.value) and "sk-abc" not in str(caught.value) and "secret" not in str(caught.value)
