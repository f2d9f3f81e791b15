"""Two locks around one record: either is enough.  A third, which guards nothing, and a barrier."""

from __future__ import annotations

from seqfault.kernel import Protocol, integer, smp_wmb, struct, the
from seqfault.kernel.spinlock import spin_lock, spin_unlock, spinlock_t

value_t = integer(0, 7)


@struct(pool=1)
class pair:
    outer: spinlock_t
    inner: spinlock_t
    idle: spinlock_t
    a: value_t
    b: value_t


def one():
    p = the(pair)
    spin_lock(p.outer)
    spin_lock(p.inner)
    p.a += 1
    smp_wmb()
    p.b += 1
    spin_unlock(p.inner)
    spin_unlock(p.outer)


def other():
    p = the(pair)
    spin_lock(p.idle)
    spin_unlock(p.idle)
    spin_lock(p.outer)
    spin_lock(p.inner)
    assert p.a == p.b
    spin_unlock(p.inner)
    spin_unlock(p.outer)


PROTOCOL = Protocol("two-locks", "two locks, one of them for nothing", processes=(one, other))
