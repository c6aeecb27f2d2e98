"""Weights as images, before and after a change."""

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from jaxreg._reports.table import share
from jaxreg._rules.paths import matrices
from jaxreg.plot import _style


def weights(before: Any, after: Any, axes: Any = None) -> NDArray[np.object_]:
    """Draw the matrices of two trees side by side as images; exact zeros are grey.

    A leaf of more than two axes becomes a matrix with its last axis as columns. Both images of a leaf have the same
    scale of colours, which ends at the 99th percentile of |w|, so that a few large weights do not make the others pale.

    Args:
        before: any tree; leaves of fewer than two axes are left out.
        after: a tree with the same paths and shapes.
        axes: matplotlib axes, two for each matrix; by default of a new figure.

    Returns:
        the axes, (matrices, 2).

    Raises:
        ValueError: the trees differ in paths or shapes, or have no matrix.

    Example:
        >>> import jax.numpy as jnp, jaxreg, jaxreg.plot
        >>> kernel = jnp.arange(-6.0, 6.0).reshape(3, 4)
        >>> axes = jaxreg.plot.weights({"kernel": kernel}, {"kernel": jaxreg.L1(3.0).prox(kernel)})
        >>> [one.get_title() for one in axes[0]]
        ['kernel, before: 8.3% exactly 0', 'kernel, after: 58.3% exactly 0']
    """
    first, second = matrices(before), matrices(after)
    shapes = [{path: matrix.shape for path, matrix in side.items()} for side in (first, second)]
    if not first or shapes[0] != shapes[1]:
        raise ValueError(
            "`jaxreg.plot.weights(before, after)` takes two trees with the same paths and shapes of leaves with two "
            f"axes or more, got {shapes[0]} and {shapes[1]}."
        )
    n = len(first)
    every = _style.new_axes(n, 2, (5.0, 3.6)) if axes is None else _style.given(axes, 2 * n, "weights").reshape(n, 2)
    for row, path in zip(every, first, strict=True):
        pair = (first[path], second[path])
        largest = np.concatenate([np.abs(matrix[np.isfinite(matrix)]) for matrix in pair])
        limit = float(np.quantile(largest, 0.99)) if largest.size else 0.0
        scale = Normalize(-(limit or 1.0), limit or 1.0)
        for one, matrix, when in zip(row, pair, ("before", "after"), strict=True):
            one.imshow(_style.paint(matrix, scale), interpolation="nearest", aspect="auto")
            zeros = int(np.sum(matrix == 0))
            note = f"{when}: {share(zeros, matrix.size) if zeros else 'none'} exactly 0"
            one.set_title(f"{_style.name(path)}, {note}" if path else note, fontsize="medium")
            _style.whole_numbers(one)
            one.set_xlabel("output")
        row[0].set_ylabel("input")
        mapped = ScalarMappable(scale, _style.weight_map())
        row[0].figure.colorbar(mapped, ax=list(row), extend="both", label="weight")
    every[0, 1].legend(handles=[_style.zero_patch()], loc="upper right", fontsize="small", framealpha=0.9)
    return every
