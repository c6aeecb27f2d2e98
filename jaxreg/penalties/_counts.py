"""Numbers of entries: whole, and checked where their values are there."""

from typing import Any

import jax
import numpy as np

from jaxreg._core import checks


def is_known(value: Any) -> bool:
    """Whether it has a value: no tracer, no placeholder, no array of which a part is elsewhere."""
    if isinstance(value, jax.Array):
        return not isinstance(value, jax.core.Tracer) and value.is_fully_addressable
    return isinstance(value, (float, np.ndarray))


def check_whole(call: str, value: Any) -> None:
    """Raise for a number that is not whole."""
    if is_known(value) and np.any(np.asarray(value, np.float64) % 1):
        raise ValueError(f"`{call}` must be a whole number, got {checks.short(value)}.")
