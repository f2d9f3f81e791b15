"""Finding and reading the Python source of Kernel Python functions."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import seqfault
from seqfault.compile.ir import CompileError
from seqfault.compile.outline import Outline, code_nodes, nodes_of, outline_of, text_file, type_text
from seqfault.kernel.places import Place
from seqfault.kernel.types import KernelTypeError, PtrType, Struct, Type, as_type

Func = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Source:
    """A function's text, with line numbers of its file, and what its names mean.

    `tree`: gives its syntax tree, which not everything needs.
    """

    fn: Func
    name: str
    file: str
    outline: Outline
    text: str
    scope: Mapping[str, Any]
    params: tuple[tuple[str, Any], ...]
    results: tuple[Any, ...]
    tree: Callable[[], ast.FunctionDef]

    @property
    def line(self) -> int:
        """Of its `def`."""
        return self.outline.line

    @cached_property
    def node(self) -> ast.FunctionDef:
        """Its tree."""
        return self.tree()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of its tree with more in it than its kind."""
        return nodes_of([self.node])

    @cached_property
    def code(self) -> list[ast.AST]:
        """`code_nodes` of its tree."""
        return code_nodes(self.node)

    @cached_property
    def used(self) -> list[Any]:
        """The types that it names, the places, structs and functions of the text that it uses."""
        out: list[Any] = [t for _, t in self.params] + list(self.results)
        out += [_type(t, self.scope, self.file) for t in self.outline.locals]
        for name in self.outline.free:
            v = self.scope.get(name)
            if isinstance(v, Place | Struct) or (inspect.isfunction(v) and not hasattr(v, "__kernel_word__")):
                out.append(v)
        return out

    def meaning(self) -> str:
        """Where it is, its text, and the numbers that its names stand for: what is compiled of it."""
        numbers = [f"{k}={self.scope[k]}" for k in self.outline.names if isinstance(self.scope.get(k), int)]
        return f"{self.file}:{self.line}\n{self.text}{numbers}"

    def instead(self, tree: ast.FunctionDef, text: str) -> Source:
        """The same function with another text."""
        return replace(self, outline=outline_of(tree), text=text, tree=lambda: tree)


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
    _instead[fn] = src.instead(tree, ast.unparse(tree))
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
            raise CompileError(src.file, src.line, f"{src.name} is replaced by no function", "use def")
        ast.increment_lineno(tree, src.line - tree.lineno)
        _instead[fn] = src.instead(tree, text)
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)


def source_of(fn: Func) -> Source:
    """Read a function.  Raises `CompileError` when it has no source or its signature is not typed."""
    return _instead.get(fn) or _read(fn)


def _by_lines(fn: Func, file: str) -> tuple[str, ast.stmt]:
    """Text and tree of a function that is defined in another."""
    try:
        lines, first = inspect.getsourcelines(fn)
    except OSError as e:
        raise CompileError(file, 0, f"the source of {fn.__name__} cannot be read: {e}") from None
    text = textwrap.dedent("".join(lines))
    tree = ast.parse(text)
    ast.increment_lineno(tree, first - 1)
    return text, tree.body[0]


def _written(fn: Func, path: str, name: str) -> tuple[Outline, str, Callable[[], ast.FunctionDef]]:
    """A function's outline, its text, and what gives its tree."""
    first = fn.__code__.co_firstlineno
    file = text_file(path)
    if first in file.outlines:
        return file.outlines[first], file.text(first), lambda: file.trees[first]
    text, node = _by_lines(fn, path)
    if not isinstance(node, ast.FunctionDef):
        raise CompileError(name, first, f"{type(node).__name__} where a function was expected", "use def")
    return outline_of(node), text, lambda: node


@cache
def _read(fn: Func) -> Source:
    path = inspect.getsourcefile(fn) or "?"
    file = short_file(path)
    o, text, tree = _written(fn, path, file)
    scope = dict(fn.__globals__)
    if fn.__closure__:
        for k, c in zip(fn.__code__.co_freevars, fn.__closure__, strict=True):
            scope[k] = c.cell_contents
    if not o.positional:
        raise CompileError(
            file, o.line, f"{o.name} has default, keyword or variable arguments", "pass each by position"
        )
    params = []
    for name, line, t in o.params:
        if t is None:
            raise CompileError(file, line, f"parameter {name!r} of {o.name} has no type", f"write `{name}: type`")
        params.append((name, _type(t, scope, file)))
    results: tuple[Any, ...] = ()
    if o.returns is not None:
        r = _type(o.returns, scope, file)
        results = r if isinstance(r, tuple) else (r,)
    return Source(fn, o.name, file, o, text, scope, tuple(params), results, tree)


def _type(written: tuple[int, str], scope: Mapping[str, Any], file: str) -> Any:
    """What the text of an annotation, on a line, means."""
    line, text = written
    try:
        return as_type(text, scope, f"{file}:{line}")
    except KernelTypeError as e:
        raise CompileError(file, line, f"{text!r} is no type of Kernel Python", str(e).split("; ")[-1]) from None


def annotation(node: ast.expr, src: Source) -> Any:
    """The type that an annotation inside a function names."""
    return _type((node.lineno, type_text(node)), src.scope, src.file)


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
    ordered = sorted(seen.values(), key=lambda s: (s.file, s.line))
    return ordered, sorted(structs.values(), key=lambda s: s.name)
