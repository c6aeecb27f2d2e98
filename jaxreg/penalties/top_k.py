"""TopK: a given share, or number, of the entries of every group is not zero."""

import math
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxreg._core import checks, constraint
from jaxreg._core.struct import coefficient, static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes, _counts, _largest


@final
class TopK(constraint.Constraint):
    """Keep at most a share of the entries, the largest ones, and make all others zero: pruning by magnitude.

        {w : at most k_g entries of w_g are not 0},   k_g = ⌈share·size_g⌉, or the count
        prox(z)_i = z_i if |z_i| is among the k_g largest of its group, else 0
        prox(z, τ)_i = z_i if |z_i|²/τ_i is, else 0                                               (a diagonal metric)

    Over the whole array, or over every group of entries along `axis`: `axis=0` of a Dense kernel (inputs, outputs)
    gives every unit as many inputs. Any shape; |·| is the modulus for complex x. The set is not convex. Of equal
    magnitudes those with the lowest index stay, in the order of the array, so that there are never too many. nan stays
    nan, and counts as the largest. The derivative of the prox is 1 where an entry stays, 0 elsewhere, and 0 in `share`.
    `violation` is the root of the sum of squares of what has to go. Sums with L1, L2 and NonNegative are exact.

    `share` may follow a schedule without compiling again. The threshold is found from the bits of the numbers, not by
    a sort: 16 reads of a float32 array on a TPU and a GPU, 32 on a CPU, and as many again where equal magnitudes have
    to go; of a group that is sharded, each costs an all-reduce of the numbers of entries. ⌈·⌉ allows for the rounding
    of the product, 0.07·100 is 7; beyond 10⁷ entries that is several, and a count is exact.

    Args:
        share: leaf; a float between 0 and 1 is a share, an int is a count: 1 is one entry, 1.0 all of them. Of an array
            the dtype decides; as `optax.inject_hyperparams` makes floats of all numbers, give it shares.
        axis: static; an int, a tuple of ints, or None for the whole array.

    Raises:
        TypeError: `share` is not a number.
        ValueError: it is negative, nan, or a float above 1; `axis` is not an axis of the array.
        NotImplementedError: a group has 2³² entries or more.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> z = jnp.array([[3.0, -1.0, 0.5, 0.2], [0.1, 0.4, -0.3, 0.2]])
        >>> jaxreg.TopK(0.25).prox(z)                                                   # two of eight
        Array([[ 3., -1.,  0.,  0.],
               [ 0.,  0.,  0.,  0.]], dtype=float32)
        >>> jaxreg.TopK(1, axis=1).prox(z)                                              # one of every row
        Array([[3. , 0. , 0. , 0. ],
               [0. , 0.4, 0. , 0. ]], dtype=float32)

    References:
        Blumensath and Davies, *Iterative hard thresholding for compressed sensing*, Applied and Computational Harmonic
        Analysis, 2009.
    """

    reach: ClassVar[Reach] = Reach.GROUP

    share: ArrayLike = coefficient()
    axis: Any = static(None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", _counts.checked_share("TopK", self.share))
        object.__setattr__(self, "axis", checks.as_tuple(self.axis))
        _axes.check_axis("TopK", self.axis)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopK) and super().__eq__(other) and self._is_count == other._is_count  # 1 is not 1.0

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._is_count))

    @property
    def _is_count(self) -> bool:
        return _counts.is_count(self.share)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        axes = _axes.axes_of("TopK", self.axis, z.ndim)
        stay = _largest.are_largest(_largest.order(z, step), self.count(z), axes)
        return _largest.only(stay, z, jnp.asarray(self.share))

    def count(self, x: ArrayLike) -> jax.Array:
        """Return how many entries of each group of `x` may be other than 0; it may be more than there are."""
        shape = np.shape(x)
        size = math.prod(shape[axis] for axis in _axes.axes_of("TopK", self.axis, len(shape)))
        if isinstance(size, int) and size >= 2**32:
            raise NotImplementedError(
                f"`TopK` counts in groups of less than 2³² entries, got {size}. Take smaller ones, "
                "`TopK(share, axis=...)`, or treat each layer of a stack by itself, `Stacked(TopK(share), axes=...)`."
            )
        return _counts.allowed(self.share, size)
