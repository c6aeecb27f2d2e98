"""SLOPE: sorted absolute values, the largest with the largest weight."""

import dataclasses
from typing import Any, Self, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, codec, compiler, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg.penalties._chain import along_a_chain

_CALL = "SLOPE(weights=...)"


@final
class SLOPE(Regularizer):
    """Penalize the sorted absolute values, the largest with the largest weight: zeros, and clusters of equal modulus.

        R(x) = Σ_i weights_i · |x|_(i),   |x| sorted downwards
        ∇R(x)_i = sign(x_i) · the mean of the weights at the places of |x_i|, 0 where x_i = 0
        prox(z, τ)_i = sign(z_i) · v_i,   v the projection of |z|_(i) − τ·weights_i on what falls, cut off at 0

    The sorted ℓ1 norm of the whole array, of any shape; |·| is the modulus for complex x. Moduli that are equal share
    the weights of their places: the subgradient of least norm. The derivatives of the prox are means over clusters; at
    a threshold, and where two clusters just meet, they are those of the zeros and of the cluster. One sort and the
    projection of `Monotone`. A sharded array is gathered. Equal weights, or one number for all, are `L1`.

    `SLOPE.oscar(l1, l2, n)` and `SLOPE.bh(l1, q, n)` make the usual weights for n entries. The weights are a leaf:
    traced, differentiated, stacked by `vmap`.

    Args:
        weights: leaf; real, finite, non-negative, non-increasing numbers, as many as the array has entries; or a
            number.

    Raises:
        TypeError, ValueError: the weights are not such numbers, or not as many as the entries.
        NotImplementedError: `prox` with an array step; there is no closed form in a diagonal metric.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.SLOPE(jnp.array([2.0, 1.0, 0.0]))
        >>> float(reg(jnp.array([1.0, -5.0, 3.0])))
        13.0
        >>> reg.prox(jnp.array([1.0, -5.0, 4.5]))
        Array([ 1.  , -3.25,  3.25], dtype=float32)

    References:
        Bogdan, van den Berg, Sabatti, Su and Candès, *SLOPE: adaptive variable selection via convex optimization*,
        Annals of Applied Statistics, 2015. Bondell and Reich, *Simultaneous regression shrinkage, variable selection,
        and supervised clustering of predictors with OSCAR*, Biometrics, 2008.
    """

    weights: ArrayLike

    def __post_init__(self) -> None:
        weights = checks.number(_CALL, self.weights, above=None)
        if isinstance(weights, (np.ndarray, jax.Array)) and not isinstance(weights, jax.core.Tracer):
            if np.ndim(weights) == 0:
                weights = float(weights)
            elif (isinstance(weights, np.ndarray) or weights.is_fully_addressable) and np.any(np.diff(weights) > 0):
                raise ValueError(
                    f"`{_CALL}` must be non-increasing, for the largest entry has the first weight, got "
                    f"{checks.short(weights)}. Sort them: `-np.sort(-weights)`."
                )
        object.__setattr__(self, "weights", weights.copy() if isinstance(weights, np.ndarray) else weights)

    @classmethod
    def oscar(cls, l1: ArrayLike, l2: ArrayLike, n: int) -> Self:
        """Return l1·Σ_i |x_i| + l2·Σ_{i<j} max(|x_i|, |x_j|) of n entries: weights_i = l1 + l2·(n − i)."""
        l1, l2 = (
            checks.number(f"SLOPE.oscar({name}=...)", value, above=None) for name, value in (("l1", l1), ("l2", l2))
        )
        return cls(l1 + l2 * np.arange(_count("oscar", n) - 1.0, -1.0, -1.0))

    @classmethod
    def bh(cls, l1: ArrayLike, q: float, n: int) -> Self:
        """Return weights_i = l1·Φ⁻¹(1 − i·q/(2n)), Φ the normal distribution: Benjamini and Hochberg's thresholds.

        With l1 the standard deviation of the noise and an orthogonal design, a share of at most q of what is found is
        expected to be false.
        """
        l1 = checks.number("SLOPE.bh(l1=...)", l1, above=None)
        if isinstance(q, bool) or not isinstance(q, (float, np.floating)) or not 0 < q < 1:
            raise ValueError(f"`SLOPE.bh(q=...)` must be a share between 0 and 1, got {checks.short(q)}.")
        share = q / (2 * _count("bh", n))
        from statistics import NormalDist  # which `import jaxreg` need not wait for

        quantile = NormalDist().inv_cdf
        return cls(l1 * np.array([-quantile(i * share) for i in range(1, n + 1)]))

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        return _sorted_norm(self.of_places(x), numerics.absolute(x).ravel())

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        checks.scalar_step(
            "SLOPE(...)", step, "Give a scalar step, or take `inner_steps` of `jaxreg.proximal` in a metric."
        )
        size = numerics.absolute(z)
        order = jnp.argsort(-_as_integers(jax.lax.stop_gradient(size).ravel()))
        enough = jnp.maximum(2 * jax.lax.stop_gradient(jnp.sum(size)), 1)  # so large a first threshold gives zeros
        u = jnp.minimum(numerics.threshold(step, self.of_places(z)), enough)
        falling = along_a_chain(size.ravel()[order] - u, jnp.ones_like(step), jnp.inf, 0.0, 0)
        shrunk = jnp.zeros_like(falling).at[order].set(jnp.where(falling > 0, falling, 0), unique_indices=True)
        return compiler.placed_like(z, numerics.with_modulus(z, size, shrunk.reshape(z.shape)))

    def get_config(self) -> dict[str, Any]:
        """Return the weights as a list of numbers, or as one."""
        is_array = np.ndim(self.weights) and not isinstance(self.weights, jax.core.Tracer)
        weights = np.asarray(self.weights, np.float64).tolist() if is_array else codec.encode(self.weights)
        return {"weights": weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the regularizer whose `get_config` gave `config`."""
        codec.check_fields(cls, config, dataclasses.fields(cls))
        weights = config["weights"]
        numbers = weights if isinstance(weights, list) else [weights]
        if not all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in numbers):
            raise TypeError(f"`{_CALL}` must be a number or a list of numbers, got {checks.short(weights)}.")
        return cls(np.array(weights, np.float64) if isinstance(weights, list) else weights)

    def of_places(self, x: jax.Array) -> jax.Array:
        """Return one weight for each entry of `x`, that of the largest first."""
        weights = jnp.asarray(self.weights, numerics.real_dtype(x))
        if weights.shape not in ((), (x.size,)):
            raise ValueError(
                f"`{_CALL}` takes one weight for each of the {x.size} entries of the array, got the shape "
                f"{weights.shape}. Make them by `jaxreg.SLOPE.bh(l1, q, n={x.size})` or "
                f"`jaxreg.SLOPE.oscar(l1, l2, n={x.size})`; a stack of regularizers is mapped over, "
                "`jax.vmap(lambda reg: reg(x))(regs)`."
            )
        return jnp.broadcast_to(weights, (x.size,))


def _count(name: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"`SLOPE.{name}(n=...)` must be the number of entries, from 1, got {checks.short(n)}.")
    return int(n)


def _as_integers(size: jax.Array) -> jax.Array:
    """Integers in the order of moduli, nan above all: a TPU's compiler needs a quarter of the time for their order."""
    return jax.lax.bitcast_convert_type(size, jnp.dtype(f"int{jnp.finfo(size.dtype).bits}"))


@jax.custom_jvp
def _sorted_norm(weights: jax.Array, size: jax.Array) -> jax.Array:
    """Σ weights_i·size_(i)."""
    return jnp.sum(numerics.multiple(weights, jnp.flip(jnp.sort(size))))


@_sorted_norm.defjvp
def _sorted_norm_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Where moduli are equal, each has the mean of their weights; of zeros the derivative of |x| is 0."""
    (weights, size), (of_weights, of_size) = primals, tangents
    order = jnp.argsort(-size)
    falling = size[order]
    changes = jnp.concatenate([jnp.zeros_like(falling[:1], bool), falling[1:] != falling[:-1]])
    cluster = jnp.cumsum(changes)

    def total(x: jax.Array) -> jax.Array:
        return jnp.zeros_like(x).at[cluster].add(x, indices_are_sorted=True)

    mean = (total(weights) / jnp.maximum(total(jnp.ones_like(weights)), 1))[cluster]
    return _sorted_norm(weights, size), jnp.sum(mean * of_size[order]) + jnp.sum(of_weights * falling)
