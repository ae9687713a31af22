"""Data sets: every shape that they go by, what is kept and dropped, and what is said when one is not there."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub
import pytest
from conftest import real
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.chain import commands
from kit.data import contamination, problems
from kit.data.problems import Problem
from kit.runs import paths
from kit.settings import ROOT, SOURCES, Config, KitError, load
from kit.settings.schema import Data

FILES = {"aime24": "aime24.jsonl", "amc23": "amc23.jsonl", "math500": "math500.jsonl", "olympiadbench": "olympiadbench.jsonl",
         "aime-old": "aime_1983_2023.json", "aime22-23": "aime22_23_24.parquet"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A run in empty folders, without network."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    smoke = load("params/smoke.yaml")
    data = Data(("aime24",), "eurus-amc-aime", "aime22-23", folder=str(tmp_path / "data"))
    return dataclasses.replace(smoke, run="data", data=data)


def having(world: Config, **files: object) -> Config:
    """`world` with these local files."""
    return dataclasses.replace(world, data=dataclasses.replace(
        world.data, files={k.replace("_", "-"): str(v) for k, v in files.items()}))


def jsonl(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)
    return path


# --- the real files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("aime24", 30), ("amc23", 40), ("math500", 500), ("olympiadbench", 675),
                                             ("aime-old", 975), ("aime22-23", 60)])
def test_every_real_file_loads_with_all_its_rows(world: Config, name: str, count: int) -> None:
    found, facts = problems.open_set(name, having(world, **{name: real(FILES[name])}))
    known = None if name == "aime-old" else count
    assert facts == {"problems": count, "rows": count, "expected": known, "duplicates": 0, "conflicts": 0, "origin": FILES[name],
                     "revision": None}
    assert len({p.id for p in found}) == len(found) == count


def test_a_folder_is_searched_for_the_file_of_a_set(world: Config) -> None:
    folder = real("math500.jsonl").parent
    assert len(problems.load("math500", having(world, math500=folder))) == 500
    assert len(problems.load("aime22-23", having(world, aime22_23=folder))) == 60  # it goes by the name aime22_23_24.parquet
    with pytest.raises(KitError, match=r"no file of set eurus-amc-aime"):
        problems.load("eurus-amc-aime", having(world, eurus_amc_aime=folder))


def test_aime_answers_lose_their_zeros_amc_answers_their_point_and_math_answers_nothing(world: Config) -> None:
    def answers(name: str) -> dict[str, str]:
        return {p.id: p.answer for p in problems.load(name, having(world, **{name: real(FILES[name])}))}

    assert answers("aime24")["67"] == "25"  # 025 in the file
    assert answers("amc23")["0"] == "27" and "-1" in answers("amc23").values()  # 27.0, -1.0
    assert answers("math500")["test/precalculus/807.json"] == r"\left( 3, \frac{\pi}{2} \right)"
    assert answers("olympiadbench")["1606"] == "2"  # ["2"]
    written = [json.loads(line)["answer"] for line in real("math500.jsonl").read_text().splitlines()]
    assert list(answers("math500").values()) == written


def test_the_official_validation_file_gives_aime22_and_23_to_validation_and_the_rest_to_aime24(world: Config) -> None:
    file = real("aime22_23_24.parquet")
    validation = problems.load("aime22-23", having(world, aime22_23=file))
    held_out = problems.load("aime24", having(world, aime24=file))
    bundle = problems.load("aime24", having(world, aime24=real("aime24.jsonl")))
    assert len(validation) == 60 and sorted(p.answer for p in held_out) == sorted(p.answer for p in bundle)
    assert not {p.question for p in validation} & {p.question for p in held_out}


def test_ids_do_not_depend_on_the_order_of_the_rows(world: Config, tmp_path: Path) -> None:
    rows = json.loads(real("aime_1983_2023.json").read_text())
    backwards = tmp_path / "backwards.json"
    backwards.write_text(json.dumps(rows[::-1]))
    one, two = (problems.load("old", having(world, old=f)) for f in (real("aime_1983_2023.json"), backwards))
    assert one == two[::-1] and one[0].id.startswith("old-")


# --- the hub's columns ------------------------------------------------------------------------------------------------


def eurus(number: int, source: str = "numina_amc_aime") -> dict[str, Any]:
    """A row with the columns of the training set."""
    turns = [{"role": "system", "content": "[ASSESS] [ADVANCE]"},
             {"role": "user", "content": f"What is {number} + 1?\n\nPresent the answer in LaTex format: \\boxed{{Your answer}}"}]
    return {"data_source": source, "prompt": turns, "ability": "math", "extra_info": {"index": 0, "split": "dummy"},
            "reward_model": {"ground_truth": str(number + 1), "style": "rule"}}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_of_the_training_set_only_its_own_rows_are_kept_without_system_turn_and_instruction(
    world: Config, tmp_path: Path, kind: str
) -> None:
    rows = [eurus(n, "numina_amc_aime" if n % 10 == 0 else "taco") for n in range(200)]
    file = parquet(tmp_path / "part.parquet", rows) if kind == "parquet" else jsonl(tmp_path / "part.jsonl", *rows)
    got = problems.load("eurus-amc-aime", having(world, eurus_amc_aime=file))
    assert [p.question for p in got] == [f"What is {n} + 1?" for n in range(0, 200, 10)]
    assert [p.answer for p in got] == [str(n + 1) for n in range(0, 200, 10)]


def test_the_year_of_the_hubs_aime_is_read_from_the_url_and_a_url_without_one_is_refused(world: Config, tmp_path: Path) -> None:
    def row(number: int, year: object) -> dict[str, Any]:
        return {"id": number, "problem": f"Problem {number}", "solution": "", "answer": "025",
                "url": f"https://example.org/wiki/index.php/{year}_AIME_I_Problems/Problem_{number}"}

    file = jsonl(tmp_path / "a.jsonl", *(row(n, 2022 + n % 3) for n in range(9)))
    assert [p.id for p in problems.load("aime22-23", having(world, aime22_23=file))] == ["0", "1", "3", "4", "6", "7"]
    jsonl(tmp_path / "a.jsonl", row(1, "latest"))
    with pytest.raises(KitError, match="a.jsonl row 1: its year cannot be told"):
        problems.load("aime22-23", having(world, aime22_23=file))


def test_olympiadbench_puts_the_context_before_the_question(world: Config, tmp_path: Path) -> None:
    row = {"id": 7, "context": "Let $ABC$ be a triangle.", "question": "Find $a$.", "final_answer": ["3,5", "unused"],
           "is_multiple_answer": True, "unit": "km", "answer_type": "Numerical"}
    file = parquet(tmp_path / "o.parquet", [row])
    got = problems.load("olympiadbench-hothan", having(world, olympiadbench_hothan=file))
    assert got == [Problem("7", "Let $ABC$ be a triangle.\n\nFind $a$.", "3,5")]
    problems.write(tmp_path / "again.jsonl", got)
    assert problems.read(tmp_path / "again.jsonl") == got


def test_a_users_own_csv_is_read_as_it_is_written(world: Config, tmp_path: Path) -> None:
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], ["One,\n\"two\"?", "025"], ["Three?", r"\frac{1}{2}"]])
    got = problems.load("mine", having(world, mine=tmp_path / "mine.csv"))
    assert [(p.question, p.answer) for p in got] == [("One,\n\"two\"?", "025"), ("Three?", r"\frac{1}{2}")]


def test_a_training_set_keeps_every_row_when_params_say_so(world: Config, tmp_path: Path) -> None:
    """As the official code does: nothing is compared with the held-out sets, and a row twice is trained on twice."""
    rows = [{"question": q, "answer": a} for q, a in (("One?", "1"), ("One?", "1"), ("Two?", "2"))]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = dataclasses.replace(world.data, train="mine", files={"mine": str(tmp_path / "mine.jsonl")}, near_duplicate=None)
    config = dataclasses.replace(world, data=data)
    found = problems.load("mine", config)
    assert [p.answer for p in found] == ["1", "1", "2"] and len({p.id for p in found}) == 3
    assert contamination.training_problems(config) == found
    as_test = dataclasses.replace(config, data=dataclasses.replace(data, train="other", evaluation=("mine",)))
    assert len(problems.load("mine", as_test)) == 2


def test_duplicates_are_dropped_and_counted(world: Config, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "d.jsonl", {"problem": "A b?", "answer": 1}, {"problem": "A  b?\n", "answer": 1.0},
                 {"problem": "C?", "answer": "2"}, {"problem": "C?", "answer": "3"})
    found, facts = problems.open_set("d", having(world, d=file))
    counts = [facts[key] for key in ("rows", "duplicates", "conflicts")]  # of those that conflict the first stands
    assert ([p.answer for p in found], counts) == (["1", "2"], [4, 2, 1])


# --- where a set is looked for ----------------------------------------------------------------------------------------


def test_a_file_named_in_params_comes_before_a_generated_one_and_that_before_the_data_folder(
    world: Config, tmp_path: Path
) -> None:
    def origin(settings: Config) -> str:
        return problems.open_set("aime24", settings)[1]["origin"]

    jsonl(tmp_path / "data" / "aime24.jsonl", {"question": "folder?", "answer": "1"})
    assert origin(world).endswith("data/aime24.jsonl")
    jsonl(paths.of(world).data("aime24"), {"question": "generated?", "answer": "1"})
    assert origin(world) == "generated"
    assert origin(having(world, aime24=jsonl(tmp_path / "own.jsonl", {"question": "own?", "answer": "1"}))) == "own.jsonl"


def test_a_path_in_params_is_relative_to_the_params_file_or_to_the_project(tmp_path: Path) -> None:
    jsonl(tmp_path / "sub" / "mine.jsonl", {"question": "q?", "answer": "1"})
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT}/params/smoke.yaml\ndata: {{files: {{two: sub/mine.jsonl}}}}\n")
    loaded = load(tmp_path / "mine.yaml")
    assert [p.question for p in problems.load("two", loaded)] == ["q?"]
    assert paths.given(loaded, "params/smoke.yaml") == ROOT / "params" / "smoke.yaml"


@pytest.mark.parametrize("name", list(SOURCES))
def test_offline_one_line_says_what_to_download_and_where_to_put_it(
    world: Config, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KitError) as caught:
        problems.load(name, world)
    told = str(caught.value)
    assert SOURCES[name].hub in told and "\n" not in told and "hf download" in told
    assert f"put the folder at {tmp_path / 'data'}/{name}" in told and f"data.files.{name}" in told
    assert not (tmp_path / "cache").exists()


def test_a_copy_of_the_hubs_repository_in_the_data_folder_is_read_like_the_hub(world: Config, tmp_path: Path) -> None:
    """Config and split are the hub's: other splits and configs lie in the same repository."""
    copy = tmp_path / "data" / "olympiadbench-hothan"
    row = {"id": 1, "question": "Q?", "final_answer": ["1"], "context": None, "unit": None, "is_multiple_answer": False}
    parquet(copy / "wanted" / "rows.parquet", [row])
    parquet(copy / "other" / "rows.parquet", [{**row, "question": "Physics?"}])
    copy.joinpath("README.md").write_text(
        "---\nconfigs:\n- config_name: OE_TO_maths_en_COMP\n  data_files:\n  - {split: train, path: wanted/*.parquet}\n"
        "- config_name: OE_TO_physics_en_COMP\n  data_files:\n  - {split: train, path: other/*.parquet}\n---\n")
    assert [p.question for p in problems.load("olympiadbench-hothan", world)] == ["Q?"]


