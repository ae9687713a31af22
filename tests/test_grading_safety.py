"""The grader among hostile answers, threads, forks, kills and Ctrl-C: it never hangs, and never says "correct"."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from kit.reward import workers
from kit.reward.grading import grade, grade_many
from kit.reward.workers import MEMORY, stop_workers

ROOT = Path(__file__).parents[1]
LONGEST = 8.0 if "PYTEST_XDIST_WORKER" in os.environ else 3.0  # seconds for any one verdict; longer beside other tests

NEVER_ENDING = {
    "a power tower": r"9^{9^{9^{9}}}",
    "two to two billion": r"2^{2000000000}+x",
    "the factorial of a power tower": r"(10^{10^{10}})!",
    "a huge factorial": "1000000000!",
    "a huge binomial": r"\binom{10^{20}}{10^{10}}",
    "a polynomial of degree ten million": r"(x+1)^{10000000}",
    "a sum of 10^12 terms": r"\sum_{k=1}^{10^{12}} \frac{1}{k^3+k}",
    "a hard integral": r"\int_0^{\infty} e^{-x^2}\sin(x^3)\cos(\log x) dx",
    "an iterated exponential": r"e^{e^{e^{e^{e^{e}}}}}",
    "absolute values that loop the parser": "|x|" * 100,
    "1900 minus signs": "-" * 1900,
    "subscripts of subscripts": "x_{" * 30 + "1" + "}" * 30,
}
ENDING = {
    "a million digits": "7" * 10**6,
    "a million decimals": "0." + "7" * 10**6,
    "a million digits in a sum": "x+" + "7" * 10**6,
    "100,000 nested parentheses": "(" * 10**5 + "3" + ")" * 10**5,
    "100,000 nested braces": "{" * 10**5 + "3" + "}" * 10**5,
    "100,000 open parentheses": "(" * 10**5,
    "a megabyte of letters": "a" * 10**6,
    "a megabyte of spaces": "3" + " " * 10**6 + "4",
    "null bytes": "3\x00",
    "only null bytes": "\x00" * 1000,
    "lone surrogates": "\ud800\udfff3",
    "thirty nested fractions": r"\frac{1}{" * 30 + "x" + "}" * 30,
    "thirty nested roots": r"\sqrt{" * 30 + "x" + "}" * 30,
    "1900 commas": "," * 1900,
    "600 terms": "x+" * 600 + "x",
    "a chain of equations": "x=" * 900 + "1",
    "a chain of inequalities": "x<" * 900 + "1",
    "400 plus-minus signs": r"\pm" * 400,
    "200 pairs of values": r"1\pm2," * 200,
    "thirty open environments": r"\begin{pmatrix}" * 30,
    "a gigantic exponent": "1e999999999",
    "450 groups of thousands": "1" + ",000" * 450,
    "a unit of 1900 letters": "5 " + "m" * 1900,
    "emoji": "🎉" * 1900,
}
WHOLE_RESPONSES = {
    "100,000 open boxes": r"\boxed{" * 10**5,
    "100,000 nested boxes": r"\boxed{" * 10**5 + "3" + "}" * 10**5,
    "a megabyte of backslashes": "\\" * 10**6,
    "a megabyte of dollars": "$" * 10**6,
    "a megabyte of line ends": "\n" * 10**6,
    "a megabyte of asterisks": "*" * 10**6,
    "100,000 answers announced": "the answer is " * 10**5,
    "100,000 answer tags": "<answer>" * 10**5,
    "100,000 ends of thinking": "</think>" * 10**5,
    "a box and a megabyte of closing braces": r"\boxed{5}" + "}" * 10**6,
    "a box and a megabyte of open ones": r"\boxed{5}" + "{" * 10**6,
}


def timed(response: str, gold: str) -> tuple[str, float]:
    start = time.monotonic()
    verdict = grade(response, gold).verdict
    return verdict, time.monotonic() - start


def worker_pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children()]


def pool_is_alive() -> bool:
    return grade(rf"\boxed{{\sin({time.monotonic_ns()})^2}}", "x^2+1").verdict == "wrong"


@pytest.mark.parametrize("name", NEVER_ENDING)
def test_an_answer_that_never_ends_is_a_timeout_within_three_seconds(name):
    verdict, seconds = timed(rf"\boxed{{{NEVER_ENDING[name]}}}", r"\frac{\sqrt{3}}{2}")
    assert verdict == "timeout"
    assert seconds < LONGEST


def test_hostile_text_is_wrong_or_no_answer_within_three_seconds():
    assert pool_is_alive()
    cases = {name: rf"\boxed{{{answer}}}" for name, answer in ENDING.items()} | WHOLE_RESPONSES
    outcomes = {(name, gold): timed(text, gold) for name, text in cases.items() for gold in ("3", r"x^2+\sqrt{2}", "(1,2)")}
    assert not {key: outcome for key, outcome in outcomes.items() if outcome[0] == "correct" or outcome[1] > LONGEST}
    assert pool_is_alive()


def test_memory_of_a_worker_is_bounded():
    assert pool_is_alive()
    (pid, *_) = worker_pids()
    limits = Path(f"/proc/{pid}/limits")
    if not limits.exists():
        pytest.skip("no /proc on this system")
    (line,) = [line for line in limits.read_text().splitlines() if line.startswith("Max address space")]
    assert line.split()[3] == str(MEMORY)


def test_an_answer_that_eats_memory_ends_its_worker_and_not_the_caller(monkeypatch):
    stop_workers()
    monkeypatch.setattr(workers, "MEMORY", 150 << 20)  # enough to start, and little more
    try:
        verdict, seconds = timed(r"\boxed{\gcd(7^{400000000},3)}", "x^3")
        assert verdict in ("timeout", "wrong") and seconds < LONGEST
    finally:
        stop_workers()
    assert pool_is_alive()


def test_ten_thousand_ordinary_answers_behind_hostile_ones_are_unaffected():
    hostile = [rf"\boxed{{{NEVER_ENDING[name]}}}" for name in list(NEVER_ENDING)[:4]]
    ordinary = [rf"so \boxed{{{n}}}" if n % 40 else rf"so \boxed{{\ln({n}+1)}}" for n in range(10_000)]
    golds = [str(n) if n % 40 else rf"\ln({n + 1 + (n % 80 == 0)})" for n in range(10_000)]  # 125 of them wrong
    grades = grade_many(hostile + ordinary, ["x+2"] * 4 + golds)
    assert [g.verdict for g in grades[:4]] == ["timeout"] * 4
    assert Counter(g.verdict for g in grades[4:]) == {"correct": 9875, "wrong": 125}


def test_any_number_of_threads_may_grade_at_once():
    results: dict[int, list[bool]] = {}

    def work(thread: int) -> None:
        answers = [rf"\boxed{{\sin^2({thread}x)+{n}}}" for n in range(6)]
        golds = [rf"{n}+1-\cos^2({thread}x)" if n % 2 else "x" for n in range(6)]
        results[thread] = [g.correct for g in grade_many(answers, golds)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {n: [False, True] * 3 for n in range(2, 10)}


def test_workers_outlive_the_thread_that_started_them():
    stop_workers()
    thread = threading.Thread(target=pool_is_alive)
    thread.start()
    thread.join()
    before = worker_pids()
    assert before and pool_is_alive()
    assert set(before) <= set(worker_pids())


def test_a_forked_child_grades_with_workers_of_its_own():
    assert pool_is_alive()
    ours = worker_pids()
    child = os.fork()
    if child == 0:
        right = grade(r"\boxed{\tan x}", r"\frac{\sin x}{\cos x}").correct
        own = set(worker_pids()) - set(ours)
        stop_workers()
        os._exit(0 if right and own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(worker_pids()) == set(ours) and pool_is_alive()


def test_a_worker_killed_while_idle_is_replaced_unnoticed():
    assert pool_is_alive()
    for pid in worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert grade(r"\boxed{\cos(-x)}", r"\cos x").correct


def test_an_answer_that_had_no_processor_time_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    pool, asked = workers._pool(), []

    class Busy:
        active = True

        def schedule(self, judge, pair, timeout):
            asked.append(pair)
            return pool.schedule(time.sleep, [9], timeout=0.2) if len(asked) == 1 else pool.schedule(judge, pair, timeout=timeout)

    monkeypatch.setattr(workers, "_pool", Busy)
    assert workers.ask([(r"\cos x", r"\cos(-x)", "")]) == ["correct"] and len(asked) == 2


def test_a_worker_killed_at_work_gives_its_answers_to_another():
    stop_workers()
    assert pool_is_alive()
    killer = threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGKILL) for pid in worker_pids()])
    killer.start()
    grades = grade_many([rf"\boxed{{\sin({n}x)}}" for n in range(150)], [rf"\cos({n}x)" for n in range(150)])
    killer.join()
    assert [g.verdict for g in grades] == ["wrong"] * 150


# ---------------------------------------------------------------- as a program


def run_script(folder: Path, code: str, environment: dict[str, str] | None = None, **options) -> subprocess.Popen:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
    return subprocess.Popen(
        [sys.executable, str(script)], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, **options
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(map(is_running, pids))


def test_an_unguarded_script_beside_files_with_our_names_runs_once_and_leaves_nothing(tmp_path):
    for name in ("equality", "values", "json", "random", "sympy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module was imported')")
    code = """
        import sys
        sys.path.remove(sys.path[0])
        from kit.reward.grading import grade
        from multiprocessing import active_children
        print("started")
        print(grade(r"\\boxed{\\tan x}", r"\\frac{\\sin x}{\\cos x}").verdict)
        print(*(worker.pid for worker in active_children()))
    """
    script = run_script(tmp_path, code)
    output, _ = script.communicate(timeout=60)
    started, verdict, pids = output.splitlines()
    assert (started, verdict) == ("started", "correct")
    assert all_gone([int(pid) for pid in pids.split()], seconds=2)


STUCK = """
    import os, threading, time
    from kit.reward.grading import grade, grade_many
    from multiprocessing import active_children
    grade(r"\\boxed{\\tan x}", "x^2")
    threading.Timer(0.3, lambda: print(os.getpid(), *(w.pid for w in active_children()), flush=True)).start()
    try:
        grade_many([r"\\boxed{9^{9^{9^{%d}}}}" % n for n in range(9, 99)], ["x"] * 90)
    except KeyboardInterrupt:
        time.sleep(0.2)
        print("interrupted", *active_children(), flush=True)
