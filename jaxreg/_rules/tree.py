"""TreeRegularizer: path rules that give each leaf of a parameter tree its penalty."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, cast, final

from jaxreg._core import checks, codec, names
from jaxreg._core.regularizer import Regularizer, as_regularizer
from jaxreg._core.struct import named
from jaxreg._rules.globs import automaton
from jaxreg._rules.identifiers import get
from jaxreg._rules.paths import Leaves, flatten_with_paths, is_masked
from jaxreg._rules.patterns import (
    Pattern,
    Rule,
    check_pattern,
    decode_pattern,
    encode_pattern,
    is_weight,
    matches_nothing,
)
from jaxreg._rules.tree_penalty import TreePenalty
from jaxreg.penalties import Anchored


@final
class TreeRegularizer(TreePenalty):
    """Penalize the leaves of a parameter tree by rules on their paths.

        R(params) = Σ over leaves of R_rule(leaf),   rule = the first one whose pattern matches the leaf's path

    A leaf that no rule matches, or whose rule has `None`, is left alone; so are integers, bools, PRNG keys and whatever
    is not an array. Paths are the keys joined by `/`, as in `params/Dense_0/kernel`, for dicts, lists, dataclasses,
    Flax Linen parameters, NNX states, Haiku parameters and Equinox modules; the `value` that NNX and partitioned Linen
    parameters add is left out. An array that stands in two places (tied weights) counts once, at its first path;
    inside `jit` JAX has split such arrays in two already, so tie them in the model there.

    Sharded parameters need nothing special: call it under `jit`, on Auto and on Explicit mesh axes. Inside
    `jax.shard_map`, a penalty in the loss of each device counts once for every device when gradients are summed: add it
    after the mean,
    `jax.lax.pmean(loss, axis_name) + reg(params)`, or outside, or in the optimizer. Inside, each device
    sees only its part of a sharded leaf, and norms and spectra of a part are not those of the whole: penalize such
    leaves outside.

    Patterns:
        a string: a glob on the whole path; `*` and `?` within a segment, `**` across segments (`**/kernel`);
        a compiled `re` pattern: searched in the path;
        a function `(path, leaf) -> bool`, for example `jaxreg.is_weight`.

    Args:
        rules: a mapping or a sequence of `(pattern, regularizer)`; a regularizer is anything that `jaxreg.get` takes.
            The coefficients are leaves, the patterns are static.

    Raises:
        ValueError: a pattern matches no leaf (with the paths that come close). Not inside optax wrappers that show a
            part of a tree, nor for trees of placeholders.

    Example:
        >>> import jax, jax.numpy as jnp, jaxreg
        >>> params = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> reg = jaxreg.TreeRegularizer({"**/bias": None, "**": jaxreg.L2(0.5)})
        >>> float(reg(params))
        3.0
        >>> reg.assignment(params)
        {'Dense_0/kernel': L2(l2=0.5)}
        >>> jax.tree.map(float, reg.breakdown(params))
        {'Dense_0/kernel': 3.0}
    """

    rules: Mapping[Any, Any] | Iterable[tuple[Pattern, Any] | Rule] = ()

    def __post_init__(self) -> None:
        rules = self.rules.items() if isinstance(self.rules, Mapping) else self.rules
        if isinstance(rules, (str, bytes)) or not isinstance(rules, Iterable):
            raise TypeError(
                "`TreeRegularizer(rules)` takes a mapping or a sequence of (pattern, regularizer), got "
                f"{checks.short(self.rules)}. One regularizer goes to all leaves by "
                "`jaxreg.TreeRegularizer({'**': reg})`, to weights by `jaxreg.TreeRegularizer.for_weights(reg)`."
            )
        object.__setattr__(self, "rules", tuple(map(_rule, rules)))

    @property
    def _rules(self) -> tuple[Rule, ...]:
        """The rules as the constructor stored them."""
        return cast(tuple[Rule, ...], self.rules)

    @classmethod
    def for_weights(cls, regularizer: Any) -> Self:
        """Return the commonest rule set: weights and embeddings, no bias, no norm scale (see `jaxreg.is_weight`).

        Coming from an optimizer's `weight_decay`, give `jaxreg.L2.from_weight_decay(weight_decay)`: the penalty
        l2·Σw² has the gradient 2·l2·w, so l2 is half the weight decay.

        Example:
            >>> import jaxreg
            >>> reg = jaxreg.TreeRegularizer.for_weights(jaxreg.L2.from_weight_decay(1e-4))
            >>> reg.rules[0].regularizer
            L2(l2=5e-05)
        """
        return cls(((is_weight, regularizer),))

    def anchored(self, reference: Any) -> "TreeRegularizer":
        """Return rules that penalize the distance of each leaf from the same leaf of a reference tree.

        Each penalized leaf gets `Anchored(its regularizer, its reference leaf)`: L2-SP and FedProx for L2.

        Args:
            reference: a tree like the parameters, for example the pretrained ones. Two leaves may be one array.

        Raises:
            ValueError: two penalized leaves have one path, because a key contains "/": no rule would tell them apart.

        Example:
            >>> import jax.numpy as jnp, jaxreg
            >>> pretrained = {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}
            >>> reg = jaxreg.TreeRegularizer({"kernel": jaxreg.L2(0.5)}).anchored(pretrained)
            >>> float(reg({"kernel": 3 * jnp.ones((2, 2)), "bias": jnp.ones(2)}))
            8.0
        """
        flat = flatten_with_paths(reference)
        rules: dict[str, Anchored] = {}
        for path, leaf, regularizer in zip(flat.paths, flat.leaves, self.assign(flat), strict=True):
            if regularizer is None:
                continue
            if path in rules:
                raise ValueError(
                    f"`TreeRegularizer.anchored`: two leaves have the path {checks.short(path)}, so that no rule "
                    "tells them apart. "
                    'Rename a key that contains "/".'
                )
            rules[path] = Anchored(regularizer, leaf)
        return TreeRegularizer([(glob.escape(path), anchored) for path, anchored in rules.items()])

    def assign(self, flat: Leaves) -> list[Regularizer | None]:
        """Return the regularizer of each leaf, None for those left alone."""
        deciding, idle = self.decide(flat)
        if idle and not shows_a_part(flat.leaves):
            raise ValueError(f"`TreeRegularizer`: {matches_nothing(idle[0].pattern, flat.paths)}")
        return [
            rule.regularizer if rule is not None and is_parameter else None
            for rule, is_parameter in zip(deciding, flat.parameters, strict=True)
        ]

    def decide(self, flat: Leaves) -> tuple[list[Rule | None], list[Rule]]:
        """Return the rule that decides over each leaf, and the rules whose pattern matches no leaf."""
        used = [False] * len(self._rules)
        first_glob = self._first_globs(flat.paths, used)
        others = [(i, rule) for i, rule in enumerate(self._rules) if not isinstance(rule.pattern, str)]
        deciding: list[Rule | None] = []
        for path, leaf, first in zip(flat.paths, flat.leaves, first_glob, strict=True):
            for i, rule in others:
                if (i < first or not used[i]) and rule.matches(path, leaf):
                    used[i], first = True, min(i, first)
            deciding.append(self._rules[first] if first < len(used) else None)
        idle = [rule for rule, was_used in zip(self._rules, used, strict=True) if not was_used and rule.pattern != "**"]
        return deciding, idle

    def get_config(self) -> dict[str, Any]:
        """Return the rules as plain lists and dicts, fit for JSON; functions must be registered."""
        return {"rules": [[encode_pattern(rule.pattern), codec.encode(rule.regularizer)] for rule in self._rules]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the regularizer whose `get_config` gave `config`.

        A config may come from anywhere, so its `re` patterns are of a small grammar whose search is at most cubic in
        the path: no repeated groups, no back-references, no verbose flag, at most two repetitions without an end.
        """
        rules = config.get("rules") if isinstance(config, Mapping) and set(config) == {"rules"} else None
        if not isinstance(rules, (list, tuple)):
            raise ValueError(f"`TreeRegularizer.from_config` takes {{'rules': [...]}}, got {checks.short(config)}.")
        pairs = [_pair(rule) for rule in codec.decode(dict(config), {})["rules"]]
        return cls([(decode_pattern(pattern), regularizer) for pattern, regularizer in pairs])

    def __mul__(self, factor: Any) -> "TreeRegularizer":
        factor = self._factor(factor)
        scaled = ((r.pattern, None if r.regularizer is None else factor * r.regularizer) for r in self._rules)
        return TreeRegularizer(tuple(scaled))

    def __repr__(self) -> str:
        rules = (f"({named(rule.pattern)}, {rule.regularizer!r})" for rule in self._rules)
        return f"TreeRegularizer([{', '.join(rules)}])"

    def _first_globs(self, paths: Iterable[str], used: list[bool]) -> Iterable[int]:
        """The first glob that matches each path, the number of rules if none does; marks the rules that match one."""
        numbers = [i for i, rule in enumerate(self._rules) if isinstance(rule.pattern, str)]
        globs = automaton(tuple(str(self._rules[i].pattern) for i in numbers))
        matching = [globs.matching(path) for path in paths]
        for found in {id(found): found for found in matching}.values():
            for i in found:
                used[numbers[i]] = True
        return [numbers[found[0]] if found else len(used) for found in matching]


