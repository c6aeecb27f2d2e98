"""Names and paths of users and files in messages and tables: of bounded length, and nothing that a terminal obeys."""

from collections.abc import Collection

_LONG, _MANY = 120, 8


def printable(text: str) -> str:
    """The text with escapes, such as `\\x1b` and `\\n`, for what a terminal would obey: a newline, a colour."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def place(path: str) -> str:
    """The path of a module or a parameter in a message; of a long one its beginning and its end."""
    shown = printable(path)
    return shown if len(shown) <= _LONG else f"{shown[: _LONG // 2]}...{shown[3 - _LONG // 2 :]}"


def places(paths: Collection[str]) -> str:
    """Some paths, as a list in a message."""
    more = f" and {len(paths) - _MANY} more" if len(paths) > _MANY else ""
    return f"{[place(path) for path in list(paths)[:_MANY]]}{more}"
