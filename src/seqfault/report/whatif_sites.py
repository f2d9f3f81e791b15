"""What false invalidations cost, and which calls of the program would be worth a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqfault.price.world import Outcome

SHOWN = 3  # sites of a design
FEW = 5  # faults that met it in a replay; what fewer met is chance
LEAST = 0.05  # of what a design's faults lose; a site that costs less is not told
LOOP = 10  # calls of a thread
REMEDY = {
    "munmap": "batch it (--rewrite batch), or keep the mapping and MADV_DONTNEED its pages (--rewrite dontneed)",
    "mmap": "map larger pieces (--rewrite batch), or keep mappings for the next use (--rewrite keep)",
    "mprotect": "one call for neighbours, or guard pages by MADV_GUARD_INSTALL instead (--rewrite guard)",
    "pkey_mprotect": "one call for neighbours",
    "madvise": "fewer and larger ones",
    "mremap": "grow by more at once",
    "brk": "grow and trim the heap by more at once (glibc: M_TOP_PAD, M_TRIM_THRESHOLD)",
}


def usual_ns(outcomes: Sequence[Outcome]) -> float:
    """The mean of a fault that was not invalidated."""
    n = sum(o.stats["fault"].n - o.invalidated for o in outcomes)
    return sum(o.stats["fault"].ns - o.invalidated_ns for o in outcomes) / n if n > 0 else 0.0


def invalidations(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of one replay in the mean: speculations that gave up because something had changed; `for_nothing`: those whose
    page no operation of that time was about, so that they could have gone on; what these took beyond a fault that was
    not disturbed, all together (`cost_ns`), and as a share of all time in faults (`cost`)."""
    k, usual = len(outcomes), usual_ns(outcomes)
    vain, ns = sum(o.vain for o in outcomes), sum(o.vain_ns for o in outcomes)
    all_ns = sum(o.stats["fault"].ns for o in outcomes)
    extra = max(ns - vain * usual, 0.0)
    return {
        "n": sum(o.invalidated for o in outcomes) / k, "for_nothing": vain / k, "cost_ns": extra / k,
        "cost": extra / all_ns if all_ns else 0.0,
    }  # fmt: skip


def sites(
    outcomes: Sequence[Outcome], met: Mapping[str, tuple[int, ...]], calls: Mapping[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Calls of the program by what faults lose to them, most first.  `loss_ns` of one replay: what faults that gave up
    because of it took beyond others, and what the rest of them waited at locks while it was under way."""
    k, usual = len(outcomes), usual_ns(outcomes)
    all_moved = sum(row[0] for row in met.values())
    all_ns = sum(o.stats["fault"].ns for o in outcomes)
    out = []
    for place, (moved, moved_ns, vain, _, waited, waited_ns) in met.items():
        n, threads = calls.get(place, (0, 0))
        loss = max(moved_ns - moved * usual, waited_ns, 0.0)  # who gave up then waits: not counted twice
        out.append({
            "place": place, "calls": n, "threads": threads, "invalidates": moved / k, "for_nothing": vain / k,
            "share": moved / all_moved if all_moved else 0.0, "waits": waited / k, "waits_ns": waited_ns / k,
            "loss_ns": loss / k, "loss": loss / all_ns if all_ns else 0.0,
        })  # fmt: skip
    return sorted(out, key=lambda x: -x["loss_ns"])


def ms(ns: float) -> str:
    return f"{ns / 1e6:.2f} ms" if ns < 1e7 else f"{ns / 1e6:.0f} ms"


def told(design: dict[str, Any]) -> list[str]:
    """What false invalidations cost under a design, and the calls whose removal or change would buy most: a sentence
    each; none where there is nothing to tell."""
    return [x for x in (cost(design["invalidations"]), *sentences(design["sites"])) if x]


def cost(v: dict[str, float]) -> str:
    if not v["n"]:
        return ""
    return (
        f"{v['n']:.0f} speculations gave up because something had changed, {v['for_nothing']:.0f} of them though "
        f"nobody was at their page: {ms(v['cost_ns'])} of faults' time for nothing ({100 * v['cost']:.1f}%)"
    )


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    lost = sum(x["loss_ns"] for x in rows)
    out: list[str] = []
    for x in rows:
        few = x["invalidates"] + x["waits"] < FEW
        if few or not x["calls"] or x["loss_ns"] < LEAST * lost or len(out) == SHOWN:
            continue
        name, _, where = x["place"].partition(" at ")
        loop = " loop" if x["calls"] >= LOOP * max(x["threads"], 1) else ""
        does = [f"invalidates {100 * x['share']:.0f}% of those speculations"] if x["invalidates"] else []
        does += [f"keeps {x['waits']:.0f} faults waiting"] if x["waits"] else []
        threads = f" of {x['threads']} threads" if x["threads"] > 1 else ""
        out.append(
            f"the {name}{loop} at {where or 'an unknown place'} ({x['calls']:,} calls{threads}) {' and '.join(does)}; "
            f"without it faults take at most {ms(x['loss_ns'])} less ({100 * x['loss']:.1f}%): "
            f"{REMEDY.get(name, 'leave it out')}"
        )
    return out
