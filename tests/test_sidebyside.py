"""Side by side: cases picked by rules, a page on which a response can do nothing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kit.behavior import phases
from kit.report import sidebyside
from kit.report.sidebyside import Case, Side
from kit.rollout import records
from kit.rollout.records import Rollout
from kit.runs import files, paths
from kit.settings import ROOT, Config, load

EVIL = ("Okay, the problem says <script>alert(1)</script> find x.\n\n\"><img src=x onerror=alert(2)>\n\nWait, &lt;b&gt; <!-- "
        "</div></body>\n\n<iframe srcdoc='<script>alert(3)</script>'>\u202e 3 + 4 = 7\x00</think> \\boxed{<svg onload=alert(4)>}")


@pytest.fixture(scope="module")
def settings() -> Config:
    return load(ROOT / "params" / "smoke.yaml")


def case(id: str, before: float, after: float, verdicts: tuple[str, str] = ("correct", "correct"), text: str = "x = 1") -> Case:
    sides = Side("base", text, before, verdicts[0]), Side("iterative, 60", text, after, verdicts[1])
    return Case("", "two", id, 0, "question", "7", sides, "tokens")


def test_cases_are_picked_by_the_rules() -> None:
    cases = [case("a", 100, 90), case("b", 100, 50), case("c", 100, 10), case("d", 100, 120), case("e", 100, 60),
             case("f", 100, 5, ("correct", "wrong")), case("g", 100, 50, ("correct", "no answer")),
             case("h", 100, 70, ("correct", "wrong")), case("i", 100, 1, ("wrong", "correct")),
             case("j", 100, 0, ("wrong", "wrong"))]
    # right twice, by reduction: d -0.2, a 0.1, e 0.4, b 0.5, c 0.9; broken: h 0.3, g 0.5, f 0.95
    assert [(p.rule, p.id) for p in sidebyside.pick(cases)] == [("median", "e"), ("largest", "c"), ("broke", "g")]
    assert sidebyside.pick(list(reversed(cases))) == sidebyside.pick(cases)
    assert sidebyside.pick([case("a", 10, 5, ("wrong", "wrong"))]) == []


@pytest.mark.parametrize(("selected", "before"), [
    ((6, 3, 9), "iterative 2, step 3"), ((6, 0, 9), "iterative 1, step 6"), ((0, 0, 9), "base 0, step 0"), ((6, 3, 0), None)])
def test_a_round_is_compared_with_what_it_started_from(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selected: tuple[int, ...], before: str | None
) -> None:
    """A round that selected nothing kept its start, which the next one starts from, too."""
    monkeypatch.setenv("KIT_RESULTS", str(tmp_path))
    run = paths.of(settings)
    for schedule, k, step in [("base", 0, 0), *(("iterative", k, step) for k, step in enumerate(selected, 1))]:
        if schedule != "base":
            files.write_json(run.training(schedule, k) / "selected.json", {"step": step})
        if step or schedule == "base":
            said = Rollout("v-0", "question", "7", None, [f"{schedule} {k}, step {step}: \\boxed{{7}}"], [9], [True])
            files.write_text(run.validation(schedule, k, step), records.as_line(said))
    cases = sidebyside.round_cases(settings, "iterative", 3)
    assert [case.before.text.partition(":")[0] for case in cases] == ([before] if before else [])
    assert [case.after.text.partition(":")[0] for case in cases] == (["iterative 3, step 9"] if before else [])


class Tags(HTMLParser):
    """What a browser would see: tags, attributes, and whether all that is opened is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_response_with_a_script_does_nothing(settings: Config) -> None:
    hostile = dataclasses.replace(case("<b>", 3, 2, text=EVIL), rule="broke", question=EVIL, answer=EVIL)
    text = sidebyside.page([hostile], settings, "paragraphs")
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and not {"script", "img", "iframe", "svg", "b><"} & set(tags.seen)
    assert not [name for name in tags.attributes if name.startswith("on") or name in ("src", "href")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&amp;lt;b&amp;gt;" in text
    assert "\x00" not in text and "\u202e" not in text
    assert "default-src 'none'" in text


def test_the_notebooks_copy_cannot_leave_its_frame(settings: Config) -> None:
    hostile = dataclasses.replace(case("a", 3, 2, text=EVIL), rule="median")
    frame = sidebyside.embedded(sidebyside.page([hostile], settings, "paragraphs"))
    tags = Tags()
    tags.feed(frame)
    assert tags.seen == ["div", "iframe"] and tags.attributes == {"sandbox", "srcdoc", "style", "title"}


def test_steps_are_marked_without_colour_and_words_underlined(settings: Config) -> None:
    text = "Compute 3 + 4 = 7 . Wait , let me double-check . 3 + 4 = 7 , right . </think> \\boxed{ 7 }"
    shown = sidebyside.page([dataclasses.replace(case("a", 20, 10, text=text), rule="largest")], settings, "sentences")
    assert f'title="{phases.COMPUTE}"><b>▪</b>' in shown and f'title="{phases.CHECK_WHOLE}"><b>✓</b>' in shown
    assert "<mark>Wait</mark> , let me <mark>double-check</mark>" in shown
    kinds = "|".join(dict.fromkeys(phases.KINDS.values()))
    assert len(set(re.findall(rf'<div class="step (?:{kinds})"><b>(.)</b>', shown))) == 4  # the legend's marks
    assert len(set(re.findall(rf"[.](?:{kinds}){{border-left-style:(\w+)", shown))) == 3
    assert "largest, -50% tokens" in shown and "20 tokens, correct" in shown and "10 tokens, correct" in shown


def test_the_page_needs_nothing_else_and_fits_a_phone(settings: Config) -> None:
    shown = sidebyside.page([], settings, "sentences")
    assert "No case fits" in shown
    assert not re.search(r"https?://|@import|url\(", shown)
    assert 'name="viewport"' in shown and "@media(max-width:45rem){.pair td{display:block}}" in shown


def test_lengths_in_words_say_so_and_long_responses_are_cut(settings: Config) -> None:
    words = dataclasses.replace(case("a", 20, 10, text="x " * 30_000), rule="median", unit="words")
    shown = sidebyside.page([words], settings, "sentences")
    assert "-50% words (words: the log has no token counts)" in shown
    assert "the first 20,000 of 60,000 characters" in shown and len(shown) < 60_000
