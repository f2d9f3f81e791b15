"""What ebizzy does (v0.3, -m: chunks by mmap): threads that map a chunk, fill it, search it, unmap it.

    python3 ebizzy.py [THREADS] [SECONDS] [CHUNKS]

It ends after so many seconds, or so many chunks of each thread.  The work is done by libc without Python's lock, so
threads fault at the same time.
"""

import ctypes
import random
import sys
import threading
import time

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
CHUNK = 96 * 4096


def work(seed: int, end: float, chunks: int) -> None:
    rng = random.Random(seed)
    while time.monotonic() < end and chunks:
        chunks -= 1
        size = CHUNK + 4096 * rng.randrange(32)
        at = libc.mmap(None, size, 3, 0x22, -1, 0)
        libc.memset(at, 1, size)
        libc.memchr(at, 2, size)
        libc.munmap(at, size)


threads, seconds, chunks = sys.argv[1:] + ["3", "1", "-1"][len(sys.argv) - 1 :]
end = time.monotonic() + float(seconds)
workers = [threading.Thread(target=work, args=(i, end, int(chunks))) for i in range(int(threads))]
for w in workers:
    w.start()
for w in workers:
    w.join()
