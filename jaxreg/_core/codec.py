"""Objects to plain JSON and back; nothing in a config is imported, evaluated or unpickled."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxreg._core.checks import short
from jaxreg._core.names import find, is_builtin, known_names, registered_name
from jaxreg._core.struct import Struct

MAX_DEPTH = 64
_KEYS = {"module", "class_name", "config", "registered_name", "shared_object_id", "build_config"}
_KERAS_CLASSES = {"L1", "L2", "L1L2", "OrthogonalRegularizer"}


# ---------------------------------------------------------------------------------------------------- object -> JSON


def encode(value: Any) -> Any:
    """Plain JSON for a field of a regularizer."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, jax.core.Tracer):
        raise TypeError("A traced value has no config; call `get_config` outside `jit`, `grad` and `vmap`.")
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        if np.ndim(value) == 0:
            return value.item()
        raise TypeError(
            f"An array of shape {np.shape(value)} has no config: `jaxreg.serialize` writes single numbers. "
            "Of a stack take one member, `jax.tree.map(lambda c: c[0] if jnp.ndim(c) else c, regularizer)`; "
            "what holds arrays for good is saved with them, `pickle.dumps(regularizer)`."
        )
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, Struct):
        return encode_object(value)
    if callable(value) and not isinstance(value, type):
        return encode_function(value)
    raise TypeError(f"Cannot write {short(value)} of type {type(value).__name__} as JSON.")


def encode_object(obj: Any) -> dict[str, Any]:
    """Keras' four keys. Keras reads back what has its own names, and with `jaxreg.keras` imported, the rest."""
    cls = type(obj)
    name = cls.__name__
    ours = is_builtin(cls)
    keras = ours and name in _KERAS_CLASSES
    unregistered = f"jaxreg>{name}" if ours else name  # Keras too gives the bare name of a class it does not know
    return {
        "module": "keras.regularizers" if keras else "jaxreg",
        "class_name": name,
        "config": obj.get_config(),
        "registered_name": None if keras else registered_name(cls) or unregistered,
    }


def encode_function(function: Callable[..., Any]) -> dict[str, Any]:
    name = registered_name(function)
    if name is None:
        raise TypeError(
            f"Cannot write the function {short(function)} as JSON: name it with `@jaxreg.register()`, a lambda with "
            "`jaxreg.register(name='penalty')(function)`, so that a config can find it."
        )
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


