"""Linen modules in an NNX model, by `nnx.bridge.ToNNX`."""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg.linen import _declarations, _weights
from jaxreg.nnx._declarations import Declarations


def of_linen(declarations: Declarations) -> Iterator[tuple[Any, Regularizer]]:
    """The parameters of Linen modules, and the regularizers that these have declared when they ran."""
    for module in linen_modules(declarations):
        declared = _declarations.recall(module.to_nnx__module) or {}
        variables = dict(declarations.inside(module))
        params = {path: variable.get_raw_value() for path, variable in variables.items()}
        for path, regularizer in _weights.assign(params, declared, None).items():
            yield variables[path], regularizer


def linen_modules(declarations: Declarations) -> list[Any]:
    return [module for _, module, _ in declarations.modules if isinstance(module, nnx.bridge.ToNNX)]
