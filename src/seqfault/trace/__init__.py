"""Recordings of real programs: made (`record`), read (`strace`, `layout`, `timeline`), replayed (`replay`)."""
