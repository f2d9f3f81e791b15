"""Compiled loops: an entry gives what the function does, is kept, and is made again where it was damaged."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from seqfault.compile.jit import SUFFIX, Compiled, in_python, make_jit

CHECK = "check", "spf-seed", "-s", "argued/case8-alone", "--examples", "0"


def total(a, k):  # type: ignore[no-untyped-def]
    s = a[0] * k
    for i in range(1, a.shape[0]):
        s += a[i]
    return s


def fill(a, v):  # type: ignore[no-untyped-def]
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] = v + 10 * i + j


def several(x, y, up):  # type: ignore[no-untyped-def]
    if up:
        return x + 1, y * 2, x > 3
    return x - 1, y / 2, x < 3


def same(x):  # type: ignore[no-untyped-def]
    return x


def zeros(n):  # type: ignore[no-untyped-def]
    return np.zeros(n, np.int32)


def room(n):  # type: ignore[no-untyped-def]
    a = np.zeros(n, np.int64)
    for i in range(n):
        a[i] = i
    return a.sum()


@pytest.fixture
def jit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], Compiled]:
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path / "cache"))
    return make_jit("test", [Path(__file__)])


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob(f"*{SUFFIX}"))


ARRAYS = [
    np.arange(5, dtype=np.int64),
    np.arange(5, dtype=np.int32),
    np.arange(5, dtype=np.uint8),
    np.arange(5, dtype=np.uint64) + np.uint64((1 << 64) - 9),
    np.arange(5) / 4,
    np.arange(20)[::4],
    np.frombuffer(bytes(range(16)), np.int64),
]


@pytest.mark.parametrize("a", ARRAYS, ids=lambda a: f"{a.dtype}-{a.strides[0]}-{a.flags.writeable}")
def test_arrays_of_each_type(a: Any, jit: Any) -> None:
    k = a.dtype.type(1)
    with np.errstate(over="ignore"):
        want = total(a.astype(np.float64 if a.dtype.kind == "f" else np.uint64 if a.dtype == np.uint64 else np.int64), k)
    got = jit(total)(a, k)
    assert got == want
    assert type(got) is (float if a.dtype.kind == "f" else int)


def test_what_is_written_is_seen(jit: Any) -> None:
    a, b = np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64)
    assert jit(fill)(a, 7) is None
    fill(b, 7)
    assert (a == b).all()
    part = np.zeros((3, 4), np.int32)[:, 1:3]  # rows with something between them
    jit(fill)(part, 7)
    assert (part == b).all()
    jit(fill)(a[:0], 7)


@pytest.mark.parametrize("args", [(3, 1.5, True), (-(1 << 63), 0.0, False), (np.int64(9), np.float64(-2), np.bool_(1))])
def test_tuples(args: tuple[Any, ...], jit: Any) -> None:
    with np.errstate(over="ignore"):
        want = several(np.int64(args[0]), *args[1:])
    got = jit(several)(*args)
    assert got == want
    assert [type(x) for x in got] == [int, float, bool]


@pytest.mark.parametrize(
    "x", [0, -1, (1 << 63) - 1, (1 << 64) - 1, True, 2.5, np.uint64((1 << 64) - 1), np.int32(-5), np.uint8(200)]
)
def test_numbers(x: Any, jit: Any) -> None:
    got = jit(same)(x)
    assert got == x
    assert type(got) is (type(x) if type(x) in (bool, float) else int)


def test_what_an_entry_cannot_do_is_done_all_the_same(jit: Any, tmp_path: Path) -> None:
    got = jit(zeros)(3)  # an array is its result
    assert got.dtype == np.int32 and got.tolist() == [0, 0, 0]
    assert jit(same)((1, 2)) == (1, 2)
    assert jit(room)(10) == 45  # it makes an array
    with pytest.raises(Exception, match="same"):
        jit(same)(object())


def test_functions_call_each_other(jit: Any) -> None:
    inner = jit(total)

    def outer(a):  # type: ignore[no-untyped-def]
        return inner(a, 2) + inner(a, 3)

    a = np.arange(1, 6)
    assert jit(outer)(a) == total(a, 2) + total(a, 3)
    assert inner(a, 2) == total(a, 2)


def test_an_address(jit: Any) -> None:
    import ctypes

    def first(at, x):  # type: ignore[no-untyped-def]
        return at + x

    compiled = jit(first)  # the code lives as long as it does
    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(compiled.address(2))
    assert f(3, 4) == 7


def test_kept_and_made_again_where_damaged(
    jit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = np.arange(5)
    assert jit(total)(a, 2) == 10
    (kept,) = files(tmp_path)
    good = kept.read_bytes()
    import seqfault.compile.jit as j

    with monkeypatch.context() as m:
        m.setattr(j, "made_entry", lambda *_: pytest.fail("it was made again"))
        assert jit(total)(a, 2) == 10
    for bad in (b"", good[:100], good[:-9] + bytes(9), bytes(len(good))):
        kept.write_bytes(bad)
        assert jit(total)(a, 2) == 10
        assert kept.read_bytes()[:32] != bad[:32] or kept.read_bytes() != bad
        assert len(kept.read_bytes()) == len(good)


def test_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path / "file" / "cache"))
    jit = make_jit("test", [Path(__file__)])
    assert jit(total)(np.arange(5), 2) == 10
    assert jit(zeros)(3).tolist() == [0, 0, 0]


def test_threads(jit: Any, tmp_path: Path) -> None:
    f, a = jit(total), np.arange(5)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda k: f(a, k) - 10, [0] * 64)) == {0}
    assert len(files(tmp_path)) == 1


TWICE = """
    import sys
    from pathlib import Path
    import numpy as np
    sys.path.insert(0, {here!r})
    from test_jit import total
    from seqfault.compile.jit import make_jit
    print(make_jit("test", [Path({file!r})])(total)(np.arange(5), 2), "numba" in sys.modules)
