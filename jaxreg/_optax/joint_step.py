"""The proximal step of groups across leaves: sums over the leaves add, moments and step sizes stand beside them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxreg._core import numerics, partition
from jaxreg._core.compiler import only_after
from jaxreg._optax import adam_groups, groups, half_precision
from jaxreg._optax.leaves import Row, Rows
from jaxreg._optax.metrics import Metric, Uniform
from jaxreg._optax.one_leaf import slope
from jaxreg._rules.joint import Joint, are_one, is_at_rest, refuse_overlaps

Change = tuple[Any, Any, Any]  # the update, the residual and the norms of a leaf


class Sizes(NamedTuple):
    """What the step sizes of all leaves are made of."""

    metric: Metric
    leaves: Sequence[Any]  # of the metric
    of_leaf: Callable[..., jax.Array]  # as `one_leaf.step_sizes` gives it
    eta: Any
    adam: adam_groups.Adam | None


def shapes_of_moments(sizes: Sizes, state: Any, rows: Rows) -> list[Any]:
    """As in `adam_groups`, with None for leaves of groups: theirs are refused here if they are others."""
    shapes = adam_groups.shapes_of_moments(sizes.metric, state, rows.treedef)
    params = [row.param for row in rows.leaves]
    for joint in rows.joints:
        of_units = adam_groups.shapes_of_units(joint, params)
        for i in joint.all_positions:
            if shapes[i] is not None:
                of_joint, shapes[i] = shapes[i], None
                adam_groups.refuse_other_moments(sizes.adam, joint.call, of_units.get(i), params[i], of_joint)
    return shapes


def step(
    joints: Sequence[Joint],
    rows: Sequence[Row],
    new: list[Change | None],
    old: Sequence[Change],
    sizes: Sizes,
    moments: Sequence[Any],
    before: Any,
) -> None:
    """Put the leaves of each group after its step into `new`, which has what their own penalties gave.

    The numbers `before` are computed first, as in `compiler.only_after`.
    """
    refuse_overlaps(joints)
    wide: list[Any] = [None if row.param is None else numerics.promote(row.param) for row in rows]
    wide = [p if residual is None else p + residual for p, (_, residual, _) in zip(wide, old, strict=True)]
    for joint in joints:
        if is_at_rest(joint, sizes.leaves):
            continue
        place = joint.positions[0]
        w, now = _point_after(joint, rows, wide, old[place][2], sizes, moments, before)
        before = w[0] if now is None else now
        ends: list[Any] = list(wide)
        for i in joint.all_positions:
            alone = new[i] or old[i]
            ends[i] = wide[i] + jnp.asarray(alone[0], wide[i].dtype)
        joint.put(w, ends)
        for i in joint.all_positions:
            as_update = half_precision.as_update(joint.group, ends[i], *rows[i][:2], old[i][1])
            new[i] = (*as_update, now if i == place and old[i][2] is not None else None)


def _point_after(
    joint: Joint, rows: Sequence[Row], wide: Sequence[Any], r: Any, sizes: Sizes, moments: Sequence[Any], before: Any
) -> tuple[Any, Any]:
    """The entries after the step, and the norms of the groups in a metric."""
    wide = [p if i in joint.positions else None for i, p in enumerate(wide)]
    p, beside = joint.blocks(wide), joint.beside([row.regularizer for row in rows], wide)
    form = None if isinstance(sizes.metric, Uniform) else groups.grouped(joint.group, p, beside)
    last: Any = None if form is None else form.last_norms(r, p)
    numbers = moments[joint.positions[0]]
    if form is not None and numbers is not None:
        m, v = (joint.blocks([leaf and leaf[k] for leaf in moments]) for k in (0, 1))
        by_group = cast(adam_groups.Adam, sizes.adam).by_group
        of_units = partition.numbers(v, joint.units) if by_group else v
        last, of_units = adam_groups.in_turn(before, form, p, last, of_units)
        return adam_groups.compiled()(joint.group, p, last, m, of_units, numbers[2], beside)
    leaves = joint.steps(sizes.leaves, wide)
    is_one = are_one(leaves)
    wide, leaves = only_after(before, (wide, leaves))
    z = joint.blocks([p if p is None else p + jnp.asarray(u, p.dtype) for p, (u, *_) in zip(wide, rows, strict=True)])
    if is_one:
        w = joint.prox(beside, z, (sizes.of_leaf(joint.group, None, p[0], None, sizes.eta, leaves[0], 0.0),) * len(z))
        return w, r if form is None else form.norms(w)
    slopes = cast(groups.Grouped, form).slope(p, last)
    steps = tuple(
        sizes.of_leaf(joint.group, None, x, None, sizes.eta, leaf, slope)
        for x, leaf, slope in zip(p, leaves, slopes, strict=True)
    )
    return groups.compiled()(joint.group, z, steps, last, sizes.eta, beside)


def slopes(joints: Sequence[Joint], rows: Sequence[Row], sizes: Sizes, known: Sequence[Any]) -> list[Any]:
    """|∂R/∂p_i| of the leaves of groups, for a metric; of the others what is known."""
    new = list(known)
    if isinstance(sizes.metric, Uniform):
        return new
    for joint in joints:
        if is_at_rest(joint, sizes.leaves):
            continue
        wide = [numerics.promote(row.param) if i in joint.all_positions else None for i, row in enumerate(rows)]
        for i in joint.all_positions:
            if new[i] is None:
                reg, p = rows[i].regularizer, cast(jax.Array, wide[i])
                new[i] = jnp.zeros_like(jnp.real(p)) if reg is None else slope(reg, p)
        entries = joint.blocks(wide)
        beside = joint.beside([row.regularizer for row in rows], wide)
        form = cast(groups.Grouped, groups.grouped(joint.group, entries, beside))
        joint.put(form.slope(entries, form.norms(entries)), new)
    return new


def images(
    joints: Sequence[Joint],
    rows: Sequence[Row],
    sizes: Sizes,
    places: Sequence[int],
    alone: Sequence[jax.Array],
    points: Sequence[jax.Array],
    steps: Sequence[jax.Array],
) -> list[jax.Array]:
    """The images of the points of the leaves `places`; `alone` is what their own penalties gave, groups left out."""
    refuse_overlaps(joints)
    ends, z, tau = (_at(places, column, len(rows)) for column in (alone, points, steps))
    for joint in joints:
        if is_at_rest(joint, sizes.leaves):
            continue
        beside, own = joint.beside([row.regularizer for row in rows], z), joint.steps(tau, z)
        is_one = are_one(joint.steps(sizes.leaves, z))  # then the sums of the steps are one number too
        joint.put(joint.prox(beside, joint.blocks(z), own[:1] * len(own) if is_one else own), ends)
    return [ends[i] for i in places]


def _at(places: Sequence[int], column: Sequence[Any], n: int) -> list[Any]:
    """A column of some leaves as one of all n, None in between."""
    found: list[Any] = [None] * n
    for i, x in zip(places, column, strict=True):
        found[i] = x
    return found
