"""Stacks of layers of plain modules, whose shapes in one layer nothing tells until they run: refused when they do."""

from typing import Any

from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg._core.text import place
from jaxreg._flax.declared import Shape, shown, stacked_axes
from jaxreg.nnx._declarations import Declarations
from jaxreg.nnx._weights import declared, needs_axes


class Unknown:
    """The parameters of which it is not known whether they are a stack, by class and attribute, where that matters.

    Attributes:
        classes: the classes whose calls are to be looked at.
    """

    def __init__(self, declarations: Declarations) -> None:
        regularizers = {
            id(variable): regularizer
            for variable, regularizer in declared(declarations)
            if id(variable) not in declarations.shapes and needs_axes(regularizer, _shape(variable))
        }
        self._stored: dict[tuple[type, str], list[tuple[str, Shape, Regularizer]]] = {}
        for path, module, _ in declarations.modules if regularizers else ():
            for name, variable in vars(module).items():
                if id(variable) in regularizers:
                    one = (f"{path}/{name}".lstrip("/"), _shape(variable), regularizers[id(variable)])
                    self._stored.setdefault((type(module), name), []).append(one)
        self.classes = {cls for cls, _ in self._stored}

    def check(self, module: nnx.Module) -> None:
        """Raise if the module that runs sees one layer of a parameter whose penalty was taken of the whole stack."""
        for (cls, name), stored in self._stored.items():
            if cls is type(module):
                shape = _shape(getattr(module, name, None))
                if shape not in [whole for _, whole, _ in stored]:
                    for path, whole, regularizer in stored:
                        if stacked_axes(whole, shape):
                            raise _of_one_layer(path, whole, shape, regularizer, cls.__name__)


def _shape(variable: Any) -> Shape:
    value = variable.get_raw_value() if isinstance(variable, nnx.Variable) else None
    return tuple(getattr(value, "shape", ()))


def _of_one_layer(path: str, whole: Shape, shape: Shape, regularizer: Regularizer, owner: str) -> ValueError:
    return ValueError(
        f"The parameter {place(path)} of shape {whole} is a stack of layers of shape {shape}, which only the call "
        f"tells, and {shown(regularizer)} is of one layer. Name the axes, `jaxreg.Stacked({shown(regularizer)}, "
        f"axes=(0,))`, or let `{owner}` inherit `jaxreg.nnx.Regularized`, which notes the shapes of a layer."
    )
