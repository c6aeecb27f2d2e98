"""From what modules declare to the penalties of the parameters, stacks of layers included."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._core import checks
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._rules.identifiers import get
from jaxreg._rules.paths import flatten_with_paths, glob_matches
from jaxreg.nnx._shapes import SHAPES, Shape, own_shapes, stacked_axes
from jaxreg.nnx._walk import join, parameters
from jaxreg.penalties import Stacked

SUFFIX = "_regularizer"
ACTIVITY = "activity"


class Declaring(nnx.Module):
    """What the walk over a model looks for: the base of `Regularized`."""

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = {}


class Penalized(NamedTuple):
    """A parameter and its regularizer."""

    regularizer: Regularizer
    value: Any


def declared(model: nnx.Module) -> dict[str, Penalized]:
    """Return `{path: (regularizer, parameter)}`, each parameter once, at its path in `nnx.state(model, nnx.Param)`."""
    variables = {id(v): (join(*path), v) for path, v in parameters(model)}
    shapes = own_shapes(model)
    found: dict[str, Penalized] = {}
    for path, variable, regularizer in _declarations(model, variables):
        for inside, leaf in _leaves(variable):
            at = join(path, inside) if inside else path
            if at in found and found[at].regularizer != regularizer:
                raise ValueError(
                    f"The parameter {at} has two regularizers, {found[at].regularizer!r} and {regularizer!r}. Declare "
                    "one, or their sum, or the same on each module that shares the parameter."
                )
            found[at] = Penalized(regularizer, leaf)
    own = {path: shapes[key] for key, (path, _) in variables.items() if key in shapes}
    return {path: _of_stack(path, *found[path], own.get(path)) for path in sorted(found)}


def _of_stack(path: str, regularizer: Regularizer, leaf: Any, own: Shape | None) -> Penalized:
    """Wrap the regularizer if the leaf is a stack of what the layer was built with."""
    elementwise = regularizer.scalar() is not None or isinstance(regularizer, Stacked)
    if own is None or elementwise or leaf.ndim <= len(own):
        return Penalized(regularizer, leaf)
    stacks = stacked_axes(leaf.shape, own)
    if len(stacks) == 1:
        return Penalized(Stacked(regularizer, stacks[0]), leaf)
    reason = "along an axis that the shapes do not tell" if stacks else "in a way that the shapes do not tell"
    raise ValueError(
        f"The parameter {path} of shape {leaf.shape} is a stack of layers of shape {own}, {reason}, and "
        f"{regularizer!r} is of one layer. Name the axes: `jaxreg.Stacked({regularizer!r}, axes=(0,))`."
    )


def finish(module: Declaring) -> None:
    """Note the shapes that the parameters have at construction, and check the names of the regularizers."""
    shapes = [(join(*path), tuple(variable.shape)) for path, variable in parameters(module) if _is_array(variable)]
    setattr(module, SHAPES, tuple(shapes))
    for name, regularizer in regularizers(module).items():
        if name != ACTIVITY:
            check_name(module, name + SUFFIX, regularizer)


def check_name(module: Declaring, attribute: str, regularizer: Any, path: str = "") -> None:
    """Raise if no parameter has the name."""
    name = attribute.removesuffix(SUFFIX)
    if name != ACTIVITY and not named(module, name):
        raise ValueError(
            f"`{type(module).__name__}({attribute}={checks.short(regularizer)})` fits no parameter of the module"
            f"{f' {path}' if path else ''}: as configured, it has {[join(*p) for p, _ in parameters(module)]}. "
            f"Drop `{attribute}`, or give the module that parameter."
        )


def named(module: Declaring, name: str) -> list[Any]:
    """The parameters that `<name>_regularizer` means."""
    globs = module.parameter_globs.get(name)
    attribute = getattr(module, name, None)
    if globs is None and isinstance(attribute, nnx.Module) and not isinstance(attribute, (nnx.List, nnx.Dict)):
        return []
    globs = (name, f"{name}/**") if globs is None else globs
    return [v for path, v in parameters(module) if any(glob_matches(glob, join(*path)) for glob in globs)]


def regularizers(module: nnx.Module) -> dict[str, Regularizer]:
    """Return `{"kernel": ..., "activity": ...}`: what a module is given by attributes, of its own or of its class."""
    if not isinstance(module, Declaring):
        return {}
    names = {name for holder in (*map(vars, type(module).__mro__), vars(module)) for name in holder}
    found = {}
    for name in sorted(names):
        if not isinstance(name, str) or not name.endswith(SUFFIX):
            continue
        regularizer = get(getattr(module, name))
        if regularizer is not None:
            found[name.removesuffix(SUFFIX)] = to_regularizer(f"{type(module).__name__}({name}=...)", regularizer)
    return found


def to_regularizer(call: str, value: Any) -> Regularizer:
    try:
        return as_regularizer(value)
    except TypeError:
        raise TypeError(
            f"`{call}` takes a regularizer of one array, got {checks.short(value)}. Rules for a whole "
            "tree go into the loss or into `jaxreg.add_regularization`."
        ) from None


def _declarations(model: nnx.Module, variables: dict[int, Any]) -> Iterator[tuple[str, Any, Regularizer]]:
    declaring = ((path, module) for path, module in nnx.iter_modules(model) if isinstance(module, Declaring))
    for path, module in declaring:
        for name, regularizer in regularizers(module).items():
            if name == ACTIVITY:
                continue
            check_name(module, name + SUFFIX, regularizer, join(*path))
            for variable in named(module, name):
                yield variables[id(variable)][0], variable, regularizer
    for path, variable in variables.values():
        regularizer = get(variable.get_metadata("regularizer", None))
        if regularizer is not None:
            yield path, variable, to_regularizer(f"{type(variable).__name__}(..., regularizer=...)", regularizer)


def _is_array(variable: Any) -> bool:
    return hasattr(variable.get_raw_value(), "shape")


def _leaves(variable: Any) -> list[tuple[str, Any]]:
    paths, leaves, *_ = flatten_with_paths(variable.get_value())
    return [
        (path, leaf)
        for path, leaf in zip(paths, leaves, strict=True)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


@jax.jit
def penalties(regularizers: dict[str, Regularizer], leaves: dict[str, Any]) -> dict[str, jax.Array]:
    return {path: regularizers[path](leaf) for path, leaf in leaves.items()}
