"""`seqfault text`: a function of the mm text with a protocol's calls filled in at their places."""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from seqfault.compile.source import Source, body_of, is_empty, source_of
from seqfault.kernel.places import Place, Protocol
from seqfault.protocols.variants import modules_of


class _Rename(ast.NodeTransformer):
    def __init__(self, to: Mapping[str, ast.expr]):
        self.to = to

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copy.deepcopy(self.to[node.id]) if node.id in self.to else node


def filled(call: ast.Call, fn: Callable[..., Any]) -> list[str]:
    """The statements of a place's function, with the arguments of `call` put in."""
    src = source_of(fn)
    names = {p: a for (p, _), a in zip(src.params, call.args, strict=True)}
    out: list[str] = []
    for s in body_of(src):
        out += ast.unparse(ast.fix_missing_locations(_Rename(names).visit(copy.deepcopy(s)))).splitlines()
    return out


def place_called(node: ast.AST, src: Source) -> tuple[Place, ast.Call] | None:
    """The place that a call expression names, if any."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        v = src.scope.get(node.func.id)
        if isinstance(v, Place):
            return v, node
    return None


def function_text(fn: Callable[..., Any], protocol: Protocol) -> list[tuple[int, str, str]]:
    """The lines of a function as (line of the file, text, site name or "").

    A statement that is a call of a place is replaced by what the protocol does there, or left out; a place inside an
    expression stays, and what it means follows the function.
    """
    src = source_of(fn)
    lines = src.text.rstrip("\n").split("\n")
    first = src.node.lineno - 1
    if src.node.decorator_list:
        first = src.node.decorator_list[0].lineno - 1
    replaced: dict[int, tuple[int, list[tuple[str, str]]]] = {}
    tail: list[tuple[int, str, str]] = []
    shown: set[Place] = set()
    only = {
        id(body[0])
        for n in ast.walk(src.node)
        for body in (getattr(n, "body", None), getattr(n, "orelse", None))
        if isinstance(body, list) and len(body) == 1
    }
    for stmt in ast.walk(src.node):
        if isinstance(stmt, ast.Expr):
            hit = place_called(stmt.value, src)
            if hit:
                place, call = hit
                fn2 = protocol.binds.get(place, place.default)
                indent = " " * stmt.col_offset
                body = [] if is_empty(source_of(fn2)) else filled(call, fn2)
                if not body and id(stmt) in only:
                    body = ["pass"]
                end = stmt.end_lineno or stmt.lineno
                replaced[stmt.lineno] = (end, [(indent + b, place.name) for b in body])
    for node in ast.walk(src.node):
        hit = place_called(node, src)
        if hit and getattr(node, "lineno", 0) not in replaced and hit[0] not in shown:
            shown.add(hit[0])
            fn2 = protocol.binds.get(hit[0], hit[0].default)
            tail.append((0, "", ""))
            tail.append((0, f"# {hit[0].__name__} is the place {hit[0].name}; {protocol.name} has there:", ""))
            s2 = source_of(fn2)
            tail += [(s2.node.lineno + i, t, hit[0].name) for i, t in enumerate(undecorated(s2))]
    out: list[tuple[int, str, str]] = []
    n = first + 1
    skip_to = 0
    for i, text in enumerate(lines):
        n = first + 1 + i
        if n < skip_to:
            continue
        if n in replaced:
            last, filling = replaced[n]
            out += [(n, t, site) for t, site in filling]
            skip_to = last + 1
        else:
            out.append((n, text, ""))
    return out + tail


def undecorated(src: Source) -> list[str]:
    lines = src.text.rstrip("\n").split("\n")
    return lines[next(i for i, x in enumerate(lines) if x.lstrip().startswith("def ")) :]


def functions_of(modules: list[ModuleType]) -> dict[str, Callable[..., Any]]:
    """Name -> function of the text's modules."""
    out: dict[str, Callable[..., Any]] = {}
    for m in modules:
        for k, v in vars(m).items():
            if callable(v) and getattr(v, "__module__", "") == m.__name__ and hasattr(v, "__code__"):
                out.setdefault(k, v)
    return out


def text_modules() -> list[ModuleType]:
    """The modules of mm and of the language."""
    import seqfault.kernel
    import seqfault.mm

    return [*modules_of(seqfault.mm), *modules_of(seqfault.kernel)]


def all_functions(p: Protocol) -> dict[str, Callable[..., Any]]:
    """Name -> function, of the mm text, of the modules that a protocol's own functions are in, and of places."""
    own = [sys.modules[n] for n in dict.fromkeys(f.__module__ for f in p.binds.values()) if n in sys.modules]
    modules = [*text_modules(), *own]
    fns = functions_of(modules)
    fns |= {f.__name__: f for f in p.binds.values() if f.__name__ not in fns}
    for m in modules:
        for v in vars(m).values():
            if isinstance(v, Place):
                fns.setdefault(v.default.__name__, v.default)
    return fns
