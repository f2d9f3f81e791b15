"""What is known of a function without its tree: as its tree says, read again where the file has changed, and a program
is named by its text whether the cache has it or not."""

from __future__ import annotations

import ast
import inspect
import os
from dataclasses import replace
from pathlib import Path

import pytest

from modules import load
from seqfault.compile import outline, source
from seqfault.compile.ir import CompileError
from seqfault.compile.outline import TextFile, outline_of, text_file
from seqfault.explore.model import program_for
from seqfault.protocols import load as protocol
from seqfault.scenarios import find

PACKAGE = Path(inspect.getfile(source)).parent.parent
TEXTS = sorted(str(f.relative_to(PACKAGE)) for f in (PACKAGE / "mm").glob("*.py"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_trees(self: TextFile) -> dict:
    raise AssertionError("parsed")


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_kept_is_what_the_tree_says(name: str, monkeypatch: pytest.MonkeyPatch):
    lines = (PACKAGE / name).read_text().splitlines(keepends=True)
    made = TextFile(lines)
    texts = {first: made.text(first) for first in made.outlines}
    assert made.outlines == {first: outline_of(tree) for first, tree in made.trees.items()}
    monkeypatch.setattr(TextFile, "trees", property(no_trees))
    again = TextFile(lines)
    assert again.outlines == made.outlines
    assert {first: again.text(first) for first in again.outlines} == texts


def test_names_are_what_python_says():
    """Python's own compiler, of the globals that a function uses; it does not count annotations of locals."""
    for name in TEXTS:
        f = TextFile((PACKAGE / name).read_text().splitlines(keepends=True))
        code = compile("".join(f.lines), name, "exec")
        inner = {c.co_firstlineno: c for c in code.co_consts if inspect.iscode(c)}
        for first, o in f.outlines.items():
            if not o.positional:
                continue  # no Kernel Python
            c = inner[first]
            attributes = {n.attr for n in ast.walk(f.trees[first]) if isinstance(n, ast.Attribute)}
            assert set(o.free) - attributes == set(c.co_names) - attributes, o.name
            assert set(o.free) <= set(o.names)
            assert c.co_varnames[: c.co_argcount] == tuple(p[0] for p in o.params)


def test_a_program_is_named_by_its_text(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def key() -> str:
        source._read.cache_clear()
        outline._read.clear()
        program = program_for(protocol("spf-v5"), find(["argued/case1-alone"])[0])
        return replace(program, _keys={}, _reach=None, _layout=None).key("merged")

    first = key()
    kept = sorted(folder.glob("*.outlines"))
    assert len(kept) > 20
    with monkeypatch.context() as m:
        m.setattr(TextFile, "trees", property(no_trees))
        assert key() == first
    for f in kept:
        f.write_bytes(f.read_bytes()[:50])
    assert key() == first
    monkeypatch.setenv("SEQFAULT_CACHE", "/proc/nowhere")
    assert key() == first


def test_a_file_that_has_changed_is_read_again(tmp_path: Path):
    path = tmp_path / "changing.py"
    path.write_text("def f(a: int):\n    return a + b\n")
    assert text_file(str(path)).outlines[1].free == ("b",)
    assert text_file(str(path)) is text_file(str(path))
    path.write_text("def f(a: int):\n    return a + cc\n")
    os.utime(path, (1, 1))
    assert text_file(str(path)).outlines[1].free == ("cc",)


def test_what_is_no_python_has_no_outlines(tmp_path: Path):
    path = tmp_path / "broken.py"
    path.write_text("def f(a: int:\n")
    assert text_file(str(path)).outlines == {} == text_file(str(tmp_path / "missing.py")).outlines


def test_what_a_signature_lacks_is_said_with_its_line(tmp_path: Path):
    path = tmp_path / "lacking.py"
    path.write_text("def f(a: int,\n      b):\n    pass\n\n\ndef g(a: int = 3):\n    pass\n")
    m = load(path, "lacking")
    with pytest.raises(CompileError, match=r"lacking\.py:2: parameter 'b' of f has no type"):
        source.source_of(m.f)
    with pytest.raises(CompileError, match=r"lacking\.py:6: g has default"):
        source.source_of(m.g)
