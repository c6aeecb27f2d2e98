"""Penalties of what activations and logits say about probabilities: sparsity, confidence, normalization."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxreg.activity import _batch


@_batch.of_batch
def kl_sparsity(h: ArrayLike, rho: ArrayLike = 0.05, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Make every unit active on a fraction rho of the batch: the penalty of sparse autoencoders.

        Σ_j ρ log(ρ/ρ̂_j) + (1 − ρ) log((1 − ρ)/(1 − ρ̂_j))              ρ̂_j = mean of h[..., j]

    A sum over the units (the last axis); ρ̂ is a mean over all other axes. Natural logarithm. 0 exactly where every
    unit has mean activation ρ. For activations in (0, 1), sigmoids: ρ̂ is clipped to [ε, 1 − ε], ε the machine
    epsilon, and outside of that its gradient is 0. So a unit that is exactly 0 or 1 on the whole batch has a large,
    finite penalty and no gradient; nor would the saturated sigmoid before it pass one on.

    Args:
        h: real, (batch, ..., units); rank 1 with `axis_name`.
        rho: the target, a number in (0, 1); may be traced.
        mask: bool, or 0 and 1, over any of the axes of `h` but the last.
        axis_name: the mapped axes over which the batch is split; each ρ̂_j is a mean over all of it.

    Raises:
        TypeError: `h` is not one real array, or `rho` not a number.
        ValueError: `rho` is outside of (0, 1), the rank of `h` too low, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> h = jnp.array([[0.1, 0.9], [0.3, 0.5]])  # means 0.2 and 0.7
        >>> round(float(activity.kl_sparsity(h, rho=0.2)), 4)
        0.5341

    References:
        Ng, *Sparse autoencoder*, CS294A lecture notes, Stanford University, 2011.
    """
    h, kept = _batch.features("kl_sparsity", h, mask, axis_name)
    eps = float(jnp.finfo(h.dtype).eps)
    target = jnp.minimum(jnp.asarray(_proportion(rho), h.dtype), 1 - eps)
    mean, n = _batch.feature_means(h, kept, axis_name)
    mean = jnp.clip(mean, eps, 1 - eps)
    active = target * (jnp.log(target) - jnp.log(mean))
    silent = (1 - target) * (jnp.log1p(-target) - jnp.log1p(-mean))
    return jnp.where(n > 0, jnp.sum(active + silent), 0)


def _proportion(rho: Any) -> Any:
    rho = _batch.number("kl_sparsity(rho=...)", rho, above=-math.inf)
    if not isinstance(rho, jax.core.Tracer) and not 0 < rho < 1:
        raise ValueError(
            f"`kl_sparsity(rho=...)` must be in (0, 1), got {rho}. For activations that are to be exactly 0 penalize "
            "their size: `penalty(jaxreg.L1(...), h)`."
        )
    return rho


@_batch.of_batch
def entropy(logits: ArrayLike, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Penalize confident predictions: the NEGATIVE entropy of the softmax, a mean over the batch.

        mean of Σ_k p_k log p_k                           p = softmax(logits) over the last axis

    Between −log K (uniform over K classes: the minimum) and 0 (certain): add it with a positive factor to spread
    predictions, subtract it to sharpen them. Natural logarithm; a mean over all axes but the last. From logits, so it
    is right where p underflows; 0·log 0 = 0, so logits of −inf rule classes out, with gradient 0. Smooth.

    Args:
        logits: real, (..., classes).
        mask: bool, or 0 and 1, over any of the axes of `logits` but the last.
        axis_name: the mapped axes over which the batch is split.

    Raises:
        TypeError: `logits` is not one real array.
        ValueError: `logits` is a scalar, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> round(float(activity.entropy(jnp.zeros((3, 2)))), 4)  # -log 2
        -0.6931
        >>> float(activity.entropy(jnp.array([-jnp.inf, 0.0])))
        0.0

    References:
        Pereyra, Tucker, Chorowski, Kaiser, Hinton, *Regularizing Neural Networks by Penalizing Confident Output
        Distributions*, arXiv:1701.06548.
    """
    scores, kept = _batch.logits("entropy", logits, mask)
    if scores.size == 0:
        return jnp.zeros((), scores.dtype)
    log_p = jax.nn.log_softmax(_batch.keep(scores, kept), axis=-1)
    terms = jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0)
    return _batch.mean(jnp.sum(terms, axis=-1, keepdims=True), kept, axis_name)


@_batch.of_batch
def z_loss(logits: ArrayLike, mask: ArrayLike | None = None, axis_name: Any = None) -> jax.Array:
    """Keep logits near normalized, so that they neither drift nor grow: the z-loss of PaLM and of expert routers.

        mean of (log Σ_k exp(logits_k))²

    A mean over all axes but the last, without ½. 0 where the logits are log-probabilities. Smooth; logits of −inf rule
    classes out, with gradient 0. PaLM weights it by 1e-4, ST-MoE by 1e-3.

    Args:
        logits: real, (..., classes).
        mask: bool, or 0 and 1, over any of the axes of `logits` but the last.
        axis_name: the mapped axes over which the batch is split.

    Raises:
        TypeError: `logits` is not one real array.
        ValueError: `logits` is a scalar, or the mask does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxreg import activity
        >>> float(activity.z_loss(jnp.array([-jnp.inf, 0.0])))
        0.0
        >>> round(float(activity.z_loss(jnp.zeros((3, 2)))), 4)  # (log 2)²
        0.4805

    References:
        Chowdhery et al., *PaLM: Scaling Language Modeling with Pathways*, arXiv:2204.02311.
        Zoph et al., *ST-MoE: Designing Stable and Transferable Sparse Expert Models*, arXiv:2202.08906.
    """
    scores, kept = _batch.logits("z_loss", logits, mask)
    if scores.size == 0:
        return jnp.zeros((), scores.dtype)
    log_z = jax.nn.logsumexp(_batch.keep(scores, kept), axis=-1, keepdims=True)
    return _batch.mean(log_z**2, kept, axis_name)
