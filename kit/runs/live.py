"""What a person sees while something runs: one place in a notebook's output that is redrawn; elsewhere plain lines."""

from html import escape
from typing import Any


def place() -> Any:
    """An IPython display handle, whose `update` puts another object in its place; None where nobody looks on.

    JupyterLab and its like name the cell when they send it to the kernel. papermill does not, and a terminal has no cells.
    """
    from IPython import get_ipython
    from IPython.display import HTML, display

    cell = getattr(get_ipython(), "get_parent", dict)().get("metadata", {})
    return display(HTML(""), display_id=True) if "cellId" in cell else None


def bars(*told: tuple[str, float]) -> Any:
    """A bar for each (what it is about, share that is done), as HTML."""
    from IPython.display import HTML

    return HTML("".join(f'<div><progress max="1" value="{done:.3f}" aria-label="{escape(text)}"></progress> {escape(text)}</div>'
                        for text, done in told))
