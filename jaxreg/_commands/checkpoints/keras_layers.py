"""The layers in a Keras model's config: their paths, and the names of their variables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxreg._commands import cli

_INSIDE = ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention", "LSTM", "GRU", "SimpleRNN", "ConvLSTM")
_FLAG = {"bias": "use_bias", "gamma": "scale", "beta": "center"}  # what a layer may be built without


class Layer(NamedTuple):
    """One layer: the names on the way from the model to it, its class and config, and whether it is trained."""

    path: tuple[str, ...]
    class_name: str
    config: Mapping[str, Any]
    trained: bool

    def has_inside(self) -> bool:
        """Whether its variables belong to layers that it creates itself: `lstm/lstm_cell/kernel`."""
        return not self.class_name.endswith("Cell") and self.class_name.startswith(_INSIDE)

    def has(self, variable: str) -> bool:
        """Whether it is built with that variable."""
        return bool(self.config.get(_FLAG.get(variable, ""), True))


def are_in(model: Any) -> bool:
    """Whether a model's config lists its layers."""
    return isinstance(model, Mapping) and "class_name" in model and bool(_children(_config(model)))


def walk(model: Any) -> Iterator[Layer]:
    """Yield the layers of a model's config, also those inside inner models and wrappers."""
    if not are_in(model):
        raise cli.UserError(
            "no layers in the config: it is written for Sequential and functional models, and a subclassed one has "
            "its layers in its code"
        )
    for child in _children(_config(model)):
        yield from _walk(child, (), bool(_config(model).get("trainable", True)))


def _walk(layer: Any, above: tuple[str, ...], trained: bool) -> Iterator[Layer]:
    if not isinstance(layer, Mapping) or not isinstance(layer.get("class_name"), str):
        return
    config = _config(layer)
    path = (*above, str(config.get("name", layer.get("name", layer["class_name"]))))
    trained = trained and config.get("trainable", True) is not False
    yield Layer(path, layer["class_name"], config, trained)
    for child in _children(config):
        yield from _walk(child, path, trained)


def _config(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    config = layer.get("config")
    if isinstance(config, Sequence) and not isinstance(config, str):  # as early versions of Keras save a Sequential
        return {"layers": config}
    return config if isinstance(config, Mapping) else {}


def _children(config: Mapping[str, Any]) -> list[Any]:
    layers = [*_listed(config, "layers"), *_listed(config, "cells")]
    layers += [config[key] for key in ("layer", "cell", "backward_layer") if config.get(key)]
    if "merge_mode" in config and "layer" in config and not config.get("backward_layer"):
        layers.append(_backward(config["layer"]))
    return layers


def _listed(config: Mapping[str, Any], key: str) -> list[Any]:
    value = config.get(key)
    return value if isinstance(value, list) else []


def _backward(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The copy of its layer that `Bidirectional` makes for the backward direction."""
    config = dict(_config(layer))
    config["name"] = "backward_" + str(config.get("name", "")).removeprefix("forward_")
    return {**layer, "config": config}


def variable_name(names: tuple[str, ...], key: str, classes: Mapping[tuple[str, ...], Layer]) -> str:
    """The name of a variable that the file only numbers; the number itself if the class of the layer is not known."""
    layer, parent = classes.get(names), classes.get(names[:-1])
    if layer is not None:
        known = _variables(layer)
    elif parent is not None and parent.has_inside():
        known = ("kernel", "bias") if "Attention" in parent.class_name else ("kernel", "recurrent_kernel", "bias")
    else:
        known = ()
    return known[int(key)] if key.isdecimal() and int(key) < len(known) else key


def _variables(layer: Layer) -> tuple[str, ...]:
    name = layer.class_name
    if name == "BatchNormalization":
        order: tuple[str, ...] = ("gamma", "beta", "moving_mean", "moving_variance")
    elif name in {"LayerNormalization", "GroupNormalization"}:
        order = ("gamma", "beta")
    elif name in {"Embedding", "ReversibleEmbedding"}:
        order = ("embeddings",)
    elif name == "PReLU":
        order = ("alpha",)
    elif name.startswith("SeparableConv"):
        order = ("depthwise_kernel", "pointwise_kernel", "bias")
    elif name in {"LSTMCell", "GRUCell", "SimpleRNNCell"}:
        order = ("kernel", "recurrent_kernel", "bias")
    elif name in {"Dense", "EinsumDense"} or name.startswith(("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv")):
        order = ("kernel", "bias")
    else:
        order = ()
    return tuple(variable for variable in order if layer.has(variable))
