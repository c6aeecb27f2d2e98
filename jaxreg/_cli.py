"""What the commands share: the error that ends one in a line, types of options, the check for an extra."""

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; `main` prints it as one line and returns 2."""


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    return _whole_number(text, least=1)


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
    return value


def require(extra: str, modules: Mapping[str, str]) -> None:
    """Raise unless the modules of an extra can be imported; imports none of them.

    Args:
        extra: the extra of jaxreg that brings them.
        modules: `{module: name of its package}`.
    """
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f'needs {", ".join(missing)}: pip install "jaxreg[{extra}]"')


def make_directory(path: Path) -> Path:
    """Return the directory, made if it is not there, before minutes are spent on what shall go into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot make this directory ({error.strerror})") from None
    return path
