"""What is outside the language is refused in one line: file, line, the construct, and how to write it instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules import load
from seqfault.compile.ir import CompileError
from seqfault.compile.program import Process, Program, compile_program

HEAD = """from seqfault.kernel import *
from seqfault.kernel.spinlock import *

@struct(pool=3)
class node:
    n: integer(0, 7)
    next: ptr["node"]

@struct(pool=1)
class top:
    x: integer(0, 7)
    y: integer(0, 7)
    flag: bool
    head: ptr[node]
    arr: array[integer(0, 7), 4]
    lock: spinlock_t

def value() -> integer(0, 7):
    return 1

def pair() -> tuple[integer(0, 7), bool]:
    return 1, True

"""
# body of `def entry():` after `t = the(top)`, and what the message must say
BODIES = {
    "try": ("try:\n    t.x = 1\nexcept ValueError:\n    pass", "try"),
    "lambda": ("f = lambda: 1", "Lambda"),
    "comprehension": ("t.x = [1 for i in range(3)]", "ListComp"),
    "f-string": ('t.x = f"{t.y}"', "JoinedStr"),
    "float": ("t.x = 1.5", "1.5"),
    "string": ('t.x = "a"', "'a'"),
    "while-else": ("while t.x > 3:\n    t.x = 0\nelse:\n    t.y = 1", "else of a loop"),
    "for-list": ("for i in (1, 2):\n    t.x = i", "range"),
    "for-step": ("for i in range(0, 4, t.x):\n    t.y = i", "not a constant"),
    "keyword": ("t.x = min(1, b=2)", "keyword"),
    "use-before": ("if t.x:\n    v = 1\nt.y = v", "'v' may be used before"),
    "struct-assign": ("t.lock = t.lock", "whole struct"),
    "pointer-arithmetic": ("t.x = t.head + 1", "pointer"),
    "is": ("if t.head is NULL:\n    t.x = 1", "Is"),
    "in": ("if t.x in (1, 2):\n    t.y = 1", "In"),
    "slice": ("t.x = t.arr[1:2]", "slices"),
    "global": ("global z\nt.x = 1", "global"),
    "nested": ("def g():\n    pass", "functiondef"),
    "relax": ("cpu_relax()", "outside a spin loop"),
    "spin-two": ("while t.x == 0 and t.y == 0:\n    cpu_relax()", "several accesses"),
    "wait-two": ("wait_for(t.x == 0 and t.y == 0)", "several accesses"),
    "tuple-count": ("a, b, c = pair()\nt.x = a", "2 values for 3 names"),
    "tuple-as-value": ("t.x = pair()", "returns 2 values"),
    "field": ("t.z = 1", "no field 'z'"),
    "name": ("t.x = unknown_name", "'unknown_name' is not defined"),
    "pointer-type": ("t.head = t", "ptr[node]"),
    "pointer-int": ("t.head = 3", "pointer"),
    "chained-assign": ("a = b = 1", "chained"),
    "and-value": ("t.x = t.x + 1 and t.y", "inside and/or"),
    "null-untyped": ("p = NULL\nt.head = p", "first assigned NULL"),
    "method": ("t.arr.append(1)", "call functions by their name"),
    "with": ("with open('x'):\n    t.x = 1", "atomic"),
    "index": ("t.x = t.arr[4]", "outside an array of 4"),
    "args": ("t.x = value(1)", "takes 0 arguments"),
    "true-division": ("t.x = t.y / 2", "Div"),
    "power": ("t.x = t.y ** 2", "Pow"),
    "compare-mixed": ("t.flag = t.head == 1", "pointer is compared with a number"),
    "choose": ("t.x = choose(t.y)", "positive constant"),
    "raise": ("raise ValueError", "raise"),
    "delete": ("del t", "delete"),
}
FUNCTIONS = {
    "default": ("def f(a: integer(0, 7) = 1):\n    pass\n\ndef entry():\n    f(1)", "default"),
    "untyped": ("def f(a):\n    pass\n\ndef entry():\n    f(1)", "no type"),
    "bad-type": ("def f(a: str):\n    pass\n\ndef entry():\n    f(1)", "no type of Kernel Python"),
    "recursion": ("def entry():\n    t = the(top)\n    for i in range(2):\n        t.x = 1\n    again()\n\ndef again():\n    t = the(top)\n    for i in range(2):\n        t.x = 1\n    more()\n\ndef more():\n    t = the(top)\n    for i in range(2):\n        t.x = 2\n    again()", "recursion"),
    "direct-recursion": ("def f(n: integer(0, 7)):\n    if n > 0:\n        f(n - 1)\n\ndef entry():\n    f(3)", "f"),
    "calls-another-entry": ("def entry():\n    t = the(top)\n    t.x = 1\n    other()\n\ndef other():\n    t = the(top)\n    for i in range(2):\n        t.x = 1\n    for i in range(3):\n        t.x = 2", "other() is what a process"),
    "no-return": ("def f(a: integer(0, 7)) -> integer(0, 7):\n    if a > 1:\n        return 1\n\ndef entry():\n    t = the(top)\n    t.x = f(t.y)", "without returning"),
    "undeclared-result": ("def f(a: integer(0, 7)):\n    return 1\n\ndef entry():\n    f(1)", "declares none"),
}  # fmt: skip


def compile_text(text: str, tmp_path: Path, name: str) -> None:
    f = tmp_path / f"bad_{name.replace('-', '_')}.py"
    f.write_text(text)
    mod = load(f, f.stem)
    others = [Process(mod.other, 1)] if hasattr(mod, "other") else []
    compile_program(Program("t", [Process(mod.entry, 0), *others]))


@pytest.mark.parametrize("name", list(BODIES))
def test_refused(name: str, tmp_path: Path):
    body, message = BODIES[name]
    text = HEAD + "def entry():\n    t = the(top)\n" + "\n".join("    " + x for x in body.split("\n")) + "\n"
    with pytest.raises(CompileError) as e:
        compile_text(text, tmp_path, name)
    said = str(e.value)
    assert message in said and f"bad_{name.replace('-', '_')}.py:" in said and "\n" not in said
    assert e.value.line > text[: text.index("def entry")].count("\n")


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_refused_function(name: str, tmp_path: Path):
    text, message = FUNCTIONS[name]
    with pytest.raises(CompileError) as e:
        compile_text(HEAD + text + "\n", tmp_path, name)
    assert message in str(e.value) and ".py:" in str(e.value) and "\n" not in str(e.value)


def test_accepted(tmp_path: Path):
    """The same frame with a lawful body compiles."""
    compile_text(HEAD + "def entry():\n    t = the(top)\n    a, b = pair()\n    t.x = a if b else value()\n", tmp_path, "good")
