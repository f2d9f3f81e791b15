"""Which mapping each page of a recorded address space belongs to, at one time of the recording."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

BLOCK = 64  # pages around a touched one of which the recording does not tell what they are

Part = tuple[int, int, int]  # mapping, its first page that is meant, pages


class Live:
    """Mappings by page; each has a number, and pages are counted from its beginning."""

    def __init__(self) -> None:
        self.start: list[int] = []
        self.item: list[tuple[int, int, int]] = []  # end, mapping, page of its offset 0

    def find(self, page: int) -> tuple[int, int] | None:
        """Mapping and offset of a page."""
        i = bisect_right(self.start, page) - 1
        if i < 0 or self.item[i][0] <= page:
            return None
        return self.item[i][1], page - self.item[i][2]

    def remove(self, start: int, n: int) -> list[Part]:
        """Take out [start, start + n): the parts of mappings that were there."""
        end = start + n
        i = max(bisect_right(self.start, start) - 1, 0)
        j = bisect_left(self.start, end)
        out = []
        keep: list[tuple[int, tuple[int, int, int]]] = []
        for k in range(i, j):
            s, (e, m, base) = self.start[k], self.item[k]
            if e <= start:
                keep.append((s, (e, m, base)))
                continue
            a, b = max(s, start), min(e, end)
            out.append((m, a - base, b - a))
            if s < a:
                keep.append((s, (a, m, base)))
            if b < e:
                keep.append((b, (e, m, base)))
        self.start[i:j] = [s for s, _ in keep]
        self.item[i:j] = [x for _, x in keep]
        return out

    def insert(self, start: int, n: int, mapping: int) -> list[Part]:
        """Map over whatever was there, which is returned."""
        out = self.remove(start, n)
        i = bisect_left(self.start, start)
        self.start.insert(i, start)
        self.item.insert(i, (start + n, mapping, start))
        return out

    def parts(self, start: int, n: int) -> list[Part]:
        """The parts of mappings in [start, start + n), which stay."""
        out = []
        page = start
        while page < start + n:
            i = bisect_right(self.start, page) - 1
            if i < 0 or self.item[i][0] <= page:
                nxt = self.start[i + 1] if i + 1 < len(self.start) else start + n
                page = max(nxt, page + 1)
                continue
            end, m, base = self.item[i]
            end = min(end, start + n)
            out.append((m, page - base, end - page))
            page = end
        return out

    def free_block(self, page: int) -> tuple[int, int]:
        """The free pages around one, within its aligned block: first, and how many."""
        low, high = page - page % BLOCK, page - page % BLOCK + BLOCK
        i = bisect_right(self.start, page) - 1
        if i >= 0:
            low = max(low, self.item[i][0])
        if i + 1 < len(self.start):
            high = min(high, self.start[i + 1])
        return low, high - low
