"""Damage and malice that any file can carry: bytes, text, and JSON or YAML documents.

Every mutator takes a generator, a file's content and other valid files, and gives a new content; the same generator
gives the same one again.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

Mutator = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

MOST_BYTES = 2**24
"""No mutated file is larger, unless it already was."""
NESTED = 100_000
OUTSIDE = "../../outside"
"""Relative to the folder that a reader is asked to read: the folder that it must not touch."""
CLIMBING = (
    *(f"{OUTSIDE}/secret.txt", f"{OUTSIDE}/secret.mp4", f"{OUTSIDE}/new", "../..", "..", "/", "/etc/passwd", "."),
    *("C:\\x", "..\\..\\outside\\new", f"file:{OUTSIDE}/secret.txt", "memory://outside/new", "foo://x", "-", "~"),
)
NUMBERS = (
    *("nan", "NaN", "inf", "-Infinity", "-1", "0", "-0.0", "1e308", "-1e308", "1e999", "5e-324", "0.5", "1_0"),
    *("2147483648", "4294967295", "9223372036854775808", "18446744073709551616", "-9223372036854775809", "0x10"),
    *(f"1{'0' * 400}", "9" * 5000, "9" * 100_000, f"0.{'3' * 5000}", f"1e{'9' * 50}", "１２", "1:2:3:4", ""),
)
TEXTS = (
    *("", " ", '"', "'", '"\n"', ",,,,,,,,", "\t", "\r", "\n\n", "\x00", "a\x00b", "\x1b[2J", "\ufeff", "\u2028"),
    *("🧥" * 300, "\ud800", "<b>&amp;", "{{x}}", "%s%n", "$(touch new)", "null", "None", "true", "all", "x" * 100_000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [{}], {"": None}, -1, 0, 0.5, 1e308, float("nan"), float("inf"), -(2.0**70)),
    *(2**31, 2**63, 2**64, -(2**63) - 1, 10**400, [0] * 10_000, {"x": {"y": {"z": []}}}, [[[[[[1]]]]]]),
)
"""Replacements for a value of a document."""
RAW = {
    "nested": "[" * NESTED,
    "closed": "[" * NESTED + "]" * NESTED,
    "objects": '{"a":' * NESTED,
    "digits": "9" * 5000,
    "many digits": "9" * 200_000,
    "large": "1e999",
    "not a number": "NaN",
    "half": '"\\ud800"',
    "twice": '{"a": 1, "a": 2}',
}
"""Replacements that no library would write, inserted via placeholders when the document becomes text."""
RAW_YAML = {
    **{name: RAW[name] for name in ("nested", "closed", "digits", "many digits")},
    "itself": "&itself [*itself]",
    "itself as key": "&itself {? *itself : 1}",
    "code": "!!python/object/apply:os.mkdir [new]",
    "name": "!!python/name:os.system",
    "unknown": "*nowhere",
    "tag": "!whatever {a: 1}",
    "date": "2020-99-99",
    "moment": "2001-12-14t21:59:43.10-25:00",
    "base 60": ":".join(["59"] * 20_000),
    "binary": "!!binary '*'",
    "integer": "!!int x",
    "list as key": "{? [a] : 1}",
    "merge": "{<<: 3}",
    "set": "!!set {a, b}",
    "pairs": "!!omap [a: 1, b]",
}


# Bytes ---------------------------------------------------------------------------------------------------------------


def _place(rng: random.Random, content: bytes) -> int:
    """Anywhere, but more often near the ends, where headers and indices are."""
    end = len(content)
    if rng.random() < 0.5:
        return rng.randrange(end + 1)
    near = min(end, int(rng.paretovariate(0.5)))
    return rng.choice((near, end - near))


def _range(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = _place(rng, content)
    return start, min(len(content), start + int(4 * rng.paretovariate(0.4)))


def flip_bytes(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _number in range(rng.choice((1, 1, 1, 3, 20, 200)) if content else 0):
        place = min(_place(rng, content), len(content) - 1)
        changed[place] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(256)
    return bytes(changed)


def fill_range(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _range(rng, content)
    size = min(end - start, 2**20)
    filling = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return content[:start] + filling + content[start + size :]


def cut(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _range(rng, content)
    return rng.choice((content[:start], content[:start], content[start:], content[:start] + content[end:]))


def double_chunk(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _range(rng, content)
    times = rng.choice((1, 1, 2, 50, 1000))
    return (content[:end] + content[start:end] * min(times, MOST_BYTES // max(1, end - start)) + content[end:])[
        : max(MOST_BYTES, len(content))
    ]


def splice(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    if rng.random() < 0.2:
        return other
    return content[: _place(rng, content)] + other[_place(rng, other) :]


def insert(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, content)
    garbage = rng.choice((b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xf0\x28\x8c\x28", rng.randbytes(40)))
    return content[:place] + garbage + content[place:]


def blow_up_field(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A large number where a length, a count or an offset may be."""
    size, order = rng.choice((1, 2, 4, 4, 8, 8)), rng.choice("<>")
    values = (
        2 ** (8 * size) - 1,
        2 ** (8 * size - 1) - 1,
        2 ** (8 * size - 1),
        2 ** (8 * size - 4),
        rng.getrandbits(8),
    )
    place = max(0, min(_place(rng, content), len(content) - size))
    field = rng.choice(values).to_bytes(size, "little" if order == "<" else "big")
    return content[:place] + field + content[place + size :]


