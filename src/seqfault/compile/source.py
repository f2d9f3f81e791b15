"""Finding and reading the Python source of Kernel Python functions."""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import seqfault
from seqfault.compile.ir import CompileError
from seqfault.kernel.places import Place
from seqfault.kernel.types import KernelTypeError, PtrType, Struct, Type, as_type

Func = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A function's tree, with line numbers of its file, and what its names mean."""

    fn: Func
    name: str
    file: str
    node: ast.FunctionDef
    text: str
    scope: Mapping[str, Any]
    params: tuple[tuple[str, Any], ...]
    results: tuple[Any, ...]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of its tree with more in it than its kind."""
        return nodes_of([self.node])

    @cached_property
    def code(self) -> list[ast.AST]:
        """`code_nodes` of its tree."""
        return code_nodes(self.node)

    @cached_property
    def names(self) -> set[str]:
        """Every name that the function reads."""
        t = self.node
        apart = [n.annotation for n in self.code if isinstance(n, ast.AnnAssign)]
        rest = nodes_of([*apart, t.args, *t.decorator_list, *([t.returns] if t.returns else [])])
        return {n.id for n in (*self.code, *rest) if isinstance(n, ast.Name)}

    @cached_property
    def used(self) -> list[Any]:
        """The types that it names, the places, structs and functions of the text that it uses."""
        out: list[Any] = [t for _, t in self.params] + list(self.results)
        out += [_annotation(n.annotation, self.scope, self.file) for n in self.code if isinstance(n, ast.AnnAssign)]
        names = [n for n in self.code if isinstance(n, ast.Name)]
        local = {p for p, _ in self.params} | {n.id for n in names if isinstance(n.ctx, ast.Store)}
        for name in {n.id for n in names} - local:
            v = self.scope.get(name)
            if isinstance(v, Place | Struct) or (inspect.isfunction(v) and not hasattr(v, "__kernel_word__")):
                out.append(v)
        return out


def short_file(path: str) -> str:
    """A file's name as shown: relative to the package, or to the current directory where it lies there."""
    package = os.path.dirname(os.path.abspath(seqfault.__file__)) + os.sep
    if path.startswith(package):
        return path[len(package) :]
    rel = os.path.relpath(path)
    return path if rel.startswith("..") else rel


_instead: dict[Func, Source] = {}


@contextmanager
def instead(fn: Func, tree: ast.FunctionDef) -> Iterator[None]:
    """While it is open, `fn` is compiled from `tree`: for mutants.  Its name, parameters and file stay."""
    src = _read(fn)
    _instead[fn] = replace(src, node=tree, text=ast.unparse(tree))
    try:
        yield
    finally:
        del _instead[fn]


@contextmanager
def replaced(texts: Mapping[Func, str]) -> Iterator[None]:
    """While it is open, these functions are compiled from these texts, whose lines are counted as before."""
    before = dict(_instead)
    for fn, text in texts.items():
        src = _read(fn)
        tree = ast.parse(text).body[0]
        if not isinstance(tree, ast.FunctionDef):
            raise CompileError(src.file, src.node.lineno, f"{src.name} is replaced by no function", "use def")
        ast.increment_lineno(tree, src.node.lineno - tree.lineno)
        _instead[fn] = replace(src, node=tree, text=text)
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)


def source_of(fn: Func) -> Source:
    """Read a function.  Raises `CompileError` when it has no source or its signature is not typed."""
    return _instead.get(fn) or _read(fn)


_parsed: dict[str, tuple[list[str], dict[int, ast.stmt]]] = {}


def _at_top(file: str, first: int) -> tuple[str, ast.stmt, int] | None:
    """Text and tree of the definition at a line of a file, if it is not inside another; a file is parsed once."""
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    if file not in _parsed or _parsed[file][0] is not lines:
        try:
            body = ast.parse("".join(lines)).body
        except SyntaxError:
            body = []
        defs = [n for n in body if isinstance(n, ast.FunctionDef)]
        _parsed[file] = lines, {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in defs}
    node = _parsed[file][1].get(first)
    if node is None or node.end_lineno is None:
        return None
    return "".join(lines[first - 1 : node.end_lineno]), node, first


