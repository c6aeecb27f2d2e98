"""Read the files of Keras, `.keras` archives and HDF5 weights, as data: without Keras and the code of the model."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from jaxreg._commands import cli
from jaxreg._commands.checkpoints import keras_layers

HDF5 = b"\x89HDF\r\n\x1a\n"
_LARGEST_RATIO = 2000  # of the bytes of an array to its bytes in the file: a compressed array stays below it


def read_config(path: Path) -> Any:
    """Return the config of the model in a `.keras` archive or a legacy `.h5` file, or in the JSON of `to_json()`."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "config.json" not in archive.namelist():
                raise cli.UserError(f"{path}: no .keras archive (no config.json in it)")
            return json.loads(archive.read("config.json"))
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5:
            return _config_in_h5(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise cli.UserError(f"{path}: neither a .keras archive nor JSON, nor a legacy .h5 file") from None


def _config_in_h5(path: Path) -> Any:
    """The config that `model.save("model.h5")` of Keras 2 and 3 leaves in an attribute of the file."""
    cli.require("inspect", {"h5py": "h5py"})
    import h5py

    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise cli.UserError(f"{path}: holds weights alone, no model_config; give the JSON of model.to_json()")
    return json.loads(config)


def read_keras(path: Path) -> dict[str, Any]:
    """Return the variables of a `.keras` archive, named as Keras names them: `dense/kernel`."""
    config = read_config(path)
    layers = keras_layers.walk(config) if keras_layers.are_in(config) else ()
    classes = {layer.path: layer for layer in layers}
    with zipfile.ZipFile(path) as archive:
        if "model.weights.h5" not in archive.namelist():
            raise cli.UserError(f"{path}: has no model.weights.h5")
        return _arrays(path, io.BytesIO(archive.read("model.weights.h5")), classes)


def has_config(path: Path) -> bool:
    """Whether it is a `.keras` archive, or a legacy `.h5` file of a whole model."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    with path.open("rb") as file:
        if file.read(len(HDF5)) != HDF5:
            return False
    cli.require("inspect", {"h5py": "h5py"})
    import h5py

    with h5py.File(path, "r") as file:
        return "model_config" in file.attrs


def read_h5(path: Path) -> dict[str, Any]:
    """Return the variables of a `.weights.h5` file, numbered as there, since it does not name them: `dense/0`.

    A legacy `.h5` file names them: `dense/kernel`.
    """
    with path.open("rb") as file:
        return _arrays(path, file, {})


def _arrays(path: Path, file: BinaryIO, classes: dict[tuple[str, ...], keras_layers.Layer]) -> dict[str, Any]:
    cli.require("inspect", {"h5py": "h5py"})
    import h5py

    found: dict[str, Any] = {}

    def visit(group: Any, names: tuple[str, ...]) -> None:
        for key in sorted(group, key=lambda key: (len(key), key)):
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise cli.UserError(f"{path}: {group.name}/{key} is a link to elsewhere; such files are not read")
            child = group[key]
            if isinstance(child, h5py.Dataset):
                variable = keras_layers.variable_name(names, key, classes)
                found["/".join((*names, variable))] = _value(path, child)
            elif key == "vars":
                visit(child, names)
            elif not (key == "optimizer" and not names):
                visit(child, (*names, *_name(child, key)))

    with h5py.File(file, "r") as h5:
        is_model = isinstance(h5.get("model_weights", getlink=True), h5py.HardLink)  # no look behind other links
        weights = h5["model_weights"] if is_model else h5
        is_legacy = any(name.startswith("layer_names") for name in weights.attrs)
        visit(weights if is_legacy else h5, ())
    return {_legacy_path(path): value for path, value in found.items()} if is_legacy else found


def _legacy_path(path: str) -> str:
    """The path of `dense/dense/kernel:0`: a layer, and in it the name of a variable, mostly with the layer again."""
    layer, _, variable = path.removesuffix(":0").partition("/")
    return variable if layer == "top_level_model_weights" or variable.startswith(f"{layer}/") else f"{layer}/{variable}"


def _name(group: Any, key: str) -> tuple[str, ...]:
    """What a group adds to the path: the name of its layer, or nothing if it only lists layers."""
    variables = group.get("vars")
    if variables is None:
        return () if key in {"layers", "cells"} else (key,)
    name = variables.attrs.get("name", key)
    return (name if isinstance(name, str) else key,)


def _value(path: Path, dataset: Any) -> Any:
    stored = dataset.id.get_storage_size()
    if dataset.external or dataset.is_virtual or dataset.nbytes > _LARGEST_RATIO * max(stored, 1):
        raise cli.UserError(f"{path}: {dataset.name} of shape {dataset.shape} is not stored in the file")
    return dataset[()]
