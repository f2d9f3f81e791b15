"""What a step leaves behind, as one array `X`: counts, then lists at fixed offsets.  Every executor writes the same."""

from __future__ import annotations

MAX_INSTRUCTIONS = 100_000
MAX_CHOICES = 16
MAX_VIOLATIONS = 64  # of one step
MAX_COUNTED = 64
X_VIOLATIONS, X_USED, X_TRACE, X_HASH, X_STAND, X_COUNTED, X_TRACE_ROOM, X_DEPTH, X_FUEL = range(9)
X_SEQ = 15  # the last SEQPOINT that a step passed
# of accesses that are in nobody's way (compile/step_own.py): the table and the stepping process's part of it, both
# addresses; how many did not begin a step, and how many may; how often one was not as the table says; how often the
# table had to be told of one
X_TABLE, X_ROW, X_OWN, X_OWN_ROOM, X_NEWS, X_MET = range(16, 22)
X_DIGITS = 24
X_RADIX = X_DIGITS + MAX_CHOICES
X_VIOL = X_RADIX + MAX_CHOICES
X_COUNTS = X_VIOL + 5 * MAX_VIOLATIONS
MAX_ACCESSED = 255  # cells that one step touches
X_ACCESSED = X_COUNTS + MAX_COUNTED  # how many, then each: 4 * cell + READ, WRITE, OBJECT (every cell of one), LOOK
READ, WRITE, OBJECT, LOOK = range(4)  # LOOK: whether the object lives
# added to the cell, by tier 0: the access is atomic; it is part of a read-modify-write
ATOMIC_CELL, RMW_CELL = 1 << 40, 1 << 41
CELL = ATOMIC_CELL - 1  # what is left of it without that
# of a memory model with views: a value handed over; how many stores come behind the one that was read, or made;
# whether a read-modify-write has read only; the step read a store that is not the last one
X_VALUE, X_BEHIND, X_WITHIN, X_AGED = range(9, 13)
X_WAITED = 14  # the step could not have been taken in every state
X_EDGES = X_ACCESSED + 1 + MAX_ACCESSED  # the order of locks: classes x classes; then a tier's own words
