"""Operations that numba has no name for: atomic words, prefetch, the upper half of a product, generated code, views of
two words.

For functions that are compiled: what is here are their names, and numba, which raw_numba.py needs, is imported only
where something is compiled.
"""

from __future__ import annotations

from typing import Any


class Operation:
    """What stands for an intrinsic of raw_numba.py."""

    def __init__(self, name: str):
        self.name = name

    @property
    def _numba_type_(self) -> Any:
        from numba.core.registry import cpu_target

        from seqfault.explore import raw_numba

        cpu_target.typing_context.refresh()  # it is told of what was defined since
        return cpu_target.typing_context.resolve_value_type(getattr(raw_numba, self.name))


compare_and_swap = Operation("compare_and_swap")
fetch_add = Operation("fetch_add")
prefetch = Operation("prefetch")
high = Operation("high")
numbers_at = Operation("numbers_at")
nothing = Operation("nothing")
mask = Operation("mask")
has = Operation("has")
some = Operation("some")
view_in = Operation("view_in")
put_view_in = Operation("put_view_in")
call2 = Operation("call2")
call5 = Operation("call5")
call7 = Operation("call7")
call8 = Operation("call8")
