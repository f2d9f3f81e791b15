"""The Linux kernel memory model: one execution, judged.

A transcription of tools/memory-model/linux-kernel.bell, linux-kernel.cat and lock.cat of Linux 6.1, and of what later
ones have instead (models.py); each relation has the name that it has there, with `_` for `-`. Paper: Alglave, Maranget,
McKenney, Parri, Stern, "Frightening Small Children and Disconcerting Grown-ups: Concurrency in the Linux Kernel",
ASPLOS 2018. The one addition to 6.1, for `smp_mb__after_srcu_read_unlock()`, is the clause of `mb` that 6.4 has for it.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise

from seqfault.litmus.models import V6_1, Model
from seqfault.litmus.relations import Edge, Relation, Rows, acyclic, bits, cycle, seq
from seqfault.litmus.threads import Event, Trace
from seqfault.litmus.tree import Address

INIT = -1  # the thread of the initial writes


@dataclass(slots=True)
class Broken:
    """Why an execution is forbidden.

    Attributes:
        axiom: its name in linux-kernel.cat.
        edges: the cycle, edge by edge; for ``empty`` axioms the edges that meet.
    """

    axiom: str
    edges: list[Edge]


@dataclass(slots=True)
class Outcome:
    """What the model says of an execution: forbidden by `broken`, or allowed, with flags."""

    broken: Broken | None = None
    flags: set[str] = field(default_factory=set)
    races: list[Edge] = field(default_factory=list)


class Skeleton:
    """The events of an execution and everything that does not depend on rf and co.

    Events are numbered: the initial writes of the cells that are used, then each thread's in program order.
    """

    def __init__(
        self, combination: list[Trace], init: dict[Address, int | Address], model: Model = V6_1
    ) -> None:
        self.model = model
        used: dict[Address, None] = {}
        for t in combination:
            for e in t.events:
                if e.address is not None and e.kind != "SRCU":
                    used.setdefault(e.address)
        self.events = [Event("W", "init", a, init.get(a, 0), 0) for a in used]
        self.thread = [INIT] * len(used)
        self.base: list[int] = []
        for number, t in enumerate(combination):
            self.base.append(len(self.events))
            self.events += t.events
            self.thread += [number] * len(t.events)
        self.n = len(self.events)
        self.all = (1 << self.n) - 1
        self.sets()
        self.program_order()
        self.static()

    @classmethod
    def like(cls, other: Skeleton, combination: list[Trace]) -> Skeleton:
        """The skeleton of executions that differ from another's in the values of reads and writes alone."""
        s = copy(other)
        initial = other.events[: len(other.events) - sum(len(t.events) for t in combination)]
        s.events = [*initial, *(e for t in combination for e in t.events)]
        s.flags = set(other.flags)
        return s

    def where(self, *kinds: str) -> int:
        """The events of some kinds, or of some tags written ``kind:tag`` or ``:tag``."""
        out = 0
        for i, e in enumerate(self.events):
            if e.kind in kinds or f"{e.kind}:{e.tag}" in kinds or f":{e.tag}" in kinds:
                out |= 1 << i
        return out

    def sets(self) -> None:
        """bell's sets, and those that lock.cat adds to them."""
        w = self.where
        self.IW = w("W:init")
        self.UL, self.LKR, self.LKW, self.LF, self.RU = w("UL"), w("LKR"), w("LKW"), w("LF"), w("RU")
        self.Srcu_lock, self.Srcu_unlock = w("SRCU:srcu-lock"), w("SRCU:srcu-unlock")
        self.R = w("R", "LKR", "LF", "RU")
        self.W = w("W", "LKW", "UL")
        if self.model.indexed:
            self.R, self.W = self.R | self.Srcu_lock, self.W | self.Srcu_unlock
        self.M = self.R | self.W
        self.Plain = w("R:plain", "W:plain")
        self.Marked = self.all & ~self.Plain
        self.Acquire = w("R:acquire", "LKR")
        self.Release = w("W:release", "UL")
        self.Noreturn = w("R:noreturn")
        self.RMW = sum(1 << i for i, e in enumerate(self.events) if e.atomic)
        self.Sync_rcu, self.Sync_srcu = w("F:sync-rcu"), w("SRCU:sync-srcu")

    def program_order(self) -> None:
        n, thread = self.n, self.thread
        same = {t: sum(1 << i for i in range(n) if thread[i] == t) for t in set(thread)}
        places: dict[Address | None, int] = {}
        for i, e in enumerate(self.events):
            places[e.address] = places.get(e.address, 0) | 1 << i
        empty = [0] * n
        po = [0 if thread[i] == INIT else same[thread[i]] & -2 << i for i in range(n)]
        self.po = Relation(po, "po")
        self.int_ = Relation([1 << i if thread[i] == INIT else same[thread[i]] for i in range(n)], "int")
        self.ext = Relation([self.all & ~row for row in self.int_.rows], "ext")
        self.id = Relation([1 << i for i in range(n)], "id")
        self.loc = Relation([0 if e.address is None else places[e.address] for e in self.events], "loc")
        self.po_loc = (self.po & self.loc).named("po-loc")
        addr, data, ctrl, rmw, flow = list(empty), list(empty), list(empty), list(empty), list(empty)
        for i, e in enumerate(self.events):
            if thread[i] == INIT:
                continue
            base = self.base[thread[i]]
            for rows, mask in ((addr, e.addr), (data, e.data), (ctrl, e.ctrl), (flow, e.flow)):
                for j in range(mask.bit_length()):
                    if mask >> j & 1:
                        rows[base + j] |= 1 << i
            if e.pair >= 0:
                rmw[base + e.pair] |= 1 << i
        self.addr = Relation(addr, "addr").within(self.R, self.M)
        self.data = Relation(data, "data").within(self.R, self.W)
        self.ctrl = Relation(ctrl, "ctrl").within(self.R)
        self.rmw = Relation(rmw, "rmw")
        self.flow = Relation(flow, "value")

    def fencerel(self, middle: int, name: str = "") -> Relation:
        """Events that one of `middle` stands between, in program order."""
        return Relation(seq([row & middle for row in self.po.rows], self.po.rows), name)

    def matched(self, lock: str, unlock: str) -> Rows:
        """bell's rcu-rscs and srcu-rscs: outermost and nested read-side critical sections."""
        rows = [0] * self.n
        open_: dict[tuple[int, Address | None], list[int]] = {}
        for i, e in enumerate(self.events):
            key = self.thread[i], e.address
            if e.tag == lock:
                open_.setdefault(key, []).append(i)
            elif e.tag == unlock and open_.get(key):
                rows[open_[key].pop()] |= 1 << i
        return rows

    def static(self) -> None:
        """The relations of linux-kernel.cat that neither rf nor co enters."""
        po, w = self.po, self.where
        self.rcu_rscs = Relation(self.matched("rcu-lock", "rcu-unlock"))
        self.srcu_rscs = Relation([0] * self.n if self.model.indexed else self.matched("srcu-lock", "srcu-unlock"))
        self.acq_po = po.within(self.Acquire, self.M).named("acq-po")
        self.po_rel = po.within(self.M, self.Release).named("po-rel")
        self.R4rmb = self.R & ~self.Noreturn
        self.fence_rmb = self.fencerel(w("F:rmb"))
        self.rmb = self.fence_rmb.within(self.R4rmb, self.R4rmb).named("rmb")
        self.wmb = self.fencerel(w("F:wmb")).within(self.W, self.W).named("wmb")
        M, RMW = self.M, self.RMW
        before, after = self.fencerel(w("F:before-atomic")), self.fencerel(w("F:after-atomic"))
        spin = self.fencerel(w("F:after-spinlock"))
        srcu = self.fencerel(w("F:after-srcu-read-unlock"))
        self.static_mb = (
            self.fencerel(w("F:mb")).within(M, M)
            | (before.within(M, RMW) @ po.opt).within(last=M)
            | (po.opt.within(M, RMW) @ after).within(last=M)
            | (po.opt.within(M, self.LKW) @ spin).within(last=M)
            | (po.opt.within(M, self.Srcu_unlock) @ srcu).within(last=M)
        ).named("mb")
        self.After_unlock_lock = w("F:after-unlock-lock")
        self.fence_unlock_lock = self.fencerel(self.After_unlock_lock)
        self.gp = (po.within(last=self.Sync_rcu | self.Sync_srcu) @ po.opt).named("gp")
        ordering = self.where(
            "F:barrier", "F:rmb", "F:wmb", "F:mb", "F:sync-rcu", "F:before-atomic", "F:after-atomic", "F:rcu-lock",
            "F:rcu-unlock", "SRCU:sync-srcu", "SRCU:srcu-lock", "SRCU:srcu-unlock",
        ) | self.Acquire | self.Release  # fmt: skip
        self.barrier = self.fencerel(ordering) | po.within(last=self.Release) | po.within(self.Acquire)
        self.dep, self.rwdep, self.addr_wmb = self.dependencies(self.addr, self.data, self.ctrl)
        self.srcu_overwrite = self.po_loc.within(last=self.Srcu_unlock).named("srcu") if self.model.indexed else None
        self.locks = bool(self.LKW | self.UL)
        sections = bool(self.rcu_rscs or self.srcu_rscs) or (self.model.indexed and bool(self.Srcu_lock))
        self.has_rcu = bool(self.Sync_rcu | self.Sync_srcu) and sections
        self.flags = self.static_flags()

    def dependencies(self, addr: Relation, data: Relation, ctrl: Relation) -> tuple[Relation, Relation, Relation]:
        """dep, rwdep, and what of addr orders stores behind ``smp_wmb()``."""
        dep = addr | data
        rwdep = (dep | ctrl).within(last=self.W)
        return dep, rwdep, (addr.within(last=self.Plain) @ self.wmb).named("addr;wmb")

    def after_locks(self, orders: list[tuple[int, ...]]) -> Rows:
        """For each event those that come after it because of the order of the critical sections: from what is before
        an unlock in program order to what is after a later lock of it."""
        rows = [0] * self.n
        before = [0] * self.n  # of each event, what is before it in program order
        for a, row in enumerate(self.po.rows):
            for b in bits(row):
                before[b] |= 1 << a
        for order in orders:
            earlier = 0
            for w in order:
                if self.LKW >> w & 1:
                    after = self.po.rows[w - 1]
                    for a in bits(earlier):
                        rows[a] |= after & ~(1 << a)
                elif self.UL >> w & 1:
                    earlier |= before[w] | 1 << w
        return rows

    def static_flags(self) -> set[str]:
        """The flags of linux-kernel.bell and lock.cat that rf and co do not enter."""
        flags = set()
        if self.model.indexed:
            flags = self.unmatched("rcu", self.where("F:rcu-lock"), self.where("F:rcu-unlock"), self.rcu_rscs)
        else:
            if self.unmatched("rcu", self.where("F:rcu-lock"), self.where("F:rcu-unlock"), self.rcu_rscs):
                flags.add("unbalanced-rcu-locking")
            if self.unmatched("srcu", self.Srcu_lock, self.Srcu_unlock, self.srcu_rscs):
                flags.add("unbalanced-srcu-locking")
        sleeps = seq([row & self.Sync_srcu for row in self.po.rows], self.po.rows)
        if any(a & b for a, b in zip(self.rcu_rscs.rows, sleeps, strict=True)):
            flags.add("invalid-sleep")
        if any(self.events[a].value != self.events[b].value for a, b in self.srcu_rscs.pairs()):
            flags.add("srcu-bad-nesting")
        if self.Plain & self.W:
            far = self.po_loc - self.barrier
            plain = self.Plain & self.W
            if far.within(plain, self.Marked) or far.within(self.Marked, plain):
                flags.add("mixed-accesses")
        return flags

    @staticmethod
    def unmatched(name: str, locks: int, unlocks: int, rscs: Relation) -> set[str]:
        """Flags of locks and unlocks that are in no pair of `rscs`."""
        starts, ends = (sum(1 << x for x in {p[k] for p in rscs.pairs()}) for k in (0, 1))
        out = {f"unmatched-{name}-lock"} if locks & ~starts else set()
        return out | ({f"unmatched-{name}-unlock"} if unlocks & ~ends else set())


