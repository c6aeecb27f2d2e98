"""units: which axes of which parameters belong together, found in the program of the network."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxreg._core.checks import short
from jaxreg._reports.table import Report, Table, count, merged
from jaxreg._rules.paths import Leaves, flatten_with_paths, is_hidden
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg._shrink.axes import Axes, Tracer
from jaxreg._shrink.families import Family, Owners, joint_groups
from jaxreg._shrink.nodes import Ids, Nodes
from jaxreg._shrink.walk import Place
from jaxreg._shrink.widths import counted


@dataclasses.dataclass(frozen=True)
class Program:
    """The network as it was traced; `shrink` follows the numbers through it."""

    jaxpr: Any
    flat: Leaves
    axes: list[tuple[int, int, Ids]]  # of the parameters: the leaf, its axis, the nodes
    reads: Mapping[Place, tuple[Ids, ...]]


class Units(Report, Sequence[Family]):
    """The families of units that can be removed, as a sequence; prints as a table, with the pinned axes."""

    def __init__(self, families: list[Family], pinned: list[Family], program: Program, nodes: Nodes) -> None:
        self._families, self.pinned, self.program, self._nodes = families, pinned, program, nodes

    def __getitem__(self, i: Any) -> Any:
        return self._families[i]

    def __len__(self) -> int:
        return len(self._families)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families)

    def numbers(self, ids: Ids) -> list[tuple[int, int]]:
        """Return pairs (position in `ids`, node of a unit)."""
        return self._nodes.members(ids)

    def joint_groups(self, penalty: Any, weight: str = "none") -> TreePenalty:
        """Return the penalty of each unit, of what it is made of and of what reads it: groups that do not overlap.

        What reads a unit belongs to it wherever no other of the units is made of it: the output layer's rows to the
        last hidden units, but the rows of a layer between two to the units behind it. Of families that are made of the
        same entries (heads, and entries inside of heads) the first in the table has groups, and what reads two goes
        to the first too; `family.joint_group(penalty)` is that of one, with all that reads it. A unit that is 0 gives
        a constant, and `shrink` removes it.
        """
        chosen: list[Family] = []
        for family in self:
            if not any(family.shares(other) for other in chosen):
                chosen.append(family)
        if not chosen:
            raise ValueError(f"`units(...).joint_groups`: there is no unit that could go.\n{self}")
        first, *others = joint_groups(chosen, penalty, weight)
        return sum(others, start=first)

    def dead(self, params: Any) -> dict[str, NDArray[np.bool_]]:
        """Return which units are dead, by family: all that they are made of is 0, or all that reads them."""
        leaves = flatten_with_paths(params).leaves
        return {str(family): family.dead(leaves) for family in self}

    def _table(self) -> Table:
        header = ("axes that go together", "units", "entries each", "why none can go")
        cells = [(str(f), (count(f.size), count(f.entries), f.why)) for f in (*self._families, *self.pinned)]
        rows = [(path, *cells[alike[0]][1]) for path, alike in merged(cells)]
        kinds = f"{len(self)} {'kind' if len(self) == 1 else 'kinds'} of units"
        return Table(header, rows, (kinds, count(sum(map(len, self))), "", ""), left=(0, 3))

    def _notes(self) -> list[str]:
        return []


def units(apply: Callable[..., Any], params: Any, *inputs: Any) -> Units:
    """Find the units of a network in its own program: which axes of which parameters belong together.

    A unit is what can be removed as one, such as a hidden unit, a channel, an attention head, a channel of a residual
    stream: some indices of some axes of some parameters. Units of equal kind are a family. The program, as
    `jax.make_jaxpr` gives it, is followed operation by operation: where it reads two axes index by index, they belong
    together; where it merges or splits axes (heads × size), an index of the whole goes with one of either. Jitted,
    rematerialized and vmapped parts, `scan`, branches and custom derivatives are followed too.

    What is not understood pins its axes: the worst case is a unit that cannot be removed, never a wrong network. Why an
    axis is pinned stands in the table:

        an axis of an input, of the output     they have their widths from outside
        a sum or mean over it, scaled by       a mean divides by a length, and attention by its root: with a smaller one
            its length, two activations meet       the network would compute something else (LayerNorm, RMSNorm; not
                                                   BatchNorm, nor the groups of GroupNorm)
        a maximum over it, its order counts    a unit of 0 counts there: softmax, sorting, cumulative sums
        looked up by an index                  the rows of an embedding, positions
        a constant's axis                      an array that `apply` holds and does not get by `params`
        cut at a fixed place, cut in two ways  slices of unequal length, reshapes that do not fit (slices of equal
                                                   length stay so: their units go together)
        its length is a number                 log n, 1/(n + 1), a power: `apply`, traced with a unit less, holds others
        not used; the name of an operation     nothing is known of it

    Modules that hold their widths, as those of Linen, cannot be traced with other ones. Of numbers that such code
    computes from a width only n, √n and their inverses are found, as products with the values. Random numbers are drawn
    anew for the narrower arrays: a dropout has other masks, and fixed noise is other noise.

    Args:
        apply: the function of the network, `apply(params, *inputs)`: `model.apply` of Linen; of NNX
            `lambda state, x: nnx.merge(graphdef, state)(x)`; any other.
        params: a tree of parameters, or of `jax.ShapeDtypeStruct`s; all arrays that have a unit's axis, statistics too.
        *inputs: arrays or `jax.ShapeDtypeStruct`s. Only shapes count, also of `params`.

    Returns:
        the families as a sequence, each with `size`, `entries` (numbers in a unit) and `parts`, which say where it is:
        `path`, `axis`, and `labels`, the number of its unit for each index of the axis, −1 for none. `pinned` are the
        families that must stay, with `why`. Prints as a table. `joint_groups(penalty)` penalizes each unit.

    Raises:
        TypeError: `apply` is no function, or `params` holds something that is no array.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> params = {
        ...     "Dense_0": {"kernel": jnp.ones((4, 8)), "bias": jnp.zeros(8)},
        ...     "Dense_1": {"kernel": jnp.ones((8, 3)), "bias": jnp.zeros(3)},
        ... }
        >>> def apply(params, x):
        ...     hidden, output = params["Dense_0"], params["Dense_1"]
        ...     return jax.nn.gelu(x @ hidden["kernel"] + hidden["bias"]) @ output["kernel"] + output["bias"]
        >>> print(jaxreg.units(apply, params, jnp.ones((2, 4))))
        axes that go together                 units  entries each  why none can go
        ────────────────────────────────────────────────────────────────────────────────
        Dense_0/bias[0], Dense_0/kernel[1], Dense_1/kernel[0]
                                                  8             8
        Dense_0/kernel[0]                         4             8  an axis of an input
        Dense_1/bias[0], Dense_1/kernel[1]        3             9  an axis of the output
        ────────────────────────────────────────────────────────────────────────────────
        1 kind of units                           8
        >>> jaxreg.units(apply, params, jnp.ones((2, 4))).joint_groups(jaxreg.L1(0.1))
        JointGroup(L1(l1=0.1), axes=[('Dense_0/bias', 0), ('Dense_0/kernel', 1), ('Dense_1/kernel', 0)])

    References:
        Fang et al., *DepGraph: towards any structural pruning*, CVPR 2023 (the groups are found from gradients there).
    """
    _check(apply, flat := flatten_with_paths(params))
    jaxpr = jax.make_jaxpr(apply)(params, *inputs)
    found = _followed(flat, jaxpr, ())
    stay = counted(apply, flat, inputs, jaxpr, list(found))
    return _followed(flat, jaxpr, stay) if stay else found


def _followed(flat: Leaves, jaxpr: Any, stay: Sequence[Family]) -> Units:
    """The units of a program, without families of whose sizes it was found to make numbers."""
    nodes = Nodes()
    tracer = Tracer(nodes)
    leaves = _leaves(flat, jaxpr, nodes)
    for part in (part for family in stay for part in family.parts):
        nodes.pin(leaves[part.leaf].nodes[part.axis][part.labels >= 0], "its length is a number")  # type: ignore[union-attr]
    places = [axes for axes in leaves if axes is not None]
    rest = [
        Axes(tuple(nodes.pinned("an axis of an input", n) for n in aval.shape), data=True)
        for aval in jaxpr.in_avals[len(places) :]
    ]
    for result in tracer.inside(jaxpr, [*places, *rest], ()):
        for ids in result.nodes:
            nodes.pin(ids, "an axis of the output")
    tracer.moves.finish()
    nodes.resolve()
    owners = Owners(flat, leaves, tracer, nodes)
    reads = {place: contraction.axes for place, contraction in tracer.contractions.items()}
    program = Program(jaxpr, flat, owners.axes, reads)
    return Units(owners.families(), owners.pinned(), program, nodes)


def _check(apply: Any, flat: Leaves) -> None:
    if not callable(apply):
        raise TypeError(
            f"`units(apply, params, *inputs)` takes the function of the network first, got {short(apply)}: "
            '`jaxreg.units(lambda p, x: model.apply({"params": p}, x), params, x)`.'
        )
    for path, leaf in zip(flat.paths, flat.leaves, strict=True):
        if not (is_hidden(leaf) or hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex))):
            raise TypeError(
                f"`units(apply, params, *inputs)` takes a tree of arrays, got {short(leaf)} at {short(path)}. Of an "
                "Equinox module take `arrays, static = eqx.partition(module, eqx.is_array)`, and "
                "`lambda arrays, x: eqx.combine(arrays, static)(x)` for the function."
            )


def _leaves(flat: Leaves, jaxpr: Any, nodes: Nodes) -> list[Axes | None]:
    """The axes of the parameters; an array that stands in two places has the same ones in both."""
    arrays = [i for i, leaf in enumerate(flat.leaves) if not is_hidden(leaf)]
    used = {id(v) for eqn in jaxpr.jaxpr.eqns for v in eqn.invars} | {id(v) for v in jaxpr.jaxpr.outvars}
    found: list[Axes | None] = [None] * len(flat.leaves)
    known: dict[int, Axes] = {}
    for i, var in zip(arrays, jaxpr.jaxpr.invars, strict=False):
        leaf, shape = flat.leaves[i], var.aval.shape
        axes = Axes(tuple(map(nodes.new, shape)), leaves=frozenset({i}))
        if isinstance(leaf, (jax.Array, np.ndarray)):
            axes = axes._replace(nodes=known.setdefault(id(leaf), axes).nodes)
        if id(var) not in used:
            for ids in axes.nodes:
                nodes.pin(ids, "not used")
        found[i] = axes
    return found
