"""Penalties of outputs: the Variable that adds them up during one call, and the observation of modules."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import flax.errors
import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._regularizer import Regularizer
from jaxreg._rules import Rule, matches_nothing
from jaxreg.linen._activity import penalty
from jaxreg.nnx import _parameters
from jaxreg.nnx._collect import collect, zero
from jaxreg.nnx._parameters import ACTIVITY

ATTRIBUTE = "_activity_loss"
OBSERVED = "jaxreg_observed"
_NODES = "_pytree__nodes"  # where NNX notes which attributes are data


class ActivityLoss(nnx.Variable[jax.Array]):
    """The penalty of a module's outputs, while `with_losses` runs: name it in `nnx.StateAxes` if need be.

    The Variable is there only during the call. It holds one number, or one a layer of a stack of layers.

    Example:
        >>> from flax import nnx
        >>> import jaxreg.nnx
        >>> nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}).axes[1] is None
        True
    """


class _Local(threading.local):
    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.running: set[int] = set()


_local = _Local()
_epoch = 0  # part of the static metadata, so that a trace that loses a penalty is never taken from a cache


class Run:
    """One call of `with_losses`: the modules whose outputs are penalized, and a check that nothing is lost."""

    def __init__(self, model: nnx.Module, rules: Sequence[Rule]) -> None:
        self.modules: dict[str, nnx.Module] = {}
        self.rules: dict[str, Regularizer | None] = {}
        self.patched: set[type] = set()
        self._pending: dict[str, Any] = {}
        self._collect(model, rules)
        self._shapes = _parameters.own_shapes(model) if self.modules else {}

    def _collect(self, model: nnx.Module, rules: Sequence[Rule]) -> None:
        used, paths = [False] * len(rules), []
        for parts, module in nnx.iter_modules(model):
            path = _parameters.join(*parts)
            own = ACTIVITY in _parameters.regularizers(module)
            if callable(module):
                paths.append(path)
                matching = [i for i, rule in enumerate(rules) if _matches(rule, path, module)]
                for i in matching:
                    used[i] = True
                if matching and rules[matching[0]].regularizer is not None:
                    self.rules[path] = rules[matching[0]].regularizer
                    self.patched.add(type(module))
            if own or path in self.rules:
                self.modules[path] = module
        for rule, was_used in zip(rules, used, strict=True):
            if not was_used:
                message = matches_nothing(rule.pattern, sorted(paths)).replace("No leaf", "no module", 1)
                raise ValueError(f"`with_losses(activity=...)`: {message}")

    @contextlib.contextmanager
    def recording(self, inputs: Any) -> Iterator[None]:
        """Attach a fresh `ActivityLoss` to each module, and leave the modules as they were in the end."""
        outer: dict[str, Any] = {path: vars(module).get(ATTRIBUTE) for path, module in self.modules.items()}
        start = zero(inputs if self.modules else ())
        try:
            for path, module in self.modules.items():
                sizes = _parameters.stack_sizes(module, self._shapes)
                loss = ActivityLoss(jnp.broadcast_to(start, sizes), path=path, rule=self.rules.get(path), epoch=_epoch)
                _attach(module, loss)
            _local.runs.append(self)
            with _patched(self.patched):
                yield
        finally:
            if _local.runs and _local.runs[-1] is self:
                _local.runs.pop()
            for path, module in self.modules.items():
                if ATTRIBUTE in vars(module):
                    delattr(module, ATTRIBUTE)
                if outer[path] is not None:  # a call of `with_losses` inside another one
                    _attach(module, outer[path])

    def losses(self) -> dict[str, jax.Array]:
        """Return `{path: penalty}`, summed over the calls and the layers of a stack."""
        for path in list(self._pending):
            self._settle(path)
        return {path: jnp.sum(self._raw(path)) for path in self.modules}

    def note(self, loss: Any) -> None:
        """Before a penalty is added: through a copy of the module it must come back, or it is lost."""
        path = loss.get_metadata("path")
        if path not in self.modules:
            return
        if vars(self.modules[path]).get(ATTRIBUTE) is loss:
            self._settle(path)
        else:
            self._pending[path] = self._raw(path)

    def _settle(self, path: str) -> None:
        if path in self._pending and self._pending.pop(path) is self._raw(path):
            global _epoch
            _epoch += 1
            _raise_lost(path)

    def _raw(self, path: str) -> Any:
        loss = vars(self.modules[path]).get(ATTRIBUTE)
        if loss is None:
            _raise_lost(path)
        return loss.get_raw_value()


def _attach(module: nnx.Module, loss: ActivityLoss) -> None:
    # Not by setattr, which NNX refuses for a model that an inner trace closes over.
    object.__setattr__(module, ATTRIBUTE, loss)
    if hasattr(module, _NODES):
        object.__setattr__(module, _NODES, getattr(module, _NODES).update({ATTRIBUTE: True}))


def _matches(rule: Rule, path: str, module: nnx.Module) -> bool:
    if path == "" and isinstance(rule.pattern, str):
        return rule.pattern in {"", "**"}  # `*` is a name, and the root has none
    return rule.matches(path, module)


def observed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` that adds the penalty of its output to the module's `ActivityLoss`, if there is one."""

    @functools.wraps(call)
    def observed_call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        # `super().__call__` of the same module is no other call
        if ATTRIBUTE not in vars(self) or id(self) in _local.running:
            return call(self, *args, **kwargs)
        _local.running.add(id(self))
        try:
            output = call(self, *args, **kwargs)
        finally:
            _local.running.discard(id(self))
        _add(self, output)
        return output

    setattr(observed_call, OBSERVED, True)
    return observed_call


