"""Objects to plain JSON and back: a table of names, and nothing in a config is imported, evaluated or unpickled."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg._checks import short
from jaxreg._pytree import Struct

MAX_DEPTH = 64
_KEYS = {"module", "class_name", "config", "registered_name", "shared_object_id", "build_config"}
_KERAS_CLASSES = {"L1", "L2", "L1L2", "OrthogonalRegularizer"}

_builtin: dict[str, Any] = {}
_custom: dict[str, Any] = {}
_name_of: dict[Any, str] = {}


def add_builtin(obj: Any, *aliases: str) -> None:
    for name in (obj.__name__, *aliases):
        _builtin[name] = obj


def add_custom(obj: Any, package: str, name: str) -> None:
    if name in _builtin:
        raise ValueError(f"`jaxreg.register(name={name!r})`: {name!r} is a built-in name; choose another.")
    full_name = f"{package}>{name}"
    other = _custom.get(full_name, obj)
    if other is not obj and (other.__module__, other.__qualname__) != (obj.__module__, obj.__qualname__):
        raise ValueError(f"`jaxreg.register`: {full_name!r} is already {short(other)}; choose another name.")
    _custom[full_name] = obj
    _name_of[obj] = full_name


def find(name: str, custom_objects: Mapping[str, Any]) -> Any:
    """The built-in, given or registered object of that name, or None. Built-in names come first."""
    if name.startswith("jaxreg>"):
        return _builtin.get(name.removeprefix("jaxreg>"))
    if name in _builtin:
        return _builtin[name]
    for table in (custom_objects, _custom):
        if name in table:
            return table[name]
    same = [obj for full_name, obj in _custom.items() if full_name.partition(">")[2] == name]
    return same[0] if len(same) == 1 else None


def known_names() -> list[str]:
    return sorted({*_builtin, *_custom})


# ---------------------------------------------------------------------------------------------------- object -> JSON


def encode(value: Any) -> Any:
    """Plain JSON for a field of a regularizer."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, jax.core.Tracer):
        raise TypeError("A traced value has no config; call `get_config` outside `jit`, `grad` and `vmap`.")
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        if np.ndim(value) == 0:
            return value.item()
        raise TypeError(
            f"An array of shape {np.shape(value)} has no config; take one member of a stack first, for example by "
            "`jax.tree.map(lambda c: c[0], regularizer)`."
        )
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, Struct):
        return encode_object(value)
    if inspect.isfunction(value):
        return encode_function(value)
    raise TypeError(f"Cannot write {short(value)} of type {type(value).__name__} as JSON.")


def encode_object(obj: Any) -> dict[str, Any]:
    """Keras' four keys. Keras itself reads back what has its own names."""
    cls = type(obj)
    registered_name: str | None = _name_of.get(cls)
    if registered_name is None and _builtin.get(cls.__name__) is not cls:
        registered_name = cls.__name__  # as Keras does for a class that is not registered
    keras = _builtin.get(cls.__name__) is cls and cls.__name__ in _KERAS_CLASSES
    return {
        "module": "keras.regularizers" if keras else "jaxreg",
        "class_name": cls.__name__,
        "config": obj.get_config(),
        "registered_name": registered_name,
    }


def encode_function(function: Callable[..., Any]) -> dict[str, Any]:
    name = _name_of.get(function)
    if name is None:
        raise TypeError(
            f"Cannot write the function {short(function)} as JSON: name it with `@jaxreg.register()`, so that a config "
            "can find it."
        )
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


# ---------------------------------------------------------------------------------------------------- JSON -> object


def decode(value: Any, custom_objects: Mapping[str, Any], depth: int = 0) -> Any:
    """Rebuild whatever in `value` has the form of a serialized object; leave the rest as it is."""
    if depth > MAX_DEPTH:
        raise ValueError(f"The config is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, list):
        return [decode(item, custom_objects, depth + 1) for item in value]
    if isinstance(value, Mapping) and "class_name" in value:
        return _decode_object(value, custom_objects, depth)
    if isinstance(value, Mapping):
        return {key: decode(item, custom_objects, depth + 1) for key, item in value.items()}
    return value


def _decode_object(config: Mapping[str, Any], custom_objects: Mapping[str, Any], depth: int) -> Any:
    unknown = [key for key in config if key not in _KEYS]
    if unknown:
        raise ValueError(f"A serialized regularizer has the keys {sorted(_KEYS)}, got also {short(unknown)}.")
    class_name, inner = config["class_name"], config.get("config")
    name = config.get("registered_name")
    if not isinstance(class_name, str) or not isinstance(name, (str, type(None))):
        raise TypeError(f"`class_name` and `registered_name` must be strings, got {short(class_name)}, {short(name)}.")
    if class_name == "function":
        return find_function(inner, custom_objects)
    found = find(name or class_name, custom_objects)
    if found is None and name == class_name.rpartition(">")[2]:
        found = find(class_name, custom_objects)
    if not isinstance(found, type) or not issubclass(found, Struct):
        raise ValueError(
            f"Unknown regularizer {short(name or class_name)}; known are {known_names()}. Pass your own class by "
            "`custom_objects={name: class}` or register it with `@jaxreg.register()`."
        )
    _check_module(config.get("module"), class_name, found)
    if inner is None:
        inner = {}
    if not isinstance(inner, Mapping):
        raise TypeError(f"The config of `{class_name}` must be a dict, got {short(inner)}.")
    inner = {key: decode(item, custom_objects, depth + 1) for key, item in inner.items()}
    if found.__name__ in {"L1", "L2"} and "l" in inner and found is _builtin[found.__name__]:
        inner[found.__name__.lower()] = inner.pop("l")  # the keyword of Keras before version 3
    return found.from_config(inner)


def _check_module(module: Any, class_name: str, found: type) -> None:
    if module is not None and not isinstance(module, str):
        raise TypeError(f"`module` must be a string, got {short(module)}.")
    ours = _builtin.get(found.__name__) is found
    if ours and module is not None and not {"jaxreg", "regularizers"} & set(module.split(".")):
        raise ValueError(f"`{class_name}` of the module {short(module)} is not the regularizer of that name.")


def find_function(name: Any, custom_objects: Mapping[str, Any]) -> Any:
    function = find(name, custom_objects) if isinstance(name, str) else None
    if function is None or isinstance(function, type) or not callable(function):
        raise ValueError(f"Unknown function {short(name)}; register it with `@jaxreg.register()`.")
    return function


def check_fields(cls: type[Any], config: Any, fields: tuple[Any, ...]) -> None:
    """Raise unless `config` is a dict of known field names in which every number is a number."""
    if not isinstance(config, Mapping):
        raise TypeError(f"`{cls.__name__}.from_config` takes a dict, got {short(config)}.")
    known = [field.name for field in fields]
    unknown = [key for key in config if key not in known]
    if unknown:
        raise ValueError(f"`{cls.__name__}` has the fields {known}, got also {short(unknown)}.")
    for field in fields:
        value = config.get(field.name, 0.0)
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        wants_number = field.metadata.get("coefficient") or field.type in (float, "float")
        if wants_number and not (is_number or isinstance(value, jnp.ndarray)):
            raise TypeError(f"`{cls.__name__}({field.name}=...)` must be a number, got {short(value)}.")
        if is_number and isinstance(value, float) and math.isnan(value):
            raise ValueError(f"`{cls.__name__}({field.name}=...)` must be a number, got nan.")
