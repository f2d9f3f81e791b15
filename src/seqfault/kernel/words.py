"""The words of Kernel Python: what a protocol's text may call.

Each is an ordinary Python function that acts on the current machine; the compiler knows each by its
name and emits the steps that it stands for.  Their orderings are the kernel's
(Documentation/memory-barriers.txt, tools/memory-model/Documentation/explanation.txt).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from seqfault.kernel.layout import LIVE
from seqfault.kernel.machine import NULL, KernelBug, Ptr, View, WouldBlock, current

F = TypeVar("F", bound=Callable[..., Any])

WORDS: dict[str, Callable[..., Any]] = {}


def word(f: F) -> F:
    """Register `f` as a word of the language."""
    WORDS[f.__name__] = f
    f.__kernel_word__ = f.__name__  # type: ignore[attr-defined]
    return f


def _store(lvalue: Any, value: Any, name: str) -> None:
    lv = getattr(lvalue, "k_lv", None)
    if lv is None:
        raise TypeError(f"{name}: the first argument must be a field, e.g. {name}(vma.vm_start, v)")
    m, addr, t = lv
    m.store(addr, value, t)


# -- marked accesses
@word
def READ_ONCE(field: Any) -> Any:
    """One load that the compiler may not tear, repeat or fuse."""
    return field


@word
def WRITE_ONCE(field: Any, value: Any) -> None:
    """One store that the compiler may not tear, repeat or fuse."""
    _store(field, value, "WRITE_ONCE")


@word
def smp_load_acquire(field: Any) -> Any:
    """A load before which no later access of this CPU can be seen."""
    return field


@word
def smp_store_release(field: Any, value: Any) -> None:
    """A store after which no earlier access of this CPU can be seen."""
    _store(field, value, "smp_store_release")


@word
def rcu_dereference(field: Any) -> Any:
    """READ_ONCE with an address dependency to what the pointer points to."""
    return field


@word
def rcu_assign_pointer(field: Any, value: Any) -> None:
    """smp_store_release of a pointer."""
    _store(field, value, "rcu_assign_pointer")


def _cmpxchg(field: Any, old: Any, new: Any, name: str) -> Any:
    if field == old:
        _store(field, new, name)
    return field


@word
def cmpxchg(field: Any, old: Any, new: Any) -> Any:
    """Store `new` if the field holds `old`; returns what it held.  A full barrier when it succeeds."""
    return _cmpxchg(field, old, new, "cmpxchg")


@word
def cmpxchg_acquire(field: Any, old: Any, new: Any) -> Any:
    """`cmpxchg` that only acquires."""
    return _cmpxchg(field, old, new, "cmpxchg_acquire")


@word
def cmpxchg_release(field: Any, old: Any, new: Any) -> Any:
    """`cmpxchg` that only releases."""
    return _cmpxchg(field, old, new, "cmpxchg_release")


@word
def cmpxchg_relaxed(field: Any, old: Any, new: Any) -> Any:
    """`cmpxchg` without ordering."""
    return _cmpxchg(field, old, new, "cmpxchg_relaxed")


def _xchg(field: Any, new: Any, name: str) -> Any:
    _store(field, new, name)
    return field


@word
def xchg(field: Any, new: Any) -> Any:
    """Store `new`, return what the field held.  A full barrier."""
    return _xchg(field, new, "xchg")


@word
def xchg_acquire(field: Any, new: Any) -> Any:
    """`xchg` that only acquires."""
    return _xchg(field, new, "xchg_acquire")


@word
def xchg_release(field: Any, new: Any) -> Any:
    """`xchg` that only releases."""
    return _xchg(field, new, "xchg_release")


@word
def xchg_relaxed(field: Any, new: Any) -> Any:
    """`xchg` without ordering."""
    return _xchg(field, new, "xchg_relaxed")


def _fetch_add(field: Any, k: Any, name: str) -> int:
    old = int(field)
    _store(field, old + int(k), name)
    return old


@word
def fetch_add(field: Any, k: int) -> int:
    """Add `k` as one step, return what the field held before.  A full barrier (atomic_fetch_add)."""
    return _fetch_add(field, k, "fetch_add")


@word
def fetch_add_acquire(field: Any, k: int) -> int:
    """`fetch_add` that only acquires."""
    return _fetch_add(field, k, "fetch_add_acquire")


@word
def fetch_add_release(field: Any, k: int) -> int:
    """`fetch_add` that only releases."""
    return _fetch_add(field, k, "fetch_add_release")


@word
def fetch_add_relaxed(field: Any, k: int) -> int:
    """`fetch_add` without ordering."""
    return _fetch_add(field, k, "fetch_add_relaxed")


# -- barriers
@word
def smp_mb() -> None:
    """Full barrier."""


@word
def smp_rmb() -> None:
    """Orders earlier loads before later loads."""


@word
def smp_wmb() -> None:
    """Orders earlier stores before later stores."""


@word
def barrier() -> None:
    """Compiler barrier."""


@word
def smp_mb__after_spinlock() -> None:
    """Makes a spin_lock before it a full barrier."""


# -- waiting
@word
def cpu_relax() -> None:
    """The body of a loop that spins until its condition, which makes one access, is false.

    Nothing else may stand in that loop: to the checker the CPU is simply not able to run until then.
    """
    current().relax()


@word
def cpu_relax_ipi() -> None:
    """`cpu_relax` in a loop that waits for another processor's interrupt handler."""
    current().relax()


