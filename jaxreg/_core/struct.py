"""The only registration with JAX: a frozen dataclass whose numbers are leaves and whose modes are static."""

import contextlib
import dataclasses
import inspect
import json
import operator
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import jax.export
import numpy as np

from jaxreg._core import checks

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING, *, choices: tuple[Hashable, ...] = (), shown: bool = True) -> Any:
    """Declare a mode, axis or order: part of the tree structure, so a new value compiles again.

    Args:
        default: the field's default; lists become tuples so that the value hashes.
        choices: if given, the only values that the constructor accepts.
        shown: False leaves it out of repr and config while it has its default.

    Example:
        >>> import jax, jaxreg
        >>> class Power(jaxreg.Regularizer):
        ...     strength: float = 0.1
        ...     order: int = jaxreg.static(4)
        ...
        ...     def __call__(self, x):
        ...         return self.strength * (abs(x) ** self.order).sum()
        >>> jax.tree.leaves(Power(0.5, order=3))
        [0.5]
    """
    return dataclasses.field(
        default=checks.as_tuple(default), metadata={"static": True, "choices": choices, "shown": shown}
    )


def coefficient(default: Any = dataclasses.MISSING, *, above: float | None = None) -> Any:
    """Declare a coefficient: a leaf that is real, finite and non-negative, checked when it is concrete.

    Args:
        default: the field's default.
        above: if given, the coefficient must be greater than this instead.
    """
    return dataclasses.field(default=default, metadata={"coefficient": True, "above": above})


