"""Regular expressions that mean the same to whoever checks the answer.

`\\d`, `\\w` and `\\s` match ASCII characters in some dialects (JavaScript, RE2) and those of all
scripts in others (Python, Rust). Here each becomes what it matches in both: in ASCII alone, and
where it is negated, nothing that the wider one would match.
"""

from __future__ import annotations

from rbee_worker.constraints.unheld import Unheld

_ASCII = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}


def portable(pattern: str) -> str:
    """`pattern` with its classes of digits, word characters and blanks written out. Raises Unheld
    for one that ends within an escape."""
    out: list[str] = []
    inside = negated = False  # a class [...]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 == len(pattern):
            raise Unheld("ends with a backslash that has nothing behind it", "")
        if char == "\\":
            name = pattern[at + 1]
            members = _ASCII.get(name)
            if members is None or negated:  # [^\d] must not match any digit
                out.append(char + name)
            else:
                out.append(members if inside else f"[{members}]")
            at += 2
            continue
        if char == "[" and not inside:
            inside, negated = True, pattern[at + 1 : at + 2] == "^"
            start = at + 1 + negated
            if pattern[start : start + 1] == "]":  # a first ] is a member
                out.append(pattern[at:start] + "\\]")
                at = start + 1
                continue
        elif char == "[":
            out.append("\\[")  # no class inside a class, as in Python and JavaScript
            at += 1
            continue
        elif char == "]" and inside:
            inside = negated = False
        out.append(char)
        at += 1
    return "".join(out)
