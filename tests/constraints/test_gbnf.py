"""GBNF: llama.cpp's own grammars, and thousands of random ones beside the definition of a language.

The oracle computes the language of a grammar itself: for every rule the set of its texts up to a
length, again and again until nothing is added.
"""

from __future__ import annotations

import itertools
import json
import random

import pytest

from rbee_worker.constraints.compiled import GrammarFault
from rbee_worker.constraints.gbnf import lark_of_gbnf
from rbee_worker.constraints.unheld import Unheld
from tests.constraints.accepting import Accepting

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
LIST = r"""
root ::= item+

# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
CHESS = r"""
root   ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move   ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn   ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""
KNOWN = [
    (JSON, ['{"a": [1, 2.5e3, {"b":null}], "é":"\\n"}', "{}", '{"a":{}}', '{\n  "x": []}'],
     ['{"a"}', "[1]", '{"a":1,}', '{"a":"\n"}']),
    (ARITHMETIC, ["1+2=3\n", "a*(b +2 )=x\n", "1=1\n2=2\n", "(a)= \n3\n\n\n"],
     ["1+=2\n", "1", "a=b"]),
    (LIST, ["- a\n", "- a - b\n- cé\n"], ["- \n", "- a", "a\n"]),
    (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n", "1. O-O exd5\n10. e8=Q# Kh1\n"],
     ["1. e4 e5\n", "1. e9 e5\n2. a1 a1\n"]),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "yes", "no"), KNOWN)
def test_grammars_of_llamacpp(grammar: str, yes: list[str], no: list[str]) -> None:
    admits = Accepting("gbnf", grammar)
    assert [admits(text) for text in yes] == [True] * len(yes)
    assert [admits(text) for text in no] == [False] * len(no)


WRITTEN = [
    (r'root ::= "\x41\u00e9\U0001F600\n\"\\"', ['Aé😀\n"\\'], ["A"]),
    (r"root ::= [^a-c\]\-^]{2}", ["dd", "é "], ["da", "]d", "-d", "^d"]),
    (r"root ::= [a\-c-]+", ["a-c"], ["b"]),
    ("root ::= . .", ["\n😀"], ["a"]),
    ('root ::= ("a" | "b"){2,3} # what\n  | "c"{2,}', ["ab", "bab", "ccc"], ["a", "c"]),
    ('root ::= a-b_c\na-b_c ::= ("x"?)', ["x", ""], ["xx"]),
    ('root ::= ""', [""], ["a"]),
    ('root ::= x* ("y" x)?\nx ::= "(" x ")" | ', ["", "()y", "(())"], ["(", "yy"]),
    ('root ::=\n  (\n "a"\n  |\n "b" )\n', ["a"], ["c"]),
    ('root ::= a{0}"b"\na ::= "a"', ["b"], ["ab"]),
]


@pytest.mark.parametrize(("grammar", "yes", "no"), WRITTEN)
def test_what_can_be_written(grammar: str, yes: list[str], no: list[str]) -> None:
    admits = Accepting("gbnf", grammar)
    assert [admits(text) for text in yes] == [True] * len(yes)
    assert [admits(text) for text in no] == [False] * len(no)


WRONG = [
    ('root ::= "a', "line 1"),
    ('root ::= "b"\nx ::= foo', "line 2 of the grammar: there is no rule foo"),
    ('root := "a"', "line 1"),
    ('other ::= "b"', "no rule root"),
    ('root ::= "a" )', "')' is not expected"),
    ('root ::= (("a")', "not closed"),
    ("root ::= [z-a]", "z-a is empty"),
    (r'root ::= "\q"', "no escape"),
    (r'root ::= "\ud800"', "no character"),
    ('root ::= "a"{3,1}', "at most 10000"),
    ('root ::= "a"{99999}', "at most 10000"),
    ('root ::= "a"{x}', "no number of times"),
    ("root ::= []", "without characters"),
    ('root ::= "a"\nroot ::= "b"', "twice"),
    ('root ::= <think> "a"', "cannot be read"),
    ("root ::= " + "(" * 200 + '"a"' + ")" * 200, "parentheses"),
    ("root ::= " + '"a" ' * 6000, "parts"),
]


