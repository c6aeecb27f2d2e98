"""Penalties of the covariance of features over the batch: decorrelation, and the variance and covariance of VICReg."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg._core import compiler
from jaxreg.activity import _batch


@_batch.of_batch
def decorrelation(h: ArrayLike, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Make features vary independently of each other over the batch: DeCov.

        ½ (‖C‖_F² − ‖diag C‖²) = ½ Σ_{i≠j} C_ij²           C = (1/N) Σ_n (h_n − h̄)(h_n − h̄)ᵀ

    A sum over the pairs of features (the last axis), each counted once; N is the number of members along all other
    axes, and C is divided by N, as in the paper. The gradient is the one of this formula (the paper prints half of it).
    Smooth; 0 for one feature, and for one member. `covariance` differs by the factor 2/d·(N/(N − 1))².

    Cost: forms the d × d matrix C, N·d² operations.

    Args:
        h: real, (batch, ..., features); rank 1 with `axis_name`.
        mask: bool, or 0 and 1, over any of the axes of `h` but the last.
        axis_name: the mapped axes over which the batch is split; C is that of all of it.

    Raises:
        TypeError: `h` is not one real array.
        ValueError: its rank is too low, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> float(activity.decorrelation(jnp.array([[1.0, 2.0], [-1.0, -2.0]])))  # C_12 = 2
        4.0

    References:
        Cogswell, Ahmed, Girshick, Zitnick, Batra, *Reducing Overfitting in Deep Networks by Decorrelating
        Representations*, ICLR 2016, arXiv:1511.06068.
    """
    return jnp.sum(_off_diagonal("decorrelation", h, mask, axis_name, ddof=0) ** 2) / 2


@_batch.of_batch
def covariance(h: ArrayLike, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Make features vary independently of each other over the batch: the covariance term of VICReg.

        (1/d) Σ_{i≠j} C_ij²                                C = (1/(N − 1)) Σ_n (h_n − h̄)(h_n − h̄)ᵀ

    A sum over ordered pairs of the d features (the last axis), without ½; N is the number of members along all other
    axes, and C is divided by N − 1, as in the paper. Smooth; 0 for one feature, and for one member. VICReg adds up
    this term of its two branches.

    Cost: forms the d × d matrix C, N·d² operations.

    Args:
        h: real, (batch, ..., features); rank 1 with `axis_name`.
        mask: bool, or 0 and 1, over any of the axes of `h` but the last.
        axis_name: the mapped axes over which the batch is split; C is that of all of it.

    Raises:
        TypeError: `h` is not one real array.
        ValueError: its rank is too low, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> float(activity.covariance(jnp.array([[1.0, 2.0], [-1.0, -2.0]])))  # C_12 = C_21 = 4
        16.0

    References:
        Bardes, Ponce, LeCun, *VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning*,
        ICLR 2022, arXiv:2105.04906.
    """
    c = _off_diagonal("covariance", h, mask, axis_name, ddof=1)
    return jnp.sum(c**2) / max(len(c), 1)


@_batch.of_batch
def variance(
    h: ArrayLike,
    target: ArrayLike = 1.0,
    eps: ArrayLike = 1e-4,
    mask: ArrayLike | None = None,
    axis_name: Any = None,
) -> jax.Array:
    """Keep every feature varying over the batch, so that representations do not collapse: the variance term of VICReg.

        mean over j of max(0, target − √(var_j + ε))       var_j = (1/(N − 1)) Σ_n (h_nj − h̄_j)²

    A mean over the features (the last axis); N is the number of members along all other axes. The gradient is 0 at the
    kink of the hinge and beyond, and 0, not nan, at a feature that does not vary at all, thanks to ε; such a feature
    costs target − √ε. Fewer than two members have no variance and give 0.

    Args:
        h: real, (batch, ..., features); rank 1 with `axis_name`.
        target: the standard deviation to reach; a non-negative number, may be traced.
        eps: ε, a positive number; may be traced.
        mask: bool, or 0 and 1, over any of the axes of `h` but the last.
        axis_name: the mapped axes over which the batch is split; the variance is that of all of it.

    Raises:
        TypeError: `h` is not one real array, `target` or `eps` not a number.
        ValueError: `target` or `eps` is negative, nan or inf, the rank of `h` too low, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> h = jnp.array([[1.0, 0.0], [-1.0, 0.0]])  # variances 2 and 0
        >>> round(float(activity.variance(h)), 3)
        0.495

    References:
        Bardes, Ponce, LeCun, *VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning*,
        ICLR 2022, arXiv:2105.04906.
    """
    target = _batch.number("variance(target=...)", target, above=None)
    eps = _batch.number("variance(eps=...)", eps, above=0.0)  # √ has no slope at 0
    x, n = _deviations("variance", h, mask, axis_name)
    squares = _batch.total(jnp.sum(x**2, axis=tuple(range(x.ndim - 1))), axis_name)
    std = jnp.sqrt(squares / jnp.maximum(n - 1, 1) + jnp.asarray(eps, x.dtype))
    hinge = jax.nn.relu(jnp.asarray(target, x.dtype) - std)
    value = jnp.sum(hinge) / max(len(hinge), 1)
    return jnp.where((n > 1) | jnp.isnan(value), value, 0)


def _off_diagonal(call: str, h: Any, mask: Any, axis_name: Any, ddof: int) -> jax.Array:
    """The covariance matrix of the features, with 0 on its diagonal. 0 for one member, also where N − ddof is 0."""
    x, n = _deviations(call, h, mask, axis_name)
    products = compiler.automatic(_products, x, replicated=True)(x)
    c = _batch.total(products, axis_name) / jnp.maximum(n - ddof, 1)
    return jnp.where(jnp.eye(len(c), dtype=bool), 0, c)


def _products(x: jax.Array) -> jax.Array:
    batch = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, x, axes=(batch, batch), precision=jax.lax.Precision.HIGHEST)


def _deviations(call: str, h: Any, mask: Any, axis_name: Any) -> tuple[jax.Array, jax.Array]:
    """Each member minus the mean of the batch, 0 where it is masked out; and the number of members."""
    h, kept = _batch.features(call, h, mask, axis_name)
    mean, n = _batch.feature_means(h, kept, axis_name)
    return _batch.keep(h - mean, kept), n
