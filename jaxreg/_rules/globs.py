"""Globs over paths: all of a tree's rules in one automaton, so that a path takes one step for each of its segments."""

import functools
import itertools
import re
from collections.abc import Iterable
from fnmatch import translate

_MANY = 1 << 16  # so many entries a table has before it begins again


def glob_matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a whole path: `*` and `?` within a segment, `**` across any number of segments."""
    return bool(automaton((pattern,)).matching(path))


@functools.lru_cache(maxsize=1 << 12)
def automaton(globs: tuple[str, ...]) -> "Automaton":
    return Automaton(globs)


class Automaton:
    """Tells which of many globs match a path, in time linear in the path once its segments have been seen.

    The subset construction (Rabin and Scott, 1959), a state at a time, when a path needs it. A position is a place in a
    glob, before one of its segments or at its end; a state is the set of positions to which the beginning of a path can
    lead; two segments of paths are one letter if the same segments of globs match them.

    Threads may share it: what two of them add at once is the same.
    """

    def __init__(self, globs: tuple[str, ...]) -> None:
        self._words: dict[str, int] = {}  # the segments of globs, numbered: those that match themselves alone,
        self._wild: dict[str, tuple[int, re.Pattern[str]]] = {}  # and those with `*`, `?` or a set of characters
        self._segments: list[int | None] = []  # of each position the segment that leads to the next, None for `**`
        self._ends: dict[int, int] = {}  # the positions at an end, and of which glob
        self._letters: dict[str, frozenset[int]] = {}  # of segments of paths: the segments of globs that match them
        self._states: dict[frozenset[int], _State] = {}
        starts = []
        for number, glob in enumerate(globs):
            for alternative in _alternatives(glob):
                starts.append(len(self._segments))
                self._segments += map(self._numbered, alternative)
                self._ends[len(self._segments)] = number
                self._segments.append(-1)  # no segment leads on
        self._start = self._state(starts)

    def matching(self, path: str) -> tuple[int, ...]:
        """Return the numbers of the globs that match, in order: one object for all paths that end in one state."""
        state = self._start
        for segment in path.split("/"):
            letter = self._letters.get(segment)
            if letter is None:
                letter = self._letter(segment)
            following = state.next.get(letter)
            if following is None:
                following = self._follow(state, letter)
            state = following
        return state.found

    def _numbered(self, segment: str) -> int | None:
        if segment == "**":
            return None
        number = len(self._words) + len(self._wild)
        if not re.search(r"[*?[]", segment):
            return self._words.setdefault(segment, number)
        return self._wild.setdefault(segment, (number, re.compile(translate(segment))))[0]

    def _letter(self, segment: str) -> frozenset[int]:
        matched = {number for number, regex in self._wild.values() if regex.fullmatch(segment)}
        if segment in self._words:
            matched.add(self._words[segment])
        if len(self._letters) >= _MANY:
            self._letters = {}
        self._letters[segment] = letter = frozenset(matched)
        return letter

    def _follow(self, state: "_State", letter: frozenset[int]) -> "_State":
        led = (state.moves[number] for number in letter if number in state.moves)
        following = self._state([*state.stay, *itertools.chain.from_iterable(led)])
        if len(state.next) >= _MANY:
            state.next = {}
        state.next[letter] = following
        return following

    def _state(self, positions: Iterable[int]) -> "_State":
        closed: set[int] = set()  # with the positions behind `**`, which also matches no segment at all
        for position in positions:
            while position not in closed:
                closed.add(position)
                position += self._segments[position] is None
        key = frozenset(closed)
        if key not in self._states and len(self._states) >= _MANY:
            self._states = {}
        return self._states.get(key) or self._states.setdefault(key, _State(key, self._segments, self._ends))


class _State:
    """A set of positions: the globs at whose end it is, and which segments of globs lead where."""

    def __init__(self, positions: frozenset[int], segments: list[int | None], ends: dict[int, int]) -> None:
        self.found = tuple(sorted({ends[position] for position in positions if position in ends}))
        self.stay = [position for position in positions if segments[position] is None]  # `**` takes every segment
        self.moves: dict[int, list[int]] = {}
        self.next: dict[frozenset[int], _State] = {}
        for position in positions:
            if (number := segments[position]) is not None:
                self.moves.setdefault(number, []).append(position + 1)


def _alternatives(pattern: str) -> list[list[str]]:
    """The segments of a glob; several times, where `**` inside a segment means one or more of them."""
    choices = [_of_segment(segment) for segment in pattern.split("/")]
    if sum(len(choice) > 1 for choice in choices) > 4:
        raise ValueError(f"The glob {pattern[:80]!r} has `**` inside too many segments; write it as `*/**/*`.")
    return [list(itertools.chain.from_iterable(parts)) for parts in itertools.product(*choices)]


def _of_segment(segment: str) -> list[list[str]]:
    """`a**b` is `a*b` or `a*/**/*b`; `**b` is `**/*b`; `a**` is `a*/**`."""
    head, star, tail = segment.partition("**")
    if not star or segment == "**":
        return [[segment]]
    if "**" in tail.strip("*") or (head and tail.strip("*") and tail.endswith("**")):
        raise ValueError(f"The glob segment {segment[:80]!r} has `**` twice; write `*/**/*` between segments.")
    if not head and tail.endswith("**"):
        return [["**", f"*{tail.strip('*')}*", "**"]]
    if not head:
        return [["**", f"*{tail.lstrip('*')}"]]
    tail = tail.lstrip("*")
    return [[f"{head}*", "**", f"*{tail}"], [f"{head}*{tail}"]] if tail else [[f"{head}*", "**"]]