"""


def test_of_two_processes_at_once_one_makes_it_and_no_numba_after_them(jit: Any, tmp_path: Path) -> None:
    text = textwrap.dedent(TWICE).format(here=str(Path(__file__).parent), file=__file__)
    env = dict(os.environ)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=env)

    for want in (["10 False", "10 True"], ["10 False", "10 False"]):
        both = [start(), start()]
        assert sorted(p.communicate()[0].strip() for p in both) == want
    assert len(files(tmp_path)) == 1 and not list((tmp_path / "cache").rglob("*.lock"))


def test_a_few_calls_are_made_by_python(jit: Any, tmp_path: Path) -> None:
    a = np.arange(1, 6)
    calls = jit(total).sparing(2)
    for k in (3, 4, 5, 6):
        assert not files(tmp_path) or k > 4
        assert calls(a, k) == total(a, k)
    assert len(files(tmp_path)) == 1
    assert jit(total).sparing(2)(a, 9) == total(a, 9)  # its code is there
    assert in_python(jit(several))(1, 3, True) == several(1, 3, True)
    assert jit(total).known((a, 3)) and not jit(total).known((a, 3.0))


def test_what_a_command_begins_with_wants_no_numba() -> None:
    """Nothing that these call makes an array, for which numba's runtime would be imported."""
    from seqfault.explore import batch, engine

    def called(f: Compiled, seen: dict[int, Compiled]) -> dict[int, Compiled]:
        seen[id(f)] = f
        for n in f.fn.__code__.co_names:
            x = f.fn.__globals__.get(n)
            more = [getattr(x, m, None) for m in f.fn.__code__.co_names] if isinstance(x, ModuleType) else [x]
            for g in more:
                if isinstance(g, Compiled) and id(g) not in seen:
                    called(g, seen)
        return seen

    for f in (engine.step, engine.at_rest, batch.begin, batch.drive):
        found = called(f, {}).values()
        assert len(found) > 5 and not [g.__name__ for g in found if g.options["_nrt"]]


def test_no_loop_counts_from_the_end() -> None:
    """What is less than zero is no index in machine code (compile/entry.py); that none is computed was tried with code
    that stops there."""
    from seqfault.explore import ahead, batch, check, entering, moving, own, progress, reduced, strolls  # noqa: F401
    from seqfault.live import compare, generate  # noqa: F401

    loops = {
        f.fn.__code__: f.fn
        for name, m in list(sys.modules.items())
        if name.startswith("seqfault.") and m is not None
        for f in vars(m).values()
        if isinstance(f, Compiled)
    }
    assert len(loops) > 200
    for fn in loops.values():
        for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(fn)))):
            below = isinstance(n, ast.Subscript) and any(
                isinstance(i, ast.UnaryOp) and isinstance(i.op, ast.USub) for i in ast.walk(n.slice)
            )
            assert not below, f"{fn.__module__}.{fn.__name__}: {ast.unparse(n)}"


def test_a_warm_check_imports_no_numba() -> None:
    run = f"import sys; from seqfault.cli import main\ntry: main({list(CHECK)!r})\nfinally: print('numba' in sys.modules)"
    for _ in range(2):  # the first one may compile
        got = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert "violated" in got.stdout
    assert got.stdout.endswith("False\n")
