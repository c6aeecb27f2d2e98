"""How much `inspect` and `convert` read: bounds for files that claim more than they hold."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

from jaxreg._commands import cli

MOST_ARRAYS = 100_000
_LEAST_BYTES = 1 << 30  # 1 GiB may come out of a file of any size; compression of sparse weights reaches about 1:100
_RATIO = 100
_MOST_CONFIG = 1 << 26


def most_bytes(path: Path) -> int:
    """The bytes that the arrays of a file or directory may take in memory."""
    return max(_LEAST_BYTES, _RATIO * stored(path))


def stored(path: Path) -> int:
    """The bytes of a file, or of the files below a directory."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def seconds(path: Path) -> int:
    """The time that reading a file may take: a minute, and a second for each 20 MB."""
    return 60 + stored(path) // 20_000_000


def check(path: Path, sizes: Iterable[int]) -> None:
    """Raise unless arrays of these sizes in bytes may be read; called before memory is taken for them."""
    claimed = list(sizes)
    if len(claimed) > MOST_ARRAYS or sum(claimed) > most_bytes(path):
        raise cli.UserError(
            f"{path}: claims {len(claimed)} arrays of {sum(claimed)} bytes in all; read are at most {MOST_ARRAYS} "
            f"arrays, and {_LEAST_BYTES} bytes or {_RATIO} times the size of the file. If you trust it, load it in "
            "Python and call `jaxreg.summary(reg, params)`."
        )


def nbytes(shape: Iterable[int], itemsize: int) -> int:
    """The bytes of an array, as a whole number of Python, which does not overflow."""
    return math.prod(map(int, shape)) * itemsize


def read_config(path: Path, archive: zipfile.ZipFile) -> bytes:
    """Return `config.json` of an archive."""
    size = archive.getinfo("config.json").file_size
    if size > _MOST_CONFIG:
        raise cli.UserError(f"{path}: its config.json has {size} bytes; read are at most {_MOST_CONFIG}")
    return archive.read("config.json")
