"""Executions in compiled code: at random, which meet most of what a scenario's processes touch before it is explored;
and along a path."""

from __future__ import annotations

import numpy as np

from seqfault.explore.interp import get
from seqfault.explore.jit import jit_search as jit
from seqfault.explore.layout import A_ADVANCE, A_UNPACK, UNPASSED
from seqfault.explore.raw import call2, call7
from seqfault.explore.tables import (
    DISABLED,
    M_HALT,
    M_PC,
    M_PROCESSES,
    O_PROCS,
    OK,
    P_BASE,
    P_ROLE,
    PROCESS_ROW,
    X_COUNTED,
    X_DIGITS,
    X_MET,
    X_OWN,
    X_OWN_ROOM,
    X_RADIX,
    X_USED,
    X_VIOLATIONS,
)

STEPS = 4000  # of one execution, at most
IDLE = 32  # steps of the environment, with none of others between them


@jit
def stroll(A, P, front, buf, S, T, E, X, most, quiet):  # type: ignore[no-untyped-def]
    """At most `most` executions from the packed state front[0], until `quiet` of them met nothing that the table of
    own.py lacked; how many there were.  Who steps changes after 2, 8 or 32 steps, in the mean."""
    nproc = P[M_PROCESSES]
    pS, pT, pE, pX = (
        np.int64(S.ctypes.data), np.int64(T.ctypes.data), np.int64(E.ctypes.data), np.int64(X.ctypes.data),
    )  # fmt: skip
    pB = np.int64(buf.ctypes.data)
    pF = np.int64(front.ctypes.data)
    r = np.uint64(0x9E3779B97F4A7C15)
    same = np.int64(0)
    for turn in range(most):
        call2(A[A_UNPACK], (pF, pS))
        met = X[X_MET]
        p = np.int64(0)
        idle = np.int64(0)
        stay = np.uint64((2, 8, 32)[turn % 3])
        for _ in range(STEPS):
            r ^= r << np.uint64(13)
            r ^= r >> np.uint64(7)
            r ^= r << np.uint64(17)
            if (r >> np.uint64(8)) % stay == 0:
                p = np.int64((r >> np.uint64(32)) % np.uint64(nproc))
            status = DISABLED
            for i in range(nproc):
                q = (p + i) % nproc
                row = P[O_PROCS] + q * PROCESS_ROW
                if get(S, P, P[M_PC], P[row + P_BASE]) == P[M_HALT]:
                    continue
                status = call7(A[A_ADVANCE], (pS, pT, pE, pX, q, np.int64(0), pB))
                if X[X_USED] and status != DISABLED:
                    used = X[X_USED]
                    for k in range(used):
                        X[X_DIGITS + k] = np.int64((r >> np.uint64(16 + k)) % np.uint64(X[X_RADIX + k]))
                    status = call7(A[A_ADVANCE], (pS, pT, pE, pX, q, used, pB))
                X[X_VIOLATIONS] = 0
                X[X_COUNTED] = 0
                if status != DISABLED:
                    p = q
                    idle = idle + 1 if P[row + P_ROLE] > 1 else np.int64(0)
                    break
            if status != OK or idle > IDLE:
                break
            call2(A[A_UNPACK], (pB, pS))
        same = same + 1 if X[X_MET] == met else np.int64(0)
        if same >= quiet:
            return turn + 1
    return most


@jit
def passed(A, first, out_state, S, T, E, X, room, path, out):  # type: ignore[no-untyped-def]
    """How many accesses each step of `path` (steps; who, choices) from the packed state `first` passed over."""
    pS, pT, pE, pX = (
        np.int64(S.ctypes.data), np.int64(T.ctypes.data), np.int64(E.ctypes.data), np.int64(X.ctypes.data),
    )  # fmt: skip
    pB = np.int64(out_state.ctypes.data)
    call2(A[A_UNPACK], (np.int64(first.ctypes.data), pS))
    for i in range(path.shape[0]):
        p = path[i, 0] & (UNPASSED - 1)
        X[X_OWN_ROOM] = room if path[i, 0] == p else 0
        code = path[i, 1]
        depth = np.int64(0)
        while True:  # how many alternatives a choice has is known only when it is met
            call7(A[A_ADVANCE], (pS, pT, pE, pX, p, depth, pB))
            X[X_VIOLATIONS] = 0
            X[X_COUNTED] = 0
            if X[X_USED] <= depth:
                break
            X[X_DIGITS + depth] = code % X[X_RADIX + depth]
            code //= X[X_RADIX + depth]
            depth += 1
        out[i] = X[X_OWN]
        call2(A[A_UNPACK], (pB, pS))
