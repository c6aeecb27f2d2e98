"""What a leaf has of what its rule asks for: blocks of N:M, groups of TopK, numerical rank, groups that are zero."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._core import partition
from jaxreg._core.regularizer import Regularizer, Scaled, Sum
from jaxreg.penalties import Group, Matrix, NofM, Rank, Stacked, TopK, Weighted

_COUNTED = (Group, NofM, TopK, Rank)


@dataclasses.dataclass(frozen=True)
class Conformity:
    """Of a set the blocks that it counts in, those within it, the largest rank; of `Group` all, and those of zeros."""

    blocks: int | None = None
    conforming: int | None = None
    rank: int | None = None
    groups: int | None = None
    zero_groups: int | None = None

    def __add__(self, other: "Conformity") -> "Conformity":
        return Conformity(
            _together(sum, self.blocks, other.blocks),
            _together(sum, self.conforming, other.conforming),
            _together(max, self.rank, other.rank),
            _together(sum, self.groups, other.groups),
            _together(sum, self.zero_groups, other.zero_groups),
        )

    def __str__(self) -> str:
        blocks = "" if self.blocks is None else f", {self.conforming} of {self.blocks} blocks conform"
        groups = "" if self.groups is None else f", {self.zero_groups} of {self.groups} groups are zero"
        return blocks + groups + ("" if self.rank is None else f", rank {self.rank}")


def _together(function: Any, *numbers: int | None) -> Any:
    there = [number for number in numbers if number is not None]
    return function(there) if there else None


def conformity(regularizer: Regularizer | None, leaf: Any) -> Conformity:
    """Count for a set or groups, alone or in sums, multiples, `Matrix` and `Stacked`; nothing for other penalties."""
    inside = jax.tree.leaves(regularizer, is_leaf=lambda part: isinstance(part, _COUNTED))
    return _counted(regularizer, leaf) if any(isinstance(part, _COUNTED) for part in inside) else Conformity()


def _counted(regularizer: Regularizer | None, leaf: Any) -> Conformity:
    match regularizer:
        case NofM():
            return _blocks(_per_block(np.asarray(leaf) != 0, regularizer.m, regularizer.axis), regularizer.n)
        case TopK():
            return _blocks(np.sum(np.asarray(leaf) != 0, axis=regularizer.axis), regularizer.count(leaf))
        case Rank():
            return Conformity(rank=_rank(np.asarray(leaf)))
        case Group():
            marked = jnp.asarray(np.asarray(leaf) != 0, jnp.float32)
            entries = np.asarray(partition.total(marked, regularizer.partition(marked.ndim)))
            return Conformity(groups=entries.size, zero_groups=int(np.count_nonzero(entries == 0)))
        case Scaled() | Weighted():
            return _counted(regularizer.penalty, leaf)
        case Sum():
            return sum((_counted(term, leaf) for term in regularizer.terms), Conformity())
        case Matrix():
            return _counted(regularizer.penalty, regularizer.matrix(leaf))
        case Stacked():
            layers, _ = regularizer.layers(jnp.asarray(leaf))
            return sum((_counted(regularizer.penalty, layer) for layer in np.asarray(layers)), Conformity())
    return Conformity()


def _blocks(counts: Any, most: Any) -> Conformity:
    return Conformity(math.prod(np.shape(counts)), int(np.count_nonzero(counts <= np.round(np.asarray(most)))))


def _per_block(marked: Any, m: int, axis: int) -> Any:
    starts = np.arange(0, marked.shape[axis], m)
    return np.add.reduceat(marked.astype(int), starts, axis=axis) if len(starts) else np.zeros(0, int)


def _rank(matrix: Any) -> int | None:
    """As NumPy's `matrix_rank`, with the rounding of the dtype that holds the matrix."""
    if not np.isfinite(matrix).all():
        return None
    rounding = float(jnp.finfo(matrix.dtype).eps) * max(matrix.shape)
    wide = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    sigma = np.linalg.svd(wide, compute_uv=False)
    return int(np.count_nonzero(sigma > rounding * max(sigma, default=0.0)))
