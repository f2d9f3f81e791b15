"""The documents that a report quotes: their sections, and what of Markdown they use, as HTML."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from importlib.resources import files

ITEM = re.compile(r"\s*[-*] ")


@dataclass(frozen=True)
class Section:
    """A heading (of level 2) of a document and what is under it."""

    title: str
    text: str


def document(name: str) -> list[Section]:
    """The sections of a document of docs/ that comes with the package: fidelity, questions."""
    text = (files("seqfault") / "report" / "templates" / f"{name}.md").read_text()
    parts = re.split(r"(?m)^## +", text)
    return [Section(title.strip(), body.strip()) for title, _, body in (p.partition("\n") for p in parts[1:])]


def inline(text: str) -> str:
    """Code, bold, emphasis and links (without their targets, which are files of the source tree)."""
    out = []
    for i, piece in enumerate(re.split(r"`([^`]+)`", text)):
        if i % 2:
            out.append(f"<code>{html.escape(piece)}</code>")
            continue
        t = html.escape(piece, quote=False)
        t = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", t)
        t = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", t)
        out.append(re.sub(r"(?<![*\w])\*([^*\n]+)\*(?!\w)", r"<em>\1</em>", t))
    return "".join(out)


def to_html(text: str) -> str:
    """Paragraphs, lists, tables and indented code of a document."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", text.replace("\n## ", "\n\n## ")):
        lines = [x for x in block.split("\n") if x.strip()]
        while lines:
            n = run(lines)
            kind, part, lines = kind_of(lines[0]), lines[:n], lines[n:]
            if kind == "code":
                if out and out[-1].endswith("</code></pre>"):  # an empty line within code
                    out[-1] = out[-1].removesuffix("</code></pre>") + "\n\n" + code(part) + "</code></pre>"
                else:
                    out.append(f"<pre><code>{code(part)}</code></pre>")
            elif kind == "table":
                out.append(table(part))
            elif kind == "item":
                items = re.split(r"\n(?=[-*] )", "\n".join(part))
                out.append("<ul>" + "".join(f"<li>{inline(x.lstrip()[2:])}</li>" for x in items) + "</ul>")
            else:
                out.append(f"<p>{inline(' '.join(part))}</p>")
    return "\n".join(out)


def kind_of(line: str) -> str:
    if line.startswith("    "):
        return "code"
    return "table" if line.startswith("|") else "item" if ITEM.match(line) else "text"


def run(lines: list[str]) -> int:
    """How many lines belong to the block that the first begins."""
    first = kind_of(lines[0])
    n = 1
    while n < len(lines):
        k = kind_of(lines[n])
        if k != first and not (first == "item" and k in ("text", "code") and lines[n].startswith("  ")):
            break
        n += 1
    return n


def code(lines: list[str]) -> str:
    return html.escape("\n".join(x[4:] for x in lines))


def table(lines: list[str]) -> str:
    rows = [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", x.strip()[1:-1])] for x in lines]
    rows = [r for r in rows if not all(re.fullmatch(r":?-+:?", c) for c in r)]
    head, body = rows[0], rows[1:]
    top = "".join(f'<th scope="col">{inline(c)}</th>' for c in head)
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    cells = "".join("<tr>" + "".join(f"<td>{inline(c)}</td>" for c in r) + "</tr>" for r in body)
    return f'<div class="wide"><table>{top}<tbody>{cells}</tbody></table></div>'
