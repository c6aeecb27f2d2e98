"""Read the files of Keras, `.keras` archives and HDF5 weights, as data: without Keras and the code of the model."""

import json
import zipfile
from pathlib import Path
from typing import Any

from jaxreg._commands import cli
from jaxreg._commands.checkpoints import hdf5, keras_layers, limits

HDF5 = b"\x89HDF\r\n\x1a\n"


def read_config(path: Path) -> Any:
    """Return the config of the model in a `.keras` archive or a legacy `.h5` file, or in the JSON of `to_json()`."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "config.json" not in archive.namelist():
                raise cli.UserError(f"{path}: no .keras archive (no config.json in it)")
            return json.loads(limits.read_config(path, archive))
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5:
            return _config_in_h5(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise cli.UserError(f"{path}: neither a .keras archive nor JSON, nor a legacy .h5 file") from None


def _config_in_h5(path: Path) -> Any:
    """The config that `model.save("model.h5")` of Keras 2 and 3 leaves in an attribute of the file."""
    config = hdf5.read(path, wants_values=False).config
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
        limits.check(path, [archive.getinfo("model.weights.h5").file_size])
    return _named(path, hdf5.read(path, "model.weights.h5"), classes)


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
    return hdf5.read(path, wants_values=False).config is not None


def read_h5(path: Path) -> dict[str, Any]:
    """Return the variables of a `.weights.h5` file, numbered as there, since it does not name them: `dense/0`.

    A legacy `.h5` file names them: `dense/kernel`.
    """
    return _named(path, hdf5.read(path), {})


def _named(path: Path, file: hdf5.File, classes: dict[tuple[str, ...], keras_layers.Layer]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for names, key, value in file.variables:
        name = "/".join((*names, keras_layers.variable_name(names, key, classes)))
        name = _legacy_path(name) if file.is_legacy else name
        if name in found:
            raise cli.UserError(f"{path}: holds {name} twice")
        found[name] = value
    return found


def _legacy_path(path: str) -> str:
    """The path of `dense/dense/kernel:0`: a layer, and in it the name of a variable, mostly with the layer again."""
    layer, _, variable = path.removesuffix(":0").partition("/")
    return variable if layer == "top_level_model_weights" or variable.startswith(f"{layer}/") else f"{layer}/{variable}"
