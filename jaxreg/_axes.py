"""Axes of a structure: static, checked against the rank when an array is there."""

from typing import Any

from jaxreg._checks import short

Axis = int | tuple[int, ...] | None


def check_axis(call: str, axis: Any) -> None:
    """Raise unless `axis` is an int, a tuple of ints, or None."""
    axes = axis if isinstance(axis, tuple) else (axis,) if axis is not None else ()
    if any(isinstance(a, bool) or not isinstance(a, int) for a in axes):
        raise TypeError(f"`{call}` must be an int, a tuple of ints or None, got {short(axis)}.")


def normalize(call: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """Return the axes counted from 0, in order; None means all of them."""
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    counted = sorted({a + ndim if a < 0 else a for a in axes})
    if len(counted) != len(axes) or (counted and not 0 <= counted[0] <= counted[-1] < ndim):
        raise ValueError(f"`{call}` with axis={axis} does not fit an array of rank {ndim}.")
    return tuple(counted)