"""


def test_ctrl_c_stops_a_stuck_evaluation_and_its_workers(tmp_path):
    def heed_ctrl_c() -> None:  # a shell has what it starts in the background ignore it, and so would our script
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    script = run_script(tmp_path, STUCK, start_new_session=True, preexec_fn=heed_ctrl_c)
    _, *workers = map(int, script.stdout.readline().split())
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    start = time.monotonic()
    assert script.stdout.readline().split() == ["interrupted"]
    assert script.wait(timeout=10) == 0 and time.monotonic() - start < LONGEST
    assert workers and all_gone(workers, seconds=2)


def test_no_worker_outlives_a_caller_that_was_killed(tmp_path):
    script = run_script(tmp_path, STUCK)
    _, *workers = map(int, script.stdout.readline().split())
    script.kill()
    script.wait()
    assert workers and all_gone(workers, seconds=20)


def test_no_worker_waits_for_a_killed_caller_whose_fork_still_holds_the_pipes(tmp_path):
    code = """
        import os, time
        from kit.reward.grading import grade
        from multiprocessing import active_children
        grade(r"\\boxed{\\tan x}", "x^2")
        fork = os.fork()
        if fork:
            print(fork, *(w.pid for w in active_children()), flush=True)
        time.sleep(60)
    """
    script = run_script(tmp_path, code)
    fork, *workers = map(int, script.stdout.readline().split())
    script.kill()
    script.wait()
    gone = all_gone(workers, seconds=20)
    os.kill(fork, signal.SIGKILL)
    assert workers and gone


def test_workers_without_a_parser_or_without_room_are_an_error_that_says_so(tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('math_verify is not here')")
    code = """
        import sys
        from kit.reward import workers
        from kit.reward.grading import grade
        workers.MEMORY = {memory}
        try:
            grade(r"\\boxed{{\\sin x}}", r"\\cos x")
        except Exception as error:
            print(type(error).__name__, error)
    """
    for folders, memory, said in (
        (f"{tmp_path}:{ROOT}", "workers.MEMORY", "ImportError math_verify is not here"),
        (ROOT, "1 << 24", "RuntimeError the grading workers do not start"),
    ):
        environment = {"PYTHONPATH": str(folders)}
        script = run_script(tmp_path, code.format(memory=memory), environment=environment, stderr=subprocess.DEVNULL)
        output, _ = script.communicate(timeout=60)
        assert output.strip() == said


def test_a_long_path_for_temporary_files_is_no_obstacle(tmp_path):
    """A socket's path has at most 107 characters."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    code = "from kit.reward.grading import grade; print(grade(r'\\boxed{2\\sqrt3}', r'\\sqrt{12}').verdict)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60,
                          env={**os.environ, "TMPDIR": str(folder)})  # fmt: skip
    assert done.stdout == "correct\n", done.stderr[-500:]
