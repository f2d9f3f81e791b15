"""Kernel Python: the words a protocol may use, and what each means."""

from seqfault.kernel import words as _words
from seqfault.kernel.machine import KernelBug, Machine, WouldBlock, current
from seqfault.kernel.places import Place, Protocol, place
from seqfault.kernel.types import Size, Struct, array, integer, ptr, struct, u8, u16, u32
from seqfault.kernel.words import *

__all__ = [
    "KernelBug",
    "Machine",
    "Place",
    "Protocol",
    "Size",
    "Struct",
    "WouldBlock",
    "array",
    "current",
    "integer",
    "place",
    "ptr",
    "struct",
    "u8",
    "u16",
    "u32",
    *_words.__all__,
]
