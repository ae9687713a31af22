"""How figures look, and how they are kept. A figure's docstring tells readers what it shows: its first paragraph is the caption.

Series differ in marker and line as well as in colour, so that they can be told apart in grey and by the colour-blind; earlier
rounds of a schedule are paler; published values are hollow.
"""

import base64
import inspect
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import PIL.Image
import seaborn
from IPython.display import Image
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from kit.report.inputs import origin
from kit.runs import catalog, files, paths
from kit.settings import Config

GREY = "#555555"
STYLE: dict[str, Any] = {
    "figure.dpi": 100, "savefig.dpi": 200, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
    "font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.facecolor": "white",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 6, "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a label is a $
}
# Okabe and Ito's colours for the colour-blind, ordered so that neighbours also differ in lightness: colour, marker, line.
LOOKS = [("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"), ("#E69F00", "v", "-")]
WIDTH = 7.5  # inches: a page's text column
PUBLISHED = {"paper": "o", "autothink": "s", "lapo": "^", "decs": "D"}
AROUND = [  # places of a name beside its point (offset in typographic points), the best first
    {"position": (far * right, far * up), "ha": ("center", "left", "right")[right], "va": ("center", "bottom", "top")[up]}
    for far in (5, 10, 16, 24) for right, up in ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))]
styled = plt.rc_context(STYLE)  # decorates what makes a picture; by hand: with plt.rc_context(STYLE)


