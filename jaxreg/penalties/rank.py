"""Rank: a matrix of at most a given rank."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import constraint, numerics
from jaxreg._core.struct import coefficient
from jaxreg.penalties import _counts, _singular_values


@final
class Rank(constraint.Constraint):
    """Keep the rank of a matrix at k or below: what two factors of k columns can hold.

        {W : rank(W) ≤ k}
        prox(Z) = Σ_{i ≤ k} σ_i·u_i·v_iᴴ, where Z = Σ_i σ_i·u_i·v_iᴴ and σ_1 ≥ σ_2 ≥ ...

    For an array of rank 2, also complex. Kernels of a higher rank: `Matrix(Rank(k), outputs)`; stacks of matrices:
    `Stacked(Rank(k), axes)`. The set is not convex; of singular values that are equal at the threshold the
    decomposition's order decides which stay. A matrix of numerical rank k (σ_{k+1} ≤ max(m, n)·ε·σ_1, as NumPy's
    `matrix_rank` has it) comes back bit for bit. The derivative of the prox is that of the map of matrices where
    σ_k > σ_{k+1}, and finite elsewhere; in `k` it is 0. `violation` is the root of the sum of squares of what has to
    go, σ_{k+1} and on. Cost: one SVD; on a TPU large matrices compile fast and run for long. There is no exact prox in
    a diagonal metric (a step of the shape of Z). A sharded matrix is gathered: 4·m·n bytes on every device for float32.

    Args:
        k: leaf; a whole number, non-negative. It may follow a schedule without compiling again.

    Raises:
        TypeError: `k` is not a number.
        ValueError: the rank of the array is not 2, or `k` is negative or not whole.
        NotImplementedError: `prox` with a step of the shape of `z`.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.Rank(1).prox(jnp.array([[0.0, 3.0], [1.0, 0.0]])).round(5)
        Array([[0., 3.],
               [0., 0.]], dtype=float32)

    References:
        Eckart and Young, *The approximation of one matrix by another of lower rank*, Psychometrika, 1936.
    """

    k: ArrayLike = coefficient()

    def __post_init__(self) -> None:
        super().__post_init__()
        _counts.check_whole("Rank(k=...)", self.k)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z = constraint.matrix("Rank", z, step)
        if z.size == 0:
            return z
        k = jax.lax.stop_gradient(jnp.asarray(self.k, numerics.real_dtype(z)))
        sigma = _singular_values.singular_values(z)
        rest = jnp.max(sigma - _first(k, sigma))
        nearest = _singular_values.spectral_map(_first, k, z)
        w = numerics.exact(jnp.where(rest <= _singular_values.negligible(sigma, z.shape), z, nearest), nearest)
        return jnp.where(jnp.isnan(k), jnp.nan, w)


def _first(k: jax.Array, sigma: jax.Array) -> jax.Array:
    """The first k of σ, and 0 for the others."""
    return jnp.where(jax.lax.iota(sigma.dtype, sigma.size) + 0.5 < k, sigma, 0)
