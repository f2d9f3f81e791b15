"""Variants: a protocol changed by a few lines, in a TOML file.

    protocol = "spf-v5"
    title = "the count does not move for next"
    without = ["__vma_adjust/next.begin"]           # sites that are taken out (seqfault why PROTOCOL --sites)
    fields = ["vm_area_struct.vm_unmap: seqcount_t"]  # fields that it adds

    [at]                                            # what is done at a place of the mm text, instead of what was
    "unmap_page_range/begin" = "write_seqcount_begin(vma.vm_unmap)"

    [in.vma_has_changed]                            # in a function of the text: this stands where that stood
    "seq != sequence" = "seq != sequence or vma.vm_unmap.sequence & 1 != 0"

A scenario's setup is run without the changes of `without` and `in`.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import pkgutil
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import seqfault.kernel
import seqfault.mm
from seqfault.kernel.places import Place, Protocol
from seqfault.kernel.types import STRUCTS, KernelTypeError, as_type

KEYS = {"protocol", "title", "without", "fields", "at", "in"}


class VariantError(Exception):
    """A variant that cannot be read; the message is one line that says where, what and how to mend it."""


def read(path: str, load: Callable[[str], Protocol]) -> Protocol:
    """The protocol that a variant file makes; `load` finds the one that it changes.  Raises `VariantError`."""
    try:
        d = tomllib.loads(Path(path).read_text())
    except OSError as e:
        raise VariantError(f"{path}: {e.strerror}; name a variant's TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise VariantError(f"{path}: {e}; a variant is a TOML file, see docs/why.md") from None
    extra = sorted(set(d) - KEYS)
    if extra:
        raise VariantError(f"{path}: unknown key {extra[0]!r}; known are {', '.join(sorted(KEYS))}")
    if not isinstance(d.get("protocol"), str):
        raise VariantError(f'{path}: no protocol; write protocol = "spf-v5"')
    whole = load(d["protocol"])
    if whole.without or whole.base:
        raise VariantError(f"{path}: protocol = {d['protocol']!r}: name one that nothing is taken out of; use without")
    scope = names_of(whole)
    places = {v.name: v for v in scope.values() if isinstance(v, Place)}
    changed = [known(places, name, path, "no place of the mm text is named") for name in d.get("at", {})]
    p = whole.derive(path, str(d.get("title", "")) or f"a variant of {whole.name}", whole.doc, without=tuple(changed))
    p.file = path
    p.instead = dict(whole.instead)
    p.without = tuple(d.get("without", ()))
    if p.without:
        p.sites, p.base = True, path
    for text in d.get("fields", ()):
        m = re.fullmatch(r"\s*(\w+)\.(\w+)\s*:\s*(.+)", str(text))
        if not m or m[1] not in STRUCTS:
            raise VariantError(f'{path}: fields: {text!r}; write for example "vm_area_struct.vm_unmap: seqcount_t"')
        try:
            p.add_field(STRUCTS[m[1]], m[2], as_type(m[3], scope, path))
        except KernelTypeError as e:
            raise VariantError(str(e)) from None
    for name, body in d.get("at", {}).items():
        p.binds[places[name]] = function_at(places[name], str(body), scope, path)
    for name, edits in d.get("in", {}).items():
        fn = known({k: v for k, v in scope.items() if inspect.isfunction(v)}, name, path, "no function is named")
        p.instead[fn] = edited(fn, edits, path)
    return p


def known(table: Mapping[str, Any], name: str, path: str, what: str) -> Any:
    if name in table:
        return table[name]
    near = get_close_matches(name, table, 3)
    raise VariantError(f"{path}: {what} {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))


def modules_of(package: ModuleType) -> list[ModuleType]:
    """The modules of a package, imported."""
    names = (m.name for m in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{n}") for n in names]


def names_of(p: Protocol) -> dict[str, Any]:
    """What a variant's lines may name: the text of the kernel and of mm, and all that the protocol's file names."""
    out: dict[str, Any] = {}
    for m in (*modules_of(seqfault.kernel), *modules_of(seqfault.mm)):
        out |= vars(m)
    for fn in p.binds.values():
        out |= fn.__globals__
    own = next((m for m in list(sys.modules.values()) if p.file and getattr(m, "__file__", None) == p.file), None)
    return out | (vars(own) if own is not None else {})


def function_at(place: Place, body: str, scope: Mapping[str, Any], path: str) -> Callable[..., Any]:
    """A function with a place's parameters and these lines."""
    name = "at_" + re.sub(r"\W", "_", place.name)
    given = inspect.signature(place.default)
    params = ", ".join(f"{n}: {x.annotation}" for n, x in given.parameters.items())
    back = "" if given.return_annotation is inspect.Signature.empty else f" -> {given.return_annotation}"
    lines = "\n".join(s.strip() if ";" in s else s for s in textwrap.dedent(body).replace("; ", "\n").splitlines())
    text = f"def {name}({params}){back}:\n{textwrap.indent(lines or 'pass', '    ')}\n"
    file = f"{path} [at {place.name}]"
    try:
        code = compile("from __future__ import annotations\n" + text, file, "exec")
    except SyntaxError as e:
        raise VariantError(f"{path}: at {place.name!r}: {e.msg}: {(e.text or '').strip()!r}") from None
    full = ("from __future__ import annotations\n" + text).splitlines(True)
    linecache.cache[file] = (sum(map(len, full)), None, full, file)
    space = dict(scope)
    exec(code, space)
    return space[name]  # type: ignore[no-any-return]


def edited(fn: Callable[..., Any], edits: Mapping[str, str], path: str) -> str:
    """The text of a function with some of it replaced."""
    text = textwrap.dedent(inspect.getsource(fn))
    for old, new in edits.items():
        if text.count(old) != 1:
            raise VariantError(
                f"{path}: in {fn.__name__}: {old!r} stands there {text.count(old)} times; it must be once"
                " (seqfault text prints a function)"
            )
        text = text.replace(old, str(new))
    try:
        compile(text, path, "exec")
    except SyntaxError as e:
        raise VariantError(f"{path}: in {fn.__name__}: {e.msg}: {(e.text or '').strip()!r}") from None
    return text
