"""A model for one call of `with_losses`: modules of its own, with the Variables of the given one.

The totals of the penalties must stand on modules, for transforms of NNX to hand them in and out. On the modules of the
user every other thread would see them: its calls would be counted, its `nnx.state` would hold them. Hence each call
attaches them to twins, which nobody else has, and what the call changes on the twins is done to the modules in the end.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

NODES = "_pytree__nodes"  # where NNX notes which attributes are data
_MISSING = object()


class Twins:
    """The twins of the modules of a model, and of the other nodes in it that can hold modules."""

    def __init__(self, nodes: Iterable[nnx.Pytree]) -> None:
        self._pairs = [(node, object.__new__(type(node))) for node in nodes]
        self._twins = {id(node): twin for node, twin in self._pairs}
        self._originals = {id(twin): node for node, twin in self._pairs}
        self._before: list[dict[str, Any]] = []
        for node, twin in self._pairs:
            is_data = vars(node).get(NODES, {})
            mine = {n: self.of(value) if is_data.get(n, True) else value for n, value in vars(node).items()}
            vars(twin).update(mine)
            self._before.append(mine)

    def of(self, value: Any) -> Any:
        """The twin of a module; of a list, dict or other tree, the same with twins in it; anything else itself."""
        return _replaced(value, self._twins)

    def original_of(self, value: Any) -> Any:
        """The way back: the module that a twin stands for."""
        return _replaced(value, self._originals)

    def hand_back(self) -> None:
        """Set and delete on the modules the attributes that the call has set and deleted on their twins."""
        for (node, twin), before in zip(self._pairs, self._before, strict=True):
            now = vars(twin)
            for name in before.keys() - now.keys():
                vars(node).pop(name, None)
            for name, value in now.items():
                old = before.get(name, _MISSING)
                if value is not old and not (name == NODES and value == old):
                    self._free(value)
                    vars(node)[name] = self.original_of(value)

    def _free(self, value: Any) -> None:
        """Put the originals for twins inside modules that the call has made."""
        made = [leaf for leaf in jax.tree.leaves(value, is_leaf=_is_node) if isinstance(leaf, nnx.Pytree)]
        new = [node for module in made if id(module) not in self._originals for _, node in nnx.iter_graph(module)]
        for node in new:
            if isinstance(node, nnx.Pytree) and id(node) not in self._originals:
                vars(node).update({name: self.original_of(below) for name, below in vars(node).items()})


def _replaced(value: Any, by: Mapping[int, Any]) -> Any:
    if not by:
        return value
    if id(value) in by:
        return by[id(value)]
    leaves, treedef = jax.tree.flatten(value, is_leaf=_is_node)
    new = [by.get(id(leaf), leaf) for leaf in leaves]
    return value if all(a is b for a, b in zip(leaves, new, strict=True)) else jax.tree.unflatten(treedef, new)


def _is_node(value: Any) -> bool:
    return isinstance(value, (nnx.Pytree, nnx.Variable, Iterator))  # of iterators JAX warns
