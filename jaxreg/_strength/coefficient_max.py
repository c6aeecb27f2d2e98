"""The top of a regularization path: the smallest coefficient at which everything is zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import numerics
from jaxreg._core.checks import real_only, short
from jaxreg._core.constraint import Constraint
from jaxreg._core.regularizer import Regularizer, Scaled, Sum
from jaxreg._core.structure import Parts
from jaxreg._rules.joined import Joined
from jaxreg._rules.paths import flatten_with_paths
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_budget import TreeBudget
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties import L1, L1L2, SLOPE, Anchored, Group, Matrix, Spectral, Stacked, Weighted


def coefficient_max(reg: Regularizer | TreePenalty, grads_at_zero: Any) -> jax.Array:
    """Return the smallest coefficient of L1 or of a group penalty at which all penalized parameters are zero.

        L1, L1L2:        max_i |g_i|                   Group of them:   max_g ‖g_g‖₂/ω
        factor · P:      that of P, divided by the factor
        P + L2:          that of P                     P + NonNegative: that of P for the negative part of g
        Stacked(P):      the largest over the layers   Matrix(P):       that of P for the matrix of g
        Weighted(P, weights):  that of P for g/weights, of norms if P is a `Group`
        Anchored(P, 0.0):      that of P         Joined(P):       that of P for the vector of g
        SLOPE(weights):        max_k Σ_{i≤k} |g|_(i) / Σ_{i≤k} weights_i, the factor of the weights (the dual norm)

    g is the gradient of the loss where the penalized parameters are 0 (and the others, such as an intercept, at their
    optimum). For a convex loss, 0 is the minimum of loss + R from this coefficient on, so it is where a path of
    decreasing strengths begins; for a network it is the scale to begin with. The coefficients that `reg` holds are
    ignored. L2 is ignored too: neither changes the strength above which zero is optimal.

    Args:
        reg: `L1`, `L1L2`, `SLOPE`, `Group`, `Stacked` or `Matrix` of one of them, a multiple of these, a sum of one of
            these with `L2` and `NonNegative`; or a `TreeRegularizer` of such, for which the answer is the largest over
            the leaves (relative strengths are factors, `2 * L1(...)`).
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
    return multiple_max(reg, grads_at_zero, held=False)


def multiple_max(reg: Regularizer | TreePenalty, grads_at_zero: Any, *, held: bool) -> jax.Array:
    """The same; with `held` the smallest multiple of the penalty with the coefficients that it holds."""
    flat = flatten_with_paths(grads_at_zero)
    tree = as_tree(reg)
    if isinstance(tree, Joined):
        return _top(tree.penalty, tree.vector(grads_at_zero), held)
    if isinstance(tree, TreeBudget):
        raise _has_none(tree, "jaxreg.TreeBudget(1 - c)")
    assigned = tree.assign(flat)
    tops = [
        _top(penalty, jnp.asarray(g), held)
        for penalty, g in zip(assigned, flat.leaves, strict=True)
        if penalty is not None
    ]
    for joint in tree.joints(flat):
        if any(assigned[i] is not None for i in joint.positions):
            raise NotImplementedError(
                f"`coefficient_max`: a leaf of the groups of {joint.call} has a penalty of its own as well. Ask for "
                "each of them alone."
            )
        group = Group(joint.group.penalty, 1, joint.group.weight, None)
        tops.append(_top(group, joint.matrix(flat.leaves), held))
    if not tops:
        raise ValueError("`coefficient_max`: no leaf of the gradients has a penalty.")
    return jnp.max(jnp.stack(tops))