def _by_lines(fn: Func, file: str) -> tuple[str, ast.stmt, int]:
    try:
        lines, first = inspect.getsourcelines(fn)
    except OSError as e:
        raise CompileError(file, 0, f"the source of {fn.__name__} cannot be read: {e}") from None
    text = textwrap.dedent("".join(lines))
    tree = ast.parse(text)
    ast.increment_lineno(tree, first - 1)
    return text, tree.body[0], first


@cache
def _read(fn: Func) -> Source:
    file = inspect.getsourcefile(fn) or "?"
    text, node, first = _at_top(file, fn.__code__.co_firstlineno) or _by_lines(fn, file)
    name = short_file(file)
    if not isinstance(node, ast.FunctionDef):
        raise CompileError(name, first, f"{type(node).__name__} where a function was expected", "use def")
    scope = dict(fn.__globals__)
    if fn.__closure__:
        for k, c in zip(fn.__code__.co_freevars, fn.__closure__, strict=True):
            scope[k] = c.cell_contents
    a = node.args
    if a.vararg or a.kwarg or a.kwonlyargs or a.defaults or a.posonlyargs:
        raise CompileError(
            name, node.lineno, f"{node.name} has default, keyword or variable arguments", "pass each by position"
        )
    params = []
    for p in a.args:
        if p.annotation is None:
            raise CompileError(
                name, p.lineno, f"parameter {p.arg!r} of {node.name} has no type", f"write `{p.arg}: type`"
            )
        params.append((p.arg, _annotation(p.annotation, scope, name)))
    results: tuple[Any, ...] = ()
    if node.returns is not None and not (isinstance(node.returns, ast.Constant) and node.returns.value is None):
        r = _annotation(node.returns, scope, name)
        results = r if isinstance(r, tuple) else (r,)
    return Source(fn, node.name, name, node, text, scope, tuple(params), results)


def _annotation(node: ast.expr, scope: Mapping[str, Any], file: str) -> Any:
    if isinstance(node, ast.Name):
        src = node.id
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        src = node.value
    else:
        src = ast.unparse(node)
    try:
        return as_type(src, scope, f"{file}:{node.lineno}")
    except KernelTypeError as e:
        raise CompileError(file, node.lineno, f"{src!r} is no type of Kernel Python", str(e).split("; ")[-1]) from None


def annotation(node: ast.expr, src: Source) -> Any:
    """The type that an annotation inside a function names."""
    return _annotation(node, src.scope, src.file)


def lookup(name: str, src: Source) -> Any:
    """What a global name means in a function; raises KeyError."""
    if name in src.scope:
        return src.scope[name]
    import builtins

    return getattr(builtins, name) if name in ("min", "max", "range", "len", "int", "bool") else _missing(name)


def _missing(name: str) -> Any:
    raise KeyError(name)


def body_of(src: Source) -> list[ast.stmt]:
    """The statements of a function without its docstring."""
    b = src.node.body
    if b and isinstance(b[0], ast.Expr) and isinstance(b[0].value, ast.Constant) and isinstance(b[0].value.value, str):
        return b[1:]
    return b


def is_empty(src: Source) -> bool:
    return all(isinstance(s, ast.Pass) for s in body_of(src))


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


def reach(entries: Iterable[Func], binds: Mapping[Place, Func]) -> tuple[list[Source], list[Struct]]:
    """Every function that `entries` can call, with places bound, and every struct they name."""
    seen: dict[Func, Source] = {}
    structs: dict[str, Struct] = {}
    work = list(entries)

    def note(t: Any) -> None:
        if isinstance(t, PtrType):
            t = t.target
        if isinstance(t, Struct):
            structs[t.name] = t
        elif isinstance(t, Type) and hasattr(t, "elem"):
            note(t.elem)

    while work:
        fn = work.pop()
        if fn in seen:
            continue
        src = source_of(fn)
        seen[fn] = src
        for v in src.used:
            if isinstance(v, Place):
                work.append(binds.get(v, v.default))
            elif inspect.isfunction(v):
                work.append(v)
            else:
                note(v)
    ordered = sorted(seen.values(), key=lambda s: (s.file, s.node.lineno))
    return ordered, sorted(structs.values(), key=lambda s: s.name)
