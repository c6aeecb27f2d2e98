"""Learning curves: the loss of the data and the penalties, each in axes of its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from jaxreg.plot import _style


def curves(
    losses: Mapping[str, ArrayLike] | ArrayLike,
    penalties: Mapping[str, ArrayLike] | ArrayLike,
    steps: ArrayLike | None = None,
    axes: Any = None,
) -> NDArray[np.object_]:
    """Draw learning curves, the loss of the data to the left and the penalties to the right.

    Each has its own scale: a curve of the sum would hide which of the two falls. A scale is logarithmic where all
    values are positive.

    Args:
        losses: one sequence of numbers, or several by name (`{"train": ..., "validation": ...}`).
        penalties: the same, for example the values of `TreeRegularizer.breakdown` by path.
        steps: the training steps of the measurements, the same for all curves; by default 0, 1, 2, ...
        axes: two matplotlib axes; by default of a new figure.

    Returns:
        the two axes.

    Raises:
        ValueError: a curve and `steps` differ in length, or a curve has more than one axis.

    Example:
        >>> import jaxreg.plot
        >>> loss, penalty = jaxreg.plot.curves({"train": [2.0, 0.5, 0.2]}, {"L1": [0.3, 0.2, 0.1]}, steps=[0, 10, 20])
        >>> loss.get_ylabel(), penalty.get_ylabel()
        ('loss', 'penalty')
    """
    left, right = _style.new_axes(1, 2, (5.5, 4.0)).ravel() if axes is None else _style.given(axes, 2, "curves")
    _draw(left, "losses", _named(losses, "loss"), steps)
    _draw(right, "penalties", _named(penalties, "penalty"), steps)
    _style.frame(left, "Loss of the data, without penalties", "step", "loss")
    _style.frame(right, "Penalties", "step", "penalty")
    return np.array([left, right], dtype=object)


def _named(values: Mapping[str, ArrayLike] | ArrayLike, name: str) -> dict[str, NDArray[Any]]:
    pairs = values.items() if isinstance(values, Mapping) else [(name, values)]
    return {str(key): np.asarray(value, float) for key, value in pairs}


def _draw(axes: Axes, argument: str, named: dict[str, NDArray[Any]], steps: ArrayLike | None) -> None:
    for (name, values), style in zip(named.items(), _style.lines(), strict=False):
        x = np.arange(len(np.atleast_1d(values))) if steps is None else np.asarray(steps)
        if values.ndim != 1 or x.shape != values.shape:
            raise ValueError(
                f"`jaxreg.plot.curves({argument}=...)`: {name!r} has the shape {values.shape}, but it needs one "
                f"number for each of {x.size} steps."
            )
        axes.plot(x, values, label=name, **style)
    _style.log_scale(axes, "y", *named.values())
    if len(named) > 1:
        axes.legend(frameon=False)
