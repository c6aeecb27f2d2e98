"""Read one HDF5 file, as a program of its own: the HDF5 library can crash, or never end, on a damaged file.

It takes the file, the member if that is a zip archive, and its limits, and writes lines of JSON: first what the file
holds, then for each array a line and its bytes. It imports nothing of jaxreg, so that it starts quickly.
"""

import contextlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

_LARGEST_RATIO = 2000  # of the bytes of an array to its bytes in the file: a compressed array stays below it
_LONGEST_PATH = 4096


class Refused(Exception):
    """What the user is told, after the name of the file."""


class _Walk:
    """The datasets of a Keras file. Each object is entered once, whatever the number of links to it."""

    def __init__(self, most_objects: int) -> None:
        self.variables: list[tuple[tuple[str, ...], str, int]] = []  # names, key, the dataset's place in the list
        self.datasets: list[Any] = []
        self._places: dict[int, int] = {}
        self._groups: set[int] = set()
        self._left = self._most = most_objects

    def visit(self, group: Any, names: tuple[str, ...] = ()) -> None:
        import h5py

        if (address := _address(group)) in self._groups:
            raise Refused(f"{group.name} is a second link to a group; such files are not read")
        self._groups.add(address)
        for key in sorted(group, key=lambda key: (len(key), key)):
            self._left -= 1
            if self._left < 0:
                raise Refused(f"holds more than {self._most} objects")
            if len(group.name) + len(key) > _LONGEST_PATH:
                raise Refused(f"holds a path of more than {_LONGEST_PATH} characters")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise Refused(f"{group.name}/{key} is a link to elsewhere; such files are not read")
            child = group[key]
            if isinstance(child, h5py.Dataset):
                self._add(names, key, child)
            elif not isinstance(child, h5py.Group):
                continue
            elif key == "vars":
                self.visit(child, names)
            elif not (key == "optimizer" and not names):
                self.visit(child, (*names, *_name(child, key)))

    def _add(self, names: tuple[str, ...], key: str, dataset: Any) -> None:
        address = _address(dataset)
        if address not in self._places:
            if not _dtype(dataset) or dataset.shape is None:  # strings, as of vocabularies, are no weights
                return
            if dataset.external or dataset.is_virtual or dataset.nbytes > _LARGEST_RATIO * max(_stored(dataset), 1):
                raise Refused(f"{dataset.name} of shape {dataset.shape} is not stored in the file")
            self._places[address] = len(self.datasets)
            self.datasets.append(dataset)
        self.variables.append((names, key, self._places[address]))


def _address(thing: Any) -> int:
    import h5py

    return int(h5py.h5o.get_info(thing.id).addr)


def _stored(dataset: Any) -> int:
    return int(dataset.id.get_storage_size())


def _dtype(dataset: Any) -> str:
    """The dtype in the byte order of this machine; "" for what is no number. Keras keeps bfloat16 as two bytes."""
    if dataset.dtype.str == "|V2" and dataset.attrs.get("dtype") == "bfloat16":
        return "bfloat16"
    return str(dataset.dtype.newbyteorder("=").str) if dataset.dtype.kind in "biufc" else ""


def _name(group: Any, key: str) -> tuple[str, ...]:
    """What a group adds to the path: the name of its layer, or nothing if it only lists layers."""
    variables = group.get("vars") if isinstance(group.get("vars", getlink=True), _hard_link()) else None
    if variables is None:
        return () if key in {"layers", "cells"} else (key,)
    name = variables.attrs.get("name", key)
    return (name if isinstance(name, str) else key,)


def _hard_link() -> type:
    import h5py

    return h5py.HardLink


def _limit(memory: int, seconds: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _say(**message: Any) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")


def _opened(path: str, member: str) -> BinaryIO:
    if not member:
        return Path(path).open("rb")
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read(member))


def _read(path: str, member: str, most_objects: int, wants_values: bool) -> None:
    import h5py
    import numpy as np

    with _opened(path, member) as file, h5py.File(file, "r") as h5:
        config = h5.attrs.get("model_config")
        config = config.decode() if isinstance(config, bytes) else config
        walk = _Walk(most_objects)
        is_model = isinstance(h5.get("model_weights", getlink=True), h5py.HardLink)  # no look behind other links
        weights = h5["model_weights"] if is_model else h5
        is_legacy = any(name.startswith("layer_names") for name in weights.attrs)
        if wants_values:
            walk.visit(weights if is_legacy else h5)
        arrays = [(_dtype(dataset), dataset.shape) for dataset in walk.datasets]
        _say(config=config, is_legacy=is_legacy, variables=walk.variables, arrays=arrays)
        for dataset, (dtype, _) in zip(walk.datasets, arrays, strict=True):
            read = np.asarray(dataset[()])
            value = np.ascontiguousarray(read if dtype == "bfloat16" else read.astype(dtype, copy=False))
            _say(nbytes=value.nbytes)
            sys.stdout.buffer.write(value.tobytes())


def main(path: str, member: str, wants_values: str, most_objects: str, memory: str, seconds: str) -> None:
    """Write what the file holds to the standard output, or what was raised."""
    _limit(int(memory), int(seconds))
    try:
        _read(path, member, int(most_objects), bool(int(wants_values)))
    except Exception as error:
        _say(error=str(error), kind=type(error).__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
