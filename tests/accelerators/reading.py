"""What a program costs, read off its text: cycles, bytes, kernels, collectives, temporaries."""

import dataclasses
import math
import re
from typing import Any

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast)(?:-start)?\("
)
_PANELS = re.compile(r'condition=%([\w.\-]+).*op_name="[^"]*panels/while"')
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does in one call. Of two branches the cheaper one counts, and the body of a loop counts once.

    Panels, which `jaxreg._core.compiler.matmul` takes one after the other, all count.
    """

    cycles: int  # the TPU compiler's model; 0 for a GPU
    moved: int  # bytes of the operands and results of all kernels
    kernels: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cycles + other.cycles, self.moved + other.moved, self.kernels + other.kernels)

    def times(self, count: int) -> "Cost":
        return Cost(self.cycles * count, self.moved * count, self.kernels * count)


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that is read off a compiled program."""

    cost: Cost
    temporaries: int  # bytes beside arguments and results
    collectives: dict[str, int]


def read(compiled: Any) -> Reading:
    text = compiled.as_text()
    return Reading(cost(text), int(compiled.memory_analysis().temp_size_in_bytes), collectives(text))


def collectives(text: str) -> dict[str, int]:
    """How many of each kind are written in the program, whether they run once, often or never."""
    found = _COLLECTIVE.findall(text)
    return {kind: found.count(kind) for kind in sorted(set(found))}


def cost(text: str) -> Cost:
    """The cost of the entry of a module, in the text format of HLO."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = bodies[header[2]] = []
            entry = header[2] if header[1] else entry
        lines.append(line)
    return _sum(entry, bodies)


def _sum(name: str, bodies: dict[str, list[str]]) -> Cost:
    total, sizes = Cost(0, 0, 0), {}
    for line in bodies[name]:
        if not (match := _INSTRUCTION.match(line)):
            continue
        result, shape, opcode, operands, attributes = match.groups()
        sizes[result] = _nbytes(shape)
        if opcode in ("while", "call"):
            panels = _PANELS.search(attributes)
            count = _turns(bodies[panels[1]]) if panels else 1
            for called in re.findall(r"(?:body|condition|to_apply)=%([\w.\-]+)", attributes):
                total += _sum(called, bodies).times(count)
        elif opcode == "conditional":
            branches = re.search(
                r"branch_computations=\{(.*?)\}|true_computation=\S+ false_computation=\S+", attributes
            )
            named = re.findall(r"%([\w.\-]+)", branches[0]) if branches else []
            total += min((_sum(branch, bodies) for branch in named), key=lambda cost: (cost.cycles, cost.moved))
        elif opcode not in _FREE and not opcode.endswith("-done"):
            cycles = sum(map(int, _CYCLES.findall(attributes)))
            moved = sizes[result] + sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", operands))
            total += Cost(cycles, moved, 1)
    return total


def _turns(condition: list[str]) -> int:
    """Of a loop that counts up to a number."""
    bounds = {int(bound) for line in condition for bound in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)}
    if len(bounds) != 1:
        raise ValueError(f"Up to which number does this count? {condition}")
    return bounds.pop()


def _nbytes(shape: str) -> int:
    """Bytes of an array or a tuple of arrays: `(f32[8,4]{1,0}, pred[])` has 129."""
    total = 0
    for dtype, dims in _ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        total += math.prod(int(n) for n in dims.split(",") if n) * (int(bits[0]) // 8 if bits else 1)
    return total
