"""Address spaces of the model: system calls in, /proc/PID/maps out, and why two mappings did not merge."""

from seqfault.space.address_space import AddressSpace
from seqfault.space.calls import Call, MemoryFault, OutsideModel
from seqfault.space.listing import Page, Vma

__all__ = ["AddressSpace", "Call", "MemoryFault", "OutsideModel", "Page", "Vma"]
