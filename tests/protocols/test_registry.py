"""Finding protocols: built-in ones by name, a user's by file; whatever is wrong is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqfault.mm.fullsize import release_number
from seqfault.protocols import Protocol, ProtocolError, builtin_names, is_baseline, load

GOOD = """
from seqfault.kernel import Protocol, ptr
from seqfault.mm.places import unmap_page_range_begin
from seqfault.mm.types import vm_area_struct

PROTOCOL = Protocol("mine", "a test")


@PROTOCOL.at(unmap_page_range_begin)
def nothing(vma: ptr[vm_area_struct]):
    pass
"""


def test_builtin_ones_load_once_and_say_what_they_are() -> None:
    assert {"mmap-sem", "spf-seed", "spf-v5", "spf-04-alone"} <= set(builtin_names())
    for name in builtin_names():
        p = load(name)
        assert isinstance(p, Protocol) and p is load(name)
        assert p.name == name and p.title and release_number(p.release) == p.sizes.get("LINUX", 412)
        assert p.doc.startswith(f"{name}: ") and Path(p.file).is_file()
        assert len(p.title) <= 80


def test_a_users_file(tmp_path: Path) -> None:
    f = tmp_path / "my_protocol.py"
    f.write_text(GOOD)
    p = load(str(f))
    assert p.name == "mine" and len(p.binds) == 1 and p.file == str(f)
    assert p is load(str(f))


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1\n", "defines no PROTOCOL"),
        ("PROTOCOL = 3\n", "not a Protocol"),
        ("def f(:\n", ":1: "),
        ("import nosuchmodule\n", "ModuleNotFoundError"),
        (
            GOOD.replace("(vma: ptr[vm_area_struct])", "()"),
            "takes 0 arguments, but unmap_page_range/begin passes 1",
        ),
        (GOOD + "\nPROTOCOL.at(unmap_page_range_begin)(nothing)\n", "bound already"),
        (GOOD + "\nPROTOCOL.at(nothing)(nothing)\n", "is not a place of the text"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    f = tmp_path / "broken.py"
    f.write_text(text)
    with pytest.raises(ProtocolError) as e:
        load(str(f))
    assert message in str(e.value) and "broken.py" in str(e.value)
    assert "\n" not in str(e.value)


def test_unknown_names() -> None:
    with pytest.raises(ProtocolError, match="did you mean spf-seed"):
        load("spf-sed")
    with pytest.raises(ProtocolError, match="there are mmap-sem, "):
        load("xyz")
    with pytest.raises(ProtocolError, match="no such file"):
        load("no/such/file.py")


def test_mmap_sem_of_a_release() -> None:
    p = load("mmap-sem-6.4")
    assert p is load("mmap-sem-6.4") and p.sizes["LINUX"] == 604 and p.release == "6.4"
    assert is_baseline(p) and is_baseline(load("mmap-sem"))
    assert not is_baseline(load("per-vma-lock")) and not is_baseline(load("mmap-sem-6.4-without=sys_mmap/down_write"))
    for name, why in (("mmap-sem-six", "'six' is no release"), ("mmap-sem-4.12", "leave -4.12 out")):
        with pytest.raises(ProtocolError, match=why):
            load(name)
