"""Paths of leaves in any pytree."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, keystr
from numpy.typing import NDArray

from jaxreg._core.struct import Struct


def is_hidden(x: Any) -> bool:
    """Whether `x` stands where an optax wrapper or a filter took a leaf away."""
    return x is None or is_masked(x)


def is_masked(x: Any) -> bool:
    """Whether `x` is optax's placeholder; where nobody has imported optax there is none."""
    return isinstance(x, getattr(sys.modules.get("optax"), "MaskedNode", ()))


class Leaves(NamedTuple):
    """The leaves of a tree in order, hidden ones in their places."""

    paths: list[str]  # joined by "/"
    leaves: list[Any]
    parameters: list[bool]  # what regularizers act on, see `flatten_with_paths`
    treedef: Any = None


def flatten_with_paths(tree: Any) -> Leaves:
    """Return the paths and leaves of a tree, and which of these are parameters.

    A parameter is a float or complex array. These are not parameters: numbers of Python that a module holds as
    attributes (the rate of a dropout), the coefficients of a regularizer that a module holds, NNX variables beside the
    `Param`s (batch statistics), and Flax's collections beside "params".

    The level `value` that NNX Variables and Linen's partitioned parameters add is left out of the paths.
    """
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_hidden)
    boxes = _box_types()
    entries = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda x: is_hidden(x) or isinstance(x, (Struct, *boxes))
    )[0]
    aside = _not_parameters([entry for _, entry in entries])
    beside_params = isinstance(tree, Mapping) and "params" in tree
    paths, parameters = [], []
    for keys, entry in entries:
        inner = jax.tree_util.tree_flatten_with_path(entry, is_leaf=is_hidden)[0]
        excluded = (
            isinstance(entry, Struct)
            or type(entry) in aside
            or (beside_params and getattr(keys[0], "key", None) in _COLLECTIONS)
        )
        is_attribute = any(isinstance(key, GetAttrKey) for key in keys)
        for more, leaf in inner:
            shown = [key for i, key in enumerate(more) if i or key != _VALUE] if isinstance(entry, boxes) else more
            paths.append(keystr((*keys, *shown), simple=True, separator="/"))
            is_setting = is_attribute and not hasattr(leaf, "dtype")
            parameters.append(is_inexact(leaf) and not excluded and not is_setting)
    return Leaves(paths, leaves, parameters, treedef)


def untied(tree: Any) -> list[tuple[str, Any]]:
    """Return the paths and values of the parameters; an array that stands in two places counts at the first."""
    flat = flatten_with_paths(tree)
    seen: set[int] = set()
    found = []
    for path, leaf, is_parameter in zip(flat.paths, flat.leaves, flat.parameters, strict=True):
        if is_parameter and id(leaf) not in seen:
            found.append((path, leaf))
        if isinstance(leaf, (jax.Array, np.ndarray)):
            seen.add(id(leaf))
    return found


def matrices(tree: Any) -> dict[str, NDArray[Any]]:
    """Return the parameters of two axes and more as matrices, whose columns are the last axis."""
    flat = flatten_with_paths(tree)
    shown = zip(flat.paths, flat.leaves, flat.parameters, strict=True)
    large = [(path, leaf) for path, leaf, is_parameter in shown if is_parameter and np.ndim(leaf) >= 2]
    return {path: np.asarray(leaf).reshape(-1, leaf.shape[-1]) for path, leaf in large if leaf.size}


_VALUE = GetAttrKey("value")
_COLLECTIONS = {"batch_stats", "cache", "intermediates", "losses", "perturbations"}


def _not_parameters(entries: Sequence[Any]) -> set[type]:
    """The types of NNX variables that are no parameters; where none is a `Param`, the tree was chosen by its types."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not any(isinstance(entry, nnx.Param) for entry in entries):
        return set()
    return {type(entry) for entry in entries if isinstance(entry, nnx.Variable) and not isinstance(entry, nnx.Param)}


def _box_types() -> tuple[type, ...]:
    # The core does not import flax; a tree can only hold its boxes if someone else has.
    found = ((sys.modules.get("flax.core.meta"), "AxisMetadata"), (sys.modules.get("flax.nnx"), "Variable"))
    return tuple(getattr(module, name) for module, name in found if hasattr(module, name))


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a float or complex array or number: what regularizers act on."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, (float, complex)) if dtype is None else bool(jnp.issubdtype(dtype, jnp.inexact))