@dataclass_transform(frozen_default=True, field_specifiers=(static, coefficient, dataclasses.field))
class Struct:
    """Turn every subclass into a frozen dataclass that is a pytree and compares by value.

    Unflattening does not run ``__init__``, so that JAX may put tracers, ``None``, ``object()`` or a
    ``PartitionSpec`` where a number was (``jax.tree_util.register_dataclass`` would validate them).
    """

    __array_ufunc__: ClassVar[None] = None  # NumPy scalars must leave `scalar * self` to us
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # every subclass has it; for type checkers
    _leaf_names: ClassVar[tuple[str, ...]] = ()
    _static_names: ClassVar[tuple[str, ...]] = ()
    _get_leaves: ClassVar[Callable[[Any], tuple[Any, ...]]]
    _get_statics: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            raise TypeError(
                f"`{cls.__name__}` defines `__init__`; declare fields instead, for example `strength: float = 0.1`, "
                "and the constructor follows."
            )
        try:
            dataclasses.dataclass(eq=False, repr=False)(cls)  # frozen below: `frozen=True` compiles two methods a class
        except ValueError as error:
            raise ValueError(
                f"`{cls.__name__}`: {str(error).partition(':')[0]}. Numbers are single fields; an array is "
                "`name: jax.Array = dataclasses.field(default_factory=lambda: array)`; a setting is `name: tuple "
                "= jaxreg.static(())`."
            ) from None
        checks.class_attributes(cls)
        _register(cls)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = checks.field_value(type(self).__name__, field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or name not in (*self._static_names, *self._leaf_names):
            raise dataclasses.FrozenInstanceError(_frozen(self, name, value))
        object.__setattr__(self, name, value)  # by `__init__`

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(
            f"`del {checks.short(self)}.{name}`: cannot delete, for regularizers are immutable. To have no "
            "penalty, put None in its place."
        )

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        names = (*self._static_names, *self._leaf_names)
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        leaves = tuple(_hashable(self, name, getattr(self, name)) for name in self._leaf_names)
        return hash((type(self), tuple(getattr(self, name) for name in self._static_names), leaves))

    def _shown(self) -> list[str]:
        """The fields of repr and config: all but those that are told to be left out at their default."""
        fields = dataclasses.fields(self)
        return [f.name for f in fields if f.metadata.get("shown", True) or getattr(self, f.name) != f.default]

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={named(getattr(self, name))}" for name in self._shown())
        return f"{type(self).__name__}({inside})"


def _frozen(owner: Any, name: str, value: Any) -> str:
    """The message for `owner.name = value`."""
    call = f"`{checks.short(owner)}.{name} = {checks.short(value)}`: cannot assign, for regularizers are immutable."
    names = [field.name for field in dataclasses.fields(owner)]
    if name not in names:
        return f"{call} Its fields are {names}; what changes from call to call stays outside of it."
    given = checks.short(value) if isinstance(value, (int, float, str, type(None))) else "value"
    return (
        f"{call} Write `reg = dataclasses.replace(reg, {name}={given})`, and put that in the place of the old one: "
        "`layer.kernel_regularizer = reg`, in Flax Linen `layer = layer.clone(kernel_regularizer=reg)`."
    )


def named(value: Any) -> str:
    """The repr of a value; functions by their names, so that a repr can be evaluated and does not change by the run."""
    return str(value.__name__) if inspect.isfunction(value) else repr(value)


def stable_name(cls: type[T]) -> type[T]:
    """Name a class of ours `jaxreg.<Class>` in pickles and exported programs, wherever its file is."""
    cls.__module__ = "jaxreg"
    return cls


def _register(cls: type[Struct]) -> None:
    if cls.__module__.startswith("jaxreg."):
        stable_name(cls)
    fields = dataclasses.fields(cls)
    for field in fields:
        checks.field_declaration(cls.__name__, field)
    statics = tuple(field.name for field in fields if field.metadata.get("static"))
    leaves = tuple(field.name for field in fields if not field.metadata.get("static"))
    cls._static_names, cls._leaf_names = statics, leaves
    cls._get_statics, cls._get_leaves = _getter(statics), _getter(leaves)

    # What a class has is asked when it is used: cloudpickle defines an empty class, and then sets its attributes.
    def flatten(self: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return cls._get_leaves(self), cls._get_statics(self)

    def flatten_with_keys(self: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        keys = map(jax.tree_util.GetAttrKey, cls._leaf_names)
        return tuple(zip(keys, cls._get_leaves(self), strict=True)), cls._get_statics(self)

    def unflatten(aux: tuple[Any, ...], children: Iterable[Any]) -> Any:
        self = object.__new__(cls)
        self.__dict__.update(zip(cls._static_names, aux, strict=True))
        self.__dict__.update(zip(cls._leaf_names, children, strict=True))
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    with contextlib.suppress(ValueError):  # a notebook cell that is run again defines a class of the same name
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=f"{cls.__module__}.{cls.__qualname__}",
            serialize_auxdata=lambda aux: json.dumps(aux).encode(),
            deserialize_auxdata=lambda data: checks.as_tuple(json.loads(data)),
        )
    _defined.append(cls)
    for tell in _listeners:
        tell(cls)


_defined: list[type[Struct]] = []
_listeners: list[Callable[[type[Struct]], None]] = []


def on_definition(tell: Callable[[type[Struct]], None]) -> None:
    """Call `tell` with every class defined so far and every later one: how Flax's serialization learns of them."""
    _listeners.append(tell)
    for cls in _defined:
        tell(cls)


def _getter(names: tuple[str, ...]) -> Any:
    """`operator.attrgetter` that gives a tuple for no name and for one name as well."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    if names:
        get = operator.attrgetter(names[0])
        return lambda self: (get(self),)
    return lambda self: ()


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return False
    if isinstance(a, (np.ndarray, jax.Array)) or isinstance(b, (np.ndarray, jax.Array)):
        return np.shape(a) == np.shape(b) and bool(np.array_equal(a, b))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _hashable(owner: Struct, name: str, value: Any) -> Any:
    if isinstance(value, jax.core.Tracer) or (isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) > 0):
        raise TypeError(
            f"`{type(owner).__name__}({name}=...)` holds an array or a traced value and cannot be hashed; "
            "hold a Python number where a hash is needed (Flax modules, static arguments)."
        )
    return value.item() if isinstance(value, (np.ndarray, jax.Array)) else value
