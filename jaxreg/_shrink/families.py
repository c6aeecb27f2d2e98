"""Families of units of one kind, and what each of them consists of."""

import dataclasses
import glob
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxreg._rules.joint_group import JointGroup
from jaxreg._rules.paths import Leaves
from jaxreg._shrink.axes import Axes, Tracer
from jaxreg._shrink.moves import POSITIONS
from jaxreg._shrink.nodes import Ids, Nodes


@dataclasses.dataclass(frozen=True)
class Part:
    """The indices of one axis of one parameter that belong to the units of a family."""

    path: str
    leaf: int
    axis: int
    labels: NDArray[np.int64]  # of each index the number of its unit, −1 for none
    is_parameter: bool  # no statistic of a norm, say
    is_read: bool  # whether the parameter only reads the units, as a kernel its inputs; else they are made of it
    array: int  # the first leaf that is this array: it may stand in two places

    def is_zero(self, leaf: Any, units: int) -> NDArray[np.bool_]:
        """Of which units the parameter has nothing but zeros."""
        array = np.moveaxis(np.asarray(leaf), self.axis, 0).reshape(len(self.labels), -1)
        alive = self.labels[(array != 0).any(axis=1)]
        return ~np.isin(np.arange(units), alive)

    def taken(self, parts: Iterable["Part"]) -> NDArray[np.bool_]:
        """At which indices an entry is in one of these parts too."""
        taken = np.full(len(self.labels), False)
        for part in parts:
            if part.array == self.array:
                taken |= part.labels >= 0 if part.axis == self.axis else (part.labels >= 0).any()
        return taken

    def __str__(self) -> str:
        return f"{self.path}[{self.axis}]"


@dataclasses.dataclass(frozen=True)
class Family:
    """Units of equal kind, such as all hidden units of a layer: they lie on the same axes of the same parameters."""

    parts: tuple[Part, ...]
    size: int  # units
    entries: int  # of the parameters, in each unit
    nodes: tuple[int, ...]  # the names of the units, for `shrink`
    why: str = ""  # why none of them can be removed; "" if they can

    def __len__(self) -> int:
        return self.size

    @property
    def makers(self) -> tuple[Part, ...]:
        """The parameters that the units are made of; if they are only read, these."""
        parameters = tuple(part for part in self.parts if part.is_parameter)
        return tuple(part for part in parameters if not part.is_read) or parameters

    @property
    def readers(self) -> tuple[Part, ...]:
        """What reads the units."""
        return tuple(part for part in self.parts if part.is_read)

    def joint_group(self, penalty: Any, weight: str = "none") -> JointGroup:
        """Return the penalty of each unit: of all that it is made of and that reads it."""
        return joint_groups([self], penalty, weight)[0]

    def dead(self, leaves: Sequence[Any]) -> NDArray[np.bool_]:
        """Which units are made of zeros alone, or read by zeros alone."""
        dead = np.full(self.size, False)
        for parts in (self.makers, self.readers):
            if parts:
                dead |= np.all([part.is_zero(leaves[part.leaf], self.size) for part in parts], axis=0)
        return dead

    def shares(self, other: "Family") -> bool:
        """Whether a parameter has an entry of which units of both families are made."""
        return any((part.taken(other.makers) & (part.labels >= 0)).any() for part in self.makers)

    def __str__(self) -> str:
        shown = [str(part) for part in self.parts[:3]]
        return ", ".join(shown) + (f" + {len(self.parts) - 3} more" if len(self.parts) > 3 else "")


def joint_groups(families: Sequence[Family], penalty: Any, weight: str) -> list[JointGroup]:
    """Return the groups of families that do not share entries of makers, without an entry in two of them.

    First each family gets what its units are made of, then what reads them. Where a part has entries that were given
    away, its units keep the other indices, if each has as many of them.
    """
    found: list[list[Part]] = [[] for _ in families]
    given: dict[int, list[Part]] = {}  # by the array
    for is_reader, (family, own) in itertools.product((False, True), list(zip(families, found, strict=True))):
        for part in family.readers if is_reader else family.makers:
            beside = given.setdefault(part.array, [])
            same = [p.labels for p in own if (p.array, p.axis) == (part.array, part.axis)]  # it stands in two places
            labels = same[0] if same else np.where(part.taken(beside), -1, part.labels)
            counts = np.bincount(labels[labels >= 0], minlength=len(family))
            if part.is_parameter and 0 < np.min(counts) == np.max(counts):
                own.append(dataclasses.replace(part, labels=labels))
                beside.append(own[-1])
    return [JointGroup(penalty, _axes(own, len(family)), weight) for own, family in zip(found, families, strict=True)]


