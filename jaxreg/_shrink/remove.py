"""Remove the units of a network that contribute nothing, the units found in its program."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxreg._rules.paths import is_hidden
from jaxreg._shrink.known import Numbers
from jaxreg._shrink.known_moves import Known, nothing
from jaxreg._shrink.units import Units
from jaxreg._shrink.walk import Place

Array = NDArray[Any]


def without_dead(units: Units) -> dict[int, Array]:
    """Return the arrays that change by the numbers of their leaves; units go until each contributes something."""
    return _Removal(units).run()


class _Removal:
    def __init__(self, units: Units) -> None:
        self._units, self._program = units, units.program
        flat = self._program.flat
        self._shown = [i for i, leaf in enumerate(flat.leaves) if not is_hidden(leaf)]
        self._arrays = {i: np.asarray(flat.leaves[i]) for i in self._shown if _is_array(flat.leaves[i])}
        tied = [id(flat.leaves[i]) for i in self._shown]
        self._tied = {i for i in self._shown if tied.count(id(flat.leaves[i])) > 1}
        self._at: dict[int, list[tuple[int, int, int]]] = {u: [] for family in units for u in family.nodes}
        for leaf, axis, ids in self._program.axes:
            for position, unit in units.numbers(ids):
                if unit in self._at:
                    self._at[unit].append((leaf, axis, position))
        self._reads = {place: [units.numbers(ids) for ids in axes] for place, axes in self._program.reads.items()}
        self._gone: set[int] = set()
        self._biases: set[int] = set()  # that took up a constant

    def run(self) -> dict[int, Array]:
        while new := self._without_the_last(self._dead()):
            self._gone |= new
        smaller: dict[int, Array] = {}
        for (leaf, axis), indices in self._places(self._gone).items():
            smaller[leaf] = np.delete(smaller.get(leaf, self._arrays[leaf]), indices, axis)
        return smaller | {leaf: self._arrays[leaf] for leaf in self._biases - {*smaller}}

    def _dead(self) -> set[int]:
        """Units that no sum needs; what they contribute to one as a constant is put into the bias behind it."""
        numbers = self._followed()
        needed: set[int] = set()
        for place, axes in self._reads.items():
            if place in numbers.readings:
                reading = numbers.readings[place]
                biased = reading.is_constant & self._has_bias(numbers, place)
                needed |= self._where(axes, reading.is_live & ~biased)
        dead = self._without_the_last({*self._at} - needed - self._gone)
        changed: dict[int, Array] = {}
        for place, (leaf, of) in numbers.biases.items():
            mask = self._indices(place, dead) & numbers.readings[place].is_live
            if mask.any() and leaf not in self._tied:
                wide = changed.get(leaf, self._arrays[leaf].astype(np.result_type(self._arrays[leaf], np.float32)))
                changed[leaf] = wide + of(mask).reshape(wide.shape)
        self._biases |= {*changed}
        self._arrays |= {leaf: wide.astype(self._arrays[leaf].dtype) for leaf, wide in changed.items()}
        for (leaf, axis), indices in self._places(dead).items():
            array = self._arrays[leaf] = self._arrays[leaf].copy()
            np.moveaxis(array, axis, 0)[indices] = 0
        return dead

    def _followed(self) -> Numbers:
        numbers, jaxpr = Numbers(), self._program.jaxpr
        leaves = [
            Known(self._arrays[i], np.full(self._arrays[i].shape, True), leaf=i)
            if i in self._arrays
            else nothing(aval.shape)
            for i, aval in zip(self._shown, jaxpr.in_avals, strict=False)
        ]
        inputs = [nothing(aval.shape, aval.dtype) for aval in jaxpr.in_avals[len(leaves) :]]
        with np.errstate(all="ignore"):
            numbers.inside(jaxpr, [*leaves, *inputs], ())
        return numbers

    def _has_bias(self, numbers: Numbers, place: Place) -> bool:
        return place in numbers.biases and numbers.biases[place][0] not in self._tied

    def _where(self, axes: list[list[tuple[int, int]]], mask: NDArray[np.bool_]) -> set[int]:
        """The units at the indices of a sum."""
        found: set[int] = set()
        for axis, members in enumerate(axes):
            along: Any = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).any(axis=1)
            found |= {unit for position, unit in members if along[position]}
        return found

    def _indices(self, place: Place, units: set[int]) -> NDArray[np.bool_]:
        """The indices of a sum that go with some units."""
        axes = self._program.reads[place]
        mask = np.full([len(ids) for ids in axes], False)
        for axis, members in enumerate(self._reads[place]):
            for position, unit in members:
                if unit in units:
                    np.moveaxis(mask, axis, 0)[position] = True
        return mask

    def _without_the_last(self, dead: set[int]) -> set[int]:
        """One unit of each family stays."""
        for family in self._units:
            members = set(family.nodes)
            if members <= dead | self._gone and members - self._gone:
                dead = dead - {min(members - self._gone)}
        return dead

    def _places(self, units: Iterable[int]) -> dict[tuple[int, int], list[int]]:
        """The indices of some units, by leaf and axis."""
        found: dict[tuple[int, int], list[int]] = {}
        for unit in units:
            for leaf, axis, index in self._at[unit]:
                found.setdefault((leaf, axis), []).append(index)
        return found


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
