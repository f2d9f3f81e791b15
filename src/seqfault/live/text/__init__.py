"""The program that runs operations on the live kernel, in raw Kernel Python (compile/raw.py)."""
