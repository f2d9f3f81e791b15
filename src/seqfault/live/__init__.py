"""The live kernel: programs of operations run on it, and what is seen of them."""
