"""What a rewrite of the program did, what it asks for, and what of it is not modelled: a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

NOT_OF_PROCESSES = (
    "not modelled: faults of a process on shared pages that another one had touched before, what shared memory itself "
    "costs, fork and exit, switches between address spaces"
)


def rewritten(done: Mapping[str, int | str] | None) -> list[str]:
    """`done`: as --json has it under `rewrite`."""
    if done is None:
        return []
    if done["name"] == "guard":
        return guards(done)
    if done["name"] == "processes":
        return processes(done)
    return []


def guards(done: Mapping[str, int | str]) -> list[str]:
    counts = [f"{v} {k}" for k, v in done.items() if k != "name"]
    if "guards installed" not in done:
        counts.insert(0, "the program has no guard pages (parts of a mapping without rights, at most 64 pages)")
    return ["; ".join(counts)]


def processes(done: Mapping[str, int | str]) -> list[str]:
    n, pages = done["mappings that would have to be shared memory"], done["pages of them"]
    before, pages_before = done["mappings from before that several use"], done["pages of those"]
    return [
        f"{done['processes']} processes; {n} mappings ({pages} pages) that one makes and others use would have to be "
        f"shared memory, and here each has its own; {before} from before ({pages_before} pages) are used by several, "
        "as copies",
        NOT_OF_PROCESSES,
    ]
