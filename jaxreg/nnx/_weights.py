"""From what modules declare to a regularizer for each parameter, stacks of layers included."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxreg._core.regularizer import Regularizer, Sum
from jaxreg._core.text import place
from jaxreg._flax.declared import ACTIVITY, Known, Shape, is_sum_over_entries, module_regularizer, shown, stacked_axes
from jaxreg._rules.identifiers import get
from jaxreg._rules.paths import flatten_with_paths
from jaxreg.nnx._declarations import Declarations, join, regularized
from jaxreg.nnx._to_nnx import of_linen
from jaxreg.penalties import Stacked


class Penalized(NamedTuple):
    """A parameter and its regularizer."""

    regularizer: Regularizer
    parameter: Any


def penalized(declarations: Declarations) -> dict[str, Penalized]:
    """Return `{path: (regularizer, parameter)}`, each parameter that is wanted once."""
    paths = {id(variable): path for path, variable in declarations.parameters}
    found: dict[str, Penalized] = {}
    for variable, regularizer in declared(declarations):
        if id(variable) not in declarations.wanted:
            continue
        for path, leaf in _leaves(paths[id(variable)], variable):
            if path in found and found[path].regularizer != regularizer:
                raise ValueError(
                    f"The parameter {place(path)} has two regularizers, {shown(found[path].regularizer)} and "
                    f"{shown(regularizer)}. Declare one, or their sum, or the same on each module that shares it."
                )
            found[path] = Penalized(regularizer, leaf)
    own = {path: declarations.shapes.get(id(variable)) for path, variable in declarations.parameters}
    return {
        path: Penalized(_of_stack(path, *found[path], own.get(path)), found[path].parameter) for path in sorted(found)
    }


def declared(declarations: Declarations) -> Iterator[tuple[Any, Regularizer]]:
    """The variables and their regularizers, as often as they are declared."""
    for path, module, regularizers in declarations.modules:
        for name, regularizer in regularizers.items():
            if name != ACTIVITY:
                inside = declarations.inside(module)
                for variable in regularized(module, name, regularizer, inside, path):
                    yield variable, regularizer
    for _, variable in declarations.parameters:
        regularizer = get(variable.get_metadata("regularizer", None))
        if regularizer is not None:
            yield variable, module_regularizer(type(variable).__name__, "regularizer", regularizer)
    yield from of_linen(declarations)


def _leaves(path: str, variable: Any) -> list[tuple[str, Any]]:
    inside, leaves, *_ = flatten_with_paths(variable.get_value())
    arrays = [(at, leaf) for at, leaf in zip(inside, leaves, strict=True) if hasattr(leaf, "dtype")]
    return [(join(path, at) if at else path, leaf) for at, leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _of_stack(path: str, regularizer: Regularizer, leaf: Any, own: Known | None) -> Regularizer:
    """The regularizer of a stored parameter that is a stack of layers, from the one declared for one layer."""
    if own is None or leaf.ndim <= len(own) or not needs_axes(regularizer, leaf.shape):
        return regularizer
    stacks = stacked_axes(leaf.shape, own)
    if len(stacks) == 1:
        return Stacked(regularizer, stacks[0])
    reason = "along an axis that the shapes do not tell" if stacks else "in a way that the shapes do not tell"
    raise ValueError(
        f"The parameter {place(path)} of shape {leaf.shape} is a stack of layers of shape {own}, {reason}, and "
        f"{shown(regularizer)} is of one layer. Name the axes: `jaxreg.Stacked({shown(regularizer)}, axes=(0,))`."
    )


def needs_axes(regularizer: Regularizer, stored: Shape) -> bool:
    """Whether the penalty of a stack is that of its layers only if it is told the axes."""
    terms = regularizer.terms if isinstance(regularizer, Sum) else (regularizer,)
    return not all(_names_axes(term) or is_sum_over_entries(term, stored) for term in terms)


def _names_axes(regularizer: Regularizer) -> bool:
    """Whether it is declared for the whole stack already, as in `2 * Stacked(penalty, axes=(0,))`."""
    inside = jax.tree.leaves(regularizer, is_leaf=lambda node: isinstance(node, Stacked))
    return any(isinstance(node, Stacked) for node in inside)
