"""optax: a penalty whose strength follows from a bound on its value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import checks, numerics
from jaxreg._core.compiler import only_after
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import stable_name
from jaxreg._core.structure import Indicator
from jaxreg._optax.leaves import Row, side_by_side
from jaxreg._rules.joint import Joint
from jaxreg._rules.tree import as_tree
from jaxreg._rules.tree_budget import TreeBudget
from jaxreg._rules.tree_penalty import TreePenalty


@stable_name
class BoundedState(NamedTuple):
    """Hold what `bounded` keeps from step to step.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.bounded(jaxreg.L1(1.0), kappa=0.5, rate=0.1).init(jnp.zeros(2)).strength
        Array(0., dtype=float32)
    """

    count: jax.Array  # type: ignore[assignment]  # shape (), int32: updates so far
    strength: Any  # λ of each penalized leaf, or of groups across leaves beside one of them, shape (); else None
    kappa: Any  # likewise κ, ∞ until it is measured; None where it was given as a number


def bounded(
    reg: Regularizer | TreePenalty, kappa: Any, rate: Any, *, step: int = 0, factor: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Keep the penalty of each leaf below a bound: the strength is what the bound needs, and 0 where it needs none.

        λ ← max(0, λ + rate·(R(params) − κ)),   u ← u + λ·∇R(params)                 (a λ for each penalized leaf)

    Constrained parameter regularization: one chooses how large weights may be, not how strongly they are pulled, and
    each leaf finds its own strength. Before an optimizer (`optax.chain(bounded(...), optax.sgd(0.1))`) it comes to rest
    where loss + λR is stationary, R(w) ≤ κ, and λ = 0 or R(w) = κ: at a minimum of the loss under the bound. Between
    `optax.scale_by_adam` and the learning rate, as in the paper, λ is in the units of Adam's direction. Near the bound
    λ swings like a spring with the loss: the smaller `rate`, the slower and the better damped.

    The updates keep their dtype, and leaves whose update is `None` or masked stay as they are. Beside what
    `add_regularization` does, the parameters are read once for R.

    Args:
        reg: a regularizer (for all floating leaves, each by itself), a `TreeRegularizer`, or a `JointGroup`, whose
            groups have one λ together; in the state it stands beside the first of their leaves without one.
        kappa: κ of every leaf, a number; or None: R(params) at the step `step`, times `factor`. Until then λ is 0.
        rate: of the change of λ, a positive number.
        step: the step, from 0, at which κ is measured: 0 is the initialization, a few hundred the end of a warm-up.
        factor: 0.8 for a bound of 80 % of the measured value.

    Raises:
        ValueError: `kappa` is negative, `rate` not positive; `step` or `factor` is given beside a number for `kappa`;
            `update` was called without `params`; a pattern matches no leaf.
        TypeError: `reg` is no regularizer, or a set, which has no value to be bounded: that is for `proximal`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg, optax
        >>> def loss(w):
        ...     return 0.5 * jnp.sum((w - jnp.array([3.0, 4.0])) ** 2)
        >>> tx = optax.chain(jaxreg.bounded(jaxreg.L2(1.0), kappa=1.0, rate=0.1), optax.sgd(0.1))
        >>> w = jnp.ones(2)
        >>> state = tx.init(w)
        >>> @jax.jit
        ... def step(w, state):
        ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
        ...     return optax.apply_updates(w, updates), state
        >>> for _ in range(300):
        ...     w, state = step(w, state)
        >>> w.round(3), state[0].strength.round(3)                    # ‖w‖² = 1, and (3, 4) − w = 2λw
        (Array([0.6, 0.8], dtype=float32), Array(2., dtype=float32))

        The norms of all weights stay below those after 500 steps:

        >>> decay = jaxreg.bounded(jaxreg.TreeRegularizer.for_weights(jaxreg.L2(0.5)), None, 1.0, step=500)
        >>> tx = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(1e-3))

    References:
        Franke, Hefenbrock, Köhler and Hutter, *Improving deep learning optimization through constrained parameter
        regularization*, NeurIPS 2024, arXiv:2311.09058.
    """
    tree = _checked(reg)
    rate = checks.number("bounded(rate=...)", rate, above=0.0)
    measured = kappa is None
    if measured:
        factor = checks.number("bounded(factor=...)", factor, above=None)
        if type(step) is not int or step < 0:
            raise ValueError(
                f"`bounded(step=...)` takes the number of a step, an int from 0, got {checks.short(step)}."
            )
    else:
        kappa = checks.number("bounded(kappa=...)", kappa, above=None)
        if step != 0 or not isinstance(factor, float) or factor != 1.0:
            raise ValueError(
                f"`bounded(kappa=...)` is given, {checks.short(kappa)}, so that nothing is measured: leave `step` and "
                "`factor` out, or give `kappa=None`."
            )

    def init(params: Any) -> BoundedState:
        count = jnp.zeros([], jnp.int32)
        if not jax.tree.leaves(params):  # `optax.tree.map_params` has a tree without leaves: one number for all
            return BoundedState(count, jnp.zeros([]), jnp.zeros([]) if measured else None)
        rows, treedef, joints = side_by_side("bounded", params, params, tree)
        if tree.is_joint:
            raise NotImplementedError(
                f"`bounded` has one strength a leaf, and {checks.short(tree)} penalizes several leaves together. Give "
                "each leaf its own penalty by a `TreeRegularizer`, or groups across leaves by a `JointGroup`."
            )
        of_joints = {*_places(joints, rows)}
        strength = [
            jnp.zeros((), _dtype(row.param)) if row.regularizer is not None or i in of_joints else None
            for i, row in enumerate(rows)
        ]
        limits = [None if x is None else jnp.full_like(x, jnp.inf) for x in strength]
        return BoundedState(count, treedef.unflatten(strength), treedef.unflatten(limits) if measured else None)

    def update(updates: Any, state: BoundedState, params: Any = None, **extra_args: Any) -> Any:
        del extra_args
        rows, treedef, joints = side_by_side("bounded", updates, params, tree)
        if not jax.tree.leaves(params):
            return updates, state._replace(count=optax.safe_increment(state.count))
        strengths = treedef.flatten_up_to(state.strength)
        limits = treedef.flatten_up_to(state.kappa) if measured else [kappa] * len(strengths)

        def next_strength(i: int, value: jax.Array) -> jax.Array:
            limits[i] = jnp.where(state.count == step, factor * value, limits[i]) if measured else limits[i]
            now = jnp.maximum(0, strengths[i] + jnp.asarray(rate, value.dtype) * (value - limits[i]))
            strengths[i] = now.astype(strengths[i].dtype)
            return now

        new = [row.update for row in rows]
        for i, (update_leaf, leaf, regularizer) in enumerate(rows):
            if regularizer is None:
                continue
            promoted = numerics.promote(leaf)
            value = regularizer.rounded_value(promoted, leaf).astype(strengths[i].dtype)
            slope = jnp.conj(jax.grad(regularizer)(only_after(value, promoted)))
            new[i] = update_leaf + (next_strength(i, value) * slope).astype(jnp.asarray(update_leaf).dtype)
        for i, joint in zip(_places(joints, rows), joints, strict=True):
            leaves = [row.param for row in rows]
            now = next_strength(i, joint.value(leaves).astype(strengths[i].dtype))
            slopes: list[Any] = [None if leaf is None else jnp.zeros_like(numerics.promote(leaf)) for leaf in leaves]
            joint.put(tuple(now * slope for slope in joint.gradient(leaves)), slopes)
            for k in joint.all_positions:
                new[k] = new[k] + slopes[k].astype(jnp.asarray(new[k]).dtype)
        strength, kept = treedef.unflatten(strengths), treedef.unflatten(limits) if measured else None
        return treedef.unflatten(new), BoundedState(optax.safe_increment(state.count), strength, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _places(joints: Sequence[Joint], rows: Sequence[Row]) -> list[int]:
    """The leaf beside which the state has the strength of each penalty of groups: one that has none of its own."""
    taken = {i for i, row in enumerate(rows) if row.regularizer is not None}
    found: list[int] = []
    for joint in joints:
        free = [i for i in joint.positions if i not in taken]
        if not free:
            raise NotImplementedError(
                f"`bounded` keeps one strength a leaf, and each leaf of {joint.call} has another penalty as well. Give "
                "them a `bounded` each: `optax.chain(bounded(groups, ...), bounded(others, ...), optimizer)`."
            )
        taken.add(free[0])
        found.append(free[0])
    return found


def _dtype(param: Any) -> Any:
    return numerics.real_dtype(numerics.promote(param))


def _checked(reg: Any) -> TreePenalty:
    if not isinstance(reg, (Regularizer, TreePenalty)):
        raise TypeError(
            f"`bounded` takes a regularizer or a `TreeRegularizer`, got {checks.short(reg)}.{checks.instead(reg)}"
        )
    sets = jax.tree.leaves(reg, is_leaf=lambda node: isinstance(node, Indicator))
    if any(isinstance(node, Indicator) for node in sets) or isinstance(reg, TreeBudget):
        raise TypeError(
            f"`bounded` takes penalties, and {checks.short(reg)} holds a set, whose value is 0 or ∞. Keep a set by "
            "`jaxreg.proximal(optimizer, reg, learning_rate)`."
        )
    return as_tree(reg)
