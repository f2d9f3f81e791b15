"""The table of sites of a review, from what `seqfault why --json` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqfault.cli import BadInput
from seqfault.report.review_data import Table
from seqfault.why.classify import NECESSARY, UNDETERMINED

COLUMNS = ["site", "what it is", "verdict", "without it", "needed in", "not needed in"]
SHOWN = 4  # of operations, of violations
ONCE = "once"  # READ_ONCE and WRITE_ONCE, which are too many to list


def read_sites(path: Path, protocol: str) -> Table:
    """The table in a file.  Raises `BadInput` for what is no such file, or is about another protocol."""
    remedy = f"write it with: seqfault why {protocol} --json > {path}"
    try:
        d = json.loads(path.read_text())
    except OSError as e:
        raise BadInput(f"--sites {path}: {e.strerror}; {remedy}") from None
    except ValueError as e:
        raise BadInput(f"--sites {path}: no JSON ({e}); {remedy}") from None
    if not isinstance(d, dict) or not isinstance(d.get("sites"), list):
        raise BadInput(f"--sites {path}: no answer of why; {remedy}")
    if d.get("protocol") != protocol:
        raise BadInput(f"--sites {path}: it is about {d.get('protocol')!r}; {remedy}")
    try:
        return table(d)
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise BadInput(
            f"--sites {path}: no answer of this seqfault's why ({type(e).__name__}: {e}); {remedy}"
        ) from None


def table(d: dict[str, Any]) -> Table:
    """A row for each site, or sites that were taken out together; the necessary ones first."""
    models = d["memory"]
    named = [x for x in d["sites"] if not all(s["kind"] == ONCE for s in x["sites"])]
    rank = {NECESSARY: 0, UNDETERMINED: 2}
    rows = [row(x, models) for x in sorted(named, key=lambda x: rank.get(x["verdict"], 1))]
    under = f"{d['scenarios']:,} scenarios under {', '.join(models)}"
    note = f"Each site taken out, and explored: {under}."
    once = len(d["sites"]) - len(named)
    if once:
        note += f" Left out: {once} READ_ONCE and WRITE_ONCE, which only data races could tell from plain accesses."
    if not d["complete"]:
        note += " Not complete: undetermined is no verdict."
    memory = "" if models == ["sc"] else f" --memory {','.join(models)}"
    return Table("Sites", f"seqfault why {d['protocol']}{memory}", COLUMNS, rows, note)


def row(x: dict[str, Any], models: list[str]) -> list[str]:
    fs = x["models"]
    under = "; ".join(f"{f['memory']}: {f['verdict']}" for f in fs) if len({f["verdict"] for f in fs}) > 1 else ""
    verdict = x["verdict"] + (f" ({under})" if under else "")
    told = next((f for f in fs if f["verdict"] == NECESSARY), fs[0] if fs else None)
    shows = [
        f"{v['kind']}{' of ' + v['object'] if v['object'] else ''} in {len(v['scenarios'])}"
        f" scenario{'s' if len(v['scenarios']) != 1 else ''}"
        for v in (told["violations"] if told else [])
    ]
    ops = told["operations"] if told else {}
    needed = [(k, o) for k, o in ops.items() if o["needed"]]
    spared = [(k, o) for k, o in ops.items() if not o["needed"]]
    needed.sort(key=lambda e: -e[1]["needed"])
    spared.sort(key=lambda e: -e[1]["scenarios"])
    what = [f"{s['text']} ({s['file']}:{s['line']})" for s in x["sites"]]
    return [
        " + ".join(s["name"] for s in x["sites"]),
        "; ".join(what),
        verdict,
        some(shows) or (told["reason"] if told and told["verdict"] != NECESSARY else ""),
        some([f"{k} ({o['needed']} of {o['scenarios']})" for k, o in needed]),
        some([f"{k} ({o['scenarios']})" for k, o in spared]) if needed else "",
    ]


def some(words: list[str]) -> str:
    more = f"; and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return "; ".join(words[:SHOWN]) + more
