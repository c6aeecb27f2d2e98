"""The top of a regularization path: the smallest coefficient at which everything is zero."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import numerics
from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer, Scaled, Sum
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties import L1, L1L2, Group


def coefficient_max(reg: Regularizer | TreePenalty, grads_at_zero: Any) -> jax.Array:
    """Return the smallest coefficient of L1 or of a group penalty at which all penalized parameters are zero.

        L1, L1L2:   max_i |g_i|                        Group of them:   max_g ‖g_g‖₂/ω
        factor · P: that of P, divided by the factor

    g is the gradient of the loss where the penalized parameters are 0 (and the others, such as an intercept, at their
    optimum). For a convex loss, 0 is the minimum of loss + R from this coefficient on, so it is where a path of
    decreasing strengths begins; for a network it is the scale to begin with. The coefficients that `reg` holds play no
    part, L2 neither: both have no influence on where zero stops to be the minimum.

    Args:
        reg: `L1`, `L1L2`, `Group` of one of them, a multiple of these or a sum with `L2`; or a `TreeRegularizer` of
            such, for which the answer is the largest over the leaves (relative strengths are factors, `2 * L1(...)`).
        grads_at_zero: an array, or a tree like the parameters. Leaves without a penalty play no part.

    Returns:
        A scalar in the dtype of accumulation.

    Raises:
        NotImplementedError: a penalty for which the answer has no closed form, or that never gives zeros.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> grads = jnp.array([[3.0, -1.0], [4.0, 0.5]])
        >>> float(jaxreg.coefficient_max(jaxreg.L1(), grads))
        4.0
        >>> float(jaxreg.coefficient_max(jaxreg.Group(jaxreg.L1(), axis=0), grads))
        5.0

    References:
        Friedman, Hastie and Tibshirani, *Regularization paths for generalized linear models*, JSS, 2010.
    """
    if not isinstance(reg, (Regularizer, TreePenalty)):
        raise TypeError(f"`coefficient_max` takes a regularizer or a `TreeRegularizer`, got {short(reg)}.")
    flat = flatten_with_paths(grads_at_zero)
    assigned = as_tree(reg).assign(flat)
    tops = [
        _top(penalty, jnp.asarray(g)) for penalty, g in zip(assigned, flat.leaves, strict=True) if penalty is not None
    ]
    if not tops:
        raise ValueError("`coefficient_max`: no leaf of the gradients has a penalty.")
    return jnp.max(jnp.stack(tops))


def _top(penalty: Regularizer, g: jax.Array) -> jax.Array:
    g = numerics.promote(g)
    match penalty:
        case L1() | L1L2():
            return jnp.max(jnp.abs(g), initial=0)
        case Group():
            return _divided(_top(penalty.penalty, penalty.norms(g)), penalty.size_weight(g))
        case Scaled():
            return _divided(_top(penalty.penalty, g), penalty.factor)
        case Sum():
            others = [term for term in penalty.terms if not _only_l2(term)]
            if len(others) == 1:
                return _top(others[0], g)
    raise NotImplementedError(
        f"`coefficient_max` knows L1, L1L2, Group of these, their multiples and sums with L2, got `{penalty!r}`. Begin "
        "the path at a coefficient that you see to give zeros only."
    )


def _only_l2(term: Regularizer) -> bool:
    parts = term.parts()
    return parts.is_elastic and parts.l1 is None


def _divided(top: jax.Array, weight: Any) -> jax.Array:
    return jnp.where(top == 0, top, top / weight)
