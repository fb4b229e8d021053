"""The size of a pickle's content before it is loaded: torch's safe loader prints what it refuses, however long."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any

GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
FILLING = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
"""Operations that put their operands into the object below them, which stays on the stack."""

MOST_PICKLES = 5
"""Number of consecutive pickles before the tensors' values in torch.save's old format."""

Node = list[Any]
"""An object of a pickle, as the list of its parts."""


def count_values(file: IO[bytes]) -> float:
    """The largest number of values in any object of a file's pickles, with references expanded.

    Infinite if an object contains itself. Reads the first ``MOST_PICKLES`` pickles, up to any damage, which is where
    torch's loader stops as well.
    """
    everything: Node = []
    try:
        for _ in range(MOST_PICKLES):
            _collect(file, everything)
    except (ValueError, LookupError, TypeError, OverflowError, struct.error):
        pass
    return _largest(everything)


def _collect(file: IO[bytes], everything: Node) -> None:
    stack: list[Node | None] = []  # None: a mark
    memo: dict[Any, Node | None] = {}
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name in PUTS:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in GETS:
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = list(_taken(stack, operation))
            if name in FILLING:
                filled = stack[-1] if stack else None
                if filled is not None:
                    filled += taken
            else:
                made = [node for node in taken if node is not None]
                everything.append(made)
                stack += [made] * len(operation.stack_after)


def _taken(stack: list[Node | None], operation: pickletools.OpcodeInfo) -> Iterator[Node | None]:
    """Pop the operation's operands: all down to a mark, or a fixed number; a container being filled stays."""
    if pickletools.markobject in operation.stack_before:
        while (node := stack.pop()) is not None:
            yield node
    else:
        for _ in operation.stack_before[1 if operation.name in FILLING else 0 :]:
            yield stack.pop()


def _largest(nodes: Sequence[Node]) -> float:
    known: dict[int, float] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting[-1]
        if id(node) not in known:
            known[id(node)] = float("inf")  # an object met again before its size is known contains itself
            waiting += [part for part in node if part is not None and id(part) not in known]
        else:
            waiting.pop()
            known[id(node)] = 1 + sum(known[id(part)] for part in node if part is not None)
    return max(known.values(), default=0)
