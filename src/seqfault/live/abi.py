"""What the host and the program on the live kernel agree on: addresses, the shared header, exit codes.

Numbers of system calls and structures: Linux's include/uapi and arch/x86/entry/syscalls/syscall_64.tbl.
"""

from __future__ import annotations

from seqfault.mm.opcodes import PAGE_SIZE, TASK_SIZE_BYTES, WINDOW_BASE

MAGIC = 0x73657166
# memory of the runner; nothing of it lies in the window
SHARED_BASE = 0x100_0000_0000  # header, rows, offsets and stream: shared with the host
COMM_BASE = 0x110_0000_0000  # crash record, commands to process 1, buffers: shared between the runner's processes
COMM_SIZE = 0x200000
# a guest under qemu has the shared memory here, physically (live/qemu.py)
GUEST_RAM = 512 << 20
GUEST_SHARED_BYTES = 64 << 20
GUEST_SHARED_AT = GUEST_RAM - GUEST_SHARED_BYTES
CACHE_BASE = 0x120_0000_0000  # the test files, mapped only to ask what of them is cached
CACHE_FILES, CACHE_PAGES = 3, 60
# RLIMIT_STACK of programs: less than lies below the busy pages.  A stack cannot grow by more than its offset, which the
# model counts from the window's start.
STACK_PAGES = 512
LOWEST = 0x1000  # the address space is filled from here, or from ROOTLESS_LOWEST (vm.mmap_min_addr)
ROOTLESS_LOWEST = 0x10000
TASK_END = TASK_SIZE_BYTES
WINDOW_PAGE = WINDOW_BASE // PAGE_SIZE

# descriptors
FD_IN, FD_OUT, FD_SHARED = 0, 1, 3  # doorbells, shared memory
FD_DISK = 10  # the file on disk: three descriptors, read-write, read, write
FD_TEST = 20  # test file i is FD_TEST + i
FD_NONE = 9999
FD_MAPS, FD_PAGEMAP, FD_SMAPS, FD_PROBE, FD_STATUS, FD_MARKS = 30, 31, 32, 33, 34, 35
PROBE_PAGES = 64
NR_TEST_FILES = 6
FILE_PAGES = (8, 4, 6)
DISK_BYTE = 0x60  # page i of the file on disk starts with this plus i

# words of the header, from SHARED_BASE
(
    H_MAGIC,
    H_FLAGS,
    H_NR_ROWS,
    H_ROWS,  # offsets in bytes from SHARED_BASE
    H_OFFSETS,
    H_STREAM,
    H_STREAM_WORDS,
    H_DETAIL_EVERY,
    H_CPU,  # processor to stay on; -1: any; -2: where a program begins, it stays
    H_NR_SPANS,
    H_NR_PAGES,
    H_HEAP_PAGE,
    H_TIMEOUT_MS,  # how long process 1 may take for an operation
    H_COMMAND,  # of hosts that cannot ring a bell: a batch's number
    H_ALL_VMAS_EVERY,
) = range(15)
H_SPANS = 16  # pairs: first page, number of pages
MAX_SPANS = 8
(
    H_STATUS,
    H_ROWS_DONE,
    H_STREAM_USED,
    H_DEATHS,
    H_DEAD_ROW,
    H_DEAD_STATUS,
    H_DEAD_WHO,
    H_CRASH,  # four words: kind, signal or site, address or value, instruction
) = range(32, 40)
H_ROW = 43  # the row that is performed
H_READY = 44  # features, once the runner is set up
H_ZERO_PFN = 45
H_FAULT_AROUND = 47  # how many pages a read fault of a file maps
H_REPLY = 46  # the number of the batch that is done
H_TICKS = 48  # perform, observe VMAs, observe pages, process 1, whole program, fork and exit, reset of files, batch
HEADER_BYTES = PAGE_SIZE
ROW_WORDS = 8

# H_FLAGS
F_MAPS_TEXT = 1  # read /proc/PID/maps even where PROCMAP_QUERY is there
F_NO_CONTENT = 2
F_TICKS = 4
# H_READY
R_READY, R_QUERY, R_FRAMES, R_HEAP, R_PINNED = 1, 2, 4, 8, 16

# H_STATUS
S_DONE, S_FULL = 0, 1

DIED = -3000  # result in the records of rows that were not performed because a process had died
HAS_DETAIL, HAS_VECTOR = 4, 8

EXIT_FULL, EXIT_LOST, EXIT_SETUP = 3, 77, 78

# words of the communication area, from COMM_BASE
CRASH = COMM_BASE
C_ROW = SHARED_BASE + 8 * H_ROW
C_SEQ = COMM_BASE + 128
C_DONE = COMM_BASE + 192
C_KIND = COMM_BASE + 200
C_ARG = COMM_BASE + 208
C_DETAIL = COMM_BASE + 216
C_RESULT = COMM_BASE + 224
C_WORDS = COMM_BASE + 232
C_DETAIL_WORDS = COMM_BASE + 240
C_VECTOR = COMM_BASE + 248  # pages of mincore's vector, or -1
C_STACKS = COMM_BASE + 256  # whether the program has asked for a VMA that grows down
C_ASK_VMAS = COMM_BASE + 280  # whether process 1 has to look at its VMAs anew
C_LOST = COMM_BASE + 264
C_TOUCHED = COMM_BASE + 272  # a bit for each test file that must be put back
K_OBSERVE, K_PERFORM, K_EXIT = 1, 2, 3

# buffers of each process
SCRATCH = 0x40000
SCRATCH_0 = COMM_BASE + 0x40000
B_QUERY, B_TIME, B_BYTE, B_PAGEMAP, B_VMAS, B_TEXT = 0x400, 0x200, 0x300, 0x1000, 0x10000, 0x20000
TEXT_BYTES = 0x20000
BLOCK_1 = COMM_BASE + 0xC0000  # what process 1 observes
DETAIL_1 = COMM_BASE + 0x180000
# mincore's vector: what it writes behind this meets no memory
VECTOR_BYTES = 0x10000
VECTOR = COMM_BASE + COMM_SIZE - VECTOR_BYTES

PROCMAP_QUERY = 0xC0686611
PROCMAP_QUERY_BYTES = 104
COVERING_OR_NEXT_VMA = 0x10
