"""Regularizers in what Flax saves: `flax.serialization.to_bytes` and `msgpack` checkpoints."""

import copy
from typing import Any

from flax import serialization

from jaxreg._core.struct import Struct, on_definition


def _to_state_dict(self: Struct) -> dict[str, Any]:
    return {name: serialization.to_state_dict(getattr(self, name)) for name in self._leaf_names}


def _from_state_dict(target: Struct, state: dict[str, Any]) -> Struct:
    restored = copy.copy(target)
    for name in target._leaf_names:
        value = serialization.from_state_dict(getattr(target, name), state[name], name=name)
        object.__setattr__(restored, name, value)
    return restored


on_definition(lambda cls: serialization.register_serialization_state(cls, _to_state_dict, _from_state_dict))
