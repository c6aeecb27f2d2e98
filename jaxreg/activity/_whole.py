"""WholeOutput: a penalty of all that a module returns."""

from collections.abc import Callable
from typing import Any, final

import jax
from jax.typing import ArrayLike

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import static


@final
class WholeOutput(Regularizer):
    """Penalize the whole output of a module by one number, as an `activity_regularizer` that is not divided.

        R(output) = function(output)

    Other activity penalties are of each array of the output by itself, divided by the batch. This one is given the
    output whole (a tuple, a dict, one array; of a recurrent cell without the carry), once a call, and divided by
    nothing: take the mean over the batch where you want one. It stands in sums and multiples as every regularizer.

    Args:
        function: `output -> scalar`, real; static.

    Raises:
        TypeError: `function` is none, or returns complex numbers.
        ValueError: it returns no scalar.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, jaxreg.nnx
        >>> from flax import nnx
        >>> class Encoder(jaxreg.nnx.Regularized, nnx.Module):
        ...     def __call__(self, x):
        ...         return x, jnp.zeros_like(x)  # mean and logarithm of the variance
        >>> def kl(output):  # to the standard normal distribution, a mean over the batch
        ...     mean, log_variance = output
        ...     return 0.5 * jnp.mean(jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1))
        >>> encoder = Encoder(activity_regularizer=0.5 * jaxreg.activity.WholeOutput(kl))
        >>> y, losses = jaxreg.nnx.with_losses(encoder)(jnp.array([[1.0, 1.0], [2.0, 0.0]]))
        >>> float(losses["activity"])
        0.75
    """

    function: Callable[[Any], Any] = static()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise TypeError(f"`WholeOutput(function=...)` takes a function, got {checks.short(self.function)}.")

    def __call__(self, x: ArrayLike) -> jax.Array:
        return self.function(x)


WholeOutput.__module__ = "jaxreg.activity"  # where pickles find it