def test_a_name_nobody_knows_is_told_with_those_that_are(world: Config) -> None:
    with pytest.raises(KitError, match="data set math501: .* notebook 01 makes .* math500, .* data.files.math501 in"):
        problems.load("math501", world)
    lost = dataclasses.replace(world, data=dataclasses.replace(world.data, revisions={"math501": "main"}))
    with pytest.raises(KitError, match="data.revisions.math501 is no set of the hub; there are eurus-amc-aime"):
        problems.load("math500", lost)
    with pytest.raises(KitError, match="data.files.math500: there is no file or folder nowhere.jsonl"):
        problems.load("math500", having(world, math500="nowhere.jsonl"))


def test_from_a_hub_only_the_needed_rows_are_fetched_once_and_the_commit_is_recorded(tmp_path: Path) -> None:
    """A real server on loopback, the real `datasets` and `huggingface_hub`, in a process of its own."""
    root, cache = tmp_path / "hub", tmp_path / "cache"
    rows = [eurus(n, "numina_amc_aime" if n % 10 == 0 else "taco") for n in range(300)]
    parquet(root / "PRIME-RL" / "Eurus-2-RL-Data" / "data" / "train-00000-of-00001.parquet", rows)
    parquet(root / "PRIME-RL" / "Eurus-2-RL-Data" / "data" / "validation-00000-of-00001.parquet", [eurus(999)])
    jsonl(root / "HuggingFaceH4" / "MATH-500" / "test.jsonl", {"problem": "Q?", "answer": "p - q", "unique_id": "t/1.json"})
    (root / "math-ai" / "amc23").mkdir(parents=True)
    (root / "math-ai" / "amc23" / ".gated").touch()
    code = """
from kit.data import problems
for name in ("eurus-amc-aime", "eurus-amc-aime", "math500", "math500@v9", "amc23", "aime24"):
    name, _, revision = name.partition("@")
    try:
        found, facts = problems.from_hub(name, revision or None)
        print(name, facts["problems"], facts["rows"], facts["revision"], found[-1])
    except problems.KitError as error:
        print(error)
"""
    with hub.serve(root) as (address, asked):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"),
                       "KIT_CACHE": str(cache)}
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if "fetching" not in line]
    assert done.returncode == 0, done.stderr
    assert told[0].startswith(f"eurus-amc-aime 30 30 {hub.COMMIT} Problem(id='eurus-amc-aime-") and "What is 290 + 1?" in told[0]
    assert told[1] == told[0]
    assert told[2].startswith(f"math500 1 1 {hub.COMMIT} Problem(id='t/1.json'")
    assert "Revision Not Found" in told[3] and "--revision v9" in told[3]
    assert "Cannot access gated repo" in told[4] and "Repository Not Found" in told[5]
    assert sum("/api/datasets/PRIME-RL/Eurus-2-RL-Data " in line + " " for line in asked) == 1  # the second time from the cache
    assert not any("validation-0" in line for line in asked)
    assert sorted(p.name for p in cache.iterdir()) == ["eurus-amc-aime@newest.json", "math500@newest.json"]
    assert len(json.loads((cache / "eurus-amc-aime@newest.json").read_text())["problems"]) == 30


