"""Litmus tests of the Linux kernel's C dialect, judged by the kernel's memory model (LKMM, Linux 6.1).

`parse(text, file)` gives a `Litmus` (see `tree`), `judge(litmus)` a `Verdict`.
"""
