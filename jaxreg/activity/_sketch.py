"""A penalty of the distribution of embeddings, by what it looks like along random directions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler
from jaxreg.activity import _batch

# The trapezoidal rule with 17 knots from −5 to 5, of an even function: the weights of the negative knots stand with
# those of the positive ones. They contain the window exp(−t²/2).
_KNOTS = np.linspace(0, 5, 9)
_TARGET = np.exp(-(_KNOTS**2) / 2)
_WEIGHTS = np.where((_KNOTS == 0) | (_KNOTS == 5), 1, 2) * 0.625 * _TARGET


@_batch.of_batch
def sigreg(
    x: ArrayLike,
    key: jax.Array,
    directions: int = 256,
    mask: ArrayLike | None = None,
    axis_name: Any = None,
) -> jax.Array:
    """Make embeddings a standard normal cloud, so that they neither collapse nor line up: SIGReg of LeJEPA.

        mean over k of N·∫ |φ_k(t) − exp(−t²/2)|² exp(−t²/2) dt      φ_k(t) = (1/N) Σ_n exp(i·t·⟨a_k, x_n⟩)

    The statistic of Epps and Pulley for each of K random unit vectors a_k, the rows of
    `jax.random.normal(key, (K, features))` in float32 over their norms. The integral is the trapezoidal rule with 17
    knots from −5 to 5, as in the paper; members that are more than π/0.625 ≈ 5 apart along a direction look nearer to
    it than they are. N is the number of members along all axes but the last. Smooth; the gradient with respect to a
    member does not vanish with N. Take a new key for each step, `jax.random.fold_in(key, step)`, the same on every
    device.

    Cost: N·d·K products; beside its arguments it holds a few arrays of N·d and of d·K numbers, also for the gradient,
    as a test says, and never the N·K projections.

    Args:
        x: real, (batch, ..., features); rank 1 with `axis_name`.
        key: of `jax.random`; may be traced.
        directions: K, static.
        mask: bool, or 0 and 1, over any of the axes of `x` but the last.
        axis_name: the mapped axes over which the batch is split; φ_k is that of all of it.

    Raises:
        TypeError: `x` is not one real array, `key` no key, or `directions` not an int.
        ValueError: `directions` is not positive, the rank of `x` too low, or the mask does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxreg import activity
        >>> key = jax.random.key(0)
        >>> cloud = jax.random.normal(key, (500, 8))
        >>> bool(activity.sigreg(cloud, key) < 1), bool(activity.sigreg(3 * cloud, key) > 100)
        (True, True)

    References:
        Balestriero and LeCun, *LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics*,
        arXiv:2511.08544. Epps and Pulley, *A test for normality based on the empirical characteristic function*,
        Biometrika, 1983.
    """
    h, kept = _batch.features("sigreg", x, mask, axis_name)
    a = _unit_vectors(key, h.shape[-1], directions, h.dtype)
    n = _batch.count((*h.shape[:-1], 1), kept, axis_name, h.dtype)
    if h.size == 0:
        return jnp.zeros((), h.dtype)
    sums = compiler.automatic(_sums, h, replicated=True)(h, a, kept)
    means = _batch.total(sums, axis_name) / jnp.maximum(n, 1)
    cosines, sines = means[..., 0], means[..., 1]
    distance = (cosines - jnp.asarray(_TARGET, h.dtype)) ** 2 + sines**2
    return n * jnp.mean(distance @ jnp.asarray(_WEIGHTS, h.dtype))


def _unit_vectors(key: Any, features: int, directions: Any, dtype: Any) -> jax.Array:
    if not isinstance(directions, int) or isinstance(directions, bool):
        raise TypeError(f"`sigreg(directions=...)` must be an int, got {checks.short(directions)}.")
    if directions < 1:
        raise ValueError(f"`sigreg(directions=...)` must be positive, got {directions}.")
    try:
        a = jax.random.normal(key, (directions, features), jnp.float32).astype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"`sigreg(key=...)` takes a key of `jax.random`, got {checks.short(key)}. From a number make one by "
            "`jax.random.key(number)`, for each step by `jax.random.fold_in(key, step)`."
        ) from None
    return a / jnp.linalg.norm(a, axis=1, keepdims=True)


def _sums(h: jax.Array, a: jax.Array, kept: jax.Array | None) -> jax.Array:
    """Σ_n of cos and sin of t·⟨a_k, x_n⟩, of shape (K, knots, 2); as many directions at a time as features."""
    rows = jnp.reshape(_batch.keep(h, kept), (-1, h.shape[-1]))
    counted = None if kept is None else jnp.broadcast_to(kept, (*h.shape[:-1], 1)).reshape(-1)

    def of_direction(direction: jax.Array) -> jax.Array:
        along = jnp.matmul(rows, direction, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.map(jax.checkpoint(lambda t: of_knot(t, along)), jnp.asarray(_KNOTS, h.dtype))

    def of_knot(t: jax.Array, along: jax.Array) -> jax.Array:
        both = jnp.stack([jnp.cos(t * along), jnp.sin(t * along)], axis=-1)
        return jnp.sum(both if counted is None else jnp.where(counted[:, None], both, 0), axis=0)

    return jax.lax.map(jax.checkpoint(of_direction), a, batch_size=min(len(a), h.shape[-1]))