def _top(penalty: Regularizer, g: jax.Array, held: bool) -> jax.Array:
    g = numerics.promote(g)
    match penalty:
        case L1() | L1L2():
            largest = jnp.max(jnp.abs(g), initial=0)
            return _divided(largest, penalty.l1) if held else largest
        case Group():
            _check_groups(penalty, held)
            return _top(penalty.penalty, _divided(penalty.norms(g), penalty.size_weight(g)), held)
        case Scaled():
            return _divided(_top(penalty.penalty, g, held), penalty.factor)
        case Stacked():
            layers, _ = penalty.layers(g)
            return jnp.max(jax.vmap(lambda layer: _top(penalty.penalty, layer, held))(layers), initial=0)
        case Matrix():
            return _top(penalty.penalty, penalty.matrix(g), held)
        case Spectral() if held:
            return _top(penalty.penalty, jnp.linalg.svd(g, compute_uv=False), held)
        case Weighted():
            if isinstance(penalty.penalty, Group):
                group = penalty.penalty
                _check_groups(group, held)
                weighted = Weighted(group.penalty, penalty.of_norms(g))
                return _top(weighted, _divided(group.norms(g), group.size_weight(g)), held)
            return _top(penalty.penalty, _divided(g, penalty.of_entries(g)), held)
        case SLOPE():
            ordered = jnp.flip(jnp.sort(jnp.abs(g).ravel()))
            return jnp.max(_divided(jnp.cumsum(ordered), jnp.cumsum(penalty.of_places(g))), initial=0)
        case Anchored():
            return _anchored_top(penalty, g, held)
        case Sum():
            others = [term for term in penalty.terms if not _leaves_the_top(term.parts())]
            if len(others) == 1:
                return _top(others[0], _against(penalty.parts().nonnegative, g), held)
        case Constraint():
            raise _has_none(penalty, "jaxreg.TopK(1 - c)")
    raise NotImplementedError(
        "`coefficient_max` knows L1, L1L2, SLOPE, Group, Stacked and Matrix of these, their multiples, and one "
        f"of them plus L2 or NonNegative, got `{short(penalty)}`. Begin the path at a coefficient that you see to "
        "give zeros only."
    )


def _check_groups(group: Group, held: bool) -> None:
    if held and group.groups is not None and np.min(group.groups, initial=0) < 0:
        raise without_penalty("an entry in no group, of label -1,")


def without_penalty(what: str) -> ValueError:
    """Of `duality_gap`, which holds the coefficients."""
    return ValueError(
        f"`duality_gap(reg=...)`: {what} has no penalty, and so its slope, however small, bounds nothing. Leave it "
        "out: for squares center the data instead of fitting an intercept, `x - x.mean(axis=0)` and `y - y.mean()`. "
        "Else the `residual` of `jaxreg.minimize` is the certificate."
    )


def _has_none(reg: Any, smaller: str) -> NotImplementedError:
    return NotImplementedError(
        f"`coefficient_max` knows no coefficient of `{short(reg)}`, which is a set. Give `jaxreg.path` a "
        f"function under which it shrinks as the coefficient grows, `lambda c: {smaller}`, and the "
        "coefficients, here shares of zeros, such as `[0.5, 0.8, 0.9]`."
    )


def _anchored_top(anchored: Anchored, g: jax.Array, held: bool) -> jax.Array:
    reference, weights = anchored.reference, anchored.weights
    if isinstance(reference, jax.core.Tracer) or np.any(np.asarray(reference)):
        raise NotImplementedError(
            "`coefficient_max` asks at which coefficient the parameters are 0, and with `Anchored` they go to a "
            f"reference, got {short(reference)}. The coefficient at which they stay there is that of the penalty "
            "inside for the gradient at the reference: `jaxreg.coefficient_max(anchored.penalty, grads_at_reference)`."
        )
    return _top(anchored.penalty if weights is None else Weighted(anchored.penalty, weights), g, held)


def _leaves_the_top(parts: Parts) -> bool:
    """Whether the term is L2 or NonNegative and nothing else."""
    return parts.l1 is None and parts.excluded is None and not parts.intervals and not parts.rest


def _against(nonnegative: Any, g: jax.Array) -> jax.Array:
    """The part of g that pushes entries away from 0: where w ≥ 0, only the negative one."""
    if nonnegative is None:
        return g
    real_only("NonNegative", g)
    return jnp.where(jnp.asarray(nonnegative) > 0, jnp.minimum(g, 0), g)


def _divided(top: jax.Array, weight: Any) -> jax.Array:
    return jnp.where(top == 0, top, top / weight)
