"""NumPy in threads: sums and products of arrays that are larger than malloc's threshold for mmap.

    python3 arrays.py [ROUNDS] [THREADS]
"""

import sys
import threading

import numpy as np


def work(rounds: int) -> None:
    total = 0.0
    for i in range(rounds):
        a = np.full(100_000 + 5_000 * (i % 7), 1.5)
        total += float((a * a + i).sum())


rounds, threads = sys.argv[1:] + ["60", "2"][len(sys.argv) - 1 :]
workers = [threading.Thread(target=work, args=(int(rounds),)) for _ in range(int(threads))]
for w in workers:
    w.start()
for w in workers:
    w.join()