@pytest.mark.parametrize(("grammar", "why"), WRONG)
def test_what_cannot_be_read_says_where(grammar: str, why: str) -> None:
    with pytest.raises(Unheld) as caught:
        lark_of_gbnf(grammar)
    assert why in caught.value.message


# ---- random grammars, and their languages by definition

LONGEST = 5
LETTERS = "ab"
Tree = tuple  # ("word", text), ("ref", name), ("repeat", tree, low, high), ("seq" or "alt", trees)


def tree(dice: random.Random, names: list[str], depth: int) -> Tree:
    kind = dice.choice(
        ["word", "word", "ref", "repeat", "seq", "alt"] if depth else ["word", "ref"]
    )
    if kind == "word":
        return ("word", "".join(dice.choices(LETTERS, k=dice.choice([1, 1, 2, 3]))))
    if kind == "ref":
        return ("ref", dice.choice(names))
    if kind == "repeat":
        low, high = dice.choice([(0, None), (1, None), (0, 1), (2, 2), (1, 3)])
        return ("repeat", tree(dice, names, depth - 1), low, high)
    return (kind, [tree(dice, names, depth - 1) for _ in range(dice.choice([2, 2, 3]))])


def written(node: Tree) -> str:
    if node[0] == "word":
        return json.dumps(node[1])
    if node[0] == "ref":
        return str(node[1])
    if node[0] == "repeat":
        return f"({written(node[1])}){{{node[2]},{'' if node[3] is None else node[3]}}}"
    return "(" + (" " if node[0] == "seq" else " | ").join(map(written, node[1])) + ")"


def after(one: set[str], other: set[str]) -> set[str]:
    return {x + y for x in one for y in other if len(x) + len(y) <= LONGEST}


def texts(node: Tree, known: dict[str, set[str]]) -> set[str]:
    if node[0] == "word":
        return {node[1]} if len(node[1]) <= LONGEST else set()
    if node[0] == "ref":
        return known[node[1]]
    if node[0] == "alt":
        return set().union(*(texts(part, known) for part in node[1]))
    if node[0] == "seq":
        found = {""}
        for part in node[1]:
            found = after(found, texts(part, known))
        return found
    item, low, high = texts(node[1], known), node[2], node[3]
    found, power = set(), {""}
    for n in range(LONGEST + low + 1 if high is None else high + 1):
        if n >= low:
            found |= power
        power = after(power, item)
    return found


def languages(rules: dict[str, Tree]) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {name: set() for name in rules}
    while (new := {name: texts(rule, known) for name, rule in rules.items()}) != known:
        known = new
    return known


def compare(seeds: range) -> tuple[int, int]:
    """How many grammars with a text were compared, and how many of them were refused: the library
    fails on some rules that lead to nothing but themselves."""
    every = ["".join(t) for n in range(LONGEST + 1) for t in itertools.product(LETTERS, repeat=n)]
    compared = refused = 0
    for seed in seeds:
        dice = random.Random(seed)
        names = ["root", "x", "y", "z"][: dice.choice([1, 2, 3, 4])]
        rules = {name: tree(dice, names, dice.choice([1, 2, 3])) for name in names}
        known = languages(rules)
        if not all(known.values()):
            continue  # a rule leads nowhere: answers could get stuck
        want = known["root"]
        grammar = "\n".join(f"{name} ::= {written(rule)}" for name, rule in rules.items())
        compared += 1
        try:
            admits = Accepting("gbnf", grammar)
        except GrammarFault as fault:
            refused += "library failed" in str(fault)
            continue
        got = {text for text in every if admits(text)}
        assert got == want, (seed, grammar, sorted(got ^ want))
    return compared, refused


def test_random_grammars_have_their_language() -> None:
    compared, refused = compare(range(600))
    assert compared > 150
    assert refused <= compared * 0.02


@pytest.mark.slow
def test_many_random_grammars_have_their_language() -> None:
    compared, refused = compare(range(1000, 6000))
    assert compared > 1600
    assert refused <= compared * 0.02


@pytest.mark.long
def test_very_many_random_grammars_have_their_language() -> None:
    compared, refused = compare(range(6000, 26_000))
    assert compared > 6600
    assert refused <= compared * 0.02
