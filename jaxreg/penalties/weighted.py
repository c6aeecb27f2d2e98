"""Weighted: a penalty with a weight for each entry or group."""

import dataclasses
import math
from typing import Any, Self, cast, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, numerics, partition
from jaxreg._core import weights as weighting
from jaxreg._core.elementwise import weighted_prox, weighted_value
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.structure import Groups, OfNorms, Parts, Reach, weighted

_NORMS = "norms of the groups"


@final
class Weighted(Regularizer):
    """Give each entry, or each group, a strength of its own: the adaptive lasso, penalty factors, reweighted L1.

        R(x) = Σ_i weights_i · ρ(|x_i|)                    ρ the profile of an elementwise penalty
        R(x) = Σ_g weights_g · ω · ρ(‖x_g‖₂)               with a `Group`
        ∇R(x)_i = weights_i · ∇P(x)_i
        prox(z, τ)_i = prox_P(z_i, τ·weights_i)

    A weight of 0 leaves its entry or group free. `inf` excludes it: the value is 0 where x is 0 and ∞ elsewhere, with
    gradient 0 as of every set, and `prox` gives 0. The prox takes a scalar step or an array; with a `Group`, an array
    where that does (L1, L2, L1L2). Sums are exact where they are without weights if the penalties with weights are
    L1, L2, L1L2 or a `Group`: `Weighted(L1(a), u) + Weighted(Group(L1(b)), v)` is the sparse group lasso with both.
    The weights are a leaf: traced, differentiated, sharded, stacked by `vmap`. `Anchored(..., weights)` has them too.

    Args:
        penalty: an elementwise penalty, a sum or multiple of such, or a `Group`.
        weights: leaf; non-negative numbers or inf: a number or an array that broadcasts against `x`. With a `Group`
            against the norms of the groups, whose axes are left out, or have length 1 as in `Group.norms`. For a Dense
            kernel (inputs, units) and `Group(..., axis=0)` it is an array (units,).

    Raises:
        TypeError: the penalty is neither elementwise nor a `Group`, or the weights are not numbers.
        ValueError: a weight is negative or nan, or the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Weighted(jaxreg.L1(1.0), jnp.array([0.0, 0.5, jnp.inf]))
        >>> reg.prox(jnp.array([2.0, 2.0, 2.0]))
        Array([2. , 1.5, 0. ], dtype=float32)
        >>> groups = jaxreg.Weighted(jaxreg.Group(jaxreg.L1(1.0), axis=0), jnp.array([1.0, 2.0]))
        >>> float(groups(jnp.array([[3.0, 0.3], [4.0, 0.4]])))
        6.0

    References:
        Zou, *The adaptive lasso and its oracle properties*, JASA, 2006. Candès, Wakin and Boyd, *Enhancing sparsity by
        reweighted ℓ1 minimization*, JFAA, 2008.
    """

    penalty: Regularizer
    weights: ArrayLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        if not isinstance(self.penalty, OfNorms) and self.penalty.scalar() is None:
            raise TypeError(
                f"`Weighted({type(self.penalty).__name__}, weights)`: weights need an elementwise penalty such as L1, "
                "a sum or multiple of such, or a `Group`. Write other sums term by term, and factors outside, "
                "`Weighted(a, u) + 2 * Weighted(b, v)`; other structures go around it, `Stacked(Weighted(a, u))`."
            )
        object.__setattr__(self, "weights", _checked(self.weights))

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        if isinstance(self.penalty, OfNorms):
            return self.penalty.value_of(self.of_norms(x), x)
        return weighted_value(self.penalty, self.of_entries(x), x)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        if isinstance(self.penalty, OfNorms):
            return self.penalty.prox_of(self.of_norms(z), z, step)
        return weighted_prox(self.penalty, self.of_entries(z), z, step)

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        if isinstance(self.penalty, OfNorms):
            return super().approximate_prox(p, z, step, count)
        return self.prox(z, step)  # which has a closed form

    @property
    def reach(self) -> Reach:
        return self.penalty.reach

    def parts(self) -> Parts:
        inside = self.penalty.parts()
        if not inside.is_elastic:
            return Parts(rest=(self,))
        return weighted(inside, numerics.promote(self.weights))

    def by_groups(self, x: Any) -> Groups | None:
        inside = self.penalty.by_groups(x)
        if inside is None:
            return None
        weights = self.of_norms(x)
        return dataclasses.replace(inside, weight=weights * jnp.asarray(inside.weight, weights.dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the penalty and the weights, an array as nested lists; JSON has no infinity, so inf is "inf"."""
        return {"penalty": codec.encode(self.penalty), "weights": _written(self.weights)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the regularizer whose `get_config` gave `config`."""
        codec.check_fields(cls, config, dataclasses.fields(cls))
        return cls(codec.decode({"penalty": config["penalty"]}, {})["penalty"], _read(config["weights"]))

    def of_entries(self, x: jax.Array) -> jax.Array:
        """Return the weights of the entries of `x`, a number or an array of its shape."""
        return weighting.broadcast(jnp.asarray(self.weights, numerics.real_dtype(x)), x.shape)

    def of_norms(self, x: Any) -> jax.Array:
        """Return the weights of the norms of the groups of `x`, a number or an array in their shape."""
        weights = jnp.asarray(self.weights, numerics.real_dtype(x))
        groups = cast(OfNorms, self.penalty).partition(x.ndim)
        shape = partition.shape(x.shape, groups)
        if isinstance(groups, partition.Labels) or 0 < weights.ndim == x.ndim:
            weights = weighting.broadcast(weights, shape, _NORMS)
        elif weights.ndim:
            left = tuple(n for i, n in enumerate(x.shape) if i not in groups)
            weights = jnp.expand_dims(weighting.broadcast(weights, left, _NORMS), groups)
        return weights


def _checked(weights: Any) -> Any:
    """The weights as a float, or as they are if they are an array (of NumPy a copy), a tracer or a placeholder."""
    call = "Weighted(weights=...)"
    if isinstance(weights, (float, np.floating)) and weights == math.inf:
        return math.inf
    is_floating = isinstance(weights, (np.ndarray, jax.Array)) and jnp.issubdtype(weights.dtype, jnp.floating)
    if not is_floating or isinstance(weights, jax.core.Tracer):
        return checks.number("Weighted(penalty, weights=...)", weights, above=None)
    if isinstance(weights, jax.Array) and not weights.is_fully_addressable:
        return weights
    numbers = np.asarray(weights, np.float64)
    if not (numbers >= 0).all():
        raise ValueError(
            f"`{call}` must be non-negative numbers, inf for what is excluded, got {checks.short(weights)}."
        )
    if isinstance(weights, jax.Array):
        return weights
    return weights.copy() if weights.ndim else float(weights)


def _written(weights: Any) -> Any:
    if np.ndim(weights) and not isinstance(weights, jax.core.Tracer):
        return _mapped(_word, np.asarray(weights, np.float64).tolist())
    return _word(codec.encode(weights))


def _word(weight: Any) -> Any:
    return "inf" if weight == math.inf else weight


def _read(weights: Any) -> Any:
    if not isinstance(weights, list):
        return _number(weights)
    try:
        return np.array(_mapped(_number, weights), np.float64)
    except (TypeError, ValueError):  # also rows of different lengths
        raise TypeError(
            f'`Weighted(weights=...)` must be numbers and "inf" in nested lists, got {checks.short(weights)}.'
        ) from None


def _number(weight: Any) -> Any:
    if isinstance(weight, bool):
        raise TypeError(f"`Weighted(weights=...)` must be numbers, got {weight}.")
    return math.inf if isinstance(weight, str) and weight == "inf" else weight


def _mapped(function: Any, weights: Any) -> Any:
    return [_mapped(function, inner) for inner in weights] if isinstance(weights, list) else function(weights)