# --- bad rows ---------------------------------------------------------------------------------------------------------

EMPTY, NO_ANSWER = "should be a text that is not empty", "`answer` should be a text that is not empty (or a number)"
BAD_ROWS = [
    ("{", "not JSON"), ('{"question": "What', "not JSON"), ('{"question": "a\x01b", "answer": "2"}', "not JSON"),
    ('{"question": "a?", "answer": "1"}' * 2, "not JSON"), ("[" * 100_000, "not JSON"),
    ("3", "not a JSON object; should be one with `question` and `answer`"), ("null", "not a JSON object"),
    ('["a?", "1"]', "not a JSON object"), ('"hello"', "not a JSON object"),
    ("{}", "no `question`"), ('{"answer": "1"}', "no `question`"), ('{"question": null, "answer": "2"}', "no `question`"),
    ('{"prompt": [{"role": "system", "content": "x"}], "answer": "1"}', "no `question`"),
    ('{"question": ["a"], "answer": "2"}', "no `question`"),
    ('{"question": "", "answer": "1"}', f"`question` {EMPTY}"), ('{"question": 5, "answer": "2"}', f"`question` {EMPTY}"),
    ('{"question": "a \\ud800?", "answer": "1"}', "`question` is not Unicode"),
    ('{"question": "a?"}', "no `answer`"), ('{"question": "a?", "answer": null}', "no `answer`"),
    ('{"question": "a?", "answer": {}}', "no `answer`"), ('{"question": "a?", "answer": []}', NO_ANSWER),
    ('{"question": "a?", "answer": true}', NO_ANSWER), ('{"question": "a?", "answer": NaN}', NO_ANSWER),
    ('{"question": "a?", "answer": 1e999}', NO_ANSWER),
    ('{"question": "a?", "answer": "1", "id": [1]}', "`id` should be"),
    ('{"question": "a?", "answer": "1", "core": "x"}', "`core` should be"),
]


