"""Regularized: the mixin that gives an NNX module `<parameter>_regularizer` and `activity_regularizer`."""

import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxreg._flax.declared import ACTIVITY, SUFFIX, module_regularizer, public_address
from jaxreg._rules.identifiers import get
from jaxreg.nnx._declarations import SHAPES, Declaring, finish, parameters, regularized
from jaxreg.nnx._observe import OBSERVED, observed


class _Construction(threading.local):
    """The modules whose `__init__` runs in this thread; those of parents run inside."""

    def __init__(self) -> None:
        self.running: set[int] = set()


_construction = _Construction()


def _accepting(init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` that takes `<parameter>_regularizer` too; the outermost one notes and checks the parameters."""
    signature = inspect.signature(init).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())

    @functools.wraps(init)
    def accepting_init(self: Declaring, *args: Any, **kwargs: Any) -> None:
        own = [name for name in kwargs if name.endswith(SUFFIX) and name not in signature and not takes_all]
        given = {name: kwargs.pop(name) for name in own}
        _construct(init, self, args, kwargs, given)

    return accepting_init


def _construct(init: Callable[..., None], module: Declaring, args: Any, kwargs: Any, given: dict[str, Any]) -> None:
    outermost = id(module) not in _construction.running
    _construction.running.add(id(module))
    try:
        init(module, *args, **kwargs)
    finally:
        if outermost:
            _construction.running.discard(id(module))
    for name, value in given.items():
        setattr(module, name, value)
    if outermost:
        finish(module)


@public_address
class Regularized(Declaring):
    """Penalize the parameters and the output of a module; a mixin that comes first in the bases.

        class Linear(jaxreg.nnx.Regularized, nnx.Linear): ...

    `kernel_regularizer` and `bias_regularizer` are of the parameters of these names, and so is
    `<parameter>_regularizer` for any other `nnx.Param` of the module. A weight penalty is of the whole parameter and
    counts once. `activity_regularizer` is of the output of `__call__`, once per call and summed over calls: each
    floating leaf of the output by itself, divided by its leading dimension (a scalar is not divided, an empty batch
    gives 0). That is the batch; where it is not, `with_losses(model, batch_axis=...)` says so: under `nnx.vmap` a
    module sees one example, and `batch_axis=None` divides by nothing. The functions of `jaxreg.activity` are taken as
    they are, and so is its `WholeOutput`, a penalty of all that a module returns. Recurrent cells return
    `(carry, output)`; there only `output` is penalized.

    `with_losses(model)` returns the penalties; a plain `model(x)` computes none and leaves nothing behind. The
    attributes may be set on a finished module, and count from its next call. They count on modules without this mixin
    too, which take them by assignment alone and are checked when they run. A regularizer of Python numbers is static:
    `nnx.jit` compiles again for another one. A regularizer that holds arrays is stored as `nnx.data`: its arrays are
    part of `nnx.state(model)` (not of `nnx.state(model, nnx.Param)`), and new values do not compile again.

    A module whose parameters live in modules of its own, as those of attention do, says where by `parameter_globs`:
    a class attribute `{"kernel": ("query/kernel", ...)}`.

    Args:
        kernel_regularizer, bias_regularizer, activity_regularizer, <parameter>_regularizer: anything that
            `jaxreg.get` takes, by keyword; a subclass need not declare them in its `__init__`.

    Raises:
        ValueError: an identifier is unknown, or the module has no parameter of that name.
        TypeError: the value is not a regularizer.

    Example:
        >>> import jax.numpy as jnp, jaxreg.nnx
        >>> from flax import nnx
        >>> class Scale(jaxreg.nnx.Regularized, nnx.Module):
        ...     def __init__(self, features):
        ...         self.gain = nnx.Param(jnp.ones(features))
        ...
        ...     def __call__(self, x):
        ...         return x * self.gain
        >>> model = Scale(3, gain_regularizer="l2")
        >>> y, losses = jaxreg.nnx.with_losses(model)(jnp.ones((2, 3)))
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'gain': 0.03}
        >>> model.activity_regularizer = jaxreg.L1(1.0)
        >>> y, losses = jaxreg.nnx.with_losses(model)(jnp.ones((2, 3)))
        >>> sorted(losses)
        ['activity', 'gain']
    """

    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    activity_regularizer: Any = None

    @_accepting
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in list(kwargs) if name.endswith(SUFFIX)}
        super().__init__(*args, **kwargs)
        for name, value in given.items():
            setattr(self, name, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        public_address(cls)
        if "__init__" in vars(cls):
            cls.__init__ = _accepting(vars(cls)["__init__"])  # type: ignore[method-assign]
        call = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
        if call is not None and not hasattr(call, OBSERVED):
            cls.__call__ = observed(call)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.endswith(SUFFIX):
            super().__setattr__(name, value)
            return
        if isinstance(value, dataclasses.Field) and "nnx_value" in value.metadata:  # nnx.data(...), nnx.static(...)
            value = value.metadata["nnx_value"]
        regularizer = get(value)
        if regularizer is not None:
            module_regularizer(type(self).__name__, name, regularizer)
            parameter = name.removesuffix(SUFFIX)
            if parameter != ACTIVITY and SHAPES in vars(self):  # before, parameters may be missing
                regularized(self, parameter, regularizer, parameters(self))
        has_arrays = any(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(regularizer))
        super().__setattr__(name, nnx.data(regularizer) if has_arrays else nnx.static(regularizer))
