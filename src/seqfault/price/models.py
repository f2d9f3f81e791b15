"""Small models with known answers, which the core is held against: queues that textbooks solve.

Kernel Python.  Random times come from `draws`, which Python fills: multiples of the mean, in parts of `UNIT`.
"""

from __future__ import annotations

from seqfault.kernel import array, integer, struct, the
from seqfault.kernel.rwsem import down_read, down_write, rw_semaphore, up_read, up_write
from seqfault.kernel.types import Size
from seqfault.price.clock import BLOCKED, ticks_t, vclock, vt_block, vt_sync, vt_wake
from seqfault.price.locks import put_last, take_first

NR_DRAWS = Size("NR_DRAWS", 16)
UNIT = 1 << 16
draw_t = integer(0, 1 << 40)
big_t = integer(0, (1 << 62) - 1)


@struct(pool=1, private=True)
class model:
    """`servers`: of the station; `think`, `hold`, `hold_write`: means; `nr_writers`: of 65536 visits so many write."""

    kind: integer(0, 3)
    servers: integer(0, 1 << 20)
    think: ticks_t
    hold: ticks_t
    hold_write: ticks_t
    nr_writers: integer(0, 65536)
    queue: integer(0, (1 << 32) - 1)
    at: integer(0, NR_DRAWS)
    coin: integer(0, NR_DRAWS)
    visits: big_t
    waited: big_t
    arrivals: ticks_t  # when the last arrival was, of open models
    draws: array[draw_t, NR_DRAWS]
    coins: array[draw_t, NR_DRAWS]


@struct(pool=1, static=True)
class shared_lock:
    sem: rw_semaphore


def draw(mean: ticks_t) -> ticks_t:
    d = the(model)
    i = d.at
    d.at = i + 1 if i + 1 < NR_DRAWS else 0
    return d.draws[i] * mean // UNIT


def coin() -> integer(0, 65536):
    d = the(model)
    i = d.coin
    d.coin = i + 1 if i + 1 < NR_DRAWS else 0
    return d.coins[i]


def station_enter():
    """A free server, or the end of the queue."""
    d = the(model)
    m = the(vclock)
    vt_sync()
    if d.servers != 0:
        d.servers -= 1
        return
    d.queue = put_last(d.queue, m.me)
    vt_block(BLOCKED)


def station_leave():
    d = the(model)
    m = the(vclock)
    vt_sync()
    if d.queue == 0:
        d.servers += 1
        return
    first: integer(0, 4095) = (d.queue & 65535) - 1
    d.queue = take_first(d.queue)
    vt_wake(first, m.now)


def closed():
    """Think, be served, and again: machines and repairmen, M/M/c//N."""
    d = the(model)
    m = the(vclock)
    while True:
        m.now += draw(d.think)
        vt_sync()
        came: ticks_t = m.now
        station_enter()
        d.waited += m.now - came
        m.now += draw(d.hold)
        station_leave()
        d.visits += 1


def opened():
    """Each task takes the next arrival of one stream: M/M/c, as long as there are more tasks than customers."""
    d = the(model)
    m = the(vclock)
    while True:
        vt_sync()
        d.arrivals += draw(d.think)
        m.now = max(m.now, d.arrivals)
        vt_sync()
        came: ticks_t = m.now
        station_enter()
        d.waited += m.now - came
        m.now += draw(d.hold)
        station_leave()
        d.visits += 1


def readers_writers():
    """Think, hold the semaphore for reading or writing, and again."""
    d = the(model)
    m = the(vclock)
    s = the(shared_lock)
    while True:
        m.now += draw(d.think)
        vt_sync()
        came: ticks_t = m.now
        if coin() < d.nr_writers:
            down_write(s.sem)
            d.waited += m.now - came
            m.now += draw(d.hold_write)
            up_write(s.sem)
        else:
            down_read(s.sem)
            d.waited += m.now - came
            m.now += draw(d.hold)
            up_read(s.sem)
        d.visits += 1


def model_main():
    d = the(model)
    if d.kind == 0:
        closed()
    elif d.kind == 1:
        opened()
    else:
        readers_writers()
