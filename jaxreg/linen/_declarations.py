"""What modules declare, noted while Python runs them: for one call, and for later questions about an equal model."""

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
    """The regularizer of one parameter.

    Attributes:
        shape: the shape that the module saw; a stack of layers is stored with more axes.
        module: the path of the module that declares it.
        jitted: the path of the module around it that `nn.jit` compiles, if there is one.
        axes: the axes of the stored parameter that lifted transforms took away; None if not known.
    """

    regularizer: Regularizer
    shape: tuple[int, ...]
    module: str
    jitted: str | None = None
    axes: tuple[int, ...] | None = None


class Note:
    """A pytree without leaves. On a cache hit `nn.jit` runs no Python, so facts must leave through its outputs."""

    def __init__(self, content: Hashable) -> None:
        self.content = content


jax.tree_util.register_pytree_node(Note, lambda note: ((), note.content), lambda content, _: Note(content))


class Pass:
    """One call of `with_losses`: what its modules declare."""

    def __init__(self, outer_modules: int, batch_axis: int | None) -> None:
        self._outer_modules = outer_modules
        self.batch_axis = batch_axis
        self.padded: nn.Module | None = None  # the RNN that runs with `seq_lengths`
        self.declared: dict[str, Declared] = {}  # by path of the parameter
        self.ran: set[str] = set()  # paths of regularized modules
        self.called: dict[str, int | None] = {}  # path of a module: number of the rule for its output
        self.begun_in_branch: dict[tuple[str, ...], Any] = {}  # path of a module: dtype of its first penalty

    def covers(self, module: nn.Module, root: nn.Module) -> bool:
        """Whether the module belongs to the model of this call, and not to another one that the model applies."""
        return root is _top([*module_stack()[self._outer_modules :], module][0])


class _Local(threading.local):
    passes: tuple[Pass, ...] = ()
    in_nnx: bool = False


_local = _Local()
_lock = threading.Lock()
_declared_by: OrderedDict[Hashable, dict[str, Declared]] = OrderedDict()


@contextlib.contextmanager
def open_pass(batch_axis: int | None) -> Iterator[Pass]:
    """Let the modules that this thread runs declare to a new pass."""
    current = Pass(len(module_stack()), batch_axis)
    _local.passes = (*_local.passes, current)
    try:
        yield current
    finally:
        _local.passes = _local.passes[:-1]


def pass_of(module: nn.Module, root: nn.Module) -> Pass | None:
    """The call of `with_losses` that the module runs in; None outside of one."""
    current = _local.passes[-1] if _local.passes else None
    return current if current is not None and current.covers(module, root) else None


@contextlib.contextmanager
def called_by_nnx() -> Iterator[None]:
    """Note that a `ToNNX` runs in `jaxreg.nnx.with_losses`: Linen cannot hand on penalties of outputs there."""
    outer, _local.in_nnx = _local.in_nnx, True
    try:
        yield
    finally:
        _local.in_nnx = outer


def in_nnx() -> bool:
    return _local.in_nnx


def root_of(module: nn.Module) -> nn.Module:
    """The module that `apply` or `init` was called on. `parent` does not lead there from inside lifted transforms."""
    stack = [*module_stack(), module]
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


def in_branch(module: nn.Module) -> bool:
    """Whether the module runs in one of the functions that an `nn.cond` or `nn.switch` chooses from."""
    assert module.scope is not None
    return any("cond(" in part or "switch(" in part for part in module.scope.debug_path)


def note(module: nn.Module, name: str, content: Hashable) -> None:
    """Put a fact into the outputs of the `nn.jit` around the module, if there is one."""
    assert module.scope is not None
    # The branches of `nn.cond` must return the same collections: no notes there.
    if jitted(module) is not None and not in_branch(module) and module.is_mutable_collection(NOTES):
        module.put_variable(NOTES, name, Note(content))


def _is_clone(inner: nn.Module, outer: nn.Module) -> bool:
    lifted = inner.scope is not None and inner.scope.debug_path != ()  # the scope that `apply` makes has an empty one
    return lifted and type(inner) is type(outer) and outer.path == ()


def remember(root: nn.Module, declared: Mapping[str, Declared], module: str = "") -> None:
    """Keep for `regularizer(model, variables)` what a module of a model declares, in place of what it declared before.

    Of the last models, and without traced numbers.
    """
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
        known = _declared_by.get(key, {}).items()
        others = {path: one for path, one in known if one.module != module or path in declared}
        _declared_by[key] = {**others, **concrete}
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
    """A key that equal modules share; None if a field has no value to compare by: a traced array or a large one."""
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
    """The class under a lifted one (nn.scan, nn.remat): `apply` on a lifted module runs a clone that has this class."""
    while cls.__module__ == "flax.linen.transforms":
        cls = cls.__bases__[0]
    return cls


def module_stack() -> list[nn.Module]:
    return [module for module in _context.module_stack if module is not None]


def _top(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module
