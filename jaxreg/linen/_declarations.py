"""What the modules of a model declare, noted while they are traced: by one pass, and by root module for the process."""

import contextlib
import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen.module import _context

from jaxreg._core.regularizer import Regularizer

LOSSES, NOTES = "losses", "jaxreg"
DECLARED, CALLED = "/declared", "/called"  # names in the collection of notes that no submodule can have
_MOST_MODELS = 256


@dataclasses.dataclass(frozen=True)
class Declared:
    """The regularizer of one parameter, and how the module saw the parameter.

    `module` is the path of the module that declares it, `jitted` that of the `nn.jit` around it; `axes` are the axes
    that lifted transforms took away, if known.
    """

    regularizer: Regularizer
    shape: tuple[int, ...]
    module: str
    jitted: str | None = None
    axes: tuple[int, ...] | None = None


class Note:
    """Static facts that travel through the outputs of `nn.jit`, which runs no Python for a trace that it has cached."""

    def __init__(self, content: Hashable) -> None:
        self.content = content


jax.tree_util.register_pytree_node(Note, lambda note: ((), note.content), lambda content, _: Note(content))


class Pass:
    """One call of `with_losses`: what its modules declare while it is traced."""

    def __init__(self, outer_modules: int) -> None:
        self._outer_modules = outer_modules
        self.declared: dict[str, Declared] = {}
        self.ran: set[str] = set()
        self.called: dict[str, int | None] = {}

    def covers(self, module: nn.Module, root: nn.Module) -> bool:
        """Whether the module runs under the `apply` of this pass, not under another one called inside the model."""
        return root is _top([*_module_stack()[self._outer_modules :], module][0])


class _Local(threading.local):
    passes: tuple[Pass, ...] = ()


_local = _Local()
_lock = threading.Lock()
_declared_by: OrderedDict[Hashable, dict[str, Declared]] = OrderedDict()


@contextlib.contextmanager
def open_pass() -> Iterator[Pass]:
    current = Pass(len(_module_stack()))
    _local.passes = (*_local.passes, current)
    try:
        yield current
    finally:
        _local.passes = _local.passes[:-1]


def pass_of(module: nn.Module, root: nn.Module) -> Pass | None:
    current = _local.passes[-1] if _local.passes else None
    return current if current is not None and current.covers(module, root) else None


def root_of(module: nn.Module) -> nn.Module:
    """The module that `apply` or `init` was called on, also from inside lifted transforms, which cut parents off."""
    stack = [*_module_stack(), module]
    for i in reversed(range(len(stack))):
        if stack[i].scope is not None and stack[i].path == ():
            # A method lifted by a decorator runs on a clone: the root stands there twice.
            while i > 0 and _is_clone(stack[i], stack[i - 1]):
                i -= 1
            return stack[i]
    return _top(stack[0])


def jitted(module: nn.Module) -> str | None:
    """The path of the outermost module around this one (or itself) that `nn.jit` compiles."""
    assert module.scope is not None
    names = module.scope.debug_path
    depth = next((len(names) - i - 1 for i, name in enumerate(names) if "jit(" in name), None)
    return None if depth is None else "/".join(module.path[: len(module.path) - depth])


def note(module: nn.Module, name: str, content: Hashable) -> None:
    """Note what an `nn.jit` around the module will not show again, where the structure of collections is free."""
    assert module.scope is not None
    in_branch = any("cond(" in part or "switch(" in part for part in module.scope.debug_path)
    if jitted(module) is not None and not in_branch and module.is_mutable_collection(NOTES):
        module.put_variable(NOTES, name, Note(content))


def _is_clone(inner: nn.Module, outer: nn.Module) -> bool:
    lifted = inner.scope is not None and inner.scope.debug_path != ()  # the scope that `apply` makes has an empty one
    return lifted and type(inner) is type(outer) and outer.path == ()


def remember(root: nn.Module, declared: Mapping[str, Declared]) -> None:
    """Keep for `regularizer(model, variables)`; nothing traced is kept, and no more than the last models."""
    if "_jaxreg_key" not in root.__dict__:
        root.__dict__["_jaxreg_key"] = key_of(root)
    key = root.__dict__["_jaxreg_key"]
    if key is None:
        return
    concrete = {
        path: one
        for path, one in declared.items()
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(one.regularizer))
    }
    with _lock:
        _declared_by.setdefault(key, {}).update(concrete)
        _declared_by.move_to_end(key)
        while len(_declared_by) > _MOST_MODELS:
            _declared_by.popitem(last=False)


def recall(model: nn.Module) -> dict[str, Declared] | None:
    """What any trace of an equal model has declared in this process; None if there was none."""
    key = key_of(model)
    with _lock:
        found = _declared_by.get(key) if key is not None else None
        return None if found is None else dict(found)


def key_of(module: nn.Module) -> Hashable | None:
    """The type and the fields of a module, None if a field has no value to compare by (a traced array, a large one)."""
    try:
        return _frozen(module)
    except TypeError:
        return None


def _frozen(value: Any) -> Hashable:
    if isinstance(value, nn.Module):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return _unlifted(type(value)), tuple(
            (n, _frozen(getattr(value, n))) for n in names if n not in {"parent", "name"}
        )
    if isinstance(value, jax.core.Tracer):
        raise TypeError("a traced value has no value to compare by")
    if isinstance(value, (np.ndarray, jax.Array)):
        if value.size > 1 << 16:
            raise TypeError("too large to compare by value")
        return value.shape, str(value.dtype), np.asarray(value).tobytes()
    if isinstance(value, Regularizer):
        leaves, treedef = jax.tree.flatten(value)
        return treedef, tuple(map(_frozen, leaves))
    if isinstance(value, Mapping):
        return tuple((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, functools.partial):
        return _frozen(value.func), _frozen(value.args), _frozen(value.keywords)
    hash(value)
    return type(value), value


def _unlifted(cls: type[nn.Module]) -> type[nn.Module]:
    """The class that a lifted class (nn.scan, nn.remat, ...) runs a clone of: as a root, that is the one to be seen."""
    while cls.__module__ == "flax.linen.transforms":
        cls = cls.__bases__[0]
    return cls


def _module_stack() -> list[nn.Module]:
    return [module for module in _context.module_stack if module is not None]


def _top(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module