def _axes(parts: Iterable[Part], units: int) -> dict[str, Any]:
    axes: dict[str, Any] = {}
    for part in sorted(parts, key=lambda part: part.leaf):
        is_whole = np.array_equal(part.labels, np.arange(units))
        axes[glob.escape(part.path)] = part.axis if is_whole else (part.axis, part.labels.tolist())
    return axes


class Owners:
    """Which units the indices of the parameters belong to."""

    def __init__(self, flat: Leaves, leaves: list[Axes | None], tracer: Tracer, nodes: Nodes) -> None:
        self._flat, self._leaves, self._nodes = flat, leaves, nodes
        self.axes = [(i, a, ids) for i, axes in enumerate(leaves) if axes for a, ids in enumerate(axes.nodes)]
        self._first: dict[int, int] = {}  # by the nodes, which an array has once
        for i, leaf in enumerate(leaves):
            self._first.setdefault(id(leaf and leaf.nodes), i)
        self._read: set[tuple[int, int]] = set()
        for contraction in tracer.contractions.values():
            self._read |= self._places(contraction.leaves, contraction.of_weights)
        for of, axes in tracer.written:
            self._read -= self._places(of, axes)

    def _places(self, leaves: frozenset[int], axes: Sequence[Ids]) -> set[tuple[int, int]]:
        """Which axes of these parameters the given ones are."""
        found: set[tuple[int, int]] = set()
        for leaf in leaves:
            own = [(a, ids) for i, a, ids in self.axes if i == leaf]
            for axis in axes:
                same = [a for a, ids in own if np.isin(ids, axis).any()]
                found |= {(leaf, a) for a in same or self._related(own, axis)}
        return found

    def _related(self, own: list[tuple[int, Ids]], axis: Ids) -> list[int]:
        units = {unit for _, unit in self._nodes.members(axis)}
        return [a for a, ids in own if units & {unit for _, unit in self._nodes.members(ids)}]

    def families(self) -> list[Family]:
        """Units that can be removed."""
        places: dict[int, dict[tuple[int, int], list[int]]] = {}
        for i, a, ids in self.axes:
            for position, unit in self._nodes.members(ids):
                places.setdefault(unit, {}).setdefault((i, a), []).append(position)
        return [family for family in self._grouped({u: (where, "") for u, where in places.items()}) if len(family) > 1]

    def pinned(self) -> list[Family]:
        """Indices that stay, by what they are with and why."""
        places: dict[int, tuple[dict[tuple[int, int], list[int]], str]] = {}
        for i, a, ids in self.axes:
            free = {position for position, _ in self._nodes.members(ids)}
            for position, (root, why) in enumerate(
                zip(self._nodes.root(ids).tolist(), self._nodes.reasons(ids), strict=True)
            ):
                if position not in free and why != POSITIONS:
                    places.setdefault(root, ({}, why))[0].setdefault((i, a), []).append(position)
        return self._grouped(places)

    def _grouped(self, places: Mapping[int, tuple[dict[tuple[int, int], list[int]], str]]) -> list[Family]:
        """Units of one kind: as many indices, as far apart, of the same axes."""
        kinds: dict[Any, dict[int, dict[tuple[int, int], list[int]]]] = {}
        for node, (where, why) in places.items():
            steps = tuple((key, len(at), at[1] - at[0] if len(at) > 1 else 0) for key, at in sorted(where.items()))
            kinds.setdefault((steps, why), {})[node] = where
        found = [self._family(members, why) for (_, why), members in kinds.items()]
        return sorted(found, key=lambda family: (family.parts[0].leaf, -len(family.parts), -family.entries))

    def _family(self, members: dict[int, dict[tuple[int, int], list[int]]], why: str) -> Family:
        parts, entries = [], 0
        paths, parameters = self._flat.paths, self._flat.parameters
        first, *_ = members.values()
        for leaf, axis in sorted(first):
            nodes = self._leaves[leaf].nodes  # type: ignore[union-attr]
            shape = tuple(map(len, nodes))
            labels = np.full(shape[axis], -1)
            for unit, where in enumerate(members.values()):
                labels[where[leaf, axis]] = unit
            entries += len(first[leaf, axis]) * int(np.prod(shape)) // shape[axis]
            is_read, array = (leaf, axis) in self._read, self._first[id(nodes)]
            parts.append(Part(paths[leaf], leaf, axis, labels, parameters[leaf], is_read, array))
        return Family(tuple(parts), len(members), entries, tuple(members), why)
