"""One call of `with_losses`: which modules take part, and that nothing of theirs is lost."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxreg._core.regularizer import Regularizer
from jaxreg._rules.patterns import Rule, matches_nothing
from jaxreg.nnx import _weights
from jaxreg.nnx._collect import zero
from jaxreg.nnx._observe import patched
from jaxreg.nnx._outputs import ATTRIBUTE, ActivityLoss, attach, local, raise_lost
from jaxreg.nnx._shapes import own_shapes, stack_sizes
from jaxreg.nnx._walk import join

_epoch = 0  # part of the static metadata, so that a trace that loses a penalty is never taken from a cache


class Run:
    """One call of `with_losses`: the modules whose outputs are penalized, and a check that nothing is lost."""

    def __init__(self, model: nnx.Module, rules: Sequence[Rule]) -> None:
        self.modules: dict[str, nnx.Module] = {}
        self.rules: dict[str, Regularizer | None] = {}
        self.patched: set[type] = set()
        self._pending: dict[str, Any] = {}
        self._collect(model, rules)
        self._shapes = own_shapes(model) if self.modules else {}

    def _collect(self, model: nnx.Module, rules: Sequence[Rule]) -> None:
        used, paths = [False] * len(rules), []
        for parts, module in nnx.iter_modules(model):
            path = join(*parts)
            own = _weights.ACTIVITY in _weights.regularizers(module)
            if callable(module):
                paths.append(path)
                matching = [i for i, rule in enumerate(rules) if _matches(rule, path, module)]
                for i in matching:
                    used[i] = True
                if matching and rules[matching[0]].regularizer is not None:
                    self.rules[path] = rules[matching[0]].regularizer
                    self.patched.add(type(module))
            if own or path in self.rules:
                self.modules[path] = module
        for rule, was_used in zip(rules, used, strict=True):
            if not was_used:
                message = matches_nothing(rule.pattern, sorted(paths)).replace("No leaf", "no module", 1)
                raise ValueError(f"`with_losses(activity=...)`: {message}")

    @contextlib.contextmanager
    def recording(self, inputs: Any) -> Iterator[None]:
        """Attach a fresh `ActivityLoss` to each module, and leave the modules as they were in the end."""
        outer: dict[str, Any] = {path: vars(module).get(ATTRIBUTE) for path, module in self.modules.items()}
        start = zero(inputs if self.modules else ())
        try:
            for path, module in self.modules.items():
                sizes = stack_sizes(module, self._shapes)
                loss = ActivityLoss(jnp.broadcast_to(start, sizes), path=path, rule=self.rules.get(path), epoch=_epoch)
                attach(module, loss)
            local.runs.append(self)
            with patched(self.patched):
                yield
        finally:
            if local.runs and local.runs[-1] is self:
                local.runs.pop()
            for path, module in self.modules.items():
                if ATTRIBUTE in vars(module):
                    delattr(module, ATTRIBUTE)
                if outer[path] is not None:  # a call of `with_losses` inside another one
                    attach(module, outer[path])

    def losses(self) -> dict[str, jax.Array]:
        """Return `{path: penalty}`, summed over the calls and the layers of a stack."""
        for path in list(self._pending):
            self._settle(path)
        return {path: jnp.sum(self._raw(path)) for path in self.modules}

    def note(self, loss: Any) -> None:
        """Before a penalty is added: through a copy of the module it must come back, or it is lost."""
        path = loss.get_metadata("path")
        if path not in self.modules:
            return
        if vars(self.modules[path]).get(ATTRIBUTE) is loss:
            self._settle(path)
        else:
            self._pending[path] = self._raw(path)

    def _settle(self, path: str) -> None:
        if path in self._pending and self._pending.pop(path) is self._raw(path):
            global _epoch
            _epoch += 1
            raise_lost(path)

    def _raw(self, path: str) -> Any:
        loss = vars(self.modules[path]).get(ATTRIBUTE)
        if loss is None:
            raise_lost(path)
        return loss.get_raw_value()


def _matches(rule: Rule, path: str, module: nnx.Module) -> bool:
    if path == "" and isinstance(rule.pattern, str):
        return rule.pattern in {"", "**"}  # `*` is a name, and the root has none
    return rule.matches(path, module)
