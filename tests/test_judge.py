"""The labelling model is not trusted: a real server on this machine that answers well, badly, late, and with lies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kit.behavior import judge
from kit.behavior.phases import CHECK_LOCAL, COMPUTE, UNDERSTAND
from kit.settings import Judge, KitError

STEPS = ["We need to find 3 + 4.", "3 + 4 = 7", "Wait, is that right? Yes."]
PHASES = [UNDERSTAND, COMPUTE, CHECK_LOCAL]
Answer = Callable[[list[int], int], object]  # (numbers of the steps, number of the request) -> content, or (status, body)


class Endpoint:
    """An OpenAI-compatible server whose content is `answer`; it keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda numbers, _: good(numbers)
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                text = body["messages"][-1]["content"]
                numbers = [int(part.split(":")[0]) for part in text.split("Step ")[1:]]
                given = outer.answer(numbers, len(outer.requests))
                status, content = given if isinstance(given, tuple) else (200, given)
                text = content if isinstance(content, str | bytes) else json.dumps(content)
                message = {"choices": [{"message": {"content": text}}]} if isinstance(text, str) else {}
                reply = text if isinstance(text, bytes) else json.dumps(message).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


def good(numbers: list[int]) -> list[dict[str, object]]:
    return [{"step": n, "starts": " ".join(STEPS[n - 1].split()[:4]), "phase": PHASES[n - 1]} for n in numbers]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.server.shutdown()
    found.server.server_close()


def settings(endpoint: Endpoint, **changes: object) -> Judge:
    return Judge(**{"url": endpoint.url, "model": "m", "timeout": 5.0, "parallel": 1, **changes})


def test_a_good_answer_labels_every_step_in_one_request(endpoint: Endpoint, tmp_path: Path) -> None:
    assert judge.label([STEPS], settings(endpoint), tmp_path / "cache.jsonl") == [PHASES]
    (request,) = endpoint.requests
    assert request["model"] == "m" and request["temperature"] == 0
    assert "Step 2: 3 + 4 = 7" in request["messages"][-1]["content"] and UNDERSTAND in request["messages"][-1]["content"]


def test_batches_are_numbered_on_their_own_and_put_together_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda numbers, _: [{"step": n, "starts": "x", "phase": COMPUTE} for n in numbers]
    traces = [["x"] * 5, [], ["x"]]
    assert judge.label(traces, settings(endpoint, batch=2), tmp_path / "c.jsonl") == [[COMPUTE] * 5, [], [COMPUTE]]
    assert len(endpoint.requests) == 4 and "Step 3:" not in endpoint.requests[2]["messages"][-1]["content"]


def test_what_was_not_answered_is_asked_again_alone(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda numbers, request: good(numbers)[:1]
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]
    asked = [request["messages"][-1]["content"].count("Step ") for request in endpoint.requests]
    assert asked == [3, 2, 1]


@pytest.mark.parametrize("lie", [
    [{"step": 1, "starts": "We need to find", "phase": "Daydreaming"}],  # no such phase
    [{"step": 1, "starts": "3 + 4 =", "phase": COMPUTE}],  # slipped by one step
    [{"step": 1, "phase": UNDERSTAND}], [{"step": 1, "starts": "We", "phase": UNDERSTAND}],  # too little to tell
    [{"step": 9, "starts": "We need to find", "phase": UNDERSTAND}],
    [{"step": True, "starts": "We need to find", "phase": UNDERSTAND}],
    [{"step": "1", "phase": UNDERSTAND}, 7, None, ["step"]],
    {"step": 1, "starts": "We need to find", "phase": UNDERSTAND},  # not a list
    "I cannot label these.", "", "[" * 5000, "[{" + '"a":' * 3000, "]" + "[", '[{"step": 1' + "0" * 5000 + "}]",
])
def test_an_answer_that_does_not_fit_labels_nothing_and_retries_are_bounded(
    endpoint: Endpoint, tmp_path: Path, lie: object
) -> None:
    endpoint.answer = lambda numbers, _: lie
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [[None] * 3]
    assert len(endpoint.requests) == 3


def test_an_answer_in_a_fence_with_numbers_before_the_names_is_read(endpoint: Endpoint, tmp_path: Path) -> None:
    entries = [{**entry, "phase": f"5. {str(entry['phase']).upper()}"} for entry in good([1, 2, 3])]
    endpoint.answer = lambda numbers, _: f"Sure!\n```json\n{json.dumps(entries)}\n```"
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]