class Execution:
    """A skeleton with rf and co: the relations that depend on them.

    `rf` says for each read which write it reads from; `co` holds, for each write, all that are co-later.
    """

    def __init__(self, s: Skeleton, rf: dict[int, int], co: Rows) -> None:
        self.s = s
        rows = [0] * s.n
        fr = [0] * s.n
        for r, w in rf.items():
            rows[w] |= 1 << r
            fr[r] = co[w]
        self.rf = Relation(rows, "rf")
        self.co = Relation(co, "co")
        self.fr = Relation(fr, "fr")
        self.rfe, self.rfi = (self.rf & s.ext).named("rfe"), (self.rf & s.int_).named("rfi")
        self.coe, self.fre = (self.co & s.ext).named("coe"), (self.fr & s.ext).named("fre")
        self.addr, self.dep, self.rwdep, self.addr_wmb = s.addr, s.dep, s.rwdep, s.addr_wmb
        if s.model.carried and (carried := s.data.within(last=~s.Srcu_unlock) @ self.rfi):
            carry = carried.star
            self.addr = carry @ s.addr
            self.dep, self.rwdep, self.addr_wmb = s.dependencies(self.addr, carry @ s.data, carry @ s.ctrl)
        self.srcu_rscs, self.flags = s.srcu_rscs, s.flags
        if s.model.indexed and s.Srcu_lock | s.Srcu_unlock:
            self.srcu()
        self.ppo_()

    def srcu(self) -> None:
        """srcu-rscs by data dependencies, and its flags."""
        s = self.s
        carried = (s.data.within(last=~s.Srcu_unlock) @ self.rf).star
        rscs = (carried.within(s.Srcu_lock) @ s.data).within(last=s.Srcu_unlock) & s.loc
        self.srcu_rscs = rscs.named("srcu-rscs")
        self.flags = s.flags | s.unmatched("srcu", s.Srcu_lock, s.Srcu_unlock, rscs)
        if any(row.bit_count() > 1 for row in rscs.rows):
            self.flags.add("multiple-srcu-matches")
        if any(s.events[a].value != s.events[b].value for a, b in rscs.pairs()):
            self.flags.add("srcu-bad-value-match")

    def ppo_(self) -> None:
        s, po = self.s, self.s.po
        mb, none = s.static_mb, Relation([0] * s.n)
        self.po_unlock_lock_po = none
        if s.locks:
            unlock_lock = (po | self.rf).within(s.UL, s.LKR)
            self.po_unlock_lock_po = (po.within(last=s.UL) @ unlock_lock @ po).named("po-unlock-lock-po")
            if s.model.sequences:
                after = self.po_unlock_lock_po.within(s.M, s.After_unlock_lock) @ po
            else:
                after = po.within(s.M, s.UL) @ (self.co | po).within(last=s.LKW) @ s.fence_unlock_lock
            mb = (mb | after.within(last=s.M)).named("mb")
        self.strong_fence = mb | s.gp
        self.nonrw_fence = self.strong_fence | s.po_rel | s.acq_po
        self.fence = self.nonrw_fence | s.wmb | s.rmb
        overwrite_int = (self.co & s.int_).named("coi") | (self.fr & s.int_).named("fri")
        if s.srcu_overwrite is not None:
            overwrite_int = overwrite_int | s.srcu_overwrite
        to_w = self.rwdep | overwrite_int | self.addr_wmb
        to_r = self.addr | (self.dep.within(last=s.Marked) @ self.rfi)
        self.ppo = to_r | to_w | self.fence | (self.po_unlock_lock_po & s.int_)

    def coherence(self) -> Broken | None:
        """``acyclic po-loc | com as coherence``, ``empty rmw & (fre ; coe) as atomic``."""
        s = self.s
        all_ = s.po_loc | self.rf | self.co | self.fr
        if not acyclic(all_.rows):
            return Broken("coherence", around(all_))
        between = self.fre @ self.coe
        for a, b in (s.rmw & between).pairs():
            return Broken("atomic", [*between.spell(a, b), (b, a, "rmw^-1")])
        return None

    def thin_air(self) -> Broken | None:
        """Values that are computed from each other in a circle: herd7 finds none for them, and drops the execution."""
        circle = self.rf | self.s.flow
        return None if acyclic(circle.rows) else Broken("thin-air", around(circle))

    def early(self) -> bool:
        """Whether ppo and rfe alone have no cycle; what happens-before needs and can be told without prop."""
        m = self.s.Marked
        return acyclic((self.ppo | self.rfe).within(m, m).rows)

    def judge(self) -> Outcome:
        """happens-before, propagation, rcu, plain-coherence, then data races; coherence is not looked at."""
        s, m = self.s, self.s.Marked
        self.cumul_fence = (
            (self.rfe.within(last=m).opt @ (self.strong_fence | s.po_rel)) | s.wmb | self.po_unlock_lock_po
        ).within(m, m)
        if s.model.sequences and s.rmw:
            self.rmw_sequence = (self.rf @ s.rmw).star
            self.cumul_fence = self.cumul_fence @ self.rmw_sequence
        overwrite_ext = self.fre | self.coe
        self.prop = (overwrite_ext.opt.within(m) @ self.cumul_fence.star).within(last=m) @ self.rfe.opt.within(last=m)
        hb = self.hb = (self.ppo | self.rfe | ((self.prop - s.id) & s.int_)).within(m, m)
        if not acyclic(hb.rows):
            return Outcome(Broken("happens-before", around(hb)))
        self.hb_star = hb.star
        pb = self.pb = (self.prop @ self.strong_fence @ self.hb_star).within(last=m)
        if not acyclic(pb.rows):
            return Outcome(Broken("propagation", around(pb)))
        self.rcu_fence = Relation([0] * s.n)
        self.rb = self.rcu_fence
        if s.has_rcu or (s.gp and s.Plain):  # of grace periods alone, propagation says the same
            self.rcu()
            for a, row in enumerate(self.rb.rows):
                if row >> a & 1:
                    return Outcome(Broken("rcu", self.rb.spell(a, a)))
        return self.plain()

    def rcu(self) -> None:
        """rcu-order as a least fixpoint, rcu-fence and rb."""
        s, po = self.s, self.s.po
        link = (po.opt @ self.hb_star @ self.pb.star @ self.prop @ po).rows
        n = s.n
        order = [0] * n
        for i in range(n):
            if (s.Sync_rcu | s.Sync_srcu) >> i & 1:
                order[i] = 1 << i
        kinds = []
        for gp, rscs, same in ((s.Sync_rcu, s.rcu_rscs, False), (s.Sync_srcu, self.srcu_rscs, True)):
            gps = [1 << i if gp >> i & 1 else 0 for i in range(n)]
            kinds.append((gps, rscs.inverse.rows, same))
        while True:
            middle = [a | b for a, b in zip(link, seq(seq(link, order), link), strict=True)]
            new = [a | b for a, b in zip(order, seq(seq(order, link), order), strict=True)]
            for gps, rscsi, same in kinds:
                for rows in (seq(seq(gps, middle), rscsi), seq(seq(rscsi, middle), gps)):
                    for i, row in enumerate(rows):
                        new[i] |= row & s.loc.rows[i] if same else row
            if new == order:
                break
            order = new
        self.rcu_fence = (po @ Relation(order, "rcu-order") @ po.opt).named("rcu-fence")
        self.rb = (self.prop @ self.rcu_fence @ self.hb_star @ self.pb.star).within(last=s.Marked)

    def plain(self) -> Outcome:
        """plain-coherence and data races."""
        s = self.s
        out = Outcome(flags=set(self.flags))
        if not s.Plain:
            return out
        m, everything = s.Marked, s.all
        fence, strong = self.fence | self.rcu_fence, self.strong_fence | self.rcu_fence
        xbstar = (self.hb | self.pb | self.rb).star
        vis = (
            (self.cumul_fence.star @ self.rfe.opt).within(last=m)
            @ ((strong.within(last=m) @ xbstar) | (xbstar & s.int_))
        )  # fmt: skip
        returns = everything & ~s.Noreturn
        w_pre = (self.addr | fence).opt.within(m)
        r_pre = (self.addr | self.nonrw_fence | s.fence_rmb.within(s.R4rmb, returns)).opt.within(m)
        w_post = fence.opt.within(last=m)
        if s.model.sequences and s.rmw:
            w_post = w_post @ self.rmw_sequence
        r_post = (self.nonrw_fence | s.fence_rmb.within(returns, s.R4rmb)).opt.within(last=m)
        ww_vis = fence | (strong @ xbstar @ w_pre) | (w_post @ vis @ w_pre)
        wr_vis = fence | (strong @ xbstar @ r_pre) | (w_post @ vis @ r_pre)
        rw_xbstar = fence | (r_post @ xbstar @ w_pre)
        ext = s.ext.rows
        pre_race = Relation(
            [
                ext[a] & (s.M if s.Plain >> a & 1 else s.Plain if (s.M & ~s.IW) >> a & 1 else 0)
                for a in range(s.n)
            ]
        )  # fmt: skip
        for com, way in ((self.rf, rw_xbstar), (self.fr, wr_vis), (self.co, ww_vis)):
            for a, b in (com & pre_race & way.inverse).pairs():
                return Outcome(Broken("plain-coherence", [(a, b, com.name), *way.spell(b, a)]))
        product = Relation([everything if m >> a & 1 else 0 for a in range(s.n)])
        into = Relation([m] * s.n)
        ww_nonrace = ww_vis & (product | rw_xbstar) & (into | wr_vis)
        ww_race = (self.co & pre_race) - ww_nonrace
        wr_race = ((self.co.opt @ self.rf) & pre_race) - wr_vis - rw_xbstar.inverse
        rw_race = (self.fr & pre_race) - rw_xbstar
        for race, kind in ((ww_race, "ww-race"), (wr_race, "wr-race"), (rw_race, "rw-race")):
            out.races += [(a, b, kind) for a, b in race.pairs()]
        if out.races:
            out.flags.add("data-race")
        return out


def around(relation: Relation) -> list[Edge]:
    """A shortest cycle of a relation, spelt out."""
    path = cycle(relation.rows)
    return [e for a, b in pairwise(path) for e in relation.spell(a, b)]


__all__ = ["INIT", "Broken", "Execution", "Outcome", "Skeleton"]
