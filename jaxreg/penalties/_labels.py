"""Labels that make groups: checked when they are given, and kept as nested tuples, which are static."""

from typing import Any

import jax
import numpy as np

from jaxreg._core import checks

_CALL = "`Group(groups=...)`"


def checked(labels: Any, axis: Any) -> Any:
    """The labels as nested tuples of ints; raise unless they number groups from 0, with −1 for none."""
    if axis != 0:
        raise ValueError(f"`Group(axis=..., groups=...)` takes either axes or labels, got axis={checks.short(axis)}.")
    if isinstance(labels, jax.core.Tracer):
        raise TypeError(
            f"{_CALL} is static, the labels must be known when the program is compiled, got a traced array. Make the "
            "regularizer outside of `jit`, `grad` and `vmap`."
        )
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if not np.issubdtype(array.dtype, np.integer) or array.ndim == 0:
        raise TypeError(
            f"{_CALL} must be an array of integers, got {checks.short(labels)}. From names of groups make them by "
            "`numpy.unique(names, return_inverse=True)[1]`."
        )
    if array.size and not (array.min() >= -1 and array.max() < array.size):
        raise ValueError(
            f"{_CALL} must number the groups from 0, with -1 for entries in no group, got labels from {array.min()} "
            f"to {array.max()} for {array.size} entries. `numpy.unique(labels, return_inverse=True)[1]` numbers them."
        )
    return checks.as_tuple(array.tolist())
