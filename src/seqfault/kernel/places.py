"""Places: where a text lets a protocol do something, and protocols: what they do there.

The mm text calls a place like a function.  A place has a body of its own (often nothing); a protocol
binds another to it.  An empty place compiles to nothing.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqfault.kernel.machine import current, running
from seqfault.kernel.types import KernelTypeError, Struct


class Place:
    """A point in the text with a stable site name, e.g. ``unmap_page_range/begin``."""

    def __init__(self, name: str, default: Callable[..., Any]):
        self.name, self.default = name, default
        self.__name__ = default.__name__
        self.__doc__ = default.__doc__

    def __call__(self, *args: Any) -> Any:
        fn = current().binds.get(self, self.default) if running() else self.default
        return fn(*args)

    def __repr__(self) -> str:
        return f"place {self.name}"


def place(name: str) -> Callable[[Callable[..., Any]], Place]:
    """Declare a place: ``@place("unmap_page_range/begin")`` above the function that is its default."""

    def make(f: Callable[..., Any]) -> Place:
        return Place(name, f)

    return make


@dataclass
class Protocol:
    """A locking protocol: what happens at the places of the mm text.

    `name`: as on the command line.  `title`: one line.  `release`: the Linux release whose text it
    runs on.  `binds`: place -> function.  `fields`: struct name -> {field: type} that it adds.
    `sizes`: sizes it needs other than the defaults.  `speculative`: the counter of
    successes without the address-space lock ("" if the protocol has no such path).  `locks`: what it adds to the table
    of locks (a `Discipline` of mm/locks.py), or None.  `processes`: the text of each process of a small model, which
    has nothing to do with the mm text; its `sizes` are all that it has.  `sites`: it is compiled with a switch at each
    site; `without`: which sites are taken out.
    """

    name: str
    title: str = ""
    release: str = "4.12"
    doc: str = ""
    speculative: str = ""
    binds: dict[Place, Callable[..., Any]] = field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    file: str = ""
    locks: Any = None
    processes: tuple[Callable[..., Any], ...] = ()
    typesafe: tuple[str, ...] = ()  # structs whose memory keeps its type when freed (SLAB_TYPESAFE_BY_RCU)
    sites: bool = False
    without: tuple[str, ...] = ()
    causes: bool = False  # also with notes of which section moved each count last
    instead: dict[Callable[..., Any], str] = field(default_factory=dict)  # functions of the text -> the text instead
    base: str = ""  # of one that sites are taken out of: how the command line names the whole

    def at(self, *places: Place) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Bind the decorated function to `places`.  Raises `KernelTypeError` when its arguments differ
        in number from the place's, or the place is bound already."""

        def bind(f: Callable[..., Any]) -> Callable[..., Any]:
            for p in places:
                if not isinstance(p, Place):
                    raise KernelTypeError(f"{self.name}: {p!r} is not a place of the text; see seqfault.mm.places")
                want = len(inspect.signature(p.default).parameters)
                have = len(inspect.signature(f).parameters)
                if want != have:
                    raise KernelTypeError(
                        f"{self.name}: {f.__name__} takes {have} arguments, but {p.name} passes {want}"
                    )
                if p in self.binds:
                    raise KernelTypeError(f"{self.name}: {p.name} is bound already; unbind it first")
                self.binds[p] = f
            return f

        return bind

    def add_field(self, s: Struct, name: str, t: Any) -> None:
        """Add a field to a struct of the mm text, for this protocol only."""
        self.fields.setdefault(s.name, {})[name] = t

    def derive(self, name: str, title: str, doc: str = "", without: tuple[Place, ...] = ()) -> Protocol:
        """A variant: a copy under another name, with the places of `without` empty again."""
        binds = {p: f for p, f in self.binds.items() if p not in without}
        fields = {s: dict(f) for s, f in self.fields.items()}
        return Protocol(
            name, title, self.release, doc, self.speculative, binds, fields, dict(self.sizes), self.file, self.locks,
            self.processes, self.typesafe, instead=dict(self.instead),
        )  # fmt: skip

    def unbind(self, *places: Place) -> None:
        """Make places empty again (their default)."""
        for p in places:
            self.binds.pop(p, None)


def is_empty(f: Callable[..., Any]) -> bool:
    """Whether a function's body is only a docstring or ``pass``."""
    tree = ast.parse(_dedent(f))
    fn = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    return all(
        isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in fn.body
    )


def _dedent(f: Callable[..., Any]) -> str:
    import textwrap

    return textwrap.dedent(inspect.getsource(f))


Sizes = Mapping[str, int]
