"""duality_gap: how far a convex loss plus a norm is above its minimum, from one gradient.

A convex loss f lies above its tangent at w and above `lowest`, so above every mean of the two, and where s·‖∇f(w)‖° ≤ 1
in the dual norm ‖·‖° of the penalty Ω the slopes of that mean are no match for Ω:

    f(v) + Ω(v) ≥ s·(f(w) + ⟨∇f(w), v − w⟩) + (1 − s)·lowest + Ω(v) ≥ s·(f(w) − ⟨∇f(w), w⟩) + (1 − s)·lowest   for all v

L2, which is smooth, counts as a part of f: scikit-learn does the same by rows √β·I below the data. Where the penalty is
R = Ω + Q with Q quadratic, R(2w) − 2R(w) = 2Q(w) and ∇R(2w) − ∇R(w) = ∇Q(w), exactly 0 for norms also when rounded.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer
from jaxreg._rules.paths import Leaves, flatten_with_paths
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg._strength.coefficient_max import multiple_max, without_penalty


def duality_gap(
    loss: Callable[..., Any],
    reg: Regularizer | TreePenalty,
    params: Any,
    *args: Any,
    lowest: Any = 0.0,
) -> jax.Array:
    """Return a bound on how much `loss(params, *args) + reg(params)` is above its minimum.

        gap = (1 − s)·(f(w) − lowest) + s·⟨∇f(w), w⟩ + Ω(w),   s = min(1, 1/‖∇f(w)‖°)

    Ω is the norm in `reg`, ‖·‖° its dual norm, and f the loss, with what `reg` has of L2. Whatever w is, the minimum is
    nowhere below f(w) + Ω(w) − gap; at the minimum the gap is 0. It asks for one gradient, no data, and nothing of the
    loss but that it is convex and nowhere below `lowest`: losses of squares, logistic, Poisson up to a constant, of any
    tree. It is as exact as the rounding of the loss, in float32 about 1e-6 of it; for less take float64.

    `jaxreg.minimize` ends by its residual, which all penalties have and which needs no `lowest`. The gap says of what
    it found, in units of the objective, what more steps could bring at most: `dual_gap_` of scikit-learn's `Lasso` and
    `ElasticNet` is such a number, which knows that the loss is one of squares, and is smaller by s(1 − s)·f(w).

    Args:
        loss: `(params, *args) -> scalar`, convex and differentiable.
        reg: `L1`, `SLOPE`, `Group`, `Spectral`, their multiples, one of them plus `L2` or `NonNegative`, and whatever
            else `jaxreg.coefficient_max` takes; or a `TreeRegularizer` of such, for all parameters.
        params: the tree, such as `minimize(...).params`.
        args: trees of arrays and numbers.
        lowest: a number that the loss is nowhere below. The nearer to the least loss, the smaller the gap.

    Returns:
        A scalar; nan where the loss is below `lowest`, and inf outside of `NonNegative`.

    Raises:
        TypeError: the loss is no real number, or `reg` no penalty.
        ValueError: a parameter, or an entry in no group, has no penalty, so that a slope in it bounds nothing (with a
            weight of 0 the gap is f(w) − lowest + Ω(w), until the slope is exactly 0).
        NotImplementedError: the penalty is no norm plus L2.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), jnp.array([2.0, 0.1, 2.0])
        >>> def loss(w, x, y):
        ...     return 0.5 * jnp.sum((x @ w - y) ** 2)
        >>> found = jaxreg.minimize(loss, jaxreg.L1(1.0), jnp.zeros(2), x, y)
        >>> bool(jaxreg.duality_gap(loss, jaxreg.L1(1.0), found.params, x, y) < 1e-5)
        True
        >>> rough = jnp.array([1.4, 0.0])                  # its objective, 1.765, is 0.01 above the minimum
        >>> round(float(jaxreg.duality_gap(loss, jaxreg.L1(1.0), rough, x, y)), 3)
        0.061

    References:
        Fercoq, Gramfort and Salmon, *Mind the duality gap: safer rules for the Lasso*, ICML 2015, arXiv:1505.03410.
    """
    if not callable(loss):
        raise TypeError(
            f"`duality_gap(loss=...)` takes a function `(params, *args) -> scalar`, got {checks.short(loss)}."
        )
    if not isinstance(reg, (Regularizer, TreePenalty)):
        raise TypeError(f"`duality_gap(reg=...)` takes a regularizer or a `TreeRegularizer`, got {checks.short(reg)}.")
    lowest = checks.number("duality_gap(lowest=...)", lowest, above=-jnp.inf)
    tree, flat = as_tree(reg), flatten_with_paths(params)
    _check_penalized(tree, flat)

    def filled(w: list[jax.Array]) -> Any:
        numbers = iter(w)
        leaves = zip(flat.leaves, flat.parameters, strict=True)
        return flat.treedef.unflatten(next(numbers) if is_parameter else leaf for leaf, is_parameter in leaves)

    def penalty(w: list[jax.Array]) -> Any:
        return tree(filled(w))

    w = [jnp.asarray(leaf) for leaf, is_parameter in zip(flat.leaves, flat.parameters, strict=True) if is_parameter]
    twice = [2 * x for x in w]
    f, g = jax.value_and_grad(lambda w: _real_scalar(loss(filled(w), *args)))(w)
    (once, of_once), (double, of_twice) = (jax.value_and_grad(penalty)(x) for x in (w, twice))
    quadratic = jnp.where(jnp.isfinite(once), (double - 2 * once) / 2, 0)
    slopes = [a + b - c for a, b, c in zip(g, of_twice, of_once, strict=True)]
    dual_norm = _dual_norm(reg, filled(slopes))
    s = 1 / jnp.maximum(dual_norm, 1)
    along = sum(jnp.sum(jnp.real(a * b)) for a, b in zip(slopes, w, strict=True))  # jax.grad conjugates
    gap = (1 - s) * (f + quadratic - lowest) + s * along + (once - quadratic)
    return jnp.where(f < lowest, jnp.nan, gap)


def _check_penalized(tree: TreePenalty, flat: Leaves) -> None:
    joints = tree.joints(flat)
    for i, (path, is_parameter, own) in enumerate(zip(flat.paths, flat.parameters, tree.assign(flat), strict=True)):
        if is_parameter and own is None:
            views = [view for joint in joints for view in joint.views if view.position == i]
            if not views:
                raise without_penalty(f"the parameter {checks.short(path)}")
            inside = [view.indices for view in views if view.indices is not None]
            if len(inside) == len(views):
                free = np.setdiff1d(np.arange(np.shape(flat.leaves[i])[views[0].axis]), np.concatenate(inside))
                if free.size:
                    raise without_penalty(f"index {free[0]} of {checks.short(path)}, in no group,")


def _dual_norm(reg: Regularizer | TreePenalty, slopes: Any) -> jax.Array:
    """‖g‖°: the smallest multiple of Ω against which the slopes g do not move 0."""
    try:
        return multiple_max(reg, slopes, held=True)
    except NotImplementedError:
        raise NotImplementedError(
            "`duality_gap` knows the dual norm of L1, SLOPE, Group, Spectral, Stacked and Matrix of these, of their "
            f"multiples, and of one of them plus L2 or NonNegative, got `{checks.short(reg)}`. The `residual` "
            "of `jaxreg.minimize` certifies the minimum of every convex penalty."
        ) from None


def _real_scalar(value: Any) -> jax.Array:
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = f"shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
        raise TypeError(f"`duality_gap(loss=...)` must return a real number, got {got}. Take the sum or the mean.")
    return jnp.asarray(value)
