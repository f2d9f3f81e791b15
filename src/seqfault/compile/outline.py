"""What may be told of a function from its text alone, without its tree: kept in the cache by the text of its file.

A program's key needs each function that it can call, and of each only its names and types.  To parse the files for
that takes longer than everything else that the key needs.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
from collections.abc import Container
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from seqfault.compile.cache import keep_object, kept_object
from seqfault.compile.digest import files_digest


@dataclass(frozen=True)
class Outline:
    """One function.

    `line`: of its `def`; `end`: its last one; `params`: (name, line, type) of each, the type None where none is
    written; `returns`: what it returns, None without; `locals`: the types of its locals; `names`: every name that it
    reads; `free`: those of its code that are not its own; `positional`: each parameter is passed by position and has no
    default.  A type is (line, text).
    """

    name: str
    line: int
    end: int
    params: tuple[tuple[str, int, tuple[int, str] | None], ...]
    returns: tuple[int, str] | None
    locals: tuple[tuple[int, str], ...]
    names: tuple[str, ...]
    free: tuple[str, ...]
    positional: bool


class TextFile:
    """A Python file as it was read: outlines and trees of the functions that lie in no other, by their first line."""

    def __init__(self, lines: list[str]):
        self.lines = lines

    @cached_property
    def trees(self) -> dict[int, ast.FunctionDef]:
        """Each definition's tree; none of a file that is no Python."""
        try:
            body = ast.parse("".join(self.lines)).body
        except SyntaxError:
            return {}
        return {first_line(n): n for n in body if isinstance(n, ast.FunctionDef)}

    @cached_property
    def outlines(self) -> dict[int, Outline]:
        """Each definition's outline, from the cache where the same text was read before."""
        if not self.lines:
            return {}
        name = f"{_key(''.join(self.lines))}.outlines"
        known = kept_object(name)
        if isinstance(known, dict):
            return known
        made = {first: outline_of(tree) for first, tree in self.trees.items()}
        keep_object(name, made)
        return made

    def text(self, first: int) -> str:
        """A definition, as it is written."""
        return "".join(self.lines[first - 1 : self.outlines[first].end])


def _key(text: str) -> str:
    return hashlib.sha256(f"{_mine()} {text}".encode()).hexdigest()[:32]


@cache
def _mine() -> str:
    return files_digest([Path(__file__)], repr(sys.version_info[:2]))


_read: dict[str, TextFile] = {}


def text_file(path: str) -> TextFile:
    """A file, read again if it has changed."""
    linecache.checkcache(path)
    lines = linecache.getlines(path)
    known = _read.get(path)
    if known is None or known.lines is not lines:
        known = _read[path] = TextFile(lines)
    return known


def first_line(tree: ast.FunctionDef) -> int:
    """The line where a definition begins, with its decorators."""
    return min([tree.lineno, *(d.lineno for d in tree.decorator_list)])


def outline_of(tree: ast.FunctionDef) -> Outline:
    """The outline of a function's tree."""
    code = code_nodes(tree)
    apart = [n.annotation for n in code if isinstance(n, ast.AnnAssign)]
    a = tree.args
    rest = nodes_of([*apart, a, *tree.decorator_list, *([tree.returns] if tree.returns else [])])
    mine = {p.arg for p in a.args} | {n.id for n in code if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    r = tree.returns
    return Outline(
        tree.name,
        tree.lineno,
        tree.end_lineno or tree.lineno,
        tuple((p.arg, p.lineno, (p.annotation.lineno, type_text(p.annotation)) if p.annotation else None)
              for p in a.args),
        None if r is None or (isinstance(r, ast.Constant) and r.value is None) else (r.lineno, type_text(r)),
        tuple((n.lineno, type_text(n)) for n in apart),
        tuple(sorted({n.id for n in (*code, *rest) if isinstance(n, ast.Name)})),
        tuple(sorted({n.id for n in code if isinstance(n, ast.Name)} - mine)),
        not (a.vararg or a.kwarg or a.kwonlyargs or a.defaults or a.posonlyargs),
    )  # fmt: skip


def type_text(node: ast.expr) -> str:
    """The text of an annotation, in quotes or not."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node)


def code_nodes(tree: ast.AST) -> list[ast.AST]:
    """Every node of a function that is executed: not its annotations."""
    return nodes_of(list(getattr(tree, "body", [])), {"annotation"})


def nodes_of(work: list[ast.AST], apart: Container[str] = ()) -> list[ast.AST]:
    """Nodes and everything below them, but for what is in fields named in `apart`."""
    out: list[ast.AST] = []
    while work:
        n = work.pop()
        out.append(n)
        for name in INNER[type(n)]:
            v = getattr(n, name, None)
            if isinstance(v, list):
                work += [x for x in v if isinstance(x, ast.AST)]
            elif name not in apart and isinstance(v, ast.AST):
                work.append(v)
    return out


LEAVES = frozenset({"arg", "attr", "ctx", "id", "kind", "name", "op", "ops", "simple", "type_comment"})


class _Inner(dict[type[ast.AST], tuple[str, ...]]):
    """The fields of a kind of node in which there may be nodes with more in them than their kind."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        self[kind] = () if kind is ast.Constant else tuple(f for f in kind._fields if f not in LEAVES)
        return self[kind]


INNER = _Inner()
