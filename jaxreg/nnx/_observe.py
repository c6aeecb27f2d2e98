"""The observation of `__call__`: of our classes from their definition on, of others only while a call lasts."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from jaxreg.linen import _bridge
from jaxreg.nnx._outputs import ATTRIBUTE, add, local, noted

OBSERVED = "jaxreg_observed"


class _Local(threading.local):
    def __init__(self) -> None:
        self.running: dict[int, Any] = {}  # by id of the module, the observed `__call__` that began


_local = _Local()


def observed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` that adds the penalty of its output to the module's total, if the module has one."""

    @functools.wraps(call)
    def observed_call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        return _observe(observed_call, call, self, args, kwargs)

    setattr(observed_call, OBSERVED, True)
    return observed_call


def _observe(observed_call: Any, call: Callable[..., Any], module: nnx.Module, args: Any, kwargs: Any) -> Any:
    # Not inside `observed`: cloudpickle takes a closure with all that it uses, and what belongs to a thread stays.
    if local.recordings:
        module = local.recordings[-1].twin_of(module)  # a closure may hold the module itself
    # `super().__call__` of the same module is no other call; the same `__call__` again is one, of a recursion
    begun = _local.running.get(id(module))
    if begun not in (None, observed_call):
        return call(module, *args, **kwargs)
    if (bridge := _bridge.running()) is not None:
        _bridge.declare(bridge)
    if local.recordings:
        local.recordings[-1].before_running(module)
    has_total = ATTRIBUTE in vars(module)
    with noted(module, kwargs):
        _local.running[id(module)] = observed_call
        try:
            output = call(module, *args, **kwargs)
        finally:
            if begun is None:
                del _local.running[id(module)]
        if has_total:
            add(module, output)
    return output


_patches: dict[type, tuple[int, Any]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def patched(classes: set[type]) -> Iterator[None]:
    """Observe classes one cannot edit: all their instances, of which those without a total behave as before."""
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