def _add(module: nnx.Module, output: Any) -> None:
    loss = vars(module)[ATTRIBUTE]
    if _local.runs:
        _local.runs[-1].note(loss)
    if isinstance(module, nnx.RNNCellBase):
        _, output = output  # the carry is the state, and often the output once more
    both = (_parameters.regularizers(module).get(ACTIVITY), loss.get_metadata("rule"))
    value = sum(penalty(regularizer, output) for regularizer in both if regularizer is not None)
    before = loss.get_raw_value()
    value = jnp.asarray(value, before.dtype)
    value = collect(value, before.ravel()[0])
    try:
        # A stack that a transform did not take apart: its sum is what counts.
        loss.set_value(before + value if before.ndim == 0 else before.ravel().at[0].add(value).reshape(before.shape))
    except flax.errors.TraceContextError:
        _raise_lost(loss.get_metadata("path"))


def _raise_lost(path: str) -> NoReturn:
    raise ValueError(
        f"`with_losses`: the activity penalty of the module {path or '(root)'} would be lost, because a transform "
        "around it does not hand changes of the module back. Give the module to an NNX transform as an argument "
        "(`nnx.jit(lambda m, x: m(x))(self.layer, x)`, not `jax.jit`, nor a closure); in `nnx.scan` do not broadcast "
        "it whole: `in_axes=(nnx.StateAxes({jaxreg.nnx.ActivityLoss: nnx.Carry, ...: None}), ...)`."
    )


_patches: dict[type, tuple[int, Any]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def _patched(classes: set[type]) -> Iterator[None]:
    """Observe all instances of classes one cannot edit; those without an `ActivityLoss` behave as before."""
    with _lock:
        mine = [cls for cls in classes if cls in _patches or not hasattr(vars(cls).get("__call__"), OBSERVED)]
        for cls in mine:
            count, own = _patches.get(cls, (0, vars(cls).get("__call__")))
            _patches[cls] = count + 1, own
            if count == 0:
                cls.__call__ = observed(cls.__call__)  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            for cls in mine:
                count, own = _patches.pop(cls)
                if count > 1:
                    _patches[cls] = count - 1, own
                elif own is None:
                    del cls.__call__
                else:
                    cls.__call__ = own  # type: ignore[method-assign]
