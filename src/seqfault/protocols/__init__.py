"""Protocols: one file each.  `load` finds a built-in one by name, or a user's by its file.

A protocol's file defines ``PROTOCOL = Protocol(name, title, ...)`` and binds functions to places of the mm
text; its docstring says which patch or release it is, and what in it is reconstructed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from difflib import get_close_matches
from types import ModuleType

from seqfault.kernel.places import Protocol
from seqfault.mm.fullsize import release_number
from seqfault.protocols import variants

BUILTIN = {
    "mmap-sem": "mmap_sem",
    "spf-seed": "spf_seed",
    "spf-v5": "spf_v5",
    "spf-v11": "spf_v11",
    "spf-v12": "spf_v12",
    "mmap-seq": "mmap_seq",
    "per-vma-lock": "per_vma_lock",
    "vm-refcnt": "vm_refcnt",
    "spf-04-alone": "spf_04_alone",
    "spf-seed-no-next": "spf_seed_no_next",
}


class ProtocolError(Exception):
    """A protocol cannot be loaded; the message is one line that says why."""


_by_file: dict[str, Protocol] = {}
BASELINE = "mmap-sem"  # what every other protocol is held against
FIRST_RELEASE = "4.12"
WITHOUT = "-without="  # PROTOCOL-without=SITE,SITE


def builtin_names() -> list[str]:
    """Names of the protocols that come with seqfault."""
    return list(BUILTIN)


def baseline_name(release: str) -> str:
    """mmap-sem on the text of a release, as `load` takes it: ``mmap-sem``, ``mmap-sem-6.4``."""
    return BASELINE if release == FIRST_RELEASE else f"{BASELINE}-{release}"


def is_baseline(p: Protocol) -> bool:
    """Whether a protocol is mmap-sem, on whatever text, and whole."""
    return p.name == baseline_name(p.release)


def baseline(name: str) -> Protocol:
    """``mmap-sem-RELEASE``.  Raises `ProtocolError`."""
    if name not in _by_file:
        release = name.removeprefix(f"{BASELINE}-")
        try:
            linux = release_number(release)
        except ValueError as e:
            raise ProtocolError(str(e)) from None
        if name != baseline_name(release):
            raise ProtocolError(f"{name}: that is {BASELINE} itself; leave -{release} out")
        p = load(BASELINE).derive(name, f"every fault under mmap_sem (Linux {release})", load(BASELINE).doc)
        p.release, p.sizes["LINUX"] = release, linux
        _by_file[name] = p
    return _by_file[name]


def load(name: str) -> Protocol:
    """The protocol of that name, or of that file (anything that ends in .py or has a slash), or of a variant's file
    (.toml, variants.py).  ``mmap-sem-RELEASE``: on the text of another release.

    ``PROTOCOL-without=SITE,SITE``: with sites taken out (`seqfault why PROTOCOL --sites` lists them).  The same object
    each time.  Raises `ProtocolError`.
    """
    whole, without, sites = name.partition(WITHOUT)
    if without:
        if not all(sites.split(",")):
            raise ProtocolError(f"{name}: name a site after {WITHOUT} (seqfault why {whole} --sites lists them)")
        return with_sites(whole, tuple(sites.split(",")))
    if name.endswith(".toml"):
        path = os.path.abspath(name)
        if path not in _by_file:
            try:
                _by_file[path] = variants.read(name, load)
            except variants.VariantError as e:
                raise ProtocolError(str(e)) from None
        return _by_file[path]
    if name.startswith(f"{BASELINE}-"):
        return baseline(name)
    if name in BUILTIN:
        module = importlib.import_module(f"seqfault.protocols.{BUILTIN[name]}")
        return _of(module, f"protocol {name}")
    if name.endswith(".py") or os.sep in name:
        path = os.path.abspath(name)
        if path not in _by_file:
            _by_file[path] = _of(_module_of(name, path), name)
        return _by_file[path]
    near = get_close_matches(name, BUILTIN, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BUILTIN)}; or give a .py file"
    raise ProtocolError(f"no protocol named {name!r}; {hint}")


def with_sites(name: str, without: tuple[str, ...] = (), causes: bool = False) -> Protocol:
    """A protocol that is compiled with a switch at each site, with these taken out; `causes`: also with notes of which
    section moved each count last.  The same object each time.

    Raises `ProtocolError`; whether there are such sites is known when it is compiled."""
    whole = load(name)
    key = f"{name}{WITHOUT}{','.join(sorted(set(without)))}{' causes' if causes else ''}"
    if key not in _by_file:
        p = whole.derive(key if without else whole.name, whole.title, whole.doc)
        p.causes = causes
        p.sites, p.without, p.base = True, tuple(sorted({*without, *whole.without})), name
        _by_file[key] = p
    return _by_file[key]


def _module_of(name: str, path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise ProtocolError(f"{name}: no such file")
    # The module must stay findable: structs, the compiler and `inspect` look their source up by it.
    module_name = f"seqfault_protocol_{len(_by_file)}_{os.path.basename(path).removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ProtocolError(f"{name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        del sys.modules[module_name]
        raise ProtocolError(f"{name}{f':{e.lineno}' if e.lineno else ''}: {e.msg}") from None
    except Exception as e:
        del sys.modules[module_name]
        raise ProtocolError(f"{name}{_line_in(e, path)}: {_one_line(e)}") from e
    return module


def _line_in(e: Exception, path: str) -> str:
    """Which line of the user's file raised it."""
    line = ""
    tb = e.__traceback__
    while tb:
        if os.path.abspath(tb.tb_frame.f_code.co_filename) == path:
            line = f":{tb.tb_lineno}"
        tb = tb.tb_next
    return line


def _one_line(e: Exception) -> str:
    text = " ".join(str(e).split())
    return f"{type(e).__name__}: {text}" if text else type(e).__name__


def _of(module: ModuleType, name: str) -> Protocol:
    p = getattr(module, "PROTOCOL", None)
    if not isinstance(p, Protocol):
        what = "defines no PROTOCOL" if p is None else "has a PROTOCOL that is not a Protocol"
        raise ProtocolError(f'{name}: {what}; write PROTOCOL = Protocol("my-protocol", "what it does")')
    p.file = p.file or module.__file__ or ""
    p.doc = p.doc or module.__doc__ or ""
    return p


__all__ = [
    "BASELINE",
    "BUILTIN",
    "FIRST_RELEASE",
    "WITHOUT",
    "Protocol",
    "ProtocolError",
    "baseline_name",
    "builtin_names",
    "is_baseline",
    "load",
    "with_sites",
]
