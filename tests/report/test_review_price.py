"""`seqfault review --price --trace`: the price in the page, in the mail, in JSON; and what it says of bad input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("pyarrow")

from seqfault.cli import main  # noqa: E402
from seqfault.report.review_curve import curve  # noqa: E402
from seqfault.report.review_data import Comparison  # noqa: E402
from seqfault.report.review_price import ask_prices, misses, section  # noqa: E402
from seqfault.trace import schema  # noqa: E402
from seqfault.trace.schema import Meta  # noqa: E402
from seqfault.trace.store import Writer, row  # noqa: E402

SCENARIO = ("-s", "argued/case2-alone", "--jobs", "1")
PRICE = ("--price", "page_fault1,ebizzy", "--cpus", "1,2,4", "--machine", "x86-small")


def recording(path):
    """Two threads that map, touch and unmap."""
    rows, base = [], 0x7F0000000000
    for tid in (2, 3):
        t, at = 1_000_000 + 100 * tid, base + (tid << 24)
        for _ in range(40):
            said = {"duration_ns": 3000, "site": "f+0x1 (prog)"}
            rows.append(row(t, 1, tid, schema.CALL, name="mmap", address=0, length=8 * 4096, a2=3, a3=0x22, result=at, **said))
            for i in range(8):
                t += 4000
                rows.append(row(t, 1, tid, schema.FAULT, name="user", duration_ns=1500, address=at + 4096 * i, flags=6, a2=0))
            t += 4000
            rows.append(row(t, 1, tid, schema.CALL, name="munmap", address=at, length=8 * 4096, result=0, **said))
            t += 5000
    rows.sort(key=lambda r: r[0])
    kinds = [schema.FAULT, schema.CALL, schema.OFF, schema.AREA, schema.LOCK_WAIT]
    w = Writer(path, Meta(kernel="6.18.1", cpus=2, recorded=kinds, start_ns=1_000_000, end_ns=rows[-1][0] + 1))
    for r in rows:
        w.add(r, r[0])
    w.close()
    return path


def cli(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(list(args))
    out = capsys.readouterr()
    return e.value.code, out.out, out.err


class Outline(HTMLParser):
    """Ids, figures and tables of the section of prices."""

    def __init__(self):
        super().__init__()
        self.ids, self.refs, self.tables, self.heads, self.curves = set(), set(), 0, 0, 0
        self.inside = False

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.inside = a.get("id") == "prices" if tag == "section" else self.inside
        self.ids.add(a.get("id"))
        if not self.inside:
            return
        self.refs |= {a["aria-labelledby"]} if "aria-labelledby" in a else set()
        self.tables += tag == "table" and a.get("class") == "figures"
        self.heads += tag == "th" and a.get("scope") in ("col", "row")
        self.curves += tag == "svg" and a.get("role") == "img"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    where = tmp_path_factory.mktemp("price")
    f = str(recording(where / "t.parquet"))
    for name in ("r.html", "r.md"):
        with pytest.raises(SystemExit) as e:
            main(["review", "spf-v5", *SCENARIO, *PRICE, "--trace", f, "-o", str(where / name)])
        assert e.value.code in (0, 1)
    return where, f


def test_page(made):
    where, f = made
    html = (where / "r.html").read_text()
    o = Outline()
    o.feed(html)
    assert o.curves == 2 and o.tables == 3 and o.heads > 20 and o.refs <= o.ids
    section = html[html.index('<section id="prices"') :]
    section = section[: section.index("</section>")]
    assert "A prediction, not a measurement." in section and 'href="#misses"' in section and 'id="misses"' in section
    assert "v9, ebizzy -mTRp" in section and "The recording itself, replayed under vm-refcnt: time" in section
    assert "seqfault price -w page_fault1 -w ebizzy -p mmap-sem -p spf-v5 --cpus 1,2,4 -m x86-small" in section
    assert f"seqfault whatif {f} -p mmap-sem -p spf-v5 -m x86-small" in section
    assert f"--price page_fault1,ebizzy --trace {f} --cpus 1,2,4 --machine x86-small -o r.html" in html
    assert "http" not in section


def test_mail(made):
    where, _ = made
    text = (where / "r.md").read_text()
    own = text[text.index("## What it buys") : text.index("## Questions")]
    assert max(map(len, own.splitlines())) <= 72
    assert re.search(r"    CPUs +mmap-sem +spf-v5 +ratio +no lock\n    1 +\S+ +\S+ +x\d\.\d\d", own)
    assert re.search(r"    design +s +speed +no lock +fault +p99 +error\n    vm-refcnt +0\.\d{3}", own)
    assert "- missed: v9, ebizzy -mTRp" in own and "A prediction, not a measurement" in own


def test_json_and_nothing_without_the_options(capsys, tmp_path):
    out = str(tmp_path / "r.md")
    code, said, _ = cli(capsys, "review", "mmap-sem", *SCENARIO, "-o", out, "--json")
    assert code == 0 and json.loads(said)["prices"] is None
    assert "What it buys" not in (tmp_path / "r.md").read_text()
    price = ("--price", "page_fault1", "--cpus", "1,2", "--machine", "x86-small")
    code, said, _ = cli(capsys, "review", "mmap-sem", *SCENARIO, *price, "-o", out, "--json")
    prices = json.loads(said)["prices"]
    assert code == 0 and prices["traces"] == [] and len(prices["commands"]) == 1
    assert [s["protocol"] for s in prices["workloads"]["workloads"][0]["series"]] == ["mmap-sem"]
    assert re.search(r"CPUs +mmap-sem +no lock\n", (tmp_path / "r.md").read_text())  # nothing to hold it against


@pytest.mark.parametrize(
    "args,why",
    [
        (("--price", "ebizy"), "did you mean ebizzy"),
        (("--price", ","), "names no workload"),
        (("--cpus", "1,2"), "--cpus is of --price"),
        (("--machine", "x86-small"), "--machine is of --price and --trace"),
        (("--price", "usual", "--cpus", "9999"), "skylake-4s has"),
        (("--price", "usual", "--machine", "nope"), "no machine named"),
        (("--trace", "nothing.parquet"), "nothing.parquet"),
        (("--trace", "sample:nope"), "nope"),
    ],
)
def test_bad_input_before_anything_is_explored(capsys, tmp_path, args, why):
    code, out, err = cli(capsys, "review", "spf-v5", *SCENARIO, *args, "-o", str(tmp_path / "r.html"))
    assert code == 2 and not out and why in err and err.count("\n") == 1, err
    assert not (tmp_path / "r.html").exists()


def test_usual_and_what_was_missed():
    asked = ask_prices("spf-v5", ["usual", "ebizzy"], [], None, None)
    assert asked is not None and [w.name for w in asked.loads] == ["ebizzy", "page_fault1", "malloc1"]
    assert ask_prices("spf-v5", [], [], None, None) is None
    assert len(misses("ebizzy")) == 2 and len(misses("multi-fault")) == 1 and misses("compute") == []
    assert section("Recordings of this project")  # the document comes with the package


def test_a_curve_of_one_point_is_none_and_flat_ones_are_drawn():
    def series(name, *rates):
        points = [{"cpus": 2**i, "rate": r} for i, r in enumerate(rates)]
        return {"protocol": name, "points": points}

    def drawn(own, base):
        return curve(Comparison("w", "w", "units", "", own, base, [], []), "c")

    assert drawn(series("a<b", 1.0), series("mmap-sem", 1.0)) == ""
    flat = drawn(series("a<b", 5.0, 5.0), series("mmap-sem", 5.0, 0.0))
    assert "nan" not in flat and "a&lt;b" in flat and flat.count("<polyline") == 2