@pytest.mark.parametrize(("line", "message"), BAD_ROWS, ids=lambda text: text[:40])
def test_a_bad_row_is_told_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "fine?", "answer": "1"}\n\n' + line + "\n")
    with pytest.raises(KitError) as caught:
        problems.read(file)
    assert str(caught.value).startswith("mine.jsonl row 3: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_an_answer_that_is_no_whole_number_is_refused_where_all_of_them_are(world: Config, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", {"question": "a?", "answer": "0.5"})
    with pytest.raises(KitError, match="a.jsonl row 1: `answer` is '0.5'; all answers of this set are whole numbers"):
        problems.load("aime24", having(world, aime24=file))


@pytest.mark.parametrize(("name", "content"), [
    ("a.json", b'{"question": "What is 3+4?", "answer": 7}\n{"question": "What is 3+4?", "answer": 7}'),
    ("a.json", b'\xef\xbb\xbf[{"question": "What is 3+4?", "answer": "7"}]'),
    ("a.jsonl.gz", gzip.compress(b'{"question": "What is 3+4?", "answer": "7"}', mtime=0)),
    ("a.csv", b"question;answer\nWhat is 3+4?;7\n"), ("a.csv", b"Question, Answer\nWhat is 3+4?,7\n"),
    ("a.jsonl", b'{"Problem": "What is 3+4?", "Answer": 7.0}'), ("a.jsonl", b'{"prompt": "What is 3+4?", "answer": "7"}'),
    ("a.jsonl", b'{"question": "What is 3+4?", "answer": "3+4=<<3+4=7>>7.\\n#### 7"}'),
    ("a.jsonl", b'{"messages": [{"role": "user", "content": "What is 3+4?"}, {"role": "assistant"}], "answer": 7}'),
])
def test_the_usual_shapes_of_other_peoples_files_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [(p.question, p.answer) for p in problems.read(tmp_path / name)] == [("What is 3+4?", "7")]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.json", b'{"question": 1}', "row 1: `question` should be a text"), ("a.json", b"[" * 100_000, "not readable as json"),
    ("a.parquet", b"PAR1 but not really", "not readable as parquet"),
    ("a.csv", b"question,answer\n\"open", "row 1: more or fewer fields than the header has"),
    ("a.csv", b"question,answer\nWhich pair?,(3,4)\n", "row 1: more or fewer fields than the header has; text with"),
    ("a.csv", b"frage,antwort\na,1\n", "no `question` in it, but frage, antwort"),
    ("a.jsonl", b'{"question": "\xff\xe9"}', "row 1: not UTF-8; save the file as that"),
    ("a.jsonl.gz", gzip.compress(b'{"question": "a?", "answer": "1"}\n' * 9, mtime=0)[:-12], "a.jsonl.gz: cut off or damaged"),
    ("a.txt", b"", "a data set is a file ending in .jsonl"),
    ("a.jsonl", b"\n", "no problems in this file"), ("a.csv", b"question,answer\n", "no problems in this file"),
    ("a.jsonl", b'{"question": "a", "answer": 1, "id": 1}\n{"question": "b", "answer": 1, "id": "1"}', "two rows have the id 1"),
])
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError) as caught:
        problems.read(tmp_path / name)
    assert name in str(caught.value) and message in str(caught.value) and "\n" not in str(caught.value)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["025", "\ud800"])
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=4), v, max_size=2), max_leaves=4)
columns = st.sampled_from(["question", "problem", "prompt", "answer", "final_answer", "reward_model", "id", "unique_id",
                           "context", "unit", "core", "is_multiple_answer", "url", "year", "data_source"])
