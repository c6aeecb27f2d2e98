"""Difference: a penalty of the differences along an axis."""

from typing import final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, compiler, weights
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import static
from jaxreg._core.structure import Reach
from jaxreg.penalties import _axes
from jaxreg.penalties._chain import along_a_chain

_LARGEST = 2.0**40  # stands for an infinite step, which has no product with 0


@final
class Difference(Regularizer):
    """Penalize the differences of neighbours along an axis: piecewise constant, piecewise linear, or smooth entries.

        R(x) = P(D^order x),   (Dx)_i = x_{i+1} − x_i along `axis`,   P the given penalty

    `Difference(L1(c))` is the (anisotropic) total variation, with `L1(a)` added the fused lasso; `order=2` gives the
    trend filter; `Difference(L2(c))` smooths. An axis of length `order` or less has no differences and the value is 0.
    Where a difference is 0 its subgradient is that of P, 0. The proximal operator is exact for order 1 and L1, its
    multiples and weights (`Weighted(L1(c), weights)`, one for each difference), with a scalar step or a step for each
    entry: entries that become equal are blocks, whose value is the mean of z plus what their ends are drawn by. Work
    and derivatives are those of `Monotone`, and a sharded axis is gathered. That of the fused lasso is exact too, for a
    scalar step: the soft threshold comes after. For any other convex elementwise P, and higher orders, `inner_steps` of
    `proximal` approximates it.

    Args:
        penalty: any regularizer.
        axis: static; the axis along which neighbours are compared.
        order: static; how often differences are taken, from 1.

    Raises:
        TypeError, ValueError: `axis` or `order` is not such a number, or the axis does not fit the array.
        NotImplementedError: `prox` of another penalty or order, or of complex numbers.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> reg = jaxreg.Difference(jaxreg.L1(1.0))
        >>> float(reg(jnp.array([0.0, 0.0, 3.0, 1.0])))
        5.0
        >>> reg.prox(jnp.array([0.0, 1.0, 5.0, 4.0]))
        Array([1., 1., 4., 4.], dtype=float32)

    References:
        Tibshirani et al., *Sparsity and smoothness via the fused lasso*, JRSS B, 2005. Chambolle and Darbon, *On total
        variation minimization and surface evolution using parametric maximum flows*, IJCV, 2009 (the prox).
    """

    penalty: Regularizer
    axis: int = static(-1)
    order: int = static(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_regularizer(self.penalty))
        _axes.check_one("Difference", self.axis)
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= 16:
            raise ValueError(f"`Difference(order=...)` must be an int from 1 to 16, got {checks.short(self.order)}.")

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        (axis,) = _axes.axes_of("Difference", self.axis, x.ndim)
        return self.penalty(jnp.diff(x, n=min(self.order, x.shape[axis]), axis=axis))

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = jnp.asarray(z), jnp.asarray(step)
        (axis,) = _axes.axes_of("Difference", self.axis, z.ndim)
        parts = self.penalty.parts()
        if self.reach is not Reach.CHAIN or jnp.iscomplexobj(z):
            raise NotImplementedError(
                f"`Difference({type(self.penalty).__name__}, order={self.order}).prox` has a closed form for L1, its "
                "multiples and weights, of order 1 and real numbers. For a convex elementwise penalty "
                "`jaxreg.proximal(optimizer, reg, learning_rate, inner_steps=10)` approximates it; else put the "
                "gradient into the loss or into `jaxreg.add_regularization`."
            )
        shape = (*z.shape[:axis], max(z.shape[axis] - 1, 0), *z.shape[axis + 1 :])
        l1 = jnp.asarray(0.0 if parts.l1 is None else weights.broadcast(parts.l1, shape), z.dtype)
        if parts.excluded is not None:
            l1 = jnp.where(jnp.asarray(weights.broadcast(parts.excluded, shape)) > 0, jnp.inf, l1)
        return compiler.placed_like(z, along_a_chain(z, step, l1, l1, axis))

    @property
    def reach(self) -> Reach:
        parts = self.penalty.parts()
        return Reach.CHAIN if self.order == 1 and parts.is_elastic and parts.l2 is None else Reach.ARRAY

    def approximate_prox(self, p: jax.Array, z: jax.Array, step: jax.Array, count: int) -> jax.Array:
        """w = z − τDᵀy, y by `count` accelerated proximal gradient steps on the dual, a step size σ_j for each y_j.

        y ← prox_{σP*}(y + σDw) = v − σ·prox_{P/σ}(v/σ);   σ = 1/(|D|τ|Dᵀ|1), the row sums of |DτDᵀ|.
        """
        del p
        rho = self.penalty.scalar()
        if rho is None or not rho.convex:
            raise NotImplementedError(
                f"`Difference({type(self.penalty).__name__})` has inner steps only for an elementwise penalty that is "
                "known to be convex (L1, L2, L1L2, Huber, their sums and multiples). Put its gradient into the loss or "
                "into `jaxreg.add_regularization`."
            )
        step = jnp.minimum(jnp.broadcast_to(step, z.shape), _LARGEST)
        (axis,) = _axes.axes_of("Difference", self.axis, z.ndim)
        order = min(self.order, z.shape[axis])

        def difference(w: jax.Array) -> jax.Array:
            return jnp.diff(w, n=order, axis=axis)

        def absolute(w: jax.Array) -> jax.Array:
            for _ in range(order):
                length = w.shape[axis]
                w = jax.lax.slice_in_dim(w, 1, length, axis=axis) + jax.lax.slice_in_dim(w, 0, length - 1, axis=axis)
            return w

        transpose, absolute_transpose = jax.linear_transpose(difference, z), jax.linear_transpose(absolute, step)
        start = jnp.zeros_like(difference(z))
        rows = absolute(step * absolute_transpose(jnp.ones_like(start, step.dtype))[0])
        sigma = 1 / jnp.where(rows > 0, rows, 1)

        def body(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            y, extrapolated = carry
            v = extrapolated + sigma * difference(z - step * transpose(extrapolated)[0])
            new = v - sigma * self.penalty.prox(v / sigma, 1 / sigma)
            return new, new + jnp.asarray(k / (k + 3), y.dtype) * (new - y)

        y, _ = jax.lax.fori_loop(0, count, body, (start, start))
        return z - step * transpose(y)[0]
