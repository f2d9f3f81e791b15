"""Curves of a review as SVG that stands in the page: colours by its style sheet, nothing to click, printable."""

from __future__ import annotations

import math
from html import escape

from markupsafe import Markup

from seqfault.report.price import si
from seqfault.report.review_data import Comparison

WIDTH, HEIGHT = 340, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 30, 34
LINES = 4


def curve(c: Comparison, name: str) -> Markup:
    """Rates by CPUs, both axes logarithmic.  `name`: the id of its title.  Empty where there is one number of CPUs."""
    series = [(s, cls) for s, cls in ((c.base, "base"), (c.own, "own")) if cls == "own" or s is not c.own]
    rates = [p["rate"] for s, _ in series for p in s["points"] if p["rate"] > 0]
    cpus = [p["cpus"] for p in c.own["points"]]
    if len(cpus) < 2 or not rates:
        return Markup("")
    low, high = math.log(min(rates)), math.log(max(rates))
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05
    left, right = math.log(cpus[0]), math.log(cpus[-1])

    def x(n: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(n) - left) / (right - left)

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (math.log(rate) - low) / (high - low)

    title = f"{c.name}: {c.unit} a second by CPUs, {' against '.join(s['protocol'] for s, _ in reversed(series))}"
    out = [
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}">',
        f'<title id="{name}">{escape(title)}; the table has the figures</title>',
    ]
    for k in range(LINES + 1):
        rate = math.exp(low + (high - low) * k / LINES)
        out.append(f'<line class="grid-line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(rate):.1f}" y2="{y(rate):.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" text-anchor="end">{si(rate)}</text>')
    last = -1000.0
    for n in cpus:
        if x(n) - last >= 18:
            last = x(n)
            out.append(f'<text x="{last:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{n}</text>')
    out.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">CPUs</text>')
    at = LEFT
    for s, cls in series:
        points = [(x(p["cpus"]), y(p["rate"])) for p in s["points"] if p["rate"] > 0]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        out.append(f'<polyline class="{cls}" points="{path}"/>')
        out += [mark(a, b, cls) for a, b in points]
        out.append(f'<line class="{cls}" x1="{at}" x2="{at + 22}" y1="12" y2="12"/>{mark(at + 11, 12, cls)}')
        out.append(f'<text class="named" x="{at + 27}" y="16">{escape(s["protocol"])}</text>')
        at += 44 + 7 * len(s["protocol"])
    return Markup("".join(out) + "</svg>")


def mark(x: float, y: float, cls: str) -> str:
    if cls == "own":
        return f'<circle class="own" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    return f'<rect class="base" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
