"""Paths of leaves in any pytree, and globs over them."""

import functools
import itertools
import re
import sys
from collections.abc import Sequence
from fnmatch import translate
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, keystr


def is_hidden(x: Any) -> bool:
    """Whether `x` stands where an optax wrapper or a filter took a leaf away."""
    return x is None or isinstance(x, optax.MaskedNode)


def flatten_with_paths(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Return the `/`-joined paths, the leaves and the treedef; hidden leaves stay in their places.

    NNX Variables and Linen's partitioned parameters are seen through: the `value` which they add is no part of a path.
    """
    boxes = _box_types()
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_hidden)
    entries = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: is_hidden(x) or isinstance(x, boxes))[0]
    paths = [path for keys, entry in entries for path in _inner_paths(keys, entry, boxes)]
    return paths, leaves, treedef


def _inner_paths(keys: tuple[Any, ...], entry: Any, boxes: tuple[type, ...]) -> list[str]:
    if not isinstance(entry, boxes):
        return [keystr(keys, simple=True, separator="/")]
    inner = jax.tree_util.tree_flatten_with_path(entry, is_leaf=is_hidden)[0]
    value = GetAttrKey("value")
    stripped = [(*keys, *(key for i, key in enumerate(path) if i or key != value)) for path, _ in inner]
    return [keystr(path, simple=True, separator="/") for path in stripped]


def _box_types() -> tuple[type, ...]:
    # The core does not import flax; a tree can only hold its boxes if someone else has.
    found = ((sys.modules.get("flax.core.meta"), "AxisMetadata"), (sys.modules.get("flax.nnx"), "Variable"))
    return tuple(getattr(module, name) for module, name in found if hasattr(module, name))


@functools.lru_cache(maxsize=1 << 16)
def glob_matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a whole path: `*` and `?` within a segment, `**` across any number of segments.

    Linear in the pattern and in the path: the positions reachable in the pattern are advanced a segment at a time.
    """
    return any(_segments_match(segments, path.split("/")) for segments in _compile(pattern))


def _segments_match(pattern: Sequence[re.Pattern[str] | None], path: list[str]) -> bool:
    reachable = _skip_stars(pattern, {0})
    for segment in path:
        stay = {i for i in reachable if i < len(pattern) and pattern[i] is None}
        step = {
            i + 1
            for i in reachable
            if i < len(pattern) and (regex := pattern[i]) is not None and regex.fullmatch(segment)
        }
        reachable = _skip_stars(pattern, stay | step)
    return len(pattern) in reachable


def _skip_stars(pattern: Sequence[Any], positions: set[int]) -> set[int]:
    """`**` also matches no segment at all."""
    closed = set(positions)
    for i in sorted(positions):
        while i < len(pattern) and pattern[i] is None:
            i += 1
            closed.add(i)
    return closed


@functools.lru_cache(maxsize=1 << 12)
def _compile(pattern: str) -> tuple[tuple[re.Pattern[str] | None, ...], ...]:
    """The alternatives of a glob, each a tuple of segment patterns with None for `**`."""
    choices = [_alternatives(segment) for segment in pattern.split("/")]
    if sum(len(choice) > 1 for choice in choices) > 4:
        raise ValueError(f"The glob {pattern[:80]!r} has `**` inside too many segments; write it as `*/**/*`.")
    return tuple(
        tuple(None if part == "**" else re.compile(translate(part)) for part in itertools.chain.from_iterable(parts))
        for parts in itertools.product(*choices)
    )


def _alternatives(segment: str) -> list[list[str]]:
    """`a**b` is `a*b` or `a*/**/*b`; `**b` is `**/*b`; `a**` is `a*/**`."""
    head, star, tail = segment.partition("**")
    if not star or segment == "**":
        return [[segment]]
    if "**" in tail.strip("*") or (head and tail.strip("*") and tail.endswith("**")):
        raise ValueError(f"The glob segment {segment[:80]!r} has `**` twice; write `*/**/*` between segments.")
    if not head and tail.endswith("**"):
        return [["**", f"*{tail.strip('*')}*", "**"]]
    if not head:
        return [["**", f"*{tail.lstrip('*')}"]]
    tail = tail.lstrip("*")
    return [[f"{head}*", "**", f"*{tail}"], [f"{head}*{tail}"]] if tail else [[f"{head}*", "**"]]


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a float or complex array or number: what regularizers act on."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, (float, complex)) if dtype is None else bool(jnp.issubdtype(dtype, jnp.inexact))
