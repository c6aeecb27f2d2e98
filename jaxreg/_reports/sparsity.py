"""`sparsity`: exact zeros and dead units of parameters."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxreg._core.checks import short
from jaxreg._core.text import printable
from jaxreg._reports.conformity import Conformity, conformity
from jaxreg._reports.table import Report, Table, count, leaves, merged, share
from jaxreg._rules.paths import untied
from jaxreg._rules.tree import as_tree


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Hold the numbers of exact zeros and of dead units, of one leaf or of all together."""

    size: int
    zeros: int
    inputs: int = 0
    dead_inputs: int = 0
    outputs: int = 0
    dead_outputs: int = 0
    heads: int = 0
    dead_heads: int = 0
    structure: Conformity = dataclasses.field(default_factory=Conformity)

    @property
    def share(self) -> float:
        """The share of the entries that are exactly 0, between 0 and 1; 0 if there are no entries."""
        return self.zeros / self.size if self.size else 0.0

    def __add__(self, other: "Zeros") -> "Zeros":
        names = [field.name for field in dataclasses.fields(self)]
        return Zeros(*(getattr(self, name) + getattr(other, name) for name in names))


class Sparsity(Report, Mapping[str, Zeros]):
    """Map each leaf's path to its `Zeros`; `total` adds them up; prints as a table."""

    def __init__(self, found: dict[str, Zeros], units: dict[str, Any]) -> None:
        self._found, self.units = found, units
        self.total = sum(found.values(), start=Zeros(0, 0))

    def __getitem__(self, path: str) -> Zeros:
        return self._found[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _table(self) -> Table:
        found = list(self.values())
        kinds = [(path, (zeros.size, zeros.inputs, zeros.outputs)) for path, zeros in self.items()]
        rows = [(path, *_cells(sum((found[i] for i in alike), Zeros(0, 0)))) for path, alike in merged(kinds)]
        structure = self.total.structure
        there = (self.total.heads or None, structure.blocks, structure.groups, structure.rank)
        shown = [*range(_ALWAYS), *(i for i, number in enumerate(there, _ALWAYS) if number is not None)]
        cells = (_HEADER, *rows, (leaves(len(self)), *_cells(self.total)))
        header, *rows, total = (tuple(row[i] for i in shown) for row in cells)
        return Table(header, rows, total)

    def _notes(self) -> list[str]:
        dead = ((name, int(np.count_nonzero(mask)), len(mask)) for name, mask in self.units.items())
        return [f"dead units: {n} of {size} of {printable(name)}" for name, n, size in dead]


_ALWAYS = 6  # columns; the others only where there is something to count
_HEADER = (
    *("path", "entries", "zeros", "share", "dead inputs", "dead outputs"),
    *("dead heads", "conforming", "zero groups", "rank"),
)


def _cells(zeros: Zeros) -> tuple[str, ...]:
    structure = zeros.structure
    parts = [
        f"{found} of {units}" if units else "-"
        for found, units in (
            (zeros.dead_inputs, zeros.inputs),
            (zeros.dead_outputs, zeros.outputs),
            (zeros.dead_heads, zeros.heads),
            (structure.conforming, structure.blocks),
            (structure.zero_groups, structure.groups),
        )
    ]
    rank = "-" if structure.rank is None else count(structure.rank)
    return count(zeros.size), count(zeros.zeros), share(zeros.zeros, zeros.size), *parts, rank


def sparsity(params: Any, reg: Any = None, *, units: Any = None) -> Sparsity:
    """Count the entries that are exactly 0, and the units that are dead, in each leaf of a tree.

        zeros        = #{i : w_i = 0}                      (-0.0 counts, nan does not)
        dead inputs  = #{j : w[..., j, :] = 0 everywhere}  of a leaf with two axes or more
        dead outputs = #{k : w[..., :, k] = 0 everywhere}

    The convention is that of Flax and Keras: the last axis of a kernel is its outputs, the one before it its inputs, so
    (inputs, outputs) for a dense kernel, (height, width, inputs, outputs) for a convolution, (tokens, features) for an
    embedding, where a dead input is a row of zeros. A leaf of one axis has entries only. Kernels of Flax's attention,
    `query`, `key` and `value` of (inputs, heads, size) and `out` of (heads, size, outputs) side by side, have
    heads·size outputs, or inputs, and heads: a dead one is all zero. In a stack of layers each layer has its own. Each
    leaf is reported by itself: a dead output unit of a kernel whose bias is not 0 still gives that constant.

    The arrays are read on the host, without compiling anything; sharded ones are gathered leaf by leaf.

    Args:
        params: any tree of arrays. Integers, bools and keys are left out; tied leaves count once, at their first path.
        reg: a `TreeRegularizer`, or one regularizer for all floating leaves, whose structures are counted too: the
            blocks of `NofM` and groups of `TopK` that conform, the groups of `Group` that are zero, by axes or labels,
            and the numerical rank of a leaf with `Rank`, the largest of several.
        units: `jaxreg.units(apply, params, *inputs)`, for a line below the table for each family: how many of its units
            are dead, because all that they are made of in any leaf is 0, or all that reads them. `shrink` removes
            those whose constant has a place to go.

    Returns:
        a mapping `{path: Zeros}` with `size`, `zeros`, `share`, `inputs`, `dead_inputs`, `outputs`, `dead_outputs`,
        `heads`, `dead_heads`, and `structure` (`blocks`, `conforming`, `groups`, `zero_groups`, `rank`; None where
        there are none); their sum as `total`; `.units` maps families to arrays of bools. It prints as a table; with
        more than 40 leaves, those whose paths differ only in numbers share a row.

    Raises:
        TypeError: a leaf is traced or a placeholder, so that there is nothing to count; or `units` are none.
        ValueError: a rule of `reg` matches no leaf.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]), "bias": jnp.zeros(3)}}
        >>> s = jaxreg.sparsity(params)
        >>> s["Dense_0/kernel"].zeros, s["Dense_0/kernel"].dead_inputs, s["Dense_0/kernel"].dead_outputs
        (4, 1, 1)
        >>> print(s)
        path            entries  zeros  share  dead inputs  dead outputs
        ────────────────────────────────────────────────────────────────
        Dense_0/bias          3      3   100%            -             -
        Dense_0/kernel        6      4  66.7%       1 of 2        1 of 3
        ────────────────────────────────────────────────────────────────
        2 leaves              9      7  77.8%       1 of 2        1 of 3
        >>> jaxreg.sparsity(params, jaxreg.TreeRegularizer({"**/kernel": jaxreg.NofM(1, 2)})).total.structure
        Conformity(blocks=3, conforming=3, rank=None, groups=None, zero_groups=None)
    """
    if units is not None and not hasattr(units, "dead"):
        raise TypeError(
            f"`sparsity(units=...)` takes `jaxreg.units(apply, params, *inputs)` of the network, got {short(units)}."
        )
    found: dict[str, Zeros] = {}
    parameters = untied(params)
    rules = {} if reg is None else as_tree(reg).assignment(params)
    ranks = {path: np.ndim(leaf) for path, leaf in parameters}
    for path, leaf in parameters:
        zeros = count_zeros("sparsity", path, leaf, _part_of_attention(path, ranks))
        zeros = dataclasses.replace(zeros, structure=conformity(rules.get(path), leaf))
        found[path] = found[path] + zeros if path in found else zeros
    return Sparsity(found, {} if units is None else units.dead(params))


def count_zeros(call: str, path: str, leaf: Any, part: str = "") -> Zeros:
    """Count in one leaf, for `jaxreg.<call>`; `part` is that of attention which it is."""
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, complex)):
        raise TypeError(
            f"`jaxreg.{call}` counts in arrays that have values, got {short(leaf)} at {short(path)}; call it outside "
            "`jit`, `grad` and `vmap`, on the parameters themselves."
        )
    is_zero = np.asarray(leaf) == 0
    zeros = int(np.count_nonzero(is_zero))
    if is_zero.ndim < 2 or part == "bias":
        return Zeros(is_zero.size, zeros)
    heads = dead_heads = 0
    if part:
        is_zero, of_heads = _with_heads(is_zero, first=part == "out")
        heads, dead_heads = of_heads.size, int(np.count_nonzero(of_heads))
    *_, inputs, outputs = is_zero.shape
    if not zeros or not is_zero.size:
        return Zeros(is_zero.size, zeros, inputs, 0, outputs, 0, heads, 0)
    matrix = is_zero.all(axis=tuple(range(is_zero.ndim - 2)))
    dead_inputs, dead_outputs = (int(np.count_nonzero(matrix.all(axis=axis))) for axis in (1, 0))
    return Zeros(is_zero.size, zeros, inputs, dead_inputs, outputs, dead_outputs, heads, dead_heads)


_INTO_HEADS = ("query", "key", "value")


def _part_of_attention(path: str, ranks: Mapping[str, int]) -> str:
    """`query`, `key`, `value`, `out` for a kernel of Flax's attention, `bias` for one with heads, "" for any other."""
    *block, part, name = ("", *path.split("/"))
    kernels = ["/".join((*block[1:], other, "kernel")) for other in (*_INTO_HEADS, "out")]
    around = {ranks.get(kernel, 0) for kernel in kernels}
    if not block or part not in (*_INTO_HEADS, "out") or len(around) != 1 or min(around) < 3:
        return ""
    return part if name == "kernel" else "bias" if name == "bias" and part != "out" else ""


def _with_heads(is_zero: Any, first: bool) -> tuple[Any, Any]:
    """The kernel with one axis for all units of the heads, and which heads of which layers are dead."""
    *layers, a, b, c = is_zero.shape
    kernel = is_zero.reshape(*layers, a * b, c) if first else is_zero.reshape(*layers, a, b * c)
    return kernel, is_zero.all(axis=(-2, -1) if first else (-3, -1))