def looks(config: Config) -> dict[str, tuple[Any, str, str]]:
    """Colour, marker and line of every schedule, of every model, and of every `published <source>`."""
    found: dict[str, tuple[Any, str, str]] = {"base": ("#000000", "*", "-")}
    names = [name for name in dict.fromkeys(own for own, _, _ in catalog.facts(config).values()) if name != "base"]
    for k, name in enumerate(names):
        models, colour = catalog.models_of(config, name), LOOKS[k % len(LOOKS)][0]
        marker, line = LOOKS[(k + k // len(LOOKS)) % len(LOOKS)][1:]  # a colour that comes again has another marker and line
        shades = seaborn.light_palette(colour, len(models) + 1)[1:]
        found |= {model: (shade, marker, line) for model, shade in zip([*models, name], [*shades, colour], strict=True)}
    return found | {f"published {source}": (GREY, marker, "-") for source, marker in PUBLISHED.items()}


def panels(count: int, columns: int, height: float = 2.4, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each `height` inches high, with room for a legend below."""
    rows = max(1, -(-count // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * height + 0.5), squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def panels_by(
    table: pd.DataFrame, column: str, columns: int, **options: Any
) -> tuple[Figure, list[tuple[Axes, Any, pd.DataFrame]]]:
    """`panels`, one for each value of a column: the figure, and (axes, value, its rows of the table) of each."""
    values = list(dict.fromkeys(table[column]))
    figure, axes = panels(len(values), min(columns, len(values) or 1), **options)
    return figure, [(axis, value, table[table[column] == value]) for axis, value in zip(axes, values, strict=True)]


def points(axis: Axes, config: Config, table: pd.DataFrame, x: str, y: str, size: float = 6, by: str = "model") -> None:
    """A marker per row in the looks of its model (or schedule: `by`), with its 95 % intervals upwards and across where the table
    has `<column>_low` and `<column>_high`."""
    known, table = looks(config), table.dropna(subset=[x, y])
    for name, rows in table.groupby(by, sort=False):
        colour, marker, _ = known[name]
        if f"{y}_low" in table:
            axis.vlines(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], colour, linewidth=0.9)
        if f"{x}_low" in table:
            axis.hlines(rows[y], rows[f"{x}_low"], rows[f"{x}_high"], colour, linewidth=0.9)
        inner = "none" if name.startswith("published ") else colour
        axis.scatter(rows[x], rows[y], size**2, marker=marker, edgecolors=[colour], facecolors=[inner], zorder=2)


def curves(
    axis: Axes, config: Config, table: pd.DataFrame, x: str, y: str, by: str = "model", band: bool = True, **line: Any
) -> None:
    """A line per model (or schedule: `by`) in its looks and in the order of the rows, with a band for the 95 % interval where the
    table has one for `y`."""
    known = looks(config)
    for name, rows in table.dropna(subset=[x, y]).groupby(by, sort=False):
        colour, marker, style = known[name]
        axis.plot(rows[x], rows[y], **{"color": colour, "marker": marker, "linestyle": style, **line})
        if band and f"{y}_low" in table:
            axis.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=colour, alpha=0.13, linewidth=0)


def legend(figure: Figure, config: Config, names: Iterable[str], called: Mapping[str, str] | None = None, marker: bool = True,
           line: bool = False, columns: int = 4, more: Sequence[Line2D] = ()) -> None:
    """A legend below the panels of models, schedules and published sources; `called` names them otherwise, `more` is added."""
    known, labels, handles = looks(config), {**catalog.labels(config), **(called or {})}, []
    for name in dict.fromkeys(names):
        colour, shape, style = known[name]
        handles.append(Line2D([], [], color=colour, marker=shape if marker else "", linestyle=style if line else "",
                              markerfacecolor="none" if name.startswith("published ") else colour,
                              label=labels.get(name) or catalog.schedule_label(config, name)))
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncol=columns, fontsize=8)


def name_points(axis: Axes, named: Iterable[tuple[float, float, str]]) -> None:
    """Write a name beside each point (x, y, name), inside the panel, where it covers fewest points, lines and other names."""
    named = [point for point in named if point[0] == point[0]]  # a length may not be known
    if not named:
        return
    axis.figure.draw_without_rendering()  # only now is it known where the points lie on the page
    dots = [at for c in axis.collections if isinstance(c, PathCollection) for at in c.get_offsets()]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axis.transData.transform([*dots, *(point[:2] for point in named)])]
    drawn = [(line.get_path(), line.get_transform()) for line in axis.lines]
    drawn += [(path, c.get_transform()) for c in axis.collections if isinstance(c, LineCollection) for path in c.get_paths()]
    lines = [path.transformed(transform) for path, transform in drawn]
    for x, y, name in named:
        text = axis.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=7.5, color=GREY, in_layout=False)
        costs = []
        for place in AROUND:
            text.set(**place)
            box = text.get_window_extent()
            inside = axis.bbox.contains(*box.p0) and axis.bbox.contains(*box.p1)
            crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
            costs.append(box.count_overlaps(taken) + crossed + 9 * (not inside))
        text.set(**AROUND[costs.index(min(costs))])
        taken.append(text.get_window_extent())


def say(axis: Axes, text: str) -> None:
    """Write into the middle of a panel why nothing is drawn there."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color=GREY)


def tell(figure: Figure, shown: Iterable[str]) -> Figure:
    """Put what the figure shows into words: for readers who cannot see it, its label becomes the alternative text."""
    told = "; ".join(shown)
    figure.set_label(f"{figure.get_label()} {told}{'.' if told else ''}".strip())
    return figure


class Picture(Image):
    """A picture whose description JupyterLab, which shows none of an IPython Image, has as alternative text."""

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, str]:
        code = base64.b64encode(self.data).decode()
        wide = f"max-width:100%;width:{self.width}px" if self.width else "max-width:100%"
        return {"text/html": f'<img alt="{escape(self.alt)}" style="{wide}" src="data:image/png;base64,{code}">'}


@styled
def show(draw: Callable[..., Figure], config: Config, *of: Any) -> Picture:
    """Draw a figure, keep it under its function's name, and return it for a notebook, with what it shows as alternative text.

    The file's metadata have run, commit, date and both: the caption, and in words what was drawn (the figure's label). A figure
    `of` a part of a run, such as one round, is not kept.
    """
    name, caption = draw.__name__, " ".join(inspect.getdoc(draw).split("\n\n")[0].split())
    (title, source, date), figure = origin(config, name), draw(config, *of)
    shared = {"Title": title, "Source": source, "Description": f"{caption}\n{figure.get_label()}"}
    figure.get_layout_engine().execute(figure)
    edges = figure.get_tightbbox().padded(0.1)
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # layout and edges are worked out once; with an engine saving would draw twice
        for suffix, more in (("svg", {"Date": date}), ("png", {"Creation Time": date, "Software": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=suffix, metadata=shared | more, bbox_inches=edges)
            if not of:
                with files.atomic(paths.of(config).figures / f"{name}.{suffix}", "wb") as file:
                    file.write(drawn.getvalue())
    plt.close(figure)  # else a notebook shows it as well
    return Picture(drawn.getvalue(), width=round(96 * edges.width), alt=f"{caption} {figure.get_label()}")


def described(picture: Path) -> tuple[str, str]:
    """Caption and alternative text of a kept figure, from the PNG's metadata."""
    with PIL.Image.open(picture) as image:
        caption, _, shown = image.info.get("Description", picture.stem.replace("_", " ")).partition("\n")
    return caption, f"{caption} {shown}"
