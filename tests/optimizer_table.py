"""The table of optimizers in `jaxreg/_optax/README.md`: `python -m tests.optimizer_table` prints it."""

from tests.optimizer_cases import CONTRIB, INSIDE, OPTIMIZERS, OUTSIDE, Refused, Right, first_sentence

HEADER = "| optimizer | `metric=` | `proximal` around it |\n|---|---|---|"


def table() -> str:
    rows = [_row(name, case) for name, case in OPTIMIZERS.items()]
    rows += [_row(f"contrib.{name}", case) for name, case in CONTRIB.items()]
    rows += [_row(name, case) for name, case in INSIDE.items()]
    rows += [f"| `{name}` outside | as inside | reaches the optimum |" for name in OUTSIDE]
    return "\n".join([HEADER, *rows])


def _row(name: str, case: Right | Refused) -> str:
    if isinstance(case, Right):
        note = f" ({case.note})" if case.note else ""
        momentum = f", `momentum={case.momentum}`" if case.momentum else ""
        return f"| `{name}` | `{case.metric}`{momentum} | reaches the optimum{note} |"
    metric = "adam_metric()" if case.also_with_moments else "None"
    says = first_sentence(case, metric)
    beside = "; with `None` the penalty is decoupled" if case.also_with_moments else ""
    return f"| `{name}` | – | raises: {says}{beside} |"


if __name__ == "__main__":
    print(table())