def as_tree(reg: Any) -> TreePenalty:
    """Return the penalty of a whole tree: a plain regularizer goes to all floating leaves."""
    return reg if isinstance(reg, TreePenalty) else TreeRegularizer((("**", reg),))


def _pair(rule: Any) -> tuple[Any, Any]:
    if isinstance(rule, Rule):
        return rule.pattern, rule.regularizer
    if not isinstance(rule, (list, tuple)) or len(rule) != 2:
        raise TypeError(
            f"`TreeRegularizer`: a rule is a pair (pattern, regularizer), got {checks.short(rule)}. Write rules as a "
            "dict, `{'**/kernel': jaxreg.L2(0.1)}`, or as a list of pairs."
        )
    return rule[0], rule[1]


def _rule(rule: Any) -> Rule:
    pattern, identifier = _pair(rule)
    check_pattern(pattern)
    try:
        regularizer = get(identifier)
        return Rule(pattern, None if regularizer is None else as_regularizer(regularizer))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`TreeRegularizer`, the rule of {checks.short(pattern)}: {error}") from None


def shows_a_part(leaves: Sequence[Any]) -> bool:
    """Whether an optax wrapper took leaves away, or the tree has placeholders in place of arrays."""
    arrays = any(hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex)) for leaf in leaves)
    return any(is_masked(leaf) for leaf in leaves) or (bool(leaves) and not arrays)


names.add_builtin(TreeRegularizer)
