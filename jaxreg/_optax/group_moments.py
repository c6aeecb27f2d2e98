"""Adam with one second moment a group: within a group all step sizes are equal.

    v_g ← b2·v_g + (1 − b2)·mean_{i in g} |g_i|²,   u_i = m̂_i/(√(v̂_g + eps_root) + eps)

The mean is that of Adam-mini (arXiv:2406.16793), for a unit in several leaves over all of them. A group moves by at
most about η in the root mean square of its entries, as an entry does in Adam, and so may the penalty: at rest its pull
τ_g·|∂R/∂w| has a root mean square of at most η, and the bound 4η on that is not active (`metrics.py` has the argument
for entries).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg._core import numerics, partition, sums_on_tpu
from jaxreg._optax.adam_groups import shapes_of_units
from jaxreg._optax.groups import grouped
from jaxreg._optax.leaves import side_by_side
from jaxreg._optax.metrics import Moments
from jaxreg._rules.joint import Joint, refuse_overlaps
from jaxreg._rules.paths import is_hidden
from jaxreg._rules.tree_penalty import TreePenalty


def group_adam(
    learning_rate: Any,
    reg_at: Callable[[jax.Array], TreePenalty],
    metric: Moments,
    b1: Any,
    b2: Any,
    eps: Any,
    eps_root: Any,
) -> optax.GradientTransformation:
    """`optax.adam` with one second moment for each group of the penalties, for each entry elsewhere.

    The state is Adam's. In it the shape of a second moment, length 1 along the axes of a group, tells `update` what to
    take the mean of. The number of a unit stands in each of its leaves, so that it is divided among devices as they
    are; an index of a leaf that is in no unit has one of its own there. For a tree without leaves, as
    `optax.tree.map_params` has, the second moments are one array: it stands for whatever they are, so that no sharding
    of a parameter is given to numbers of groups.
    """
    adam = optax.adam(learning_rate, b1, b2, eps, eps_root)
    scale = optax.scale_by_learning_rate(learning_rate)

    def init(params: Any) -> Any:
        state, rate = adam.init(params)
        if not jax.tree.leaves(params):
            return state._replace(nu=jnp.zeros((), jnp.float32)), rate
        rows, treedef, joints = side_by_side("proximal_adam", params, params, reg_at(state.count))
        moments = treedef.flatten_up_to(state.nu)
        for i, (_, param, regularizer) in enumerate(rows):
            if (form := grouped(regularizer, param)) is not None:
                moments[i] = jnp.zeros_like(form.norms(numerics.promote(param)))
        refuse_overlaps(joints)
        leaves = [row.param for row in rows]
        for joint in joints:
            joint.beside([row.regularizer for row in rows], leaves)  # which refuses what has no closed form
            for i, shape in shapes_of_units(joint, leaves).items():
                moments[i] = jnp.zeros(shape, numerics.real_dtype(numerics.promote(leaves[i])))
        return state._replace(nu=treedef.unflatten(moments)), rate

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        moments, rate = state
        treedef: Any
        leaves, treedef = jax.tree.flatten(updates, is_leaf=is_hidden)
        if not jax.tree.leaves(updates):
            updates, (new, new_rate) = adam.update(updates, (moments._replace(nu=updates), rate))
            return updates, (new._replace(nu=moments.nu), new_rate)
        mu, nu = treedef.flatten_up_to(moments.mu), treedef.flatten_up_to(moments.nu)
        joints = side_by_side("proximal_adam", updates, params, reg_at(moments.count)).joints
        joints = [joint for joint in joints if _has_moments(joint, leaves, nu)]
        of_units = {i for joint in joints for i in joint.all_positions}
        shown = [i for i, g in enumerate(leaves) if not is_hidden(g)]
        of_entries = [i for i in shown if jnp.shape(nu[i]) == jnp.shape(leaves[i]) and i not in of_units]
        g, m, v = ([column[i] for i in of_entries] for column in (leaves, mu, nu))
        found, (new, new_rate) = adam.update(g, (moments._replace(mu=m, nu=v), rate))
        for column, values in ((leaves, found), (mu, new.mu), (nu, new.nu)):
            for i, value in zip(of_entries, values, strict=True):
                column[i] = value
        by_group = sorted({*shown} - {*of_entries})
        squares = [_mean_square(g, nu[i]) if i in by_group else None for i, g in enumerate(leaves)]
        for joint in joints:
            _put_means_of_units(joint, leaves, squares)
        for i in by_group:
            mu[i] = optax.tree.update_moment(leaves[i], mu[i], b1, 1)
            nu[i] = jnp.asarray(b2 * nu[i] + (1 - b2) * squares[i], nu[i].dtype)
            divisor = metric.divisor(new, nu[i])
            minus_eta = scale.update(jnp.ones((), divisor.dtype), rate)[0]
            factor = minus_eta / (jnp.asarray(1 - b1**new.count, divisor.dtype) * divisor)
            leaves[i] = (mu[i] * factor).astype(mu[i].dtype)
        new = new._replace(mu=treedef.unflatten(mu), nu=treedef.unflatten(nu))
        return treedef.unflatten(leaves), (new, new_rate)

    return optax.GradientTransformation(init, update)


def _mean_square(g: jax.Array, like: jax.Array) -> jax.Array:
    """mean |g|² over the axes along which `like` has length 1."""
    g = numerics.promote(g)
    axes = tuple(i for i, n in enumerate(like.shape) if n != g.shape[i])
    size = numerics.number_of(math.prod(g.shape[axis] for axis in axes) or 1)
    return jnp.asarray(sums_on_tpu.squares(g, axes) / size, like.dtype)


def _has_moments(joint: Joint, leaves: Sequence[Any], nu: Sequence[Any]) -> bool:
    """Whether these are second moments of its units; `proximal` refuses others."""
    shapes = shapes_of_units(joint, leaves)
    return bool(shapes) and all(jnp.shape(nu[i]) == shape for i, shape in shapes.items())


def _put_means_of_units(joint: Joint, gradients: Sequence[Any], squares: list[Any]) -> None:
    """mean |g|² over all leaves of a unit, in place of that over each."""
    blocks = joint.blocks(gradients)
    size = numerics.number_of(partition.size(blocks, joint.units) or 1)
    mean = partition.spread(sums_on_tpu.squares(blocks, joint.units) / size, joint.units)
    joint.put(jax.tree.map(lambda mean, old: jnp.broadcast_to(mean, old.shape), mean, joint.blocks(squares)), squares)
