"""seqfault: a laboratory for page faults that do not take the address-space lock."""

__version__ = "0.1.0"
