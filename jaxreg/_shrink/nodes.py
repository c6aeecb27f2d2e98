"""Indices of axes that belong together: a union-find over them, products of axes, and what can never be removed.

Every index of every axis of every array of a program is a node. Where an operation reads two axes index by index, their
nodes are united. A reshape that merges axes makes a product: the flat index (h, k) goes if h goes or k goes.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Nodes:
    """Unite, pin and multiply; then `resolve`, and ask for `members`."""

    def __init__(self) -> None:
        self._parent: Ids = np.arange(1024)
        self._why: Ids = np.zeros(1024, np.int64)  # of each node: the number of the reason that pins it, 0 for none
        self._count = 0
        self._reasons = [""]
        self._products: list[tuple[Ids, list[Ids]]] = []
        self._product_of: dict[int, tuple[int, int]] = {}
        self._final = np.zeros(0, np.int64)  # of each root the number of its reason, once all was said

    def new(self, n: int) -> Ids:
        """Return n nodes of which nothing is known."""
        first, self._count = self._count, self._count + n
        while self._count > len(self._parent):
            size = len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(size, 2 * size)])
            self._why = np.concatenate([self._why, np.zeros(size, np.int64)])
        return np.arange(first, self._count)

    def root(self, ids: Ids) -> Ids:
        roots = self._parent[ids]
        while (self._parent[roots] != roots).any():
            roots = self._parent[roots]
        self._parent[ids] = roots
        return roots

    def unite(self, a: Ids, b: Ids) -> None:
        """Unite a[i] with b[i] for every i."""
        while ((one := self.root(a)) != (other := self.root(b))).any():
            low, high = np.minimum(one, other), np.maximum(one, other)
            np.minimum.at(self._parent, high, low)  # of several unions of one node each round does one

    def pin(self, ids: Ids, why: str) -> None:
        """Say that these can never be removed; the first reason is kept."""
        if why not in self._reasons:
            self._reasons.append(why)
        number = self._reasons.index(why)
        self._why[ids] = np.where(self._why[ids] == 0, number, self._why[ids])

    def said(self, ids: Ids) -> set[str]:
        """Why they stay, by what was said so far; "" for those of which nothing was."""
        return {self._reasons[number] for number in self._pins()[self.root(ids)]}

    def pinned(self, why: str, n: int) -> Ids:
        ids = self.new(n)
        self.pin(ids, why)
        return ids

    def multiply(self, flat: Ids, factors: Sequence[Ids]) -> None:
        """Say that the flat axis is the product of the others, the last one the fastest."""
        self._products.append((flat, list(factors)))

    def product(self, factors: Sequence[Ids]) -> Ids:
        """The flat axis of several ones."""
        if len(factors) == 1:
            return factors[0]
        flat = self.new(math.prod(map(len, factors)))
        self.multiply(flat, factors)
        return flat

    # ------------------------------------------------------------------------------------------------------- answers

    def resolve(self) -> None:
        """Make the products agree with each other and with what is pinned; call it once, after everything was said."""
        while True:
            before = self.root(np.arange(self._count)), np.count_nonzero(self._pins())
            self._spread_pins()
            for flat, factors in self._products:
                self._agree(self.root(flat).reshape([len(f) for f in factors]), factors)
            self._unify()
            after = self.root(np.arange(self._count)), np.count_nonzero(self._pins())
            if after[1] == before[1] and np.array_equal(after[0], before[0]):
                break
        self._final = self._pins()
        for i, (flat, _) in enumerate(self._products):
            roots = self.root(flat)
            for position in np.flatnonzero(self._final[roots] == 0).tolist():
                self._product_of.setdefault(int(roots[position]), (i, position))

    def members(self, ids: Ids) -> list[tuple[int, int]]:
        """Return pairs (position in `ids`, unit that takes it away); what can never be removed has none."""
        found: list[tuple[int, int]] = []
        roots = self.root(ids)
        free = np.flatnonzero(self._final[roots] == 0)
        todo = list(zip(free.tolist(), roots[free].tolist(), strict=True))
        while todo:
            position, root = todo.pop()
            if self._final[root]:
                continue
            if root in self._product_of:
                i, flat = self._product_of[root]
                factors = self._products[i][1]
                index = np.unravel_index(flat, [len(f) for f in factors])
                todo += [(position, int(self.root(f[k : k + 1])[0])) for f, k in zip(factors, index, strict=True)]
            else:
                found.append((position, root))
        return sorted(set(found))

    def reasons(self, ids: Ids) -> list[str]:
        """Why each of them can never be removed, "" where nothing is in the way."""
        found = []
        for root in self.root(ids).tolist():
            todo, why = [root], ""
            while todo and not why:
                node = todo.pop()
                why = self._reasons[self._final[node]]
                if not why and node in self._product_of:
                    i, flat = self._product_of[node]
                    factors = self._products[i][1]
                    index = np.unravel_index(flat, [len(f) for f in factors])
                    todo += [int(self.root(f[k : k + 1])[0]) for f, k in zip(factors, index, strict=True)]
            found.append(why)
        return found

    # ------------------------------------------------------------------------------------------------------ products

    def _pins(self) -> Ids:
        """Of each root the number of the reason that came first."""
        most = len(self._reasons)
        first = np.full(self._count, most)
        why = self._why[: self._count]
        np.minimum.at(first, self.root(np.arange(self._count)), np.where(why == 0, most, why))
        return np.where(first == most, 0, first)

    def _spread_pins(self) -> None:
        """A flat index that stays needs all indices that it is made of."""
        while True:
            pins = self._pins()
            before = np.count_nonzero(pins)
            for flat, factors in self._products:
                grid = pins[self.root(flat)].reshape([len(f) for f in factors])
                for axis, factor in enumerate(factors):
                    why = grid.max(axis=tuple(i for i in range(grid.ndim) if i != axis))
                    for number in np.unique(why[why > 0]):
                        self.pin(factor[why == number], self._reasons[number])
            if np.count_nonzero(self._pins()) == before:
                return

    def _agree(self, roots: Ids, factors: list[Ids]) -> None:
        """Two flat indices that are one node must be taken away by the same units."""
        flat = roots.reshape(-1)
        order = np.argsort(flat, kind="stable")
        same = flat[order][1:] == flat[order][:-1]
        if not same.any():
            return
        one, other = (np.unravel_index(part, roots.shape) for part in (order[:-1][same], order[1:][same]))
        differ = np.stack([a != b for a, b in zip(one, other, strict=True)])
        alone = differ.sum(axis=0) == 1
        for factor, a, b, d in zip(factors, one, other, differ, strict=True):
            self.unite(factor[a[d & alone]], factor[b[d & alone]])
            self.pin(np.concatenate([factor[a[d & ~alone]], factor[b[d & ~alone]]]), _TWO_WAYS)

    def _unify(self) -> None:
        """Two products of one flat axis have the same factors, or one splits those of the other further."""
        first: dict[int, int] = {}
        kept: list[tuple[Ids, list[Ids]]] = []
        more: list[tuple[Ids, list[Ids]]] = []
        for flat, factors in self._products:
            roots = self.root(flat)
            others = {first[root] for root in roots.tolist() if root in first}
            if not others:
                first |= dict.fromkeys(roots.tolist(), len(kept))
                kept.append((flat, factors))
                continue
            i = others.pop()
            finest = None
            if not others and np.array_equal(self.root(kept[i][0]), roots):
                finest = self._refine(kept[i][1], factors, more)
            if finest is not None:
                kept[i] = (kept[i][0], finest)
                continue
            for known, parts in (*(kept[j] for j in (i, *others)), (flat, factors)):
                for ids in (known, *parts):
                    self.pin(ids, _TWO_WAYS)
        self._products = kept + more

    def _refine(self, one: list[Ids], other: list[Ids], more: list[tuple[Ids, list[Ids]]]) -> list[Ids] | None:
        """Unite the factors of two products; return the finer ones, None if neither splits the other."""
        coarse, fine = sorted((one, other), key=len)
        rest, pairs = list(fine), []
        for factor in coarse:
            parts: list[Ids] = []
            while rest and math.prod(map(len, parts)) < len(factor):
                parts.append(rest.pop(0))
            if math.prod(map(len, parts)) != len(factor):
                return None
            pairs.append((factor, parts))
        if rest:
            return None
        for factor, parts in pairs:
            if len(parts) == 1:
                self.unite(factor, parts[0])
            else:
                more.append((factor, parts))
        return fine


_TWO_WAYS = "cut in two ways"
