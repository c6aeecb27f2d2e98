"""Turn the regularizers in a Keras model's config into rules for a tree of parameters."""

import glob
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxreg._commands import cli
from jaxreg._commands.checkpoints.keras_layers import Layer, walk
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._rules.globs import glob_matches
from jaxreg._rules.identifiers import deserialize
from jaxreg._rules.tree import TreeRegularizer

_ENDING = "_regularizer"


class Converted(NamedTuple):
    """The rules, and notes on what rules for parameters cannot express."""

    rules: TreeRegularizer
    notes: tuple[str, ...]


class _Slot(NamedTuple):
    """A variable of a layer that may have a regularizer."""

    layer: Layer
    variable: str
    regularizer: Regularizer | None

    def example(self) -> str:
        return "/".join((*self.layer.path, *(["-"] if self.layer.has_inside() else []), self.variable))

    def pattern(self) -> str:
        inside = ["*"] if self.layer.has_inside() else []
        return "/".join(("**", *map(glob.escape, self.layer.path), *inside, self.variable))


def convert(model: Any) -> Converted:
    """Return the weight penalties of a Keras model with the coefficients of its config.

    A pattern is `**/` and the path that Keras gives the variable: `**/dense/kernel`. Frozen layers have no penalty, as
    in Keras.

    Args:
        model: its config, as `model.to_json()` and `.keras` archives hold it.

    Raises:
        UserError: the config has no layers, or a regularizer that is not known here.
    """
    slots: list[_Slot] = []
    notes: list[str] = []
    for layer in walk(model):
        name = "/".join(layer.path)
        notes += [f"left out: {key} of {name}; a projection is for `jaxreg.proximal`" for key in _constraints(layer)]
        for key, regularizer in _declared(layer):
            if key == "activity":
                if regularizer is not None:
                    notes.append(
                        f"left out: activity_regularizer of {name}, {regularizer!r}; it is no penalty of weights"
                    )
            elif not layer.trained and regularizer is not None:
                notes.append(f"left out: {key}{_ENDING} of {name}, {regularizer!r}; the layer is frozen")
                slots.append(_Slot(layer, _variable(layer, key), None))
            elif layer.has(key):
                slots.append(_Slot(layer, _variable(layer, key), regularizer))
    slots.sort(key=lambda slot: -len(slot.layer.path))  # `**/dense/kernel` also matches `inner/dense/kernel`
    rules = [
        (slot.pattern(), slot.regularizer) for slot in slots if slot.regularizer is not None or _is_caught(slot, slots)
    ]
    return Converted(TreeRegularizer(rules), tuple(notes))


def _is_caught(slot: _Slot, slots: list[_Slot]) -> bool:
    """Whether the pattern of a penalized variable also matches this one, which has no regularizer."""
    penalized = (other.pattern() for other in slots if other.regularizer is not None)
    return any(glob_matches(pattern, slot.example()) for pattern in penalized)


def _declared(layer: Layer) -> Iterator[tuple[str, Regularizer | None]]:
    for key, config in layer.config.items():
        if key.endswith(_ENDING) and not (config is None and key == f"activity{_ENDING}"):
            try:
                regularizer = deserialize(config)
                yield key.removesuffix(_ENDING), None if regularizer is None else as_regularizer(regularizer)
            except (TypeError, ValueError) as error:
                raise cli.UserError(f"layer {'/'.join(layer.path)}, {key}: {error}") from None


def _constraints(layer: Layer) -> list[str]:
    return [key for key, config in layer.config.items() if key.endswith("_constraint") and config is not None]


def _variable(layer: Layer, key: str) -> str:
    """The variable that `<key>_regularizer` penalizes."""
    if key == "recurrent":
        return "recurrent_kernel"
    if key in {"depthwise", "pointwise"}:
        return f"{key}_kernel" if layer.class_name.startswith("Separable") else "kernel"
    return key