@word
def wait_for(condition: Any) -> None:
    """The step that contains it can run only when `condition` holds."""
    if not condition:
        raise WouldBlock("wait_for: the condition is false")


@word
def choose(n: int) -> int:
    """Any of 0 .. n - 1: the checker tries all; a sequential run takes the next of the machine's choices."""
    return current().choose(int(n))


@word
def seq_point() -> None:
    """A point inside an operation up to which Linux promises atomicity no longer: where the sequential
    orders that outcomes are held against may switch to another CPU (e.g. between two pages of a madvise)."""


class _Atomic:
    """``with atomic():`` groups steps into one."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


@word
def atomic() -> _Atomic:
    """``with atomic():`` makes its body one step."""
    return _Atomic()


# -- objects
@word
def kmem_cache_alloc(T: Any) -> Any:
    """A new object with undefined fields.  Never NULL: text that may fail asks its own failure switch first."""
    return current().alloc(T, zero=False)


@word
def kmem_cache_zalloc(T: Any) -> Any:
    """A new object with its declared initial values (0 where none is declared)."""
    return current().alloc(T, zero=True)


@word
def kmem_cache_free(p: Any) -> None:
    """Free an object now."""
    current().free(p)


@word
def is_live(p: Any) -> bool:
    """Whether the object is allocated.  For oracles only: the kernel could not ask."""
    return current().state_of(p) == LIVE


@word
def pool_object(T: Any, i: int) -> Any:
    """Pointer to object `i` (from 0) of a pool: pfn_to_page, per_cpu_ptr."""
    m = current()
    if not 0 <= int(i) < m.pool(T).n:
        raise KernelBug("index-out-of-range", f"object {int(i)} of {m.pool(T).n} of {T.name}")
    return m.object(T, i)


@word
def index_of(p: Any) -> int:
    """The number (from 0) of an object in its pool: page_to_pfn."""
    if not p:
        raise KernelBug("null-dereference", "index_of(NULL)")
    return int(p.k_v) - 1


@word
def the(T: Any) -> Any:
    """The only object of a pool of one."""
    return current().object(T, 0)


@word
def smp_processor_id() -> int:
    """The CPU that runs this, from 0.  An agent (interrupt handler) has its CPU's number."""
    return current().cpu


@word
def process_id() -> int:
    """The number of the process that runs this, agents included, from 0."""
    return current().process


# -- oracles
def _say(obj: Any) -> str:
    return repr(obj.k_owner if isinstance(obj, View) else obj)


@word
def check(condition: Any, kind: str, obj: Any = NULL) -> None:
    """Report a violation of `kind` about `obj` unless `condition`; execution goes on."""
    if not condition:
        current().violate(kind, _say(obj))


@word
def BUG_ON(condition: Any) -> None:
    """Report `kernel-bug` and end this path if `condition`."""
    if condition:
        raise KernelBug("kernel-bug", "BUG_ON")


@word
def emit(value: Any) -> None:
    """Add a value to the outcome that an observer describes."""
    current().emitted.append(value.k_v if isinstance(value, Ptr) else int(value))


@word
def count(name: str) -> None:
    """Count an event (a speculative success, a retry and its reason); no part of the state."""
    current().counters[name] += 1


@word
def lock_acquire(lock: Any, subclass: int = 0, trylock: bool = False) -> None:
    """Tell the checker that this process now holds `lock`: for order inversion, as lockdep does."""
    current().held.append(f"{lock!r}/{subclass}")


@word
def lock_release(lock: Any) -> None:
    """Tell the checker that this process gives `lock` back: the most deeply nested subclass of it that is held."""
    held = current().held
    for sub in (3, 2, 1, 0):
        key = f"{lock!r}/{sub}"
        if key in held:
            held.remove(key)
            return


# -- arithmetic that wraps
def _wrap(x: int, bits: int, signed: bool) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if signed and x >> (bits - 1) else x


@word
def wrap_s64(x: int) -> int:
    """`x` modulo 2**64, as a signed number: s64 arithmetic with -fwrapv."""
    return _wrap(int(x), 64, True)


@word
def wrap_u32(x: int) -> int:
    """`x` modulo 2**32."""
    return _wrap(int(x), 32, False)


@word
def wrap_u16(x: int) -> int:
    """`x` modulo 2**16."""
    return _wrap(int(x), 16, False)


@word
def wrap_u8(x: int) -> int:
    """`x` modulo 2**8."""
    return _wrap(int(x), 8, False)


__all__ = ["NULL", "WORDS", *WORDS]
