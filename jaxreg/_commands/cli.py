"""What the commands share: the error for users, types of options, the check for an extra, `--out`."""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; `main` prints it on one line and returns 2."""


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
    """Raise unless the modules of an extra are installed; this imports none of them.

    Args:
        extra: the extra of jaxreg that installs them.
        modules: `{module: name of its package}`.
    """
    missing = [package for module, package in modules.items() if is_missing(module)]
    if missing:
        raise UserError(f'needs {", ".join(missing)}: pip install "jaxreg[{extra}]"')


def is_missing(module: str) -> bool:
    """Whether a module is not installed; this imports no more than the packages that contain it."""
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
    """Make the directory unless it is there, and return it; called before the training, so that mistakes show early."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot make this directory ({error.strerror})") from None
    return path


@contextlib.contextmanager
def writing_into(out: Path) -> Iterator[None]:
    """Raise a UserError where a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write into --out {out} ({error.strerror})") from None
