"""Where things are in the arrays that the search's threads share and in those of their own; sizes of its steps."""

from __future__ import annotations

import numpy as np

SLACK = 4096  # successors of one state, at most; each process has a fair share
# states of the frontier that a thread takes at a time, and how many successors wait at most while it takes the next one
# of them: enough for memory to answer, few enough to stay in the cache.  docs/engine.md has what was measured
BLOCK = 128
WAITING = 512
ROOM = WAITING + SLACK  # for all that may wait; what is behind them in `hashes` is scratch
RECENT = 1 << 14  # fingerprints that a thread entered of late, which it need not look for in the table
RECENT_MASK = np.uint64(RECENT - 1)
AHEAD = 4  # states of the frontier that are fetched early
RECENT_AT = ROOM + SLACK  # in `hashes`, where those are; in `buf`, with whole states, the states
CHUNK = 256  # rows of the next frontier that a thread takes at a time where threads share it

# shared between threads; G_UPTO: states of the frontier after which there is a pause; G_TAIL: rows of the next one that
# were taken
G_NEXT, G_STORED, G_UPTO, G_ROOM, G_LIMIT, G_TAIL, G_GROWN, G_LOST, G_FIRST = range(9)
# a thread's own: position in its block, successors waiting, its next row of the next frontier, why it came back
T_HEAD, T_END, T_PENDING, T_TAIL, T_WHY, T_TRANSITIONS, T_FINALS, T_DISTINCT, T_OUTCOMES, T_BUDGET = range(10)
T_LEVEL, T_BASE = 10, 11
# T_ROWS: where its rows of the next frontier end; T_SHARED: threads that share the work, 0 if it is one
T_TRACED, T_EXCLUSIVE, T_FRONTIER, T_EXACT, T_ROWS, T_PARITY, T_SHARED, T_GRAPH, T_EDGES, T_MOVED = range(12, 22)
WHY_DONE, WHY_PAUSE, WHY_FRONTIER, WHY_TABLE, WHY_OUTCOMES, WHY_GROWN = range(6)
A_ADVANCE, A_OBSERVE, A_PACK, A_UNPACK, A_SUCCESSORS = range(5)
# columns of the distinct violations
V_KIND, V_PC, V_POOL, V_INDEX, V_STATE, V_PROCESS, V_CHOICE, V_COUNT, V_LEVEL = range(9)
O_HASH, O_STATE, O_LEVEL = range(3)  # of the outcomes
MAX_DISTINCT = 512
WHO = 256  # words behind a state in `T`: who took the steps of the generated successors
UNPASSED = 128  # of who took a step: it ended before the first access that it might have passed over
EVERY, BY_HASH, TO_SIFT = range(3)  # which successors wait to be entered
