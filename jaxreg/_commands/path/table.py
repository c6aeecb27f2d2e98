"""The table of `path`: one row for each strength, the two chosen ones marked."""

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from jaxreg._commands.path.experiment import Result

_LEGEND = """\
folds: cross-entropy of the images left out, mean and standard error
loss, zeros, test: trained on the images of all folds: their cross-entropy,
the weights that are exactly 0, the accuracy on the test images
"""


def parts(result: Result) -> tuple[RenderableType, ...]:
    """Return the table and the meaning of its columns."""
    return _table(result), Text(_LEGEND, style="dim")


def _table(result: Result) -> Table:
    folds, whole = result
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for title in ("strength", "folds", "loss", "zeros", "test"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for i, strength in enumerate(folds.coefficients):
        chosen = {folds.best_1se: "one standard error", folds.best: "best"}
        table.add_row(
            f"{strength:.2e}",
            f"{-folds.scores[i]:.3f} ± {folds.standard_errors[i]:.3f}",
            f"{whole.losses[i]:.3f}",
            f"{whole.zeros[i]:.0%}",
            f"{whole.scores[i]:.1%}",
            chosen.get(i, ""),
            style="bold" if i in chosen else None,
        )
    return table
