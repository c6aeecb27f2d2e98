"""In which steps `proximal` takes its operator, and what a step does in between."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._core import checks, numerics
from jaxreg._optax import half_precision
from jaxreg._optax.leaves import Row
from jaxreg._rules.paths import is_hidden


class When(NamedTuple):
    """The arguments `latent` and `every`. A step has to make up for the learning rates since the last one."""

    latent: bool
    every: int

    def is_due(self, count: jax.Array) -> Any:
        """Whether the operator is taken in this step, which is the first for a count of 0."""
        return (count + 1) % self.every == 0

    def rates(self, rate: Any, count: jax.Array, total: Any) -> tuple[Any, Any]:
        """The learning rate of the proximal operator, and the sum that the state keeps."""
        if total is None:
            return rate, None
        total = total + jnp.asarray(rate, total.dtype)
        return total, jnp.where(self.is_due(count), 0, total)


def checked(call: str, latent: Any, every: Any) -> When:
    """Return the arguments, or raise."""
    if not isinstance(latent, bool):
        raise TypeError(f"`{call}(latent=...)` takes True or False, got {checks.short(latent)}.")
    if every is not None and (type(every) is not int or every < 1):
        raise ValueError(
            f"`{call}(every=...)` takes an int from 1, the number of steps from one proximal step to the next, got "
            f"{checks.short(every)}. `optax.inject_hyperparams` makes arrays of numbers: name it in its `static_args`."
        )
    return When(latent, every or 1)  # None: `inject_hyperparams` would take a 1 by default for one of its numbers


def waited(
    rows: Sequence[Row], metric_leaves: Sequence[Any], residuals: Sequence[Any]
) -> list[tuple[jax.Array, jax.Array | None, None] | None]:
    """What a step without the operator gives for each leaf: the update, the residual, no norms."""
    new: list[tuple[jax.Array, jax.Array | None, None] | None] = []
    for (update, param, regularizer), leaf, residual in zip(rows, metric_leaves, residuals, strict=True):
        if regularizer is None or is_hidden(leaf):
            new.append(None)
        elif residual is None:
            new.append((jnp.asarray(update, half_precision.dtype_of_update(update, param)), None, None))
        else:
            p = numerics.promote(param) + residual
            w = p + jnp.asarray(update, p.dtype)
            new.append((*half_precision.as_update(None, w, update, param, residual), None))
    return new
