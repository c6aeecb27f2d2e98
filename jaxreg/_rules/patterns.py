"""Rules of a tree: which leaves a pattern means, and its JSON."""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from jaxreg._core import codec
from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct, static
from jaxreg._rules.paths import glob_matches

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]

_NOT_WEIGHTS = {"b", "scale", "offset", "gamma", "beta", "mean", "var", "alpha", "negative_slope"}
_NORM_LAYER = re.compile(r"(?i)(norm|^bn|^ln)(_?\w?\d*)$")


def is_weight(path: str, leaf: Any) -> bool:
    """Whether a leaf is a weight matrix, a convolution kernel or an embedding: no bias, no scale of a norm.

    It has two axes or more, its name is not that of a bias or scale, and no module above it is named as a norm layer
    (`LayerNorm_0`, `batch_norm`, `ln_1`, ...), so that stacked biases and norm scales are left out too.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> jaxreg.is_weight("Dense_0/kernel", jnp.ones((2, 3))), jaxreg.is_weight("Dense_0/bias", jnp.ones(3))
        (True, False)
    """
    *modules, name = path.split("/")
    named_otherwise = name in _NOT_WEIGHTS or name.endswith("bias") or any(map(_NORM_LAYER.search, modules))
    return len(getattr(leaf, "shape", ())) >= 2 and not named_otherwise


class Rule(Struct):
    """Hold one rule of a tree: a pattern (static) and the regularizer of the leaves that it matches, or None.

    Example:
        >>> import jaxreg
        >>> jaxreg.TreeRegularizer({"**/bias": None, "**": jaxreg.L1(0.1)}).rules[1]
        Rule(pattern='**', regularizer=L1(l1=0.1))
    """

    pattern: Pattern = static()
    regularizer: Regularizer | None

    def matches(self, path: str, leaf: Any) -> bool:
        if isinstance(self.pattern, str):
            return glob_matches(self.pattern, path)
        if isinstance(self.pattern, re.Pattern):
            return self.pattern.search(path) is not None
        return leaf is not None and bool(self.pattern(path, leaf))


def check_pattern(pattern: Any) -> None:
    if isinstance(pattern, str):
        glob_matches(pattern, "")  # a malformed glob raises here, where it was written
    elif isinstance(pattern, (Struct, type)) or not (isinstance(pattern, re.Pattern) or callable(pattern)):
        raise TypeError(
            "A pattern is a glob such as '**/kernel', a compiled `re` pattern or a function `(path, leaf) -> bool`, "
            f"got {short(pattern)}."
        )


def matches_nothing(pattern: Pattern, paths: Iterable[str]) -> str:
    """The message for a pattern that fits no path: with the paths that come close."""
    paths = list(paths)
    text = pattern if isinstance(pattern, str) else getattr(pattern, "pattern", short(pattern))
    close = difflib.get_close_matches(text, paths, n=5, cutoff=0.3) if len(paths) <= 5000 else []
    shown = close + [path for path in paths if path not in close][: max(0, 8 - len(close))]
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return f"No leaf matches the pattern {short(text)}; paths are {shown}{more}."


# ------------------------------------------------------------------------------------------------------------- JSON

_MAX_QUANTIFIERS = 4  # each open-ended one multiplies the work of a backtracking match by the length of a path
_ESCAPES_AND_SETS = re.compile(r"\\.|\[\^?\]?[^\]]*\]")


def encode_pattern(pattern: Pattern) -> Any:
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, re.Pattern):
        _check_regex(pattern.pattern)
        return {"re": pattern.pattern, "flags": pattern.flags}
    if pattern is is_weight:
        return {"predicate": "is_weight"}
    return {"predicate": codec.encode_function(pattern)["config"]}


def decode_pattern(value: Any) -> Pattern:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and set(value) == {"re", "flags"}:
        regex, flags = value["re"], value["flags"]
        if not isinstance(regex, str) or not isinstance(flags, int) or not 0 <= flags < 512:
            raise TypeError(f"A pattern's `re` must be a string and its `flags` an int, got {short(value)}.")
        _check_regex(regex)
        try:
            with warnings.catch_warnings(action="error"):  # sets that a later Python may read in another way
                return re.compile(regex, flags & ~re.DEBUG)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise ValueError(f"The pattern {short(regex)} is no regular expression: {short(str(error))}.") from None
    if isinstance(value, dict) and set(value) == {"predicate"}:
        name = value["predicate"]
        return is_weight if name == "is_weight" else codec.find_function(name, {})
    raise ValueError(f"A pattern in a config is a string, a `re` or a `predicate`, got {short(value)}.")


def _check_regex(regex: Any) -> None:
    """Refuse in configs what may backtrack for ever: a repeated group, or many open-ended repetitions."""
    plain = _ESCAPES_AND_SETS.sub("x", regex) if isinstance(regex, str) else ""
    repeated_group = re.search(r"\)[*+{?]", plain)
    if not plain or len(plain) > 1000 or repeated_group or len(re.findall(r"[*+{]", plain)) > _MAX_QUANTIFIERS:
        raise ValueError(
            f"The pattern {short(regex)} has no place in a config: at most {_MAX_QUANTIFIERS} repetitions, none of a "
            "group, so that matching cannot backtrack for ever. Write a glob, or pass the pattern from Python."
        )
