"""Entries of several leaves as one matrix with a row for each unit: what a penalty of groups across leaves acts on."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxreg._core import checks, numerics
from jaxreg._core.regularizer import Regularizer
from jaxreg._rules.paths import is_hidden
from jaxreg.penalties import L1, L2, Weighted


@dataclasses.dataclass(frozen=True)
class View:
    """Where the units lie in a leaf: along an axis, or at those indices of it that have labels."""

    position: int  # of the leaf in its tree
    path: str
    axis: int
    indices: NDArray[np.int64] | None  # (units, indices of each); None for one each, in order

    def rows(self, leaf: Any) -> jax.Array:
        """The entries, (units, entries of each)."""
        leaf = jnp.moveaxis(leaf, self.axis, 0)
        if self.indices is not None:
            leaf = leaf[self.indices.reshape(-1)]
            return leaf.reshape(len(self.indices), -1)
        return leaf.reshape(len(leaf), -1)

    def put(self, rows: jax.Array, leaf: Any) -> jax.Array:
        """The leaf with these entries instead."""
        moved = jnp.moveaxis(leaf, self.axis, 0)
        rows = rows if jnp.iscomplexobj(leaf) else jnp.real(rows)
        rows = rows.astype(leaf.dtype)
        if self.indices is None:
            return jnp.moveaxis(rows.reshape(moved.shape), 0, self.axis)
        at = self.indices.reshape(-1)
        return jnp.moveaxis(moved.at[at].set(rows.reshape(len(at), *moved.shape[1:])), 0, self.axis)

    def overlaps(self, other: "View") -> bool:
        """Whether an entry is in both."""
        if self.position != other.position:
            return False
        if self.axis != other.axis or self.indices is None or other.indices is None:
            return True
        return bool(np.isin(self.indices, other.indices).any())


@dataclasses.dataclass(frozen=True)
class Joint:
    """A penalty of groups across leaves, found in one tree."""

    call: str  # for messages
    group: Regularizer  # of the matrix
    views: tuple[View, ...]
    tied: tuple[tuple[int, int], ...] = ()  # positions of an array that stands in two places: the second, the first

    @property
    def positions(self) -> list[int]:
        return [view.position for view in self.views]

    @property
    def all_positions(self) -> list[int]:
        """With those of arrays that stand in two places."""
        return [*self.positions, *(second for second, _ in self.tied)]

    def matrix(self, leaves: Sequence[Any]) -> jax.Array:
        """The entries of the units, (units, entries of each), in a dtype that holds all."""
        found = [view.rows(numerics.promote(leaves[view.position])) for view in self.views]
        return jnp.concatenate(found, axis=1)

    def put(self, matrix: jax.Array, leaves: list[Any]) -> None:
        """Put the entries into the leaves."""
        start = 0
        for view in self.views:
            leaf = leaves[view.position]
            n = _width(view, leaf.shape)
            leaves[view.position] = view.put(matrix[:, start : start + n], leaf)
            start += n
        for second, first in self.tied:
            leaves[second] = leaves[first]

    def beside(self, own: Sequence[Regularizer | None], leaves: Sequence[Any]) -> Regularizer:
        """The penalty of the matrix, with what the leaves have of their own: L1 and L2, a strength for each entry."""
        parts = [None if (reg := own[i]) is None else reg.parts() for i in self.positions]
        for position, part in zip(self.positions, parts, strict=True):
            if part is not None and not (part.is_elastic and part.excluded is None):
                raise NotImplementedError(
                    f"`{self.call}`: a leaf of its groups has also the penalty {checks.short(own[position])}. The "
                    "proximal operator of both together is known for L1, L2 and L1L2 beside it; put others into the "
                    "loss or into `jaxreg.add_regularization`."
                )
        total = self.group
        for penalty, name in ((L1(1.0), "l1"), (L2(1.0), "l2")):
            numbers = [None if part is None else getattr(part, name) for part in parts]
            if any(c is not None for c in numbers):
                full = list(leaves)
                for i, c in zip(self.positions, numbers, strict=True):
                    dtype = numerics.real_dtype(numerics.promote(leaves[i]))
                    full[i] = jnp.broadcast_to(jnp.asarray(0 if c is None else c, dtype), leaves[i].shape)
                total = total + Weighted(penalty, self.matrix(full))
        return total

    def steps(self, steps: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """The step sizes of the entries: one number if all leaves have the same, else a matrix."""
        own = [steps[i] for i in self.positions]
        if not any(map(np.ndim, own)) and all(
            step is own[0] or (isinstance(step, float) and isinstance(own[0], float) and step == own[0]) for step in own
        ):
            return own[0]
        full = list(leaves)
        for i in self.positions:
            dtype = numerics.real_dtype(numerics.promote(leaves[i]))
            full[i] = jnp.broadcast_to(jnp.asarray(steps[i], dtype), leaves[i].shape)
        return self.matrix(full)


def _width(view: View, shape: tuple[int, ...]) -> int:
    """How many entries a unit has in a leaf."""
    each = 1 if view.indices is None else view.indices.shape[1]
    return each * math.prod(n for axis, n in enumerate(shape) if axis != view.axis)


def is_at_rest(joint: Joint, steps: Sequence[Any]) -> bool:
    """Whether an optimizer leaves the leaves alone, by step sizes that are masked; all of them, or none."""
    hidden = [is_hidden(steps[i]) for i in joint.positions]
    if any(hidden) and not all(hidden):
        raise ValueError(
            f"`{joint.call}`: the optimizer does not step {checks.short(joint.views[hidden.index(True)].path)}, but "
            "other leaves of the same units. Mask all leaves of a group, or none."
        )
    return all(hidden)


def refuse_overlaps(joints: Sequence[Joint]) -> None:
    """Raise where an entry is in two groups: the proximal operator of their sum is not known."""
    views = [(joint, view) for joint in joints for view in joint.views]
    for i, (joint, view) in enumerate(views):
        for other, beside in views[i + 1 :]:
            if view.overlaps(beside):
                raise NotImplementedError(
                    f"`{joint.call}` and `{other.call}` both have entries of {checks.short(view.path)}: the "
                    "proximal operator of overlapping groups has no closed form. Leave that leaf out of one of them "
                    "(a unit is 0 when all that makes it is; what reads it need not be), or put their gradients into "
                    "the loss or into `jaxreg.add_regularization`."
                )