rows = st.dictionaries(columns, values, max_size=6) | st.fixed_dictionaries(
    {"question": values, "answer": values}, optional={"id": values, "core": values, "url": values, "context": values}) | values


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(rows, max_size=4), name=st.sampled_from(["mine", "aime22-23", "eurus-amc-aime", "olympiadbench"]))
def test_any_rows_at_all_are_either_problems_or_refused_in_one_line(tmp_path: Path, made: list[Any], name: str) -> None:
    file = jsonl(tmp_path / f"{name}.jsonl", *made)
    try:
        got = problems.read(file)
    except KitError as error:
        told = str(error)
        assert told.startswith(f"{name}.jsonl") and "\n" not in told
        assert any(words in told for words in (" row ", "no problems", "have the id"))
        return
    assert 0 < len(got) <= len(made) and all(p.question.strip() and p.answer.strip() and p.id for p in got)
    problems.write(tmp_path / "again.jsonl", got)
    assert problems.read(tmp_path / "again.jsonl") == got


def test_the_command_lists_the_sets_of_a_run(world: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "validation", "two", "three"):
        jsonl(tmp_path / "sets" / f"{name}.jsonl", *[{"question": f"{name}?", "answer": "1"}] * 2)
    (tmp_path / "mine.yaml").write_text(f"extends: {ROOT}/params/smoke.yaml\nrun: mine\ndata: {{folder: sets}}\n")
    assert commands.main(["data", str(tmp_path / "mine.yaml")]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert told[0] == ["problems", "origin", "revision", "rows", "expected", "duplicates", "conflicts"]
    assert ["two", "1", "sets/two.jsonl", "None", "2", "None", "1", "0"] in told
    (tmp_path / "sets" / "two.jsonl").unlink()
    assert commands.main(["data", str(tmp_path / "mine.yaml")]) == 1
    assert capsys.readouterr().err.startswith("error: data set two: ")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00broken", b"\x00" * 40])
def test_a_file_without_problems_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content)
    with pytest.raises(KitError, match="mine.jsonl") as caught:
        problems.read(file)
    assert "\n" not in str(caught.value)
