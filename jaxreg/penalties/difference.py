"""Difference: a penalty of the differences along an axis."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg import _axes
from jaxreg._pytree import static
from jaxreg._regularizer import Regularizer, as_regularizer


@final
class Difference(Regularizer):
    """Penalize the differences of neighbours along an axis: piecewise constant, piecewise linear, or smooth entries.

        R(x) = P(D^order x),   (Dx)_i = x_{i+1} − x_i along `axis`,   P the given penalty

    `Difference(L1(c))` is the (anisotropic) total variation, with `L1(a)` added the fused lasso; `order=2` gives the
    trend filter; `Difference(L2(c))` smooths. An axis of length `order` or less has no differences and the value is 0.
    Where a difference is 0 its subgradient is that of P, 0. There is no closed-form proximal operator.

    Args:
        penalty: any regularizer.
        axis: static; the axis along which neighbours are compared.
        order: static; how often differences are taken, from 1.

    Raises:
        TypeError, ValueError: an argument is out of range, or the axis does not fit the array.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Difference(jaxreg.L1(1.0))
        >>> float(reg(jnp.array([0.0, 0.0, 3.0, 1.0])))
        5.0

    References:
        Tibshirani et al., *Sparsity and smoothness via the fused lasso*, JRSS B, 2005.
    """

    penalty: Regularizer
    axis: int = static(-1)
    order: int = static(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        if isinstance(self.axis, bool) or not isinstance(self.axis, int):
            raise TypeError(f"`Difference(axis=...)` must be an int, got {self.axis!r:.80}.")
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= 16:
            raise ValueError(f"`Difference(order=...)` must be an int from 1 to 16, got {self.order!r:.80}.")

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        (axis,) = _axes.axes_of("Difference", self.axis, x.ndim)
        return self.penalty(jnp.diff(x, n=min(self.order, x.shape[axis]), axis=axis))
