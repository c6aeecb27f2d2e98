"""Singular values of matrices."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxreg._rules.paths import flatten_with_paths, matrices
from jaxreg.plot import _style


def spectrum(params: Any, axes: Axes | None = None) -> Axes:
    """Draw the singular values of every matrix in a tree, the largest first, one line for each.

    A leaf of more than two axes becomes a matrix with its last axis as columns: (height·width·inputs, outputs) for a
    convolution. The legend shows the numerical rank, which is the number of singular values above
    σ₁ · max(rows, columns) · ε; smaller singular values are not drawn.

    Args:
        params: any tree; leaves of fewer than two axes are left out. `{"before": w, "after": v}` compares two matrices.
        axes: matplotlib axes; by default of a new figure.

    Returns:
        the axes.

    Raises:
        ValueError: the tree has no matrix, or one with entries that are not finite.

    Example:
        >>> import jax.numpy as jnp, jaxreg.plot
        >>> axes = jaxreg.plot.spectrum({"before": jnp.diag(jnp.array([3.0, 2.0])), "after": jnp.ones((2, 2))})
        >>> [text.get_text() for text in axes.get_legend().get_texts()]
        ['after, rank 1 of 2', 'before, rank 2 of 2']
    """
    found = matrices(params)
    if not found:
        raise ValueError(
            f"`jaxreg.plot.spectrum`: no leaf has two axes or more; paths are {flatten_with_paths(params).paths[:8]}."
        )
    axes = _style.new_axes(1, 1, (7.0, 4.5))[0, 0] if axes is None else axes
    for (path, matrix), style in zip(found.items(), _style.lines(), strict=False):
        if not np.isfinite(matrix).all():
            raise ValueError(f"`jaxreg.plot.spectrum`: {path!r} has entries that are not finite.")
        precise = np.float32 if matrix.dtype.itemsize <= 2 else matrix.dtype
        values = np.linalg.svd(matrix.astype(precise), compute_uv=False)
        rank = int(np.sum(values > values[0] * max(matrix.shape) * np.finfo(precise).eps))
        shown = np.where(np.arange(len(values)) < rank, values, np.nan)
        label = f"{_style.name(path)}, rank {rank} of {len(values)}" if path else f"rank {rank} of {len(values)}"
        axes.plot(np.arange(1, len(values) + 1), shown, marker="o", markersize=3, label=label, **style)
    axes.set_yscale("log")
    _style.whole_numbers(axes)
    _style.frame(axes, "Singular values", "number", "singular value")
    axes.legend(frameon=False, fontsize="small")
    return axes
