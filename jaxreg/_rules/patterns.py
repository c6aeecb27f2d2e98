"""Rules of a tree: which leaves a pattern means, and its JSON."""

import difflib
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from jaxreg._core import codec
from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct, static
from jaxreg._rules.paths import glob_matches, is_hidden

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]

# The words of names, in lower case; tests/test_weight_names.py lists the libraries that write them.
_WEIGHT = {"kernel", "kernels", "embedding", "embeddings"}
_NO_WEIGHT = {"bias", "biases", "scale", "scales", "offset", "gain", "gamma", "beta", "alpha", "lambda", "slope"}
_NO_WEIGHT |= {"running", "moving", "log", "temperature", "sin", "cos", "sink", "sinks"}
_NORM = {"ln", "bn", "gn", "rms"}  # besides the words that end in norm, norms or normalization, as layernorm does
_NO_NORM = {"conv", "linear", "dense", "proj", "projection", "qkv", "head", "net", "act", "activation", "modulation"}
# Names that say it only as a whole: `D` is the skip of a state-space model, `g` (`weight_g`, `original0`) the length of
# weight norm, `vector_u` a state of spectral norm, `init` the first state of an Equinox layer.
_NO_WEIGHT_ALONE = {"D", "g", "weight_g", "original0", "vector_u", "mean", "var", "variance", "init"}
_LORA = re.compile("LoRA|DoRA|(?<![A-Za-z])(?i:lora|dora)")  # modules whose `a` and `b` are factors of a matrix


def is_weight(path: str, leaf: Any) -> bool:
    """Whether a leaf is a weight matrix, a convolution kernel or an embedding: no bias, no scale of a norm.

    It has two axes or more, and no word of its name says bias, scale, statistic or norm, unless the last one is
    `kernel` or `embedding`. A leaf named only `weight` or `w` is judged by the name of its module: it is no weight if
    the last layer in that name is a norm (`ln_1`, `attention_norm`; not `norm_proj` or `ConvBNAct`).

    Words are split at `_`, digits and capitals, modules at `/` and `.`, and numbers are ignored. Biases and scales of
    stacked layers have two axes too, so only their names tell them from matrices: where a stacked norm has no name
    (`layers/1/weight`), write a rule for it. Embeddings of positions and learned tokens (`pos_embed`, `cls_token`) are
    embeddings, and `a` and `b` inside a module called LoRA are matrices.

    Example:
        >>> import jax.numpy as jnp, jaxreg
        >>> matrix = jnp.ones((2, 3))
        >>> jaxreg.is_weight("Dense_0/kernel", matrix), jaxreg.is_weight("Dense_0/bias", jnp.ones(3))
        (True, False)
        >>> jaxreg.is_weight("attn/W_Q", matrix), jaxreg.is_weight("attn/b_Q", matrix)
        (True, False)
        >>> jaxreg.is_weight("layers/mlp/weight", matrix), jaxreg.is_weight("layers/mlp_norm/weight", matrix)
        (True, False)
    """
    # `value` is the array in a box, which checkpoints keep as a level of their own
    named = [part for part in re.split(r"[/.]", path) if re.search("[A-Za-z]", part) and part != "value"]
    modules, name = named[:-1], named[-1] if named else ""
    return len(getattr(leaf, "shape", ())) >= 2 and _names_weight(modules, name)


def _names_weight(modules: list[str], name: str) -> bool:
    words = _words(name)
    module = modules[-1] if modules else ""
    if not _WEIGHT.isdisjoint(words[-1:]) or (name in ("a", "b") and any(map(_LORA.search, modules))):
        return True
    is_bias = re.match(r"b(?![A-Za-z])", name) is not None  # b, b1, b_Q; no `B` of a state space, no `lora_b`
    if is_bias or name in _NO_WEIGHT_ALONE or not _NO_WEIGHT.isdisjoint(words) or _names_norm(words):
        return False
    if set(words) <= {"w", "weight", "weights"}:
        return module != "scale" and not _names_norm(_words(module))
    return True


def _names_norm(words: list[str]) -> bool:
    """Whether the last layer that the words name is a norm; weight norm and spectral norm do not count as norms."""
    layers = [pair for pair in itertools.pairwise(["", *words]) if pair[1] in _NO_NORM or _is_norm(pair[1])]
    return bool(layers) and _is_norm(layers[-1][1]) and layers[-1][0] not in ("weight", "spectral")


def _is_norm(word: str) -> bool:
    return word in _NORM or word.endswith(("norm", "norms", "normalization"))


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


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
        return not is_hidden(leaf) and bool(self.pattern(path, leaf))


def check_pattern(pattern: Any) -> None:
    if isinstance(pattern, str):
        glob_matches(pattern, "")  # a malformed glob raises here, where it was written
    elif isinstance(pattern, (Struct, type)) or not (isinstance(pattern, re.Pattern) or callable(pattern)):
        raise TypeError(
            "A pattern is a glob such as '**/kernel', a compiled `re` pattern or a function `(path, leaf) -> bool`, "
            f"got {short(pattern)}."
        )


def matches_nothing(pattern: Pattern, paths: Iterable[str]) -> str:
    """The message for a pattern that fits no leaf."""
    paths = list(paths)
    way_out = ""
    if paths == [""]:
        way_out = " One array has an empty path: call a regularizer itself, `reg(x)`, or give a tree, `{'kernel': x}`."
    elif (
        isinstance(pattern, str) and "**" not in pattern and any(glob_matches(f"**/{pattern}", path) for path in paths)
    ):
        way_out = f" A glob is for the whole path: write {short('**/' + pattern)}."
    return f"No leaf matches the pattern {pattern_beside_paths(pattern, paths)}.{way_out}"


def pattern_beside_paths(pattern: Pattern, paths: Collection[str]) -> str:
    """The pattern and the paths that there are, for a message: at most eight, those that come close first."""
    text = pattern if isinstance(pattern, str) else getattr(pattern, "pattern", short(pattern))
    close = difflib.get_close_matches(text, paths, n=5, cutoff=0.3) if len(paths) <= 5000 else []
    shown = close + [path for path in paths if path not in close][: 8 - len(close)]
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return f"{short(text)}; paths are {shown}{more}"


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
