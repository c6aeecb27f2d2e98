"""Read mutated configs under an audit hook: `python -m tests.fuzz COUNT SEED` prints what happened as JSON."""

import gc
import json
import random
import re
import reprlib
import sys
import time
from collections import Counter
from typing import Any

import jax
import numpy as np

import jaxreg
from tests.cases import ALL_CASES

TREES = (
    jaxreg.TreeRegularizer({"**/kernel": jaxreg.L1(0.1), "a?/*b**": jaxreg.Group(jaxreg.MCP(0.5)), "**": None}),
    jaxreg.TreeRegularizer([(re.compile(r"layers_[0-9]+/k"), jaxreg.L2(0.1)), (jaxreg.is_weight, "l1")]),
)
SEEDS = [
    *(jaxreg.serialize(case.regularizer) for case in ALL_CASES),
    *(tree.get_config() for tree in TREES),
    *(jaxreg.serialize(reg) for reg in (jaxreg.Box(-1.0), jaxreg.Simplex(), jaxreg.Stacked(jaxreg.L1(0.1)))),
    jaxreg.Anchored(jaxreg.L1(0.1), np.ones(3)).get_config(),
    {"class_name": "l1_l2", "config": {"l1": 0.1}},
]
STRINGS = (
    "", "L1", "l2", "jaxreg", "os", "os.system", "__import__('os').system('id')", "builtins", "eval", "__class__",
    "{0.__class__}", "%s%n", "../../etc/passwd", "keras.regularizers", "function", "tests>log_cosh", "TreeRegularizer",
    "**", "**/**/**/**", "a**b**c", "[", "[!]", "(a+)+$", "(?:a|a)*b", "a*a*a*a*a*a*b", ".*.*.*.*x", "\\", "(?R)",
    "?" * 500, "*" * 500, "*a" * 300, "a" * 5000, "\x00", "\ud800", "é\u202e", "(" * 2000, "[[:" * 50, "{1,99999999}",
    "a{65535}{65535}",
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 10**400, -(10**5000), 0.1, -0.0, 1e308, float("inf"), float("nan"), 2**63, [], {}, "x",
    {"class_name": "L1"}, {"class_name": "L1", "config": {"l1": 0.1}}, {"re": "a+", "flags": 0}, [[]],
    {"predicate": "is_weight"},
    {"predicate": "eval"}, {"re": ".*", "flags": 10**9}, {"class_name": "function", "config": "eval"}, [0, 1], [[0]],
)  # fmt: skip
LONG = {
    "a" * 60 + "/" + "a" * 60 + "b": jax.ShapeDtypeStruct((2, 2), np.float32),
    "layers_1/k": 1.0,
    "/".join("a" * 60): 1.0,
}


def nodes(config: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Every place in a config: its container and its key."""
    places: list[tuple[Any, Any]] = []
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        places.append((config, key))
        if depth < 8 and isinstance(value, (dict, list)):
            places += nodes(value, depth + 1)
    return places


def copied(config: Any) -> Any:
    """`copy.deepcopy` of what JSON holds, in a third of the time."""
    if isinstance(config, dict):
        return {key: copied(value) for key, value in config.items()}
    return [copied(value) for value in config] if isinstance(config, list) else config


SHELLS = (lambda c: [c], lambda c: {"a": c}, lambda c: {"class_name": "Sum", "config": {"terms": [c]}})


def deep(rng: random.Random, config: Any) -> Any:
    for _ in range(rng.choice([3, 70, 3000])):
        config = rng.choice(SHELLS)(config)
    return config


def mutated(rng: random.Random) -> Any:
    config = copied(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 4)):
        places = nodes(config) if isinstance(config, (dict, list)) else []
        if not places:
            return rng.choice(VALUES)
        container, key = rng.choice(places)
        kind = rng.randrange(9)
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[key] = rng.choice(VALUES)
        elif kind == 2:
            container[key] = rng.choice(STRINGS)
        elif kind == 3:
            container[key] = copied(rng.choice(SEEDS))
        elif kind == 4 and isinstance(container, dict):
            container[rng.choice(STRINGS)] = container.pop(key)
        elif kind == 5 and isinstance(container[key], str):
            text = container[key]
            at = rng.randint(0, len(text))
            container[key] = (
                text[:at] + rng.choice(["*", "(", ")+", "\\", "a", "\x00", "[", "]", "|", "?", "/", "**"]) + text[at:]
            )
        elif kind == 6 and isinstance(container[key], list):
            container[key] = container[key] * rng.choice([0, 2, 50])
        elif kind == 7 and isinstance(container[key], (int, float)):
            container[key] = rng.choice([-container[key], [container[key]], (container[key],), 1j * 0.1, b"0.1"])
        elif kind == 8 and rng.random() < 0.05:
            container[key] = deep(rng, container[key])
    return config


READERS = (jaxreg.deserialize, jaxreg.get, jaxreg.TreeRegularizer.from_config)


def read(reader: Any, config: Any) -> str:
    """What came of it. Rules that were read are matched too, against paths that make bad patterns backtrack."""
    try:
        result = reader(config)
        if isinstance(result, jaxreg.TreeRegularizer):
            result.assignment(LONG)
    except (ValueError, TypeError) as error:
        exact = type(error) in (ValueError, TypeError)
        return "refused" if exact and 10 < len(str(error)) < 3000 else f"{type(error).__name__}: {str(error)[:200]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def main(count: int, seed: int) -> None:
    gc.freeze()  # what is imported need not be looked through again and again
    rng = random.Random(seed)
    configs = (mutated(rng) for _ in range(count))
    for reader in READERS:
        read(reader, SEEDS[0])
    events: Counter[str] = Counter()
    armed = False
    sys.addaudithook(lambda event, _: events.update([event]) if armed else None)
    modules = set(sys.modules)
    outcomes: Counter[str] = Counter()
    slowest, worst = 0.0, ""
    for config in configs:
        for reader in READERS:
            begin = time.thread_time()
            armed = True
            outcome = read(reader, config)
            armed = False
            outcomes[outcome] += 1
            if (took := time.thread_time() - begin) > slowest:
                slowest, worst = took, f"{reader.__name__} {reprlib.repr(config)}"
    armed = True
    open(__file__).close()  # the hook can see
    armed = False
    print(json.dumps({"outcomes": outcomes, "events": events, "slowest": slowest, "worst": worst,
                      "imported": sorted(set(sys.modules) - modules)}))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
