"""What the commands share: the error that ends one in a line, types of options, the check for an extra, `--out`."""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; `main` prints it as one line and returns 2."""


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    return _whole_number(text, "a whole number of at least 1", range(1, sys.maxsize))


def seed(text: str) -> int:
    """Read a seed that NumPy and JAX both take."""
    return _whole_number(text, "a whole number from 0 to 4294967295", range(2**32))


def _whole_number(text: str, wanted: str, allowed: range) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) in allowed:
            return value
    raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")


def require(extra: str, modules: Mapping[str, str]) -> None:
    """Raise unless the modules of an extra can be imported; imports none of them.

    Args:
        extra: the extra of jaxreg that brings them.
        modules: `{module: name of its package}`.
    """
    missing = [package for module, package in modules.items() if is_missing(module)]
    if missing:
        raise UserError(f'needs {", ".join(missing)}: pip install "jaxreg[{extra}]"')


def is_missing(module: str) -> bool:
    """Whether a module cannot be imported; imports no more than the packages above it."""
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare `--out`, the directory that a command writes its files into."""
    parser.add_argument(
        "--out", type=Path, default=Path(default), metavar="DIR", help=f"where files go (default: {default})"
    )


def make_directory(path: Path) -> Path:
    """Return the directory, made if it is not there, before minutes are spent on what shall go into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot make this directory ({error.strerror})") from None
    return path


@contextlib.contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """Turn what keeps a file from being written into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write into --out {out} ({error.strerror})") from None
