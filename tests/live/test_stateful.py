"""A Hypothesis state machine: operations on pieces that earlier operations left, compared with the live kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from seqfault.live.fuzz import steady
from seqfault.live.script import row_text
from seqfault.mm.opcodes import (
    ADVICE,
    OP_EXIT,
    OP_FORK,
    OP_MADVISE,
    OP_MLOCK,
    OP_MMAP,
    OP_MPROTECT,
    OP_MREMAP,
    OP_MUNLOCK,
    OP_MUNMAP,
    OP_READ,
    OP_START,
    OP_WRITE,
    PAGE_SIZE,
    UAPI_MAP_ANONYMOUS,
    UAPI_MAP_FIXED,
    UAPI_MAP_PRIVATE,
    UAPI_MAP_SHARED,
    WINDOW_BASE,
)

pages = st.integers(514, 545)
lengths = st.integers(1, 5)
rights = st.sampled_from([0, 1, 3, 3, 3, 5, 7])
advice = st.sampled_from(sorted(v for k, v in ADVICE.items() if k not in ("collapse", "remove", "willneed")))
who = st.sampled_from([0, 0, 1])


def address(page: int) -> int:
    return WINDOW_BASE + page * PAGE_SIZE


class Programs(RuleBasedStateMachine):
    """Collects a program; the whole of it is run and compared when Hypothesis has finished it."""

    pair = None
    ranges = Bundle("ranges")

    @initialize()
    def begin(self) -> None:
        self.rows = [[OP_START] + [0] * 7]

    def add(self, op: int, process: int, *args: int) -> None:
        self.rows.append([op, process, *args] + [0] * (6 - len(args)))

    @rule(target=ranges, start=pages, n=lengths, prot=rights, shared=st.integers(0, 7), process=who)
    def mmap(self, start, n, prot, shared, process):
        how = UAPI_MAP_SHARED if shared == 0 else UAPI_MAP_PRIVATE
        self.add(OP_MMAP, process, address(start), n * PAGE_SIZE, prot, how | UAPI_MAP_FIXED | UAPI_MAP_ANONYMOUS, -1, 0)
        return start, n

    @rule(target=ranges, r=ranges, prot=rights, fd=st.integers(0, 2), shared=st.booleans(), process=who)
    def mmap_file(self, r, prot, fd, shared, process):
        how = UAPI_MAP_SHARED if shared else UAPI_MAP_PRIVATE
        start = r[0] + r[1]
        self.add(OP_MMAP, process, address(start), r[1] * PAGE_SIZE, prot, how | UAPI_MAP_FIXED, fd, (start % 4) * PAGE_SIZE)
        return start, r[1]

    @rule(r=ranges, skip=st.integers(0, 2), process=who)
    def munmap(self, r, skip, process):
        self.add(OP_MUNMAP, process, address(r[0] + skip), r[1] * PAGE_SIZE)

    @rule(r=ranges, skip=st.integers(0, 2), prot=rights, process=who)
    def mprotect(self, r, skip, prot, process):
        self.add(OP_MPROTECT, process, address(r[0] + skip), r[1] * PAGE_SIZE, prot)

    @rule(r=ranges, a=advice, process=who)
    def madvise(self, r, a, process):
        self.add(OP_MADVISE, process, address(r[0]), r[1] * PAGE_SIZE, a)

    @rule(target=ranges, r=ranges, to=pages, new=lengths, flags=st.sampled_from([0, 1, 3, 3]), process=who)
    def mremap(self, r, to, new, flags, process):
        self.add(OP_MREMAP, process, address(r[0]), r[1] * PAGE_SIZE, new * PAGE_SIZE, flags, address(to))
        return (to, new) if flags & 2 else (r[0], new)

    @rule(r=ranges, lock=st.booleans(), process=who)
    def mlock(self, r, lock, process):
        self.add(OP_MLOCK if lock else OP_MUNLOCK, process, address(r[0]), r[1] * PAGE_SIZE)

    @rule(r=ranges, at=st.integers(0, 4), write=st.integers(0, 255), process=who)
    def access(self, r, at, write, process):
        self.add(OP_WRITE if write else OP_READ, process, address(r[0] + min(at, r[1] - 1)), write)

    @rule()
    def fork(self):
        self.add(OP_FORK, 0)

    @rule()
    def exit(self):
        self.add(OP_EXIT, 1)

    def teardown(self) -> None:
        if len(getattr(self, "rows", [])) < 2:
            return
        rows = np.array(self.rows, np.int64)
        both = self.pair.run(rows)
        if both.at >= 0 and steady(self.pair, rows[: both.at + 1]):
            program = "\n".join(row_text(r) for r in rows[1 : both.at + 1])
            pytest.fail(f"{both.message or both.mismatch}\n{program}", pytrace=False)


def test_random_programs_do_what_the_live_kernel_does(pair):
    Programs.pair = pair
    run_state_machine_as_test(
        Programs,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            derandomize=True,
            database=None,
        ),
    )
