"""A review as one HTML file that needs nothing else: templates/ with the data as JSON in it."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from seqfault.report.late import LEGEND, MARK
from seqfault.report.review_data import Review, limits, questions, review_data
from seqfault.report.review_words import inline, to_html


def template(name: str) -> str:
    """A file of templates/, which comes with the package."""
    return (files("seqfault") / "report" / "templates" / name).read_text()


@lru_cache(maxsize=1)
def environment() -> Environment:
    env = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    env.filters["words"] = lambda text: Markup(to_html(text))
    env.filters["inline"] = lambda text: Markup(inline(text))
    env.filters["number"] = lambda n: f"{n:,}"
    return env


def embedded(value: Any) -> Markup:
    """JSON that may stand inside of a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for c in "<>&\u2028\u2029":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return Markup(text)


def price_words(review: Review) -> dict[str, Any] | None:
    """What the page says of prices; None where none were asked for."""
    p = review.prices
    if p is None:
        return None
    from seqfault.report import review_price as words  # which need what makes machine code
    from seqfault.report.price import si
    from seqfault.report.review_curve import curve

    return {
        "workloads": [(c, curve(c, f"curve-{n}")) for n, c in enumerate(p.compared, 1)],
        "machine": words.machine_words(p), "traces": [(t, words.designs(t)) for t in p.traces], "commands": p.commands,
        "misses": words.section(words.MISSES), "recordings": words.section(words.RECORDINGS), "words": words, "si": si,
    }  # fmt: skip


def page(review: Review) -> str:
    """The HTML of a review."""
    data = review_data(review)
    shown = {"traces": data["traces"], "texts": data["texts"], "protocol": data["protocol"]}
    return environment().from_string(template("review.html.j2")).render(
        r=data,
        doc=review.protocol.doc.strip(),
        over=review.over,
        mark=MARK,
        legend=LEGEND,
        price=price_words(review),
        questions=questions(review.protocol),
        limits=limits(),
        css=Markup(template("review.css")),
        js=Markup(template("review.js")),
        data=embedded(shown),
    )  # fmt: skip
