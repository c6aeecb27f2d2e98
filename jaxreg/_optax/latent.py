"""A latent point: the optimizer moves it, and the parameters are its image under the proximal operator.

    z ← z + u,   T ← T + τ,   params = argmin_w R(w) + ½ Σ (w_i − z_i)²/T_i

With u = −τ·g this is regularized dual averaging: z_0 − Σ τ_t·g_t stands in the place of a sum of gradients, and T in
that of the number of steps. No proximal step takes anything away from z, so that each has to make up for all steps. A
sum of the learning rates alone, with the metric of the last step, would multiply the noise of that by their number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._optax import half_precision
from jaxreg._optax.leaves import Row, needs_params, side_by_side
from jaxreg._rules.paths import is_hidden
from jaxreg._rules.tree_penalty import TreePenalty


def begin(params: Any, reg: TreePenalty, sizes: Callable[[Any], list[Any]]) -> tuple[Any, Any]:
    """The points and the sums of the steps, None for leaves without a penalty.

    `sizes` gives, for a treedef, what the metric has for each leaf: an array like it, a number, or None.
    """
    if not jax.tree.leaves(params):  # `optax.tree.map_params` has a tree without leaves
        return params, params
    rows = side_by_side("proximal", params, params, reg)
    treedef = rows.treedef
    points = [None if row.regularizer is None else numerics.promote(row.param) for row in rows.penalized()]
    found = jax.eval_shape(lambda: [None if is_hidden(x) else jnp.asarray(x) for x in sizes(treedef)])
    totals = [
        None if p is None or x is None else jnp.zeros_like(jnp.real(p), shape=None if x.ndim else ())
        for p, x in zip(points, found, strict=True)
    ]
    copies = [None if p is None else jnp.copy(p) for p in points]  # parameters and state may both be donated
    return treedef.unflatten(copies), treedef.unflatten(totals)


def seen(params: Any, latent: Any) -> Any:
    """What the optimizer inside takes for the parameters."""
    if latent is None or not jax.tree.leaves(params):
        return params
    needs_params("proximal", params)
    treedef: Any
    leaves, treedef = jax.tree.flatten(params, is_leaf=is_hidden)
    pairs = zip(leaves, treedef.flatten_up_to(latent), strict=True)
    return treedef.unflatten([p if point is None else point.astype(jnp.result_type(p)) for p, point in pairs])


def step(
    rows: Sequence[Row],
    points: Sequence[Any],
    totals: Sequence[Any],
    tau: Callable[[int, Regularizer, jax.Array], jax.Array],
    prox: Callable[..., list[jax.Array]],
    is_due: Any,
) -> list[tuple[Any, Any, Any]]:
    """The update, the point and the sum of steps of each leaf; where `is_due` is False the parameters stand still.

    `tau` gives the step sizes of a leaf by its number, `prox` the images: (numbers of leaves, parameters, z, T) -> w.
    """
    refuse_other_leaves(rows, points)
    new: list[Any] = [(row.update, point, total) for row, point, total in zip(rows, points, totals, strict=True)]
    places = [i for i, row in enumerate(rows) if row.regularizer is not None and totals[i] is not None]
    moving: Any = [rows[i] for i in places]
    ps = [numerics.promote(row.param) for row in moving]
    sums = [totals[i] + tau(i, row.regularizer, p) for i, row, p in zip(places, moving, ps, strict=True)]
    zs = [points[i] + jnp.asarray(row.update, points[i].dtype) for i, row in zip(places, moving, strict=True)]

    def moved() -> list[jax.Array]:
        ws = prox(places, ps, zs, sums)
        return [
            half_precision.as_update(row.regularizer, w, row.update, row.param, z)[0]
            for row, w, z in zip(moving, ws, zs, strict=True)
        ]

    def still() -> list[jax.Array]:
        return [
            jnp.zeros_like(p, dtype=half_precision.dtype_of_update(*row[:2])) for row, p in zip(moving, ps, strict=True)
        ]

    changes = moved() if is_due is True else jax.lax.cond(is_due, moved, still)
    for place in zip(places, changes, zs, sums, strict=True):
        new[place[0]] = place[1:]
    return new


def refuse_other_leaves(rows: Sequence[Row], points: Sequence[Any]) -> None:
    """Raise if the penalized leaves are not those that have a latent point."""
    for (update, param, regularizer), point in zip(rows, points, strict=True):
        if not is_hidden(update) and (regularizer is None) != (point is None):
            now = "none" if regularizer is None else checks.short(regularizer)
            raise ValueError(
                "`proximal(latent=True)`: a penalty must keep the leaves that it had in `init`; a leaf of shape "
                f"{jnp.shape(param)} has {now} now. Let a schedule change numbers alone, `lambda step: ramp(step) * "
                "reg`, or make a new state by `tx.init(params)`."
            )
