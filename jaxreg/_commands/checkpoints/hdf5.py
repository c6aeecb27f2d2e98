"""Read HDF5 files in a process of its own, `hdf5_reader.py`, with limits of memory and time."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxreg._commands import cli
from jaxreg._commands.checkpoints import limits

PROGRAM = Path(__file__).with_name("hdf5_reader.py")
_OVERHEAD = 1 << 30  # bytes of address space for Python, NumPy and HDF5 themselves


class Variable(NamedTuple):
    """A variable: the names of the groups above it, its own, and its values."""

    names: tuple[str, ...]
    key: str
    value: Any


class File(NamedTuple):
    """What a file of Keras holds."""

    config: str | None  # of the model, in legacy files
    is_legacy: bool
    variables: tuple[Variable, ...]


def read(path: Path, member: str = "", *, wants_values: bool = True) -> File:
    """Return what a file holds, or a member of a zip archive; without its variables if no values are wanted.

    Raises:
        UserError: it is refused, or the process that reads it comes to its end or to its limits.
    """
    cli.require("inspect", {"h5py": "h5py"})
    seconds = limits.seconds(path)
    sizes = (limits.MOST_ARRAYS, limits.most_bytes(path) + _OVERHEAD, seconds)
    # -P: the folder of the program is no place to import from
    command = [sys.executable, "-P", str(PROGRAM), str(path), member, str(int(wants_values)), *map(str, sizes)]
    # one thread of BLAS, whose memory counts, and no libraries of filters that the file names
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **streams) as process:  # type: ignore[call-overload]
        watch = threading.Timer(seconds, process.kill)
        watch.start()
        try:
            return _receive(path, process.stdout)
        except EOFError:
            code = process.wait()
            how = f"ended with code {code}" if watch.is_alive() else f"took more than {seconds} s"
            raise cli.UserError(f"{path}: damaged, or not what it seems (the HDF5 library {how} on it)") from None
        finally:
            watch.cancel()
            process.kill()


def _receive(path: Path, stream: IO[bytes]) -> File:
    head = _message(path, stream)
    claims = [(jnp.dtype(dtype), tuple(shape)) for dtype, shape in head["arrays"]]
    limits.check(path, (limits.nbytes(shape, dtype.itemsize) for dtype, shape in claims))
    values = [_array(path, stream, dtype, shape) for dtype, shape in claims]
    variables = (Variable(tuple(names), key, values[place]) for names, key, place in head["variables"])
    return File(head["config"], bool(head["is_legacy"]), tuple(variables))


def _array(path: Path, stream: IO[bytes], dtype: Any, shape: tuple[int, ...]) -> Any:
    nbytes = limits.nbytes(shape, dtype.itemsize)
    if _message(path, stream)["nbytes"] != nbytes:
        raise EOFError
    data = bytearray(nbytes)
    if stream.readinto(data) != nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return np.frombuffer(data, dtype).reshape(shape)


def _message(path: Path, stream: IO[bytes]) -> Any:
    """The next line; raises what the other process raised, and EOFError if it has come to its end."""
    line = stream.readline(1 << 30)
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    error, kind = message.get("error"), message.get("kind")
    if kind == "Refused":
        raise cli.UserError(f"{path}: {error}")
    if kind == "OSError":
        raise OSError(error)
    if kind is not None:
        raise ValueError(error or kind)
    return message
