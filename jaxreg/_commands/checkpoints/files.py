"""Read checkpoints as `{path: array}`; the format is told by the content, not by the name. Nothing is unpickled."""

import collections
import contextlib
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
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
        return _unique(path, zip(_slashes(arrays.files), map(arrays.__getitem__, arrays.files), strict=True))


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

    with safe_open(path, framework="np") as file:  # checks that the header describes the file
        names = list(file.keys())
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.zeros(0, "u1")
    return _unique(path, zip(_slashes(names), (_tensor(path, data, name, header[name]) for name in names), strict=True))


# The formats of safetensors that are not named as in NumPy; it writes F8_E4M3 for the one without infinities.
_FORMATS = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
_FORMATS |= {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind.lower()}{bits // 8}" for kind in "IUFC" for bits in (8, 16, 32, 64, 128)},
}


def _tensor(path: Path, data: Any, name: str, described: Any) -> Any:
    try:
        dtype = jnp.dtype(_FORMATS[described["dtype"]])
    except (KeyError, TypeError):
        raise cli.UserError(f"{path}: {name} has the format {described['dtype']}, which is not read here") from None
    begin, end = described["data_offsets"]
    little = np.asarray(data[begin:end]).view(dtype.newbyteorder("<") if dtype.kind in "iufc" else dtype)
    return np.require(little.reshape(described["shape"]), requirements="A")


def _msgpack(path: Path) -> Arrays:
    cli.require("inspect", {"flax": "flax"})
    from flax.serialization import msgpack_restore

    return _flat(path, msgpack_restore(path.read_bytes()))


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
    return _flat(path, checkpointer.restore(item.absolute(), restore_args=as_numpy))


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


def _flat(path: Path, tree: Any) -> Arrays:
    """The arrays by the paths of the parameters: without the `value` under which NNX states and boxes store them.

    Such a `value` is alone; beside others it is the name of a parameter.
    """
    paths, leaves, *_ = flatten_with_paths(tree)
    below = collections.Counter(parent for name in paths for parent in _parents(name))
    named = [name if below[name.removesuffix("/value")] != 1 else name.removesuffix("/value") for name in paths]
    arrays = (
        (name, leaf) for name, leaf in zip(named, leaves, strict=True) if isinstance(leaf, (np.ndarray, np.generic))
    )
    return _unique(path, arrays)


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def _slashes(names: Sequence[str]) -> Sequence[str]:
    """Turn names such as `layers.0.weight` into the paths `layers/0/weight`, unless two would become one."""
    paths = [name if "/" in name else name.replace(".", "/") for name in names]
    return paths if len({*paths}) == len(paths) else names


def _unique(path: Path, arrays: Iterable[tuple[str, Any]]) -> Arrays:
    found: Arrays = {}
    for name, array in arrays:
        if name in found:
            raise cli.UserError(f"{path}: holds {name} twice")
        found[name] = array
    return found
