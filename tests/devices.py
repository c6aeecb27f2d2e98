"""What a TPU or a GPU runs, here on a CPU: for `--lowered-for`, and for the tests of what only one of them runs."""

from typing import Any

import pytest

from jaxreg._core import compiler


def take_what_runs_on(device: str, patch: pytest.MonkeyPatch) -> list[Any]:
    """Until `patch` is undone. Returns a list to which comes what each function for that device alone was bound to."""
    taken: list[Any] = []

    def elsewhere(_: Any, elsewhere: Any, *operands: Any) -> Any:
        return elsewhere(*operands)

    def there(there: Any, _: Any, *operands: Any) -> Any:
        taken.append(there.args[0] if getattr(there, "args", ()) else None)
        return there(*operands)

    patch.setattr(compiler, "by_device", elsewhere)
    patch.setattr(compiler, "on_gpu", there if device == "gpu" else elsewhere)
    patch.setattr(compiler, "on_tpu", there if device == "tpu" else elsewhere)
    return taken
