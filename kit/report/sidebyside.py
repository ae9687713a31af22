"""The same problem before and after pruning, side by side: picked by a rule, coloured by phase, as one static HTML page.

Pairs are of one problem and one sample number; lengths are tokens (words where a log has no token counts, and then the page
says so). The rules (`RULES`) pick the pair in the middle of all reductions among pairs that stayed right, the largest
reduction among them, and one that broke: right before, wrong after. No pair is picked because it looks good.

A response is hostile text: everything is escaped, and the page has a policy that lets no script run and nothing be loaded.
Colours are Okabe and Ito's for the colour-blind; a mark and a border style say the same without colour.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.behavior import behavior, measures, phases
from kit.evaluation import evaluation
from kit.runs import catalog, files, paths
from kit.settings import Config, KitError

RULES = {
    "median": "the median reduction of all pairs that are right before and after",
    "largest": "the largest reduction of all pairs that are right before and after",
    "broke": "right before, wrong after; of these the one with the median reduction",
}
LOOKS = {  # kind of step: mark, border, colour, words
    "hesitation": ("↺", "dotted", "#D55E00", "hesitation: turning to something else"),
    "checking": ("✓", "dashed", "#0072B2", "checking: going over what was done"),
    "core": ("▪", "solid", "#009E73", "core: the work itself"),
    "framing": ("·", "solid", "#999999", "framing: what is asked, what is answered"),
}
SHOWN = 20_000  # characters of a response


@dataclass(frozen=True)
class Side:
    """One response: its model, whole text, length, verdict."""

    model: str
    text: str
    length: float
    verdict: str


@dataclass(frozen=True)
class Pair:
    """One problem before and after, and by which rule it was picked."""

    rule: str
    name: str
    id: str
    question: str
    answer: str
    before: Side
    after: Side
    unit: str  # of the lengths

    @property
    def reduction(self) -> float:
        """By how much the response became shorter, as a share of its length before (negative: longer)."""
        return 1 - self.after.length / max(self.before.length, 1)


def pairs_of(config: Config, before: str, after: str) -> list[Pair]:
    """Every pair of responses of two models to the same problem, with the same sample number."""
    found = []
    graded = {model: evaluation.load_grades(config, model) for model in (before, after)}
    for name in config.data.evaluation:
        verdicts = {m: g[name].set_index(["id", "sample"]).verdict.to_dict() for m, g in graded.items()}
        left, right = ({r.id: r for r in behavior.responses(config, m, name)} for m in (before, after))
        for key in left.keys() & right.keys():
            a, b = left[key], right[key]
            counts = [*a.model_answer_length, *b.model_answer_length]
            known = all(isinstance(n, int | float) and n == n for n in counts)
            for i in range(min(len(a.model_answer), len(b.model_answer))):
                sides = [
                    Side(m, r.model_answer[i], r.model_answer_length[i] if known else len(r.model_answer[i].split()),
                         verdicts[m].get((key, i), ""))
                    for m, r in ((before, a), (after, b))
                ]
                found.append(Pair("", name, key, a.question, a.answer, *sides, unit="tokens" if known else "words"))
    return found


def pick(pairs: Sequence[Pair]) -> list[Pair]:
    """At most one pair per rule, in the rules' order; ties go by data set, id and text, so that it is always the same one."""
    ordered = sorted(pairs, key=lambda p: (p.reduction, p.name, p.id, p.before.text, p.after.text))
    right = [p for p in ordered if p.before.verdict == p.after.verdict == "correct"]
    broke = [p for p in ordered if p.before.verdict == "correct" != p.after.verdict]
    chosen = {"median": right[len(right) // 2 :][:1], "largest": right[-1:], "broke": broke[len(broke) // 2 :][:1]}
    return [dataclasses.replace(p, rule=rule) for rule, found in chosen.items() for p in found]


def summarize(config: Config) -> tuple[str, Path]:
    """The page of a run, each last round against the base (or the models in `behavior.pairs`): its HTML, and where it is kept."""
    names = catalog.model_names(config)
    last = {name.split("/")[0]: name for name in names if name != names[0]}
    if unknown := [name for name in config.behavior.pairs if name not in names]:
        raise KitError(f"`behavior.pairs` names {unknown[0]}; there are {', '.join(names)}")
    chosen = [p for model in config.behavior.pairs or last.values() for p in pick(pairs_of(config, names[0], model))]
    text = page(chosen, config, behavior.step_unit(config))
    path = paths.of(config).figures / "traces.html"
    with files.atomic(path) as file:
        file.write(text)
    return text, path


# --- HTML -------------------------------------------------------------------------------------------------------------


STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:80rem;padding:0 .8rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .3rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem}
@media(max-width:45rem){.pair{grid-template-columns:1fr}}
.side{min-width:0}.side h3{font-size:1rem;margin:.5rem 0}
.steps{max-height:36rem;overflow-y:auto;border-top:1px solid #8885}
.step{margin:.35rem 0;padding:0 0 0 .5rem;border-left:5px;white-space:pre-wrap}
.step b{font-weight:600;margin-right:.4em}
mark{background:none;color:inherit;text-decoration:underline 2px}
.bar{display:inline-block;height:.8rem;background:#8888;vertical-align:middle}
""" + "".join(f".{kind}{{border-left-style:{border};border-left-color:{colour}}}.{kind} b{{color:{colour}}}"
              for kind, (_, border, colour, _) in LOOKS.items())
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(pairs: Sequence[Pair], config: Config, unit: str) -> str:
    """A self-contained page: legend, then the pairs. Works without a network, on a phone one side below the other."""
    legend = "".join(f'<div class="step {kind}"><b>{mark}</b>{words}</div>' for kind, (mark, _, _, words) in LOOKS.items())
    parts = "".join(_pair(p, config, unit) for p in pairs) or "<p>No pair fits any of the rules.</p>"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Side by side: {_safe(config.run)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Side by side: {_safe(config.run)}</h1><p>Steps ({_safe(unit)}) are labelled by rules (behavior/phases); hover for the "
        f"phase. Underlined: the params' hesitation words.</p>{legend}{parts}</body></html>"
    )


def embedded(text: str) -> str:
    """The page as HTML for a notebook's output: in a frame of its own where no script can run."""
    return f'<iframe sandbox srcdoc="{html.escape(text)}" style="width:100%;height:44rem;border:1px solid #8885"></iframe>'


def _pair(pair: Pair, config: Config, unit: str) -> str:
    note = "" if pair.unit == "tokens" else " (words: the log has no token counts)"
    title = f"{pair.before.model} → {pair.after.model}: {pair.rule}, {-pair.reduction:+.0%} {pair.unit}{note}"
    label = config.set_labels.get(pair.name, pair.name)
    return (
        f"<section><h2>{_safe(title)}</h2>"
        f"<p>Picked by the rule: {RULES[pair.rule]}. {_safe(label)}, problem {_safe(pair.id)}.</p>"
        f"<p><b>{_safe(pair.question)}</b> (answer: {_safe(pair.answer)})</p>"
        f'<div class="pair">{_side(pair.before, pair, config, unit)}{_side(pair.after, pair, config, unit)}</div></section>'
    )


def _side(side: Side, pair: Pair, config: Config, unit: str) -> str:
    steps = phases.steps_of(side.text[:SHOWN], unit)
    labels = phases.label(steps)
    _, closed, rest = side.text.partition("</think>")
    shown = "".join(
        f'<div class="step {(kind := phases.KINDS[phase])}" title="{phase}"><b>{LOOKS[kind][0]}</b>{_marked(step, config)}</div>'
        for step, phase in zip(steps, labels, strict=True)
    )
    if closed:
        shown += f'<div class="step framing" title="after the thinking"><b>→</b>{_safe(rest.strip()[:SHOWN])}</div>'
    if len(side.text) > SHOWN:
        shown += f"<p>… the first {SHOWN:,} of {len(side.text):,} characters</p>"
    width = 100 * side.length / max(pair.before.length, pair.after.length, 1)
    counts = ", ".join(f"{sum(phases.KINDS[p] == kind for p in labels)} {kind}" for kind in LOOKS)
    return (
        f'<div class="side"><h3>{_safe(side.model)}: {side.length:.0f} {pair.unit}, {_safe(side.verdict)}</h3>'
        f'<div class="bar" style="width:{width:.0f}%"></div><p>{len(steps)} steps: {counts}</p>'
        f'<div class="steps" tabindex="0">{shown}</div></div>'
    )


def _marked(step: str, config: Config) -> str:
    """A step, escaped, with the hesitation words underlined; pieces are escaped one by one, so no mark lies inside an entity."""
    words = config.keywords.get("hesitation", ())
    if not words:
        return _safe(step)
    pattern = measures.keyword_pattern(tuple(words))
    pieces, end = [], 0
    for match in pattern.finditer(step):
        pieces += [_safe(step[end : match.start()]), f"<mark>{_safe(match[0])}</mark>"]
        end = match.end()
    return "".join([*pieces, _safe(step[end:])])


def _safe(text: object) -> str:
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "�", str(text)))
