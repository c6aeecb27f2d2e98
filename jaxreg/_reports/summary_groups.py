"""What the summary says of groups that lie in several leaves."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import numerics, partition
from jaxreg._rules.joint import Joint
from jaxreg._rules.paths import Leaves


@dataclasses.dataclass(frozen=True)
class LeafGroups:
    """The groups of one `JointGroup`: the leaves in which they lie, and what a `Leaf` says of one."""

    paths: tuple[str, ...]
    regularizer: str  # the repr of the penalty of their norms
    groups: int
    size: int  # entries in them, of all leaves
    penalty: float
    gradient_norm: float
    zeros: int
    zero_groups: int


def of_groups(joints: Sequence[Joint], flat: Leaves) -> tuple[tuple[LeafGroups, ...], list[list[Any]]]:
    """Return what there is to say, and the gradients of each penalty: an array for each leaf, None for others."""
    found, gradients = [], []
    for joint in joints:
        blocks, slopes = joint.blocks(flat.leaves), joint.gradient(flat.leaves)
        counts = partition.each(lambda unit, x: np.count_nonzero(np.asarray(x), unit.others), joint.units, blocks)
        alive = sum(counts)
        numbers = (float(joint.value(flat.leaves)), norm(slopes))
        size = sum(block.size for block in blocks)
        paths, zeros = tuple(view.path for view in joint.views), size - int(np.sum(alive))
        dead = int(np.count_nonzero(np.asarray(alive) == 0))
        found.append(LeafGroups(paths, repr(joint.group.penalty), joint.views[0].units, size, *numbers, zeros, dead))
        full: list[Any] = [None] * len(flat.leaves)
        for i in joint.positions:
            full[i] = jnp.zeros_like(numerics.promote(flat.leaves[i]))
        joint.put(slopes, full)
        gradients.append([full[i] if i in joint.positions else None for i in range(len(full))])
    return tuple(found), gradients


def shared(parts: Sequence[Sequence[Any]]) -> float:
    """‖Σ_k g_k‖² − Σ_k ‖g_k‖², of gradients that are lists of arrays: 0 where no leaf has two of them."""
    total = 0.0
    for column in zip(*parts, strict=True):
        there = [g for g in column if g is not None]
        if len(there) > 1:
            total += norm([sum(there)]) ** 2 - sum(norm([g]) ** 2 for g in there)
    return total


def norm(arrays: Sequence[Any]) -> float:
    """The Euclidean norm of all entries."""
    return float(jnp.linalg.norm(jnp.stack([jnp.linalg.norm(numerics.promote(x).ravel()) for x in arrays])))


def own_gradient(regularizer: Any, leaf: Any) -> jax.Array:
    """Of a penalty of a single leaf."""
    return jnp.conj(jax.grad(regularizer)(numerics.promote(leaf)))
