"""Box: every entry between two bounds."""

import math
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint
from jaxreg._core.structure import Parts, Reach


@final
class Box(constraint.Constraint):
    """Keep every entry between two bounds.

        {w : lower ≤ w_i ≤ upper}
        prox(z)_i = min(max(z_i, lower), upper)              for any step, also an array: the same in a diagonal metric

    Any shape, real. At a bound the derivative of the prox is that of the inside. None means no bound: it is
    stored as an infinite number, and `repr` and the config show None again, as JSON has no infinity. `violation` is the
    Euclidean distance to the set. `optax.keep_params_nonnegative` is `Box(0.0)`; in a sum with a `Group` write it
    `NonNegative()`.

    Args:
        lower: leaf; a real number of any sign, -inf or None, or an array of the shape of `x` (which has no config).
        upper: leaf; likewise, +inf or None; at least `lower`.

    Raises:
        TypeError, ValueError: a bound is not such a number, or `lower` is above `upper` (both concrete).
        ValueError: a bound is an array of another shape than `x`.
        TypeError: `x` is complex.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> x = jnp.array([-3.0, 0.5, 4.0])
        >>> jaxreg.Box(-1.0, 1.0).prox(x)
        Array([-1. ,  0.5,  1. ], dtype=float32)
        >>> jaxreg.Box(lower=0.0)
        Box(lower=0.0, upper=None)
        >>> float(jaxreg.Box(lower=0.0).violation(x))
        3.0

    References:
        Parikh and Boyd, *Proximal algorithms*, Foundations and Trends in Optimization, 2014, section 6.2.
    """

    reach: ClassVar[Reach] = Reach.ENTRY

    lower: ArrayLike | None = None
    upper: ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lower", _bound("Box(lower=...)", self.lower, -math.inf))
        object.__setattr__(self, "upper", _bound("Box(upper=...)", self.upper, math.inf))
        lower, upper = self.lower, self.upper
        if _is_concrete(lower) and _is_concrete(upper) and np.any(np.asarray(lower) > np.asarray(upper)):
            raise ValueError(
                f"`Box(lower=..., upper=...)` must have lower ≤ upper, got {checks.short(lower)} and "
                f"{checks.short(upper)}."
            )

    def __repr__(self) -> str:
        lower, upper = (None if _is_infinite(bound) else bound for bound in (self.lower, self.upper))
        return f"Box(lower={lower!r}, upper={upper!r})"

    def get_config(self) -> dict[str, Any]:
        """Return the bounds as numbers, or None where there is none."""
        return {name: None if _is_infinite(bound) else bound for name, bound in super().get_config().items()}

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        del step
        z = jnp.asarray(z)
        checks.real_only("Box", z)
        lower, upper = (jnp.asarray(bound, z.dtype) for bound in (self.lower, self.upper))
        for name, bound in (("lower", lower), ("upper", upper)):
            if bound.shape not in ((), z.shape):
                raise ValueError(
                    f"`Box({name}=...)` must be a number or have the shape {z.shape} of the array, got shape "
                    f"{bound.shape}. Map over stacked bounds: `jax.vmap(lambda box: box.prox(z))(boxes)`."
                )
        return jnp.where(z < lower, lower, jnp.where(z > upper, upper, z))

    def parts(self) -> Parts:
        return Parts(intervals=(self,))


def _bound(call: str, value: Any, none: float) -> Any:
    """The bound as a float, or as it is if it is an array, a tracer or a placeholder; infinities pass."""
    if value is None:
        return none
    if isinstance(value, (float, np.floating)) and value == none:
        return none
    if isinstance(value, (np.ndarray, jax.Array)) and _is_concrete(value) and jnp.issubdtype(value.dtype, jnp.floating):
        finite = np.where(np.isinf(value), 0, value)
        checks.number(call, finite, above=-math.inf)
        return float(value) if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return checks.number(call, value, above=-math.inf)


def _is_concrete(bound: Any) -> bool:
    if isinstance(bound, jax.Array):
        return not isinstance(bound, jax.core.Tracer) and bound.is_fully_addressable
    return isinstance(bound, (float, np.ndarray))


def _is_infinite(bound: Any) -> bool:
    return isinstance(bound, float) and math.isinf(bound)
