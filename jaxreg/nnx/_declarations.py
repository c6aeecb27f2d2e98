"""What the modules of an NNX model declare: found in one walk over the model, when a call begins, and handed on."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import (
    ACTIVITY,
    SUFFIX,
    Known,
    Shape,
    fits_no_parameter,
    module_regularizer,
    named,
    no_regularizer,
    stacked_axes,
)
from jaxreg._rules.globs import glob_matches
from jaxreg._rules.identifiers import get
from jaxreg.nnx._flax_layers import globs_of, shapes_of

SHAPES = "_parameter_shapes"  # the attribute in which a module notes the shapes of its parameters at construction

Parameters = list[tuple[str, Any]]  # (path, Variable)


class Declaring(nnx.Module):
    """The base of `Regularized`: modules that check what they are given when it is set, and not only in a call."""

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = {}


class Declared(NamedTuple):
    """A module of the model, and the regularizers that it has: `{"kernel": ..., "activity": ...}`."""

    path: str
    module: nnx.Module
    regularizers: dict[str, Regularizer]


class Declarations:
    """What a model declares. Paths are those of `nnx.state(model, nnx.Param)`: of a shared node the first one counts.

    Attributes:
        nodes: all that can hold modules: the modules, and other pytrees of NNX.
        modules: all modules of the model, inner ones before those around them.
        parameters: all parameters of the model, each once: `nnx.Param`s, and what else `wrt` means.
        wanted: the ids of the variables that `wrt` means.
        shapes: `{id(Variable): shape}` in one layer. What an inner module says holds: to the modules around it, a
            stack of layers is one parameter.
    """

    def __init__(self, model: nnx.Module, wrt: Any = nnx.Param) -> None:
        means = nnx.filterlib.to_predicate(wrt)
        nodes = list(nnx.iter_graph(model))
        self.nodes = [node for _, node in nodes if isinstance(node, nnx.Pytree)]
        modules = [(join(*path), node) for path, node in nodes if isinstance(node, nnx.Module) or _declares(node)]
        self.modules = [Declared(path, module, regularizers(module)) for path, module in modules]
        self.wanted = {id(node) for path, node in nodes if isinstance(node, nnx.Variable) and means(path, node)}
        self.parameters: Parameters = _parameters(nodes, self.wanted)
        self._inside = {id(model): self.parameters}
        self.shapes: dict[int, Known] = {}
        for _, module in modules:
            for variable, shape in self._shapes_of(module):
                known = self.shapes.setdefault(id(variable), shape)
                if None in known and stacked_axes(shape, known) == [()]:  # the same layer, told in full
                    self.shapes[id(variable)] = shape

    def inside(self, module: nnx.Module) -> Parameters:
        """The parameters of one module, by their paths from there.

        What two modules share stands once in the walk over the model, but inside of both: hence a look at the module.
        """
        if id(module) not in self._inside:
            self._inside[id(module)] = parameters(module, self.wanted)
        return self._inside[id(module)]

    def stack_of(self, module: nnx.Module) -> Shape:
        """How many layers a module is a stack of, an axis each: () if it is one layer, or if nothing tells."""
        noted = dict(vars(module).get(SHAPES, ()))
        for path, variable in self.inside(module):
            own = noted.get(path, self.shapes.get(id(variable)))
            stored = getattr(variable.get_raw_value(), "shape", None)
            if own is not None and stored is not None:
                stacks = stacked_axes(stored, own)
                return tuple(stored[axis] for axis in stacks[0]) if stacks else ()
        return ()

    def _shapes_of(self, module: nnx.Module) -> Iterator[tuple[Any, Known]]:
        noted = dict(vars(module).get(SHAPES, ()))
        if noted:
            yield from ((variable, noted[path]) for path, variable in self.inside(module) if path in noted)
        for name, shape in shapes_of(module).items():
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Variable):
                yield variable, shape


def _declares(node: Any) -> bool:
    """Whether it is a pytree of NNX that is no module, and has regularizers all the same."""
    return isinstance(node, nnx.Pytree) and bool(regularizers(node))


def join(*parts: Any) -> str:
    return "/".join(str(part) for part in parts)


def parameters(module: nnx.Module, wanted: Collection[int] = ()) -> Parameters:
    """The parameters of a module by their paths: `nnx.Param`s, and the variables with the ids `wanted`."""
    return _parameters(nnx.iter_graph(module), wanted)


def _parameters(nodes: Iterable[tuple[Any, Any]], wanted: Collection[int]) -> Parameters:
    return [(join(*path), node) for path, node in nodes if isinstance(node, nnx.Param) or id(node) in wanted]


def regularizer_of(module: Any, name: str) -> Regularizer | None:
    """What a module is given as `<name>_regularizer`, by an attribute of its own or of its class."""
    value = getattr(module, name + SUFFIX, None)
    if _is_part(value) and not isinstance(module, Declaring):
        has_parameter = callable(module) if name == ACTIVITY else _of_name(module, name, parameters(module))
        if not has_parameter:
            return None  # a method or a layer of a module that knows nothing of us, named so by chance
    if isinstance(value, (nnx.Pytree, nnx.Variable)):
        raise no_regularizer(type(module).__name__, name + SUFFIX, value)
    value = get(value)
    return None if value is None else module_regularizer(type(module).__name__, name + SUFFIX, value)


def _is_part(value: Any) -> bool:
    return inspect.ismethod(value) or isinstance(value, (nnx.Pytree, nnx.Variable))


def regularizers(module: Any) -> dict[str, Regularizer]:
    """Return `{"kernel": ..., "activity": ...}`."""
    attributes = {name for holder in (*map(vars, type(module).__mro__), vars(module)) for name in holder}
    names = sorted(name.removesuffix(SUFFIX) for name in map(str, attributes) if name.endswith(SUFFIX))
    return {name: found for name in names if (found := regularizer_of(module, name)) is not None}


def regularized(module: Any, name: str, regularizer: Any, inside: Parameters, place: str = "") -> list[Any]:
    """Return the parameters that `<name>_regularizer` is for; raise if there are none."""
    found = _of_name(module, name, inside)
    if not found:
        paths, owner = [path for path, _ in inside], type(module).__name__
        attribute = name + SUFFIX
        raise fits_no_parameter(owner, attribute, regularizer, f" {named(place)}" if place else "", paths)
    return found


def _of_name(module: Any, name: str, inside: Parameters) -> list[Any]:
    globs, attribute = globs_of(module).get(name), getattr(module, name, None)
    is_layer = isinstance(attribute, nnx.Module) and not isinstance(attribute, (nnx.List, nnx.Dict))
    if globs is None:
        globs = () if is_layer else (name, f"{name}/**")  # a layer is no parameter, a list of parameters is
    return [variable for path, variable in inside if any(glob_matches(glob, path) for glob in globs)]


def finish(module: Declaring) -> None:
    """At the end of construction: note the shapes of the parameters, check that each regularizer has its parameter."""
    inside = parameters(module)
    arrays = [(path, variable) for path, variable in inside if hasattr(variable.get_raw_value(), "shape")]
    setattr(module, SHAPES, tuple((path, tuple(variable.shape)) for path, variable in arrays))
    for name, regularizer in regularizers(module).items():
        if name != ACTIVITY:
            regularized(module, name, regularizer, inside)
