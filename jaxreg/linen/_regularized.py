"""Regularized: the mixin that gives a Linen module `<parameter>_regularizer` and `activity_regularizer`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import flax.linen as nn
from flax.core import unfreeze
from flax.core.frozen_dict import FrozenDict

from jaxreg._core.regularizer import Regularizer
from jaxreg._flax.declared import ACTIVITY, SUFFIX, fits_no_parameter, module_regularizer, named, public_address
from jaxreg._rules.identifiers import get
from jaxreg._rules.paths import flatten_with_paths
from jaxreg.linen import _declare, _outputs

_OBSERVED = "jaxreg_observed"


def regularizer_field() -> Any:
    """A field for a regularizer: by keyword only, so that the positional arguments stay those of Flax."""
    return dataclasses.field(default=None, kw_only=True)


@public_address
class Regularized(nn.Module):
    """Penalize the parameters and the output of a module; a mixin that comes first in the bases.

        class Dense(jaxreg.linen.Regularized, nn.Dense): ...

    `kernel_regularizer` and `bias_regularizer` are of the parameters of these names, and so is
    `<parameter>_regularizer` for any other that a subclass declares as a field. A weight penalty is of the whole
    parameter and counts once. `activity_regularizer` is of the output of `__call__`, once per call and summed over
    calls: each floating leaf of the output by itself, divided by its leading dimension (a scalar is not divided, an
    empty batch gives 0). That is the batch; where it is not, `with_losses(model, batch_axis=...)` says so: under
    `nn.vmap` a module sees one example, and `batch_axis=None` divides by nothing. The functions of `jaxreg.activity`
    are taken as they are, and so is its `WholeOutput`, a penalty of all that a module returns. Recurrent cells return
    `(carry, output)`; there only `output` is penalized.

    `with_losses(model)` returns the penalties, right under every lifted transform. For models without nn.scan, nn.vmap
    and nn.RNN, `model.apply(variables, x, mutable=["losses"])` leaves the same in the collection `losses`; inside of
    these it raises where a penalty would be lost, or counted once a step (not if the model itself is the transformed
    class, `nn.vmap(Dense)(...)`, which hides what was asked for). `init` leaves none, and evaluation without that
    collection computes none.

    A module whose parameters live in modules of its own, as those of attention do, says where by `parameter_globs`:
    a class attribute `{"kernel": ("query/kernel", ...)}`.

    Args:
        kernel_regularizer, bias_regularizer, activity_regularizer: anything that `jaxreg.get` takes, by keyword.

    Raises:
        ValueError: an identifier is unknown; or, when the module runs, it has no parameter of that name.
        TypeError: the value is not a regularizer.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxreg.linen
        >>> class Scale(jaxreg.linen.Regularized, nn.Module):
        ...     gain_regularizer: object = None
        ...
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return x * self.param("gain", nn.initializers.ones, (3,))
        >>> model, x = Scale(gain_regularizer="l2"), jnp.ones((2, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, losses = jaxreg.linen.with_losses(model)(variables, x)
        >>> {path: round(float(loss), 4) for path, loss in losses.items()}
        {'gain': 0.03}
    """

    kernel_regularizer: Any = regularizer_field()
    bias_regularizer: Any = regularizer_field()
    activity_regularizer: Any = regularizer_field()

    parameter_globs: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        public_address(cls)
        call = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
        # A lifted class (nn.remat, nn.scan) copies the mark: it runs a clone of this class, which is observed already.
        if call is not None and not hasattr(call, _OBSERVED):
            cls.__call__ = _observed(call)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for field in _regularizer_fields(self):
            value = getattr(self, field)
            value = get(unfreeze(value) if isinstance(value, FrozenDict) else value)
            if value is not None:
                module_regularizer(type(self).__name__, field, value)
            object.__setattr__(self, field, value)
        super().__post_init__()


def _regularizer_fields(module: nn.Module) -> list[str]:
    return [field.name for field in dataclasses.fields(module) if field.name.endswith(SUFFIX)]


def _observed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` after which the module declares its weights and adds the penalty of its output."""

    @functools.wraps(call)
    def observed_call(self: Regularized, *args: Any, **kwargs: Any) -> Any:
        # `super().__call__` of the same module is no other call; the same `__call__` again is one, of a recursion
        begun = self.__dict__.get("_jaxreg_running")
        if self.scope is None or begun not in (None, observed_call):
            return call(self, *args, **kwargs)
        self.__dict__["_jaxreg_running"] = observed_call
        try:
            output = call(self, *args, **kwargs)
        finally:
            if begun is None:
                del self.__dict__["_jaxreg_running"]
        declare(self)
        if self.activity_regularizer is not None:
            regularizer = module_regularizer(type(self).__name__, ACTIVITY + SUFFIX, self.activity_regularizer)
            _outputs.add(self, regularizer, output)
        return output

    setattr(observed_call, _OBSERVED, True)
    return observed_call


def declare(module: Regularized) -> None:
    """Note which parameter has which regularizer."""
    _declare.declare(module, _regularized_parameters(module))


def _regularized_parameters(module: Regularized) -> dict[str, tuple[Regularizer, Any]]:
    """Return `{path inside the module: (regularizer, parameter)}`."""
    wanted = {
        field: getattr(module, field)
        for field in _regularizer_fields(module)
        if field != ACTIVITY + SUFFIX and getattr(module, field) is not None
    }
    if not wanted:
        return {}
    paths, leaves, *_ = flatten_with_paths(module.variables.get("params", {}))
    found: dict[str, tuple[Regularizer, Any]] = {}
    for field, value in wanted.items():
        owner = type(module).__name__
        regularizer, name = module_regularizer(owner, field, value), field.removesuffix(SUFFIX)
        globs = module.parameter_globs.get(name, (name, f"{name}/*"))
        of_field = [i for i, path in enumerate(paths) if any(fnmatchcase(path, glob) for glob in globs)]
        if not of_field:
            raise fits_no_parameter(owner, field, value, f" {named('/'.join(module.path))}", paths)
        found.update({paths[i]: (regularizer, leaves[i]) for i in of_field})
    return found
