"""The table: one row for each run, one column for each layer."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

import jaxreg
from jaxreg._commands.demo.network import LAYERS
from jaxreg._commands.demo.training import Result

WIDTH = 80
_LEGEND = """\
activity: mean output of the first layer's units on the test images
penalty: of each layer, on the training images
zeros: weights of each layer that are exactly 0
"""


def show(results: list[Result]) -> None:
    """Print the table, after an empty line."""
    print()
    _print(Console(), results)


def save(results: list[Result], path: Path) -> Path:
    """Write the table as plain text, 80 columns wide."""
    with path.open("w", encoding="utf-8") as file:
        _print(Console(file=file, width=WIDTH), results)
    return path


def zero_share(result: Result) -> float:
    """Return the share of all weights that are exactly 0."""
    return jaxreg.sparsity(result.kernels).total.share


def _print(console: Console, results: list[Result]) -> None:
    console.print(_table(results))
    console.print(_LEGEND, style="dim", highlight=False)
    console.print(*map(_sentence, filter(zero_share, results)), sep="\n", highlight=False)


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
