"""Walk through the program of a network: one visitor, whatever it computes, sees every operation once."""

import abc
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

from jax.extend.core import Literal

Value = TypeVar("Value")
Place = tuple[int, ...]  # the numbers of the operations on the way to one: a function that is called twice is two


class Visitor(abc.ABC, Generic[Value]):
    """What is known of the values of a program. A subclass says it of constants and of the results of operations."""

    @abc.abstractmethod
    def constant(self, value: Any) -> Value:
        """What is known of a number or an array that the program holds."""

    @abc.abstractmethod
    def operation(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """What is known of the results of an operation without a program inside."""

    @abc.abstractmethod
    def meet(self, a: Value, b: Value) -> Value:
        """What is known of a value that is one or the other."""

    @abc.abstractmethod
    def scan(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        """What is known of the results of a `scan`."""

    @abc.abstractmethod
    def unknown(self, eqn: Any, values: list[Value]) -> list[Value]:
        """What is known of the results of an operation that is not understood."""

    def walk(self, jaxpr: Any, consts: Sequence[Value], values: Sequence[Value], place: Place = ()) -> list[Value]:
        """Return what is known of the results of a program."""
        known: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))

        def read(atom: Any) -> Value:
            return self.constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            results = self._results(eqn, [read(atom) for atom in eqn.invars], (*place, number))
            known |= zip(eqn.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def inside(self, program: Any, values: Sequence[Value], place: Place) -> list[Value]:
        """Walk through a program inside of an operation."""
        if hasattr(program, "consts"):  # a closed one
            return self.walk(program.jaxpr, [self.constant(const) for const in program.consts], values, place)
        return self.walk(program, [], values, place)

    def _results(self, eqn: Any, values: list[Value], place: Place) -> list[Value]:
        name, programs = eqn.primitive.name, programs_inside(eqn.params)
        if name == "scan":
            return self.scan(eqn, values, place)
        if name == "cond":
            branches = [self.inside(branch, values[1:], (*place, i)) for i, branch in enumerate(eqn.params["branches"])]
            results = branches[0]
            for branch in branches[1:]:
                results = [self.meet(a, b) for a, b in zip(results, branch, strict=True)]
            return results
        if name in _CALLS and programs and len(_inputs(programs[0])) == len(values):
            return self.inside(programs[0], values, place)
        return self.unknown(eqn, values) if programs else self.operation(eqn, values, place)


def scanned(eqn: Any) -> tuple[int, int]:
    """Return where, among the operands of a `scan`, the carry begins and where it ends.

    By the ranks: what is scanned over loses an axis inside, what is stacked gets one outside; the names of the
    parameters that tell it differ between versions of JAX.
    """
    body = eqn.params["jaxpr"].jaxpr
    each = sum(len(a.aval.shape) > len(b.aval.shape) for a, b in zip(eqn.invars, body.invars, strict=True))
    last = sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(eqn.outvars, body.outvars, strict=True))
    end = len(eqn.invars) - each
    return end - last, end


def reached(program: Any, given: Sequence[bool], sources: Collection[str]) -> list[bool]:
    """Return which results depend on the given operands, or on operations of these names; at least those that do."""
    body = getattr(program, "jaxpr", program)
    marked = {id(var) for var, is_given in zip(body.invars, given, strict=True) if is_given}
    for eqn in body.eqns:
        if eqn.primitive.name in sources or any(id(atom) in marked for atom in eqn.invars):
            marked |= {id(var) for var in eqn.outvars}
    return [id(atom) in marked for atom in body.outvars]


_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr",
}  # fmt: skip


def programs_inside(params: dict[str, Any]) -> list[Any]:
    """Return the programs among the parameters of an operation."""
    values = [item for value in params.values() for item in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(value, "eqns")]


def _inputs(program: Any) -> list[Any]:
    return list(getattr(program, "jaxpr", program).invars)