def check_depth(value: Any, depth: int = 0) -> None:
    """Raise where `decode` would: what is written must be readable."""
    if depth > MAX_DEPTH:
        raise ValueError(f"The config is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, Mapping) and "class_name" in value:
        value = value["config"]
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in inside:
        check_depth(item, depth + 1)


# ---------------------------------------------------------------------------------------------------- JSON -> object


class MissingArrays(ValueError):
    """A config describes arrays that it does not hold; the message says where in the config that the user has."""

    def __init__(self, cls: type[Any], described: dict[str, Any]) -> None:
        super().__init__()
        self.cls, self.described, self.keys = cls, described, list[Any]()

    def __str__(self) -> str:
        name = self.cls.__name__
        one = len(self.described) == 1
        arrays = ", ".join(f"{array}={'array' if one else array}" for array in self.described)
        *outer, part = ["config" + "".join(f"[{key!r}]" for key in self.keys[:n]) for n in range(len(self.keys) + 1)]
        call = f"jaxreg.{name}.from_config({part}, {arrays})"
        way_out = f"call `{call}`" if len(outer) < 2 else f"write `{outer[-1]} = {call}` and read `config` again,"
        found = " and ".join(f"the {array} {short(value)}" for array, value in self.described.items())
        return f"The config of `{name}` describes {found} but holds no arrays: {way_out} with them."


@contextlib.contextmanager
def _inside(key: Any) -> Iterator[None]:
    """Tell the error of missing arrays in there the key."""
    try:
        yield
    except MissingArrays as error:
        error.keys.insert(0, key)
        raise


def decode(value: Any, custom_objects: Mapping[str, Any], depth: int = 0) -> Any:
    """Rebuild whatever in `value` has the form of a serialized object; leave the rest as it is."""
    if depth > MAX_DEPTH:
        raise ValueError(f"The config is nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, list):
        return list(_decode_items(enumerate(value), custom_objects, depth).values())
    if isinstance(value, Mapping) and "class_name" in value:
        return _decode_object(value, custom_objects, depth)
    if isinstance(value, Mapping):
        return _decode_items(value.items(), custom_objects, depth)
    return value


def _decode_items(items: Iterable[tuple[Any, Any]], custom_objects: Mapping[str, Any], depth: int) -> dict[Any, Any]:
    decoded = {}
    for key, item in items:
        with _inside(key):
            decoded[key] = decode(item, custom_objects, depth + 1)
    return decoded


def _decode_object(config: Mapping[str, Any], custom_objects: Mapping[str, Any], depth: int) -> Any:
    unknown = [key for key in config if key not in _KEYS]
    if unknown:
        raise ValueError(f"A serialized regularizer has the keys {sorted(_KEYS)}, got also {short(unknown)}.")
    class_name, inner, name = config["class_name"], config.get("config"), config.get("registered_name")
    if not isinstance(class_name, str) or not isinstance(name, (str, type(None))):
        raise TypeError(f"`class_name` and `registered_name` must be strings, got {short(class_name)}, {short(name)}.")
    if class_name == "function":
        return find_function(inner, custom_objects)
    found = _find_class(class_name, name or class_name, custom_objects)
    _check_module(config.get("module"), class_name, found)
    if inner is None:
        inner = {}
    if not isinstance(inner, Mapping):
        raise TypeError(f"The config of `{found.__name__}` must be a dict, got {short(inner)}.")

    with _inside("config"):
        inner = _decode_items(inner.items(), custom_objects, depth)
        return found.from_config(_older_keywords(found, class_name, inner))


def _find_class(class_name: str, name: str, custom_objects: Mapping[str, Any]) -> type[Any]:
    found = find(name, custom_objects)
    if found is None and name == class_name.rpartition(">")[2]:
        found = find(class_name, custom_objects)
    if found is None:
        raise ValueError(
            f"Unknown regularizer {short(name)}; known are {known_names()}. Pass your own class by "
            "`custom_objects={name: class}` or register it with `@jaxreg.register()`."
        )
    if not isinstance(found, type) or not issubclass(found, Struct):
        raise ValueError(f"{short(name)} names {short(found)}, which is not a `jaxreg.Regularizer` class.")
    if is_builtin(found) and find(class_name, {}) is not found:
        raise ValueError(f"`registered_name` {short(name)} does not belong to the `class_name` {short(class_name)}.")
    return found


def _check_module(module: Any, class_name: str, found: type) -> None:
    """Raise if a class of somebody else has the name of ours. The module is compared as text, never imported."""
    if module is None or not is_builtin(found):
        return
    if not isinstance(module, str):
        raise TypeError(f"`module` must be a string, got {short(module)}.")
    root, *parts = module.split(".")
    if root != "jaxreg" and not (root in {"keras", "tf_keras", "tensorflow"} and "regularizers" in parts):
        raise ValueError(f"{short(class_name)} of the module {short(module)} is not the regularizer of that name.")


def _older_keywords(found: type, class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Keras before version 3 had `l=` in L1 and L2, and a function `l1_l2` whose defaults were 0.01."""
    new = found.__name__.lower()
    if is_builtin(found) and new in {"l1", "l2"} and "l" in config and new not in config:
        config[new] = config.pop("l")
    return {"l1": 0.01, "l2": 0.01, **config} if class_name in {"l1_l2", "l1l2"} else config


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
    missing = [field.name for field in fields if is_required(field) and field.name not in config]
    if missing:
        raise ValueError(f"`{cls.__name__}` needs {missing} in its config, got {short(config)}.")
    for field in fields:
        value = config.get(field.name, 0.0)
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        wants_number = field.metadata.get("coefficient") or field.type in (float, "float")
        if wants_number and not (is_number or isinstance(value, (jax.Array, np.ndarray))):
            raise TypeError(f"`{cls.__name__}({field.name}=...)` must be a number, got {short(value)}.")
        if is_number and isinstance(value, float) and math.isnan(value):
            raise ValueError(f"`{cls.__name__}({field.name}=...)` must be a number, got nan.")


def is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