def nothing(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return rng.choice((b"", content[:1], bytes(1000), b"\n"))


BYTES: tuple[Mutator, ...] = (
    *(flip_bytes, flip_bytes, flip_bytes, fill_range, cut, cut, double_chunk, splice, insert, blow_up_field),
    *(blow_up_field, nothing),
)

# Text ----------------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_][\w./-]*")
_FIELD = re.compile(rb"[^,;\t\n\"'<>={}\[\]: ]+")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _replace(rng: random.Random, content: bytes, pattern: re.Pattern[bytes], replacement: bytes) -> bytes:
    found = [match.span() for match, _ in zip(pattern.finditer(content), range(5000), strict=False)]
    if not found:
        return content + replacement
    if rng.random() < 0.1:
        return pattern.sub(lambda match: replacement if rng.random() < 0.2 else match[0], content[:100_000])
    start, end = rng.choice(found)
    return content[:start] + replacement + content[end:]


def blow_up_number(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return _replace(rng, content, _NUMBER, _encoded(rng.choice(NUMBERS)))


def change_word(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return _replace(rng, content, rng.choice((_WORD, _FIELD)), _encoded(rng.choice((*TEXTS, *NUMBERS))))


def climb(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return _replace(rng, content, rng.choice((_WORD, _FIELD)), _encoded(rng.choice(CLIMBING)))


def nest(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Deep nesting, open or closed, somewhere in the text."""
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ("(", ")"), ("<a>", "</a>"), ('"', '"'), ("- ", "")))
    depth = rng.choice((300, 5000, NESTED))
    nested = opening * depth + (closing * depth if rng.random() < 0.5 else "")
    place = _place(rng, content)
    return content[:place] + nested.encode() + content[place:]


def change_lines(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    lines = content.splitlines(keepends=True) or [b"\n"]
    place = rng.randrange(len(lines))
    times = min(rng.choice((2, 50, 5000)), MOST_BYTES // len(lines[place]))
    choices = (
        [*lines[:place], *lines[place + 1 :]],
        [*lines[:place], *[lines[place]] * times, *lines[place + 1 :]],
        [*lines[:place], b"x" * rng.choice((10_000, 2_000_000)), *lines[place:]],
        rng.sample(lines, len(lines)),
        [line.rstrip(b"\r\n") for line in lines],
    )
    return b"".join(rng.choice(choices))[: max(MOST_BYTES, len(content))]


def encode_otherwise(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    text = content.decode("utf-8", "replace")
    encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp037"))
    return text.encode(encoding, "replace")


TEXT: tuple[Mutator, ...] = (
    *(blow_up_number, blow_up_number, blow_up_number, change_word, change_word, climb, nest, change_lines),
    *(encode_otherwise, insert),
)

# Documents -----------------------------------------------------------------------------------------------------------


def _change_node(rng: random.Random, document: Any, marks: Sequence[str]) -> Any:
    """One node replaced, left out, renamed or duplicated; ``marks`` stand for what only text can express."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting and len(places) < 3000:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    new = rng.choice((*VALUES, *TEXTS, *CLIMBING, *marks, *marks))
    if not places or rng.random() < 0.03:
        return new
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        node[key] = new
    elif action < 0.8:
        del node[key]
    elif action < 0.9 and isinstance(node, dict):
        node[new if isinstance(new, str) else str(new)[:5000]] = node.pop(key)
    elif isinstance(node, list):
        node.extend([node[key]] * rng.choice((1, 2000)))
    else:
        node[key] = [node[key]]
    return document


def change_json(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return flip_bytes(rng, content, others)
    marks = {f"@{name}@": raw for name, raw in RAW.items()}
    text = json.dumps(_change_node(rng, document, tuple(marks)), ensure_ascii=rng.random() < 0.5)
    for mark, raw in marks.items():
        text = text.replace(f'"{mark}"', raw)
    return _encoded(text)


def change_yaml(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    try:
        document = yaml.safe_load(content)
    except (ValueError, RecursionError, yaml.YAMLError):
        return flip_bytes(rng, content, others)
    bomb, last = yaml_bomb(rng)
    marks = {
        f"@{name}@": raw for name, raw in (RAW_YAML | {"bomb": f"*{last}", "bombs": f"[*{last}, *{last}]"}).items()
    }
    changed = _change_node(rng, document, tuple(marks))
    text = yaml.safe_dump(changed, allow_unicode=True, sort_keys=False)
    text = (bomb if "bomb" in text and isinstance(changed, dict) else "") + text
    for mark, raw in marks.items():
        text = text.replace(f"'{mark}'", raw)
    return _encoded(text)


def yaml_bomb(rng: random.Random) -> tuple[str, str]:
    """Keys whose values refer to each other ten times over, and the name of the last: "a billion laughs"."""
    depth, kind = rng.choice((3, 9, 40)), rng.choice(("lists", "mappings", "merges"))
    lines = [f"bomb0: &bomb0 {'{a: 1}' if kind == 'merges' else '[lol, lol]'}"]
    for level in range(1, depth):
        names = [f"*bomb{level - 1}"] * 10
        value = {
            "lists": f"[{', '.join(names)}]",
            "mappings": f"{{{', '.join(f'k{n}: {name}' for n, name in enumerate(names))}}}",
            "merges": f"{{<<: [{', '.join(names)}]}}",
        }[kind]
        lines.append(f"bomb{level}: &bomb{level} {value}")
    return "\n".join(lines) + "\n", f"bomb{depth - 1}"
