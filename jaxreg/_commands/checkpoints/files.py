"""Read checkpoints as `{path: array}`; the format is told by the content, not by the name. Nothing is unpickled."""

import contextlib
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxreg._commands import cli
from jaxreg._commands.checkpoints import keras_file, limits
from jaxreg._rules.paths import flatten_with_paths

Arrays = dict[str, Any]


def read(path: Path) -> Arrays:
    """Return the arrays of a checkpoint by their paths.

    Args:
        path: a file of NumPy (`.npz`), safetensors, Flax (msgpack) or Keras (`.keras`, `.weights.h5`, legacy
            `.h5`), or an Orbax directory.

    Raises:
        UserError: it has none of these formats, or is damaged.
    """
    with one_line(path):
        arrays = _reader(path)(path)
    if not arrays:
        raise cli.UserError(f"{path}: holds no arrays")
    return arrays


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a UserError of one line."""
    try:
        yield
    except (cli.UserError, KeyboardInterrupt):
        raise
    except OSError as error:
        raise cli.UserError(f"{path}: cannot read it ({error.strerror or _first_line(error)})") from None
    except Exception as error:  # the libraries that read these formats raise anything on damaged ones
        raise cli.UserError(f"{path}: damaged, or not what it seems ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]


def _reader(path: Path) -> Callable[[Path], Arrays]:
    if path.is_dir():
        return _orbax
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return _zip_reader(path)
    if head.startswith(keras_file.HDF5):
        return keras_file.read_h5
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return _safetensors
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):  # a msgpack map that is not empty
        return _msgpack
    pickled = head.startswith(b"\x80")
    raise cli.UserError(f"{path}: {_PICKLE if pickled else _UNKNOWN}")


_UNKNOWN = "none of .npz, .safetensors, Flax msgpack, .keras, .h5, Orbax directory"
_PICKLE = "a pickle, which can run code when it is read; save the arrays as .npz or .safetensors"


def _zip_reader(path: Path) -> Callable[[Path], Arrays]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if "config.json" in names:
        return keras_file.read_keras
    if any(name.endswith(".npy") for name in names):
        return _npz
    pickled = any(name.endswith(".pkl") for name in names)
    raise cli.UserError(f"{path}: {_PICKLE if pickled else _UNKNOWN}")


def _npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        limits.check(path, _sizes(archive))
    with np.load(path, allow_pickle=False) as arrays:
        return {_slashes(name): arrays[name] for name in arrays.files}


def _sizes(archive: zipfile.ZipFile) -> Iterator[int]:
    """The bytes of the members, or of the arrays where their headers claim more: NumPy takes that much at once."""
    for info in archive.infolist():
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member) if info.filename.endswith(".npy") else (0, 0)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](member) if version in read_header else ((), False, np.dtype("u1"))
        yield max(info.file_size, limits.nbytes(shape, dtype.itemsize))


def _safetensors(path: Path) -> Arrays:
    cli.require("inspect", {"safetensors": "safetensors"})
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {_slashes(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is no mapping


def _msgpack(path: Path) -> Arrays:
    cli.require("inspect", {"flax": "flax"})
    from flax.serialization import msgpack_restore

    return _flat(msgpack_restore(path.read_bytes()))


def _orbax(path: Path) -> Arrays:
    item = _orbax_item(path)
    cli.require("inspect", {"orbax.checkpoint": "orbax-checkpoint"})
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of missing shardings, which NumPy does not need
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(item.absolute()).item_metadata.tree
    limits.check(path, _claims(jax.tree.leaves(tree)))
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return _flat(checkpointer.restore(item.absolute(), restore_args=as_numpy))


def _claims(metadata: Iterable[Any]) -> Iterator[int]:
    """The bytes of each array in an Orbax checkpoint, or of one of its chunks if that is more."""
    for leaf in metadata:
        storage = getattr(leaf, "storage", None)
        shapes = [getattr(leaf, "shape", ()), getattr(storage, "chunk_shape", ()), getattr(storage, "write_shape", ())]
        itemsize = np.dtype(getattr(leaf, "dtype", None) or "u1").itemsize
        yield max(limits.nbytes(shape or (), itemsize) for shape in shapes)


def _orbax_item(path: Path) -> Path:
    """The directory that holds the arrays: of a checkpoint, or of the last step in a CheckpointManager's directory."""
    if (path / "_METADATA").is_file():
        return path
    inside = [entry for entry in path.iterdir() if entry.is_dir()]
    items = sorted(entry for entry in inside if (entry / "_METADATA").is_file())
    steps = [entry for entry in inside if entry.name.isdecimal() and entry not in items]
    if len(items) == 1:
        return items[0]
    if items:
        raise cli.UserError(f"{path}: holds {', '.join(entry.name for entry in items)}; name one, as {items[0]}")
    if steps:
        return _orbax_item(max(steps, key=lambda entry: int(entry.name)))
    raise cli.UserError(f"{path}: no Orbax checkpoint (no _METADATA in it)")


def _flat(tree: Any) -> Arrays:
    """The arrays by the paths of the parameters: without the `value` under which NNX states and boxes store them."""
    paths, leaves, *_ = flatten_with_paths(tree)
    pairs = zip(paths, leaves, strict=True)
    return {path.removesuffix("/value"): leaf for path, leaf in pairs if isinstance(leaf, (np.ndarray, np.generic))}


def _slashes(name: str) -> str:
    """Turn the name `layers.0.weight` into the path `layers/0/weight`."""
    return name if "/" in name else name.replace(".", "/")
