"""The table of the demo: one row for each run; penalty and zeros have one column for each layer."""

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

import jaxreg
from jaxreg._commands.demo.network import LAYERS
from jaxreg._commands.demo.training import Result

_LEGEND = """\
activity: mean output of the first layer's units on the test images
penalty: of each layer, on the training images
zeros: weights of each layer that are exactly 0
"""


def parts(results: list[Result]) -> tuple[RenderableType, ...]:
    """Return the table, the meaning of its columns, and a sentence for each run that has exact zeros."""
    sentences = (_sentence(result) for result in results if zero_share(result))
    return _table(results), Text(_LEGEND, style="dim"), Text("\n".join(sentences))


def zero_share(result: Result) -> float:
    """Return the share of all weights that are exactly 0."""
    return jaxreg.sparsity(result.kernels).total.share


def _table(results: list[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nrun", no_wrap=True)
    table.add_column("test\nacc.", justify="right", no_wrap=True)
    table.add_column("acti-\nvity", justify="right", no_wrap=True)
    for title in ("penalty", "zeros"):
        for layer in LAYERS:
            header = f"{title if layer == LAYERS[0] else ''}\n{layer}"
            table.add_column(header, justify="right", no_wrap=True)
    for result in results:
        penalty, zeros = result.penalty, result.zeros
        table.add_row(
            result.label,
            f"{result.test_accuracy[-1]:.1%}",
            f"{result.activity:.2f}",
            *("-" if penalty is None else f"{penalty[layer]:.3f}" for layer in LAYERS),
            *(f"{zeros[layer]:.0%}" if zeros[layer] else "0" for layer in LAYERS),
        )
    return table


def _sentence(result: Result) -> str:
    return f"{result.label}: {zero_share(result):.0%} of all weights are exactly 0."
