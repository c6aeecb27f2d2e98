"""NNX modules in a Linen model, by `nnx.bridge.ToLinen`: `jaxreg.nnx` tells what they declare, once it is imported."""

import sys
from collections.abc import Callable, Mapping, Set
from typing import Any

import flax.linen as nn

from jaxreg._core.regularizer import Regularizer
from jaxreg._core.text import place
from jaxreg._flax.declared import named, shown
from jaxreg._rules.paths import flatten_with_paths
from jaxreg.linen import _declarations, _declare

# Of a `ToLinen` module: the regularizers of the parameters inside, and those of outputs, by path.
Reader = Callable[[nn.Module], tuple[dict[str, Regularizer], dict[str, Regularizer]]]

_readers: list[Reader] = []


def read_by(reader: Reader) -> None:
    _readers.append(reader)


def is_to_linen(module: nn.Module) -> bool:
    wrappers = sys.modules.get("flax.nnx.bridge.wrappers")  # if nobody has imported NNX, it is none
    return wrappers is not None and isinstance(module, wrappers.ToLinen)


def running() -> nn.Module | None:
    """The `ToLinen` module whose NNX module runs; None outside of one."""
    stack = _declarations.module_stack()
    return stack[-1] if stack and is_to_linen(stack[-1]) else None


def declare(module: nn.Module) -> None:
    """Let a `ToLinen` module declare what its NNX module does, once a call."""
    if "_jaxreg_declared" not in module.__dict__:
        module.__dict__["_jaxreg_declared"] = True
        _declare.declare(module, _declared_inside(module))


def _declared_inside(module: nn.Module) -> dict[str, tuple[Regularizer, Any]]:
    """Return `{path inside the module: (regularizer, parameter)}`."""
    paths, leaves, *_ = flatten_with_paths(module.variables.get("params", {}))
    parameters = dict(zip(paths, leaves, strict=True))
    found: dict[str, tuple[Regularizer, Any]] = {}
    for weights, outputs in (read(module) for read in _readers):
        if _is_asked(module):
            _check(named("/".join(module.path)), weights.keys() - parameters.keys(), outputs)
        found.update({path: (weights[path], parameters[path]) for path in paths if path in weights})
    return found


def _is_asked(module: nn.Module) -> bool:
    """Whether the caller wants the penalties."""
    in_pass = _declarations.pass_of(module, _declarations.root_of(module)) is not None
    return not module.is_initializing() and (in_pass or module.is_mutable_collection(_declarations.LOSSES))


def _check(bridge: str, missing: Set[str], outputs: Mapping[str, Regularizer]) -> None:
    """Raise if Linen cannot see a penalty."""
    for path, regularizer in outputs.items():
        raise ValueError(
            f"`activity_regularizer={shown(regularizer)}` of the NNX module {named(path)} inside the `ToLinen` module "
            f"{bridge} would be lost: Linen sees no calls inside. Penalize the output of the whole by a rule, "
            f"`with_losses(model, activity=[({bridge!r}, regularizer)])`."
        )
    for path in missing:
        raise ValueError(
            f"The NNX variable {place(path)} inside the `ToLinen` module {bridge} is regularized, and not in the "
            "collection 'params' of Linen. Penalize it in the loss, by `jaxreg.TreeRegularizer` on its own collection."
        )