def test_what_a_reasoning_model_thinks_before_its_answer_is_not_read(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda numbers, _: f"<think>Step [1] is setup.</think>{json.dumps(good(numbers))}"
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]


def test_brackets_in_what_it_thinks_are_not_the_list(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda numbers, _: f"Steps [1] and [2] set things up, [3] ends.\n{json.dumps(good(numbers))}"
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]


def test_an_answer_that_stands_in_the_reasoning_is_read_and_no_system_message_is_sent(endpoint: Endpoint, tmp_path: Path) -> None:
    """Servers with a reasoning parser leave `content` empty when the answer never left the thinking."""
    def answer(numbers: list[int], _: int) -> tuple[int, bytes]:
        message = {"content": None, "reasoning_content": json.dumps(good(numbers))}
        return 200, json.dumps({"choices": [{"message": message}]}).encode()

    endpoint.answer = answer
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]
    assert [m["role"] for m in endpoint.requests[0]["messages"]] == ["user"]


def test_a_spoilt_cache_is_passed_over(endpoint: Endpoint, tmp_path: Path) -> None:
    cache = tmp_path / "c.jsonl"
    cache.write_bytes(b'{}\n[1]\n5\n\xff\n{"key": 1, "labels": 5}\n{"key": "x", "labels": ["nonsense"]}\n')
    assert judge.label([STEPS], settings(endpoint), cache) == [PHASES]


@pytest.mark.parametrize("trouble", [(500, b"oops"), (429, b""), (200, b"{"), (200, b'{"choices": []}'), (200, b"null"),
                                     (200, b"[" * 100_000), (200, b"x" * 2_000_000)])
def test_a_server_in_trouble_is_asked_again(endpoint: Endpoint, tmp_path: Path, trouble: tuple[int, bytes]) -> None:
    endpoint.answer = lambda numbers, request: trouble if request == 1 else good(numbers)
    assert judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl") == [PHASES]
    assert len(endpoint.requests) == 2


def test_a_server_that_does_not_answer_in_time_is_left(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda numbers, _: time.sleep(1.5)
    began = time.monotonic()
    assert judge.label([STEPS], settings(endpoint, timeout=0.3, retries=2), tmp_path / "c.jsonl") == [[None] * 3]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_one_line_and_a_redirect_is_not_followed(endpoint: Endpoint, tmp_path: Path, status: int) -> None:
    endpoint.answer = lambda numbers, _: (status, b"")
    with pytest.raises(KitError, match=f"chat/completions: status {status}"):
        judge.label([STEPS], settings(endpoint), tmp_path / "c.jsonl")
    assert len(endpoint.requests) == 1


def test_a_stopped_labelling_goes_on_and_asks_again_for_what_was_not_answered(endpoint: Endpoint, tmp_path: Path) -> None:
    cache = tmp_path / "judge.jsonl"
    endpoint.answer = lambda numbers, _: [entry for entry in good(numbers) if entry["step"] != 2]
    first = judge.label([STEPS, STEPS[:1]], settings(endpoint), cache)
    assert first == [[PHASES[0], None, PHASES[2]], [PHASES[0]]]
    with cache.open("a") as file:
        file.write('{"key": "torn')
    endpoint.answer, endpoint.requests = (lambda numbers, _: good(numbers)), []
    assert judge.label([STEPS, STEPS[:1]], settings(endpoint), cache) == [PHASES, PHASES[:1]]
    assert len(endpoint.requests) == 1  # only the trace that had a gap


def test_another_machine_is_refused_unless_the_params_say_so(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="example.org is another machine, and the traces would be sent there; say `remote: true`"):
        judge.label([STEPS], Judge(url="http://example.org/v1", model="m"), tmp_path / "c.jsonl")
    assert judge.label([], Judge(url="https://example.org/v1", model="m", remote=True), tmp_path / "c.jsonl") == []


def test_nobody_listening_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="127.0.0.1:9/v1/chat/completions: .*given up"):
        judge.label([STEPS], Judge(url="http://127.0.0.1:9/v1", model="m"), tmp_path / "c.jsonl")


def test_a_key_comes_from_the_environment(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_KEY", "abc")
    judge.label([STEPS], settings(endpoint, key_variable="LABEL_KEY"), tmp_path / "c.jsonl")
    assert endpoint.headers[0]["authorization"] == "Bearer abc"
    with pytest.raises(KitError, match="no environment variable OTHER_KEY"):
        judge.label([STEPS], settings(endpoint, key_variable="OTHER_KEY"), tmp_path / "d.jsonl")
