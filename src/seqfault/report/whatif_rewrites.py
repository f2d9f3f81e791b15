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
    if not done["installed"]:
        text = "the program has no guard pages (parts of a mapping without rights, at most 64 pages)"
    else:
        text = f"{done['installed']} guards installed, {done['removed']} removed"
        if done["dropped"]:
            text += f", {done['dropped']} over pages that held something, which MADV_GUARD_INSTALL drops"
    if done["as_recorded"]:
        text += f"; {done['as_recorded']} larger parts without rights are as recorded"
    return [text]


def processes(done: Mapping[str, int | str]) -> list[str]:
    if done["processes"] == 1:
        return ["there is one thread: no other process that it could share anything with"]
    return [
        f"{done['processes']} processes; {done['shared']} mappings ({done['shared_pages']} pages) that one makes and "
        f"others use would have to be shared memory, and here each has its own; {done['inherited']} from before "
        f"({done['inherited_pages']} pages) are used by several, as copies",
        NOT_OF_PROCESSES,
    ]
