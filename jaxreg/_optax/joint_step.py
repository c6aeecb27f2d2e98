"""The proximal step of groups across leaves: their entries as one matrix, with moments and step sizes beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxreg._core import numerics
from jaxreg._optax import half_precision
from jaxreg._optax.leaves import Row
from jaxreg._rules.joint import Joint, is_at_rest, refuse_overlaps

Change = tuple[Any, Any, Any]  # the update, the residual and the norms of a leaf


def step(
    joints: Sequence[Joint],
    rows: Sequence[Row],
    new: list[Change],
    old: Sequence[Change],
    metric_leaves: Sequence[Any],
    moments: Sequence[Any],
    point_after: Callable[..., tuple[Any, Any]],
    before: Any,
) -> None:
    """Put the leaves of each group after its step into `new`, which has what their own penalties gave.

    `point_after` takes a penalty, p, u, a leaf of the metric, the norms, the moments and what has to come before.
    """
    refuse_overlaps(joints)
    residuals, norms = [residual for _, residual, _ in old], [r for *_, r in old]
    for joint in joints:
        if is_at_rest(joint, metric_leaves):
            continue
        wide = [None if row.param is None else numerics.promote(row.param) for row in rows]
        wide = [p if residual is None else p + residual for p, residual in zip(wide, residuals, strict=True)]
        first = joint.positions[0]
        r, numbers = norms[first], moments[first]
        if numbers is not None:
            numbers = (*(joint.matrix([leaf[k] for leaf in moments]) for k in (0, 1)), numbers[2])
        w, now = point_after(
            joint.beside([row.regularizer for row in rows], wide),
            joint.matrix(wide),
            joint.matrix([row.update for row in rows]),
            joint.steps(metric_leaves, wide),
            r,
            numbers,
            before,
        )
        before = w if now is None else now
        ends: list[Any] = [
            p if p is None else p + jnp.asarray(u, p.dtype) for p, (u, *_) in zip(wide, new, strict=True)
        ]
        joint.put(w, ends)
        for i in joint.all_positions:
            as_update = half_precision.as_update(joint.group, ends[i], *rows[i][:2], residuals[i])
            new[i] = (*as_update, now if r is not None and i == first else None)
