"""Recordings made by hand: what the threads of a process do, one call after the other."""

from __future__ import annotations

import json

import pytest

from seqfault.cli import main
from seqfault.price import driver as d
from seqfault.price.replay import convert
from seqfault.trace import schema
from seqfault.trace.schema import Meta
from seqfault.trace.store import Writer, open_trace, row

P = 4096
A, B = 0x7F0000000000, 0x7F0001000000
HEAP = 0x555500000000
PRIVATE_ANON, NORESERVE_STACK = 0x22, 0x20022
KINDS = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.LOCK_WAIT]


class Program:
    """What the threads of a process do, 2 us after one another."""

    def __init__(self, tid=2):
        self.rows, self.t, self.tid = [], 1_000_000, tid

    def call(self, name, address, length=None, result=0, tid=None, **more):
        self.t += 2000
        values = {"name": name, "address": address, "result": result, "duration_ns": 1000, **more}
        if length is not None:
            values["length"] = length * P
        self.rows.append(row(self.t, 1, tid or self.tid, schema.CALL, **values))
        return self

    def map(self, at, n, prot=3, flags=PRIVATE_ANON, **more):
        return self.call("mmap", 0, n, at, a2=prot, a3=flags, **more)

    def touch(self, at, page=0, n=1, tid=None):
        for i in range(page, page + n):
            self.t += 2000
            self.rows.append(
                row(self.t, 1, tid or self.tid, schema.FAULT, name="user", duration_ns=700, address=at + i * P, flags=6,
                    a2=0)
            )  # fmt: skip
        return self

    def write(self, path, kernel="6.18.1"):
        w = Writer(path, Meta(kernel=kernel, cpus=2, recorded=KINDS, start_ns=1_000_000, end_ns=self.t + 2000))
        for r in sorted(self.rows, key=lambda r: r[0]):
            w.add(r, r[0])
        w.close()
        return str(path)


def steps(path, rewrite=""):
    """Steps without pauses, by thread, and the whole."""
    with open_trace(path) as t:
        r = convert(t, rewrite=rewrite)
    quiet = (d.DO_THINK, d.DO_SLEEP, d.DO_STOP)
    return [[x[:5] for x in p if x[0] not in quiet] for p in r.programs], r


def whatif(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(["whatif", *args, "-m", "x86-small", "-p", "mmap-sem", "--seeds", "1", "--json"])
    out = capsys.readouterr()
    assert e.value.code == 0, out.err
    return json.loads(out.out)


def number(m):
    return d.NR_REGS + m
