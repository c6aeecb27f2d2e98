"""Identifiers and JSON: get, serialize, deserialize, register."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxreg._core import codec, names
from jaxreg._core.checks import instead, short
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct
from jaxreg.penalties import L1, L1L2, L2, PENALTIES, OrthogonalRegularizer

T = TypeVar("T")

_ALIASES: dict[type[Regularizer], tuple[str, ...]] = {
    L1: ("l1",),
    L2: ("l2",),
    L1L2: ("l1_l2", "l1l2"),
    OrthogonalRegularizer: ("orthogonal_regularizer",),
}
for _penalty in PENALTIES:
    names.add_builtin(_penalty, *_ALIASES.get(_penalty, ()))


def get(identifier: Any) -> Any:
    """Return the regularizer that an identifier means.

    Args:
        identifier: `None` (returned as it is); a name in any spelling Keras has (`"l1"`, `"L1"`, `"l2"`, `"l1_l2"`,
            `"orthogonal_regularizer"`) or registered by `jaxreg.register`; a class (built with its defaults); a config
            as `serialize` writes it; an instance or any function `array -> scalar` (returned as it is).
            `"l1_l2"` means `L1L2(0.01, 0.01)`, as Keras documents.

    Raises:
        ValueError: nothing is known by that name; the message lists what is.
        TypeError: a config has a value of a wrong type.

    Example:
        >>> import jaxreg
        >>> jaxreg.get("l2")
        L2(l2=0.01)
        >>> jaxreg.get("l1_l2")
        L1L2(l1=0.01, l2=0.01)
        >>> jaxreg.get({"class_name": "L1", "config": {"l1": 0.3}})
        L1(l1=0.3)
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        return _from_name(identifier, {})
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, type):
        if issubclass(identifier, Struct) and not inspect.isabstract(identifier):
            return _with_defaults(identifier)
    elif callable(identifier):
        return identifier
    raise ValueError(
        f"Could not interpret regularizer identifier: {short(identifier)}.{instead(identifier)} Give None, an "
        f"instance, a class, a function `array -> scalar`, a config, or one of the names {names.known_names()}."
    )


def _with_defaults(cls: type[Struct]) -> Any:
    required = [field.name for field in dataclasses.fields(cls) if codec.is_required(field)]
    if required:
        raise ValueError(f"`{cls.__name__}` has no default for {required}; give an instance or a config, not its name.")
    return cls()


def _from_name(name: str, custom_objects: Mapping[str, Any]) -> Any:
    if name in {"l1_l2", "l1l2"}:
        return L1L2(0.01, 0.01)
    found = names.find(name, custom_objects)
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Struct)):
        raise ValueError(
            f"Could not interpret regularizer identifier: {short(name)}. Known names are {names.known_names()}."
        )
    return _with_defaults(found) if isinstance(found, type) else found


def serialize(regularizer: Any) -> dict[str, Any] | None:
    """Return the JSON form of a regularizer, the one that Keras 3 writes.

    `{"module", "class_name", "config", "registered_name"}`; `module` is `"keras.regularizers"` for the four classes
    that Keras has, so that Keras reads it, and `"jaxreg"` for the rest. Numbers are Python numbers, and the round
    trip through `json.dumps` and `deserialize` is exact.

    Args:
        regularizer: anything that `get` takes; `None` gives `None`.

    Raises:
        TypeError: it holds traced values, stacked coefficients, or a function that is not registered.
        ValueError: the identifier is unknown, or the nesting deeper than `deserialize` reads.

    Example:
        >>> import jaxreg
        >>> jaxreg.serialize(jaxreg.L1(0.1))["config"]
        {'l1': 0.1}
        >>> jaxreg.deserialize(jaxreg.serialize(2 * jaxreg.L1(0.1)))
        Scaled(factor=2.0, penalty=L1(l1=0.1))
    """
    regularizer = get(regularizer)
    if regularizer is None:
        return None
    try:
        config = codec.encode(regularizer)
    except RecursionError:
        raise ValueError("`jaxreg.serialize`: the regularizer is nested too deep.") from None
    codec.check_depth(config)
    return config


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the regularizer of a JSON form: one of `serialize`, of Keras 3, or `{"class_name", "config"}`.

    Names are looked up in the built-in ones, then in `custom_objects`, then among those that `jaxreg.register` named.
    Nothing in a config is imported, evaluated or unpickled, and built-in names cannot be shadowed.

    Args:
        config: a dict of JSON values, a name, or `None` (returned as it is).
        custom_objects: classes or functions by name, for what is not registered.

    Raises:
        ValueError: a name, key or field is unknown, a number is negative, nan or inf, or the nesting too deep.
        TypeError: a value has the wrong type.

    Example:
        >>> import jaxreg
        >>> jaxreg.deserialize({"class_name": "L1L2", "config": {"l1": 0.1, "l2": 0.2}})
        L1L2(l1=0.1, l2=0.2)
    """
    if not isinstance(custom_objects, (Mapping, type(None))):
        raise TypeError(f"`deserialize(custom_objects=...)` takes a dict from names, got {short(custom_objects)}.")
    custom_objects = custom_objects or {}
    if config is None:
        return None
    if isinstance(config, str):
        return _from_name(config, custom_objects)
    if not isinstance(config, Mapping) or "class_name" not in config:
        raise ValueError(f"A serialized regularizer is a dict with `class_name` and `config`, got {short(config)}.")
    return codec.decode(config, custom_objects)


def register(package: str = "Custom", name: str | None = None) -> Callable[[T], T]:
    """Give a function or a `Regularizer` subclass a name, so that strings and configs find it.

    Args:
        package: the prefix of the full name `package>name`.
        name: the name; default the object's own. It is found by `name` alone while only one package has it.

    Raises:
        ValueError: a built-in has the name, or another object has it already.
        TypeError: it is neither a function nor a regularizer class.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> @jaxreg.register(package="docs")
        ... def largest(x):
        ...     return jnp.max(jnp.abs(x))
        >>> jaxreg.get("docs>largest") is largest
        True
    """
    if not isinstance(package, str) or not isinstance(name, (str, type(None))):
        raise TypeError(
            "`jaxreg.register(package=..., name=...)` takes strings; write `@jaxreg.register()`, got "
            f"{short(package)}, {short(name)}."
        )

    def decorate(obj: T) -> T:
        known_class = isinstance(obj, type) and issubclass(obj, Regularizer)
        if not known_class and (isinstance(obj, (type, Struct)) or not callable(obj)):
            raise TypeError(f"`jaxreg.register` takes a function or a `Regularizer` subclass, got {short(obj)}.")
        own_name = getattr(obj, "__name__", "") if name is None else name
        if not package or not own_name or ">" in package + own_name:
            raise ValueError(
                f"`jaxreg.register(package={short(package)}, name={short(own_name)})`: both must be non-empty and "
                f"without '>'; name {short(obj)} by `name=`."
            )
        names.add_custom(obj, package, own_name)
        return obj

    return decorate
