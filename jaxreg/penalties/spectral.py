"""Spectral: a penalty of the singular values."""

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import static
from jaxreg.penalties import _polar, _singular_values
from jaxreg.penalties._profile import as_elementwise

Method = Callable[[jax.Array], jax.Array]


@final
class Spectral(Regularizer):
    """Penalize the singular values of a matrix, so that its rank falls.

        R(X) = Σ_i ρ(σ_i(X)),   ρ the profile of `penalty`
        ∇R(X) = U ρ′(Σ) Vᴴ over the non-zero singular values                    (the subgradient of least norm)
        prox(Z, τ) = U prox_ρ(Σ, τ) Vᴴ                                                          (exact for every ρ)

    `Spectral(L1(c))` is c times the nuclear norm; `Spectral(Lq(...))` Schatten-q; `Spectral(L0(c))` c times the rank.
    For an array of rank 2. Kernels of a higher rank: `Matrix(Spectral(...), outputs)`; stacks of matrices:
    `Stacked(Spectral(...), axes)`. A singular value below max(m, n)·ε·σ₁ counts as zero in the gradient. Derivatives
    are finite at zero and at repeated singular values.

    Cost: one decomposition (method "svd"), or for L1 24 to 48 matrix products (method "polar"), which is what
    accelerators are good at; there small singular values are not exactly zero after `prox`. "auto" takes "polar" for L1
    on matrices of 256 and more in programs for a TPU or a GPU. There real matrices of that size are decomposed by their
    polar factor and the symmetric matrix that is left; on a TPU that compiles in less than a minute and runs for long.
    A sharded matrix is gathered: 4·m·n bytes on every device for float32. In `Stacked` the stacked axes may be sharded:
    every device keeps its own matrices.

    Args:
        penalty: an elementwise penalty, a sum or a multiple of such.
        method: static; "auto", "svd", or "polar" (for multiples of L1 and real matrices).

    Raises:
        TypeError: `penalty` is not elementwise.
        ValueError: the rank is not 2, or "polar" was asked for where it does not apply.
        NotImplementedError: `prox` with an array step; there is no closed form in a diagonal metric.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> nuclear = jaxreg.Spectral(jaxreg.L1(1.0))
        >>> float(nuclear(jnp.diag(jnp.array([3.0, 0.5]))))
        3.5
        >>> jnp.diag(nuclear.prox(jnp.diag(jnp.array([3.0, 0.5]))))
        Array([2., 0.], dtype=float32)

    References:
        Cai, Candès and Shen, *A singular value thresholding algorithm for matrix completion*, SIAM J. Optim., 2010.
    """

    penalty: Regularizer
    method: str = static("auto", choices=("auto", "svd", "polar"))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "penalty", as_elementwise("Spectral", self.penalty))

    def __call__(self, x: ArrayLike) -> jax.Array:
        x = checks.matrix("Spectral", jnp.asarray(x))
        if x.size == 0:
            return jnp.zeros((), numerics.real_dtype(x))

        def by_svd(x: jax.Array) -> jax.Array:
            value, slope = (lambda penalty, s: penalty(s)), (lambda penalty, s: jax.grad(penalty)(s))
            return _singular_values.spectral_sum(value, slope, self.penalty, x)

        def by_products(x: jax.Array) -> jax.Array:
            return jnp.asarray(self._l1(), x.dtype) * _polar.nuclear_norm_polar(x)

        return self._chosen(by_svd, by_products, x)

    def prox(self, z: ArrayLike, step: ArrayLike = 1.0) -> jax.Array:
        z, step = checks.matrix("Spectral.prox", jnp.asarray(z)), jnp.asarray(step)
        checks.scalar_step("Spectral(...)", step, _singular_values.SCALAR_STEP)
        if z.size == 0:
            return z

        def by_svd(z: jax.Array) -> jax.Array:
            return _singular_values.spectral_map(lambda p, s: p[0].prox(s, p[1]), (self.penalty, step), z)

        def by_products(z: jax.Array) -> jax.Array:
            return _polar.singular_value_threshold_polar(z, numerics.threshold(step, self._l1()))

        return self._chosen(by_svd, by_products, z)

    def _l1(self) -> Any:
        parts = self.penalty.parts()
        return parts.l1 if parts.is_elastic and parts.l2 is None else None

    def _chosen(self, by_svd: Method, by_products: Method, x: jax.Array) -> jax.Array:
        possible = self._l1() is not None and not jnp.iscomplexobj(x)
        if self.method == "polar" and not possible:
            raise ValueError(
                f"`Spectral({type(self.penalty).__name__}, method='polar')` needs a multiple of L1 and a real matrix, "
                f"got dtype {x.dtype}; use method='svd'."
            )
        if self.method == "polar":
            return by_products(x)
        if self.method == "svd" or not possible:
            return by_svd(x)
        return _polar.unless_large(by_svd, by_products, x)
