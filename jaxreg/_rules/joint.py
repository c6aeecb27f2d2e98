"""Entries of several leaves as blocks with an axis of units: what a penalty of groups across leaves acts on.

A block is the leaf itself, in its own shape, so that arithmetic with it stands in one loop with that of the optimizer.
Where a unit has several indices of the axis, these are an axis of their own behind it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxreg._core import checks, numerics
from jaxreg._core.compiler import is_explicit
from jaxreg._core.partition import Units
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.structure import Parts
from jaxreg._rules.paths import is_hidden
from jaxreg.penalties import Group

Blocks = tuple[jax.Array, ...]
Beside = tuple[tuple[Any, Any], ...]  # for each leaf of some groups the numbers of its own L1 and L2, None for none


@dataclasses.dataclass(frozen=True)
class View:
    """Where the units lie in a leaf: along an axis, one behind the other, or at some of its indices."""

    position: int  # of the leaf in its tree
    path: str
    axis: int
    ndim: int  # of the block
    units: int
    indices: NDArray[np.int64] | None  # those of the first unit, of the second, ..., as many of each; None for all

    def block(self, leaf: Any) -> jax.Array:
        """The entries, with the units along the axis."""
        taken = leaf if self.indices is None else jnp.take(leaf, self.indices, self.axis)
        if taken.ndim == self.ndim:
            return taken
        before, n, behind = taken.shape[: self.axis], taken.shape[self.axis], taken.shape[self.axis + 1 :]
        return taken.reshape(*before, self.units, n // max(self.units, 1), *behind)

    def put(self, block: jax.Array, leaf: Any) -> jax.Array:
        """The leaf with these entries instead."""
        block = (block if jnp.iscomplexobj(leaf) else jnp.real(block)).astype(leaf.dtype)
        if self.indices is None:
            return block.reshape(leaf.shape)
        before, behind = leaf.shape[: self.axis], leaf.shape[self.axis + 1 :]
        place = (*(slice(None),) * self.axis, self.indices)
        return jnp.asarray(leaf).at[place].set(block.reshape(*before, len(self.indices), *behind))

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
    group: Group  # of the blocks
    views: tuple[View, ...]
    tied: tuple[tuple[int, int], ...] = ()  # positions of an array that stands in two places: the second, the first

    @property
    def positions(self) -> list[int]:
        return [view.position for view in self.views]

    @property
    def all_positions(self) -> list[int]:
        """With those of arrays that stand in two places."""
        return [*self.positions, *(second for second, _ in self.tied)]

    @property
    def units(self) -> Units:
        """Where the units lie in the blocks."""
        return cast(Units, self.group.groups)

    def blocks(self, leaves: Sequence[Any]) -> Blocks:
        """The entries of the units in each leaf."""
        found = tuple(view.block(numerics.promote(leaves[view.position])) for view in self.views)
        if any(map(is_explicit, found)):
            _refuse_other_places(self.call, self.views, found)
        return found

    def matrix(self, leaves: Sequence[Any]) -> jax.Array:
        """The same as rows of one matrix, a unit each."""
        rows = [jnp.moveaxis(block, view.axis, 0) for view, block in zip(self.views, self.blocks(leaves), strict=True)]
        return jnp.concatenate([row.reshape(len(row), math.prod(row.shape[1:])) for row in rows], axis=1)

    def put(self, blocks: Blocks, leaves: list[Any]) -> None:
        """Put the entries into the leaves."""
        for view, block in zip(self.views, blocks, strict=True):
            leaves[view.position] = view.put(block, leaves[view.position])
        for second, first in self.tied:
            leaves[second] = leaves[first]

    def value(self, leaves: Sequence[Any]) -> jax.Array:
        """The penalty."""
        return _value(self.group, self.blocks(leaves))

    def gradient(self, leaves: Sequence[Any]) -> Blocks:
        """The gradient of the penalty; `jax.grad` gives its conjugate."""
        return tuple(map(jnp.conj, jax.grad(_value, argnums=1)(self.group, self.blocks(leaves))))

    def beside(self, own: Sequence[Regularizer | None], leaves: Sequence[Any]) -> Beside:
        """What the leaves have of their own, L1 and L2: for each a number, numbers like its block, or None."""
        found = []
        for view in self.views:
            part = Parts() if (reg := own[view.position]) is None else reg.parts()
            if not (part.is_elastic and part.excluded is None):
                raise NotImplementedError(
                    f"`{self.call}`: a leaf of its groups has also the penalty {checks.short(reg)}. The "
                    "proximal operator of both together is known for L1, L2 and L1L2 beside it; put others into the "
                    "loss or into `jaxreg.add_regularization`."
                )
            leaf = numerics.promote(leaves[view.position])
            found.append((_like(view, part.l1, leaf), _like(view, part.l2, leaf)))
        return tuple(found)

    def steps(self, steps: Sequence[Any], leaves: Sequence[Any]) -> tuple[Any, ...]:
        """The step sizes of each leaf: a number, or numbers like its block."""
        return tuple(_like(view, steps[view.position], numerics.promote(leaves[view.position])) for view in self.views)

    def prox(self, beside: Beside, blocks: Blocks, steps: tuple[Any, ...]) -> Blocks:
        """Return the entries after the proximal operator of the groups and of what is beside them."""
        return cast(Blocks, _prox(self.group, beside, blocks, steps[0] if are_one(steps) else steps))


@jax.jit
def _value(group: Group, blocks: Blocks) -> jax.Array:
    return group.value_of(None, blocks)


@jax.jit
def _prox(group: Group, beside: Beside, blocks: Blocks, step: Any) -> Any:
    own = [Parts(*numbers) for numbers in beside]
    is_one = not isinstance(step, tuple) and all(part.l2 is None for part in own)  # L2 makes the steps differ
    steps = step if isinstance(step, tuple) else (step,) * len(blocks)
    sizes = [jnp.asarray(step, numerics.real_dtype(x)) for step, x in zip(steps, blocks, strict=True)]
    points = [part.before_the_rest(*both) for part, *both in zip(own, blocks, sizes, strict=True)]
    z, tau = zip(*points, strict=True)
    return group.prox_of(None, z, tau[0] if is_one else tau)


def are_one(steps: Sequence[Any]) -> bool:
    """Whether they are one number."""
    one = steps[0]
    return not any(map(np.ndim, steps)) and all(
        step is one or (isinstance(step, float) and isinstance(one, float) and step == one) for step in steps
    )


def _like(view: View, numbers: Any, leaf: jax.Array) -> Any:
    """Numbers that broadcast against a leaf like its block; one number and None stay."""
    if numbers is None or np.ndim(numbers) == 0:
        return numbers
    return view.block(jnp.broadcast_to(jnp.asarray(numbers, numerics.real_dtype(leaf)), leaf.shape))


def is_at_rest(joint: Joint, steps: Sequence[Any]) -> bool:
    """Whether an optimizer leaves the leaves alone, by step sizes that are masked; all of them, or none."""
    hidden = [is_hidden(steps[i]) for i in joint.positions]
    if any(hidden) and not all(hidden):
        raise ValueError(
            f"`{joint.call}`: the optimizer does not step {checks.short(joint.views[hidden.index(True)].path)}, but "
            "other leaves of the same units. Mask all leaves of a group, or none."
        )
    return all(hidden)


def _refuse_other_places(call: str, views: Sequence[View], blocks: Blocks) -> None:
    """Raise where the types of arrays say that units are divided in one leaf and not in another: their sums add."""
    first: Any = None
    for view, block in zip(views, blocks, strict=True):
        place = jax.typeof(block).sharding.spec[view.axis]
        first = first or (view, place)
        if place != first[1]:
            raise ValueError(
                f"`{call}`: on Explicit axes of a mesh the units lie alike in all leaves, got {first[1]!r} for axis "
                f"{first[0].axis} of {checks.short(first[0].path)} and {place!r} for axis {view.axis} of "
                f"{checks.short(view.path)}. Move one of them by `jax.sharding.reshard`, or take Auto axes."
            )


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
