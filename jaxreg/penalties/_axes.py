"""Axes that form one group: static, and checked against the rank when an array is there."""

from typing import Any

import numpy as np

from jaxreg._core import checks


def check_axis(owner: str, axis: Any) -> None:
    """Raise unless `axis` is None, an int or a tuple of ints."""
    for item in axis if isinstance(axis, tuple) else () if axis is None else (axis,):
        if not isinstance(item, (int, np.integer)) or isinstance(item, bool):
            raise TypeError(f"`{owner}(axis=...)` must be an int, a tuple of ints or None, got {checks.short(axis)}.")


def axes_of(owner: str, axis: Any, ndim: int, name: str = "axis") -> tuple[int, ...]:
    """The axes that are given, counted from 0; None stands for all."""
    given = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(item + ndim if item < 0 else item for item in given)
    if len(set(axes)) != len(axes) or not all(0 <= item < ndim for item in axes):
        way_out = " In a tree biases have a rule of their own: `{'**/bias': None, ...}`." if ndim < 2 else ""
        raise ValueError(
            f"`{owner}({name}=...)` must name different axes of the array, here of rank {ndim}, got "
            f"{checks.short(axis)}.{way_out}"
        )
    return axes


def check_one(owner: str, axis: Any) -> None:
    """Raise unless `axis` is an int."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"`{owner}(axis=...)` must be an int, got {checks.short(axis)}.")
