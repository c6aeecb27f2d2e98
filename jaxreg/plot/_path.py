"""A regularization path: scores, exact zeros and weights against the strength."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from jaxreg.plot import _style

_FEW = 60  # up to so many weights, each has a line


def path(result: Any, axes: Any = None) -> NDArray[np.object_]:
    """Draw a regularization path: scores, and the share of exact zeros, against the strength of the penalty.

    The band around the scores is one standard error wide on either side. Vertical lines mark the best strength and the
    strongest one whose score is within one standard error of the best. Up to 60 weights are drawn too, a line each.

    Args:
        result: what `jaxreg.path` returns.
        axes: two matplotlib axes, or three with at most 60 weights; by default of a new figure.

    Returns:
        the axes: scores, zeros, and with at most 60 weights the weights.

    Example:
        >>> import types, numpy as np, jaxreg.plot
        >>> result = types.SimpleNamespace(          # what jaxreg.path returns has these
        ...     coefficients=np.array([1.0, 0.1, 0.01]), scores=np.array([0.2, 0.9, 0.8]), zeros=np.array([1, 0.5, 0]),
        ...     standard_errors=np.array([0.1, 0.1, 0.1]), params={"w": np.eye(3)}, best=1, best_1se=1,
        ... )
        >>> [axes.get_ylabel() for axes in jaxreg.plot.path(result)]
        ['score', '% of the entries', 'weight']
    """
    strengths = np.asarray(result.coefficients, float)
    weights = _weights(result.params, len(strengths))
    panels = 2 if weights is None else 3
    every = _style.new_axes(1, panels, (5.0, 4.0)).ravel() if axes is None else _style.given(axes, panels, "path")
    first, second, *_ = _style.palette()
    order = np.argsort(strengths)
    x, scores, errors = strengths[order], np.asarray(result.scores)[order], np.asarray(result.standard_errors)[order]
    every[0].fill_between(x, scores - errors, scores + errors, color=first, alpha=0.25, linewidth=0)
    every[0].plot(x, scores, "o-", color=first, markersize=4)
    _style.frame(every[0], "Score, higher is better", "strength", "score")
    every[1].plot(x, 100 * np.asarray(result.zeros)[order], "o-", color=first, markersize=4)
    every[1].set_ylim(-2, 102)
    _style.frame(every[1], "Entries that are exactly 0", "strength", "% of the entries")
    if weights is not None:
        for line, style in zip(weights[order].T, _style.lines(), strict=False):
            every[2].plot(x, line, **{**style, "linewidth": 1.5})
        _style.frame(every[2], "Weights", "strength", "weight")
    for one in every:
        _mark(one, result, second)
        _style.log_scale(one, "x", strengths)
    every[0].legend(frameon=False)
    return every


def _mark(axes: Axes, result: Any, colour: str) -> None:
    for chosen, dash, name in ((result.best, "-", "best"), (result.best_1se, ":", "within a standard error")):
        axes.axvline(float(result.coefficients[chosen]), color=colour, linestyle=dash, linewidth=1.8, label=name)


def _weights(params: Any, n: int) -> NDArray[Any] | None:
    """The weights of all leaves, of shape (n strengths, entries); None if they are too many."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    entries = sum(leaf.size for leaf in leaves) // n
    return np.concatenate([leaf.reshape(n, -1) for leaf in leaves], axis=1) if 0 < entries <= _FEW else None
