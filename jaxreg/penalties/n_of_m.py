"""NofM: at most n of every m consecutive entries are not zero."""

from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint, numerics
from jaxreg._core.struct import coefficient, static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes, _counts, _largest

_MOST_COMPARED = 32


@final
class NofM(constraint.Constraint):
    """Keep at most n of every m consecutive entries along an axis, the largest ones: N:M sparsity, such as 2:4.

        {w : at most n of every m consecutive entries along `axis` are not 0}
        prox(z)_i = z_i if |z_i| is among the n largest of its m, else 0
        prox(z, τ)_i = z_i if |z_i|²/τ_i is, else 0                                               (a diagonal metric)

    Blocks begin at multiples of m; the last one is short where m does not divide the length of the axis, and holds at
    most n as well. Hardware that multiplies 2:4 matrices wants a length that 4 divides, and the blocks along the axis
    that the product sums over: for a Dense kernel (inputs, outputs) `axis=0`, the default. Any shape; |·| is the
    modulus for complex x. The set is not convex. Of equal magnitudes those with the lowest index stay, so that there
    are never too many. nan stays nan, and counts as the largest. The derivative of the prox is 1 where an entry stays,
    0 elsewhere, and 0 in `n`. `violation` is the root of the sum of squares of what has to go. Sums with L1, L2 and
    NonNegative are exact.

    Each entry is compared with those up to m − 1 places away: one read and one write of the memory, no sort. Along an
    axis that is sharded, m·(m − 1)/2 entries go each way across an edge. Blocks of more than 32 cost what `TopK` does.

    Args:
        n: leaf; a whole number, non-negative and at most m. It may follow a schedule without compiling again.
        m: static; an int of at least 1.
        axis: static; an int.

    Raises:
        TypeError: `n` is not a number, or `m` or `axis` no int.
        ValueError: `n` or `m` is out of its range, `n` is not whole, or the array has no such axis.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.NofM(2, 4, axis=-1).prox(jnp.array([3.0, -1.0, 0.5, 2.0, 0.1, 0.1, 0.1, 0.1]))
        Array([3. , 0. , 0. , 2. , 0.1, 0.1, 0. , 0. ], dtype=float32)

    References:
        Mishra et al., *Accelerating sparse deep neural networks*, arXiv:2104.08378, 2021. Zhou et al., *Learning N:M
        fine-grained structured sparse neural networks from scratch*, ICLR, 2021.
    """

    reach: ClassVar[Reach] = Reach.GROUP

    n: ArrayLike = coefficient()
    m: int = static()
    axis: int = static(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("m", self.m), ("axis", self.axis)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise TypeError(f"`NofM({name}=...)` must be an int, got {checks.short(value)}.")
            object.__setattr__(self, name, int(value))
        if self.m < 1:
            raise ValueError(f"`NofM(m=...)` must be at least 1, got {checks.short(self.m)}.")
        _counts.check_whole("NofM(n=...)", self.n)
        if isinstance(self.n, float) and self.n > self.m:
            raise ValueError(f"`NofM(n=..., m=...)` must have n ≤ m, got {self.n:g} and {self.m}.")

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        (axis,) = _axes.axes_of("NofM", self.axis, z.ndim)
        n = jax.lax.stop_gradient(jnp.asarray(self.n, numerics.real_dtype(z)))
        if self.m > _MOST_COMPARED:
            stay = _by_threshold(_largest.order(z, step), n, self.m, axis)
        else:
            stay = _larger_ones(z, step, self.m, axis).astype(n.dtype) + 0.5 < n
        return _largest.only(stay, z, n)


def _larger_ones(z: jax.Array, step: jax.Array, m: int, axis: int) -> jax.Array:
    """How many entries of its block come before an entry: larger ones, and equal ones of a lower index.

    What is shifted is z, not its keys: a compiler makes one loop of it, where each array of keys would be stored.
    """

    def keys(offset: int) -> jax.Array:
        shifted = [_shifted(x, offset, axis) if x.ndim else x for x in (z, step)]
        return _largest.order(*shifted)

    here, place = keys(0), jax.lax.broadcasted_iota(jnp.int32, z.shape, axis) % m
    before: Any = jnp.zeros(z.shape, jnp.int32)
    for offset in range(1, m):
        before += ((keys(offset) > here) & (place + offset < m)).astype(jnp.int32)
        before += ((keys(-offset) >= here) & (place >= offset)).astype(jnp.int32)
    return before


def _by_threshold(keys: jax.Array, n: jax.Array, m: int, axis: int) -> jax.Array:
    """Whether an entry stays, found in each block as `TopK` finds it: compilers do not hold so many comparisons."""
    length = keys.shape[axis]
    around = [(0, -length % m if i == axis else 0) for i in range(keys.ndim)]
    blocks = jnp.pad(keys, around)
    parted = blocks.reshape(*keys.shape[:axis], -1, m, *keys.shape[axis + 1 :])
    stay = _largest.are_largest(parted, jnp.round(n).astype(jnp.uint32), (axis + 1,))
    return jax.lax.slice_in_dim(stay.reshape(blocks.shape), 0, length, axis=axis)


def _shifted(x: jax.Array, offset: int, axis: int) -> jax.Array:
    """x_{i + offset} along `axis`, and 0, of which nothing is smaller, where there is none."""
    around = [(-offset, offset, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), around)
