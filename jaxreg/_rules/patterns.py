"""Rules of a tree: which leaves a pattern means, and its JSON."""

import difflib
import itertools
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from jaxreg._core import codec
from jaxreg._core.checks import short
from jaxreg._core.regularizer import Regularizer
from jaxreg._core.struct import Struct, static
from jaxreg._core.text import place
from jaxreg._rules.globs import glob_matches
from jaxreg._rules.paths import is_hidden

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
    elif glob := meant(pattern, paths):
        way_out = f" A glob is for the whole path: write {short(glob)}."
    return f"No leaf matches the pattern {pattern_beside_paths(pattern, paths)}.{way_out}"


def meant(pattern: Pattern, paths: Collection[str]) -> str:
    """The glob that matches where `pattern` does not: further down, all below a module, slashes for dots; or ""."""
    if not isinstance(pattern, str) or not (inner := pattern.strip("/")):
        return ""
    for text in (inner, inner.replace(".", "/")):
        for glob in (text, f"**/{text}", f"{text}/**", f"**/{text}/**"):
            if any(glob_matches(glob, path) for path in paths):
                return glob
    return ""


def pattern_beside_paths(pattern: Pattern, paths: Collection[str]) -> str:
    """The pattern and the paths that there are, for a message: at most eight, those that come close first."""
    text = pattern if isinstance(pattern, str) else getattr(pattern, "pattern", short(pattern))
    close = difflib.get_close_matches(text, paths, n=5, cutoff=0.3) if len(paths) <= 5000 else []
    shown = close + [path for path in paths if path not in close][: 8 - len(close)]
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return f"{short(text)}; paths are {[place(path) for path in shown]}{more}"


# ------------------------------------------------------------------------------------------------------------- JSON

# Regular expressions in configs are of this grammar; what is not in it (a repeated group, a back-reference, a comment,
# the verbose flag) is refused. Each item ends at one of a known number of places, so that `_ways` bounds the search.
_FLAGS = re.ASCII | re.IGNORECASE | re.MULTILINE | re.DOTALL | re.UNICODE | re.DEBUG
_GRAMMAR = r"""
      (?P<open> \( (?: (?!\?) | \?: | \?<?[=!] | \?P<[A-Za-z_]\w*> ) )
    | (?P<close> \) )
    | (?P<bar> \| )
    | (?P<anchor> [$^] | \\[AZbB] )
    | (?: \\[dDwWsSnrtfv] | \\[^A-Za-z0-9] | \[ \^?+ \]?+ (?: \\. | [^]\\] )*+ \] | [^][\\(){}|*+?^$] )
      (?P<repeated> (?: (?P<open_ended> [*+] | \{[0-9]{1,4},\} ) | (?P<optional> \? )
        | \{ (?= ,?[0-9] ) (?P<least>[0-9]{0,4}) (?: , (?P<most>[0-9]{1,4}) )? \} ) [?+]? )?
"""
_MAX_OPEN_ENDED = 2
_LONG_PATH = 200  # characters after the place where it begins: in so many ways an open-ended repetition may end
_MAX_WAYS = 200_000  # about a second for a path of 400 characters


def encode_pattern(pattern: Pattern) -> Any:
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, re.Pattern):
        _check_regex(pattern.pattern, pattern.flags)
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
        _check_regex(regex, flags)
        try:
            with warnings.catch_warnings(action="error"):  # sets that a later Python may read in another way
                return re.compile(regex, flags & ~re.DEBUG)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise ValueError(f"The pattern {short(regex)} is no regular expression: {short(str(error))}.") from None
    if isinstance(value, dict) and set(value) == {"predicate"}:
        name = value["predicate"]
        return is_weight if name == "is_weight" else codec.find_function(name, {})
    raise ValueError(f"A pattern in a config is a string, a `re` or a `predicate`, got {short(value)}.")


def _check_regex(regex: Any, flags: int) -> None:
    """Refuse in configs what may backtrack for ever: what is outside of the grammar, or can end in too many ways."""
    is_small = isinstance(regex, str) and len(regex) <= 1000 and not flags & ~_FLAGS
    if not is_small or _ways(re.sub(r"^\(\?[aimsu]+\)", "", regex)) > _MAX_WAYS:
        raise ValueError(
            f"The pattern {short(regex)} with flags {int(flags)} has no place in a config. So that matching cannot "
            "backtrack for ever, it consists of characters, sets, `.`, anchors, groups, alternatives and look-arounds; "
            f"of repetitions without a given end, such as `*`, there are at most {_MAX_OPEN_ENDED}, no group is "
            "repeated, and `|`, `?` and `{1,3}` give few combinations. Write a glob, or pass the pattern from Python."
        )


def _ways(regex: str) -> float:
    """In how many ways a match that begins at one place may go on: a bound of backtracking. ∞ outside of the grammar.

    The ways of a sequence multiply, those of alternatives add up. A search is thus at most cubic in the path.
    """
    grammar = re.compile(_GRAMMAR, re.VERBOSE | re.DOTALL)
    levels = [[0, 1]]  # of each open group: the ways of the alternatives before this one, and of this one
    at = open_ended = 0
    while at < len(regex):
        token = grammar.match(regex, at)
        if token is None:
            return math.inf
        at = token.end()
        if token["open"]:
            levels.append([0, 1])
        elif token["bar"]:
            levels[-1] = [sum(levels[-1]), 1]
        elif token["close"]:
            group = sum(levels.pop())
            if not levels:
                return math.inf
            levels[-1][1] *= group
        elif token["repeated"]:
            open_ended += token["open_ended"] is not None
            levels[-1][1] *= _ends(token)
    return math.inf if len(levels) > 1 or open_ended > _MAX_OPEN_ENDED else sum(levels[0])


def _ends(token: re.Match[str]) -> int:
    """In how many ways the repetition of one character may end."""
    if token["open_ended"]:
        return _LONG_PATH
    if token["optional"]:
        return 2
    least = int(token["least"] or 0)
    return max(1, int(token["most"] or least) - least + 1)
