"""The table of names: built in, registered, or known to Keras."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxreg._core.checks import short

_builtin: dict[str, Any] = {}
_custom: dict[str, Any] = {}
_name_of: dict[Any, str] = {}
_listeners: list[Callable[[Any, str], None]] = []
_elsewhere: list[Callable[[str], Any]] = []


def add_builtin(obj: Any, *aliases: str) -> None:
    for name in (obj.__name__, *aliases):
        _builtin[name] = obj


def add_custom(obj: Any, package: str, name: str) -> None:
    if name in _builtin or package == "jaxreg":
        raise ValueError(
            f"`jaxreg.register(package={short(package)}, name={short(name)})`: the package 'jaxreg' and the names "
            f"{sorted(_builtin)} are built in; choose another: `jaxreg.register(name={'my_' + name!r})`."
        )
    full_name = f"{package}>{name}"
    other = _custom.get(full_name)
    if other is not None and not same_definition(obj, other):
        raise ValueError(
            f"`jaxreg.register`: {short(full_name)} is already {short(other)}; choose another name: "
            f"`jaxreg.register(package={package!r}, name={'my_' + name!r})`."
        )
    for tell in _listeners:
        tell(obj, full_name)
    _custom[full_name] = obj
    _name_of[obj] = full_name


def same_definition(a: Any, b: Any) -> bool:
    """One object, or the same lines run twice, as by a notebook cell."""
    where = [(getattr(obj, "__module__", obj), getattr(obj, "__qualname__", obj)) for obj in (a, b)]
    return a is b or where[0] == where[1]


def on_registration(tell: Callable[[Any, str], None]) -> None:
    """Call `tell(object, full name)` for every object registered so far and every later one: how Keras learns of them.

    What `tell` raises stops the registration.
    """
    for full_name, obj in _custom.items():
        tell(obj, full_name)
    _listeners.append(tell)


def look_also(find_elsewhere: Callable[[str], Any]) -> None:
    """Ask `find_elsewhere(name)` for the names that are known neither here nor in `custom_objects`."""
    _elsewhere.append(find_elsewhere)


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
    if len(same) == 1:
        return same[0]
    return next((found for ask in _elsewhere if (found := ask(name)) is not None), None)


def known_names() -> str:
    """The names for a message: all built-in ones, the first of the registered ones."""
    custom = sorted(_custom)
    more = f" and {len(custom) - 20} more" if len(custom) > 20 else ""
    return f"{sorted(_builtin)[:60] + [name[:40] for name in custom[:20]]}{more}"


def is_builtin(cls: type) -> bool:
    """Whether it is jaxreg's own class of that name."""
    return _builtin.get(cls.__name__) is cls


def registered_name(obj: Any) -> str | None:
    """The full name that `add_custom` gave to a class or function, None if it did not."""
    try:
        return _name_of.get(obj)
    except TypeError:  # it does not hash
        return None
