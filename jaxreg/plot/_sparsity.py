"""Exact zeros and dead units, layer by layer."""

from typing import Any

from matplotlib.axes import Axes

from jaxreg._reports.sparsity import Sparsity, Zeros
from jaxreg._reports.sparsity import sparsity as count
from jaxreg._reports.table import merged
from jaxreg.plot import _style


def sparsity(params: Any, axes: Axes | None = None) -> Axes:
    """Draw the share of the entries of each leaf that are exactly 0, and of its input and output units that are dead.

    With more than 40 leaves, those whose paths differ only in numbers share bars.

    Args:
        params: any tree of arrays, or what `jaxreg.sparsity` returned for it; its docstring defines a dead unit.
        axes: matplotlib axes; by default of a new figure, whose height grows with the number of leaves.

    Returns:
        the axes.

    Example:
        >>> import jax.numpy as jnp, jaxreg.plot
        >>> axes = jaxreg.plot.sparsity({"first": jnp.zeros((2, 3)), "second": jnp.eye(3)})
        >>> [label.get_text() for label in axes.get_yticklabels()]
        ['first', 'second']
    """
    found = params if isinstance(params, Sparsity) else count(params)
    leaves = list(found.values())
    groups = merged([(path, (zeros.inputs, zeros.outputs)) for path, zeros in found.items()])
    rows = [sum((leaves[i] for i in alike), Zeros(0, 0)) for _, alike in groups]
    if axes is None:
        axes = _style.new_axes(1, 1, (8.5, 1.5 + 0.5 * max(len(rows), 2)))[0, 0]
    for i, (name, percents) in enumerate(_bars(rows).items()):
        at = [row + (i - 1) * 0.26 for row in percents]
        bars = axes.barh(at, list(percents.values()), height=0.24, color=_style.palette()[i], label=name)
        axes.bar_label(
            bars, [f"{percent:.0f}%" if percent else "0" for percent in percents.values()], padding=3, size=8
        )
    axes.set_yticks(range(len(rows)), [_style.name(path) for path, _ in groups])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    _style.frame(axes, "Exactly 0", "%")
    axes.grid(visible=False, axis="y")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return axes


def _bars(rows: list[Zeros]) -> dict[str, dict[int, float]]:
    """For each kind of bar `{row: percent}`; leaves of one axis have no units."""
    return {
        "entries": {i: 100 * row.share for i, row in enumerate(rows)},
        "dead input units": {i: 100 * row.dead_inputs / row.inputs for i, row in enumerate(rows) if row.inputs},
        "dead output units": {i: 100 * row.dead_outputs / row.outputs for i, row in enumerate(rows) if row.outputs},
    }
