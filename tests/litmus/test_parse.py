"""The dialect: what is read, and what a wrong file is told."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse
from seqfault.litmus.threads import Incomplete, Limits
from seqfault.litmus.tree import Address, Assign, Fence, If, LitmusError, Load, RegisterOf, Rmw, Store, prop_text

SHAPES = sorted((Path(__file__).parent / "shapes").glob("*.litmus"))


def read(body="P0(int *x) { WRITE_ONCE(*x, 1); }", init="{}", asks="exists (x=1)"):
    return parse(f"C t\n{init}\n{body}\n{asks}\n", "t.litmus")


def statements(text, params="int *x, int *y, spinlock_t *s, struct srcu_struct *ss, atomic_t *v"):
    return read(f"P0({params}) {{ {text} }}").threads[0].body


def final(text, asks, init="{}", params="int *x, int *y"):
    """The values of `asks` at the end of one thread."""
    test = read(f"P0({params}) {{ {text} }}", init, f"locations [{asks}] forall (true)")
    verdict = judge(test)
    assert len(verdict.states) == 1
    return next(iter(verdict.states))


def test_initial_state():
    t = read(
        init="""{ (* a comment *) x=1; int y=2; spinlock_t s; 0:r0=5; int *p = &y; a=&b; q=x; atomic_t v = ATOMIC_INIT(3);
        int z[2]; [w]=-4; int n[3] = {7, 8}; uint64_t u = 0x10; 0:int r1 = 6; int *null = NULL; struct srcu_struct ss; }"""
    )
    at = {str(a): v for a, v in t.init.items()}
    assert at["x"] == 1 and at["y"] == 2 and at["s"] == 0 and at["v"] == 3 and at["w"] == -4 and at["u"] == 16
    assert at["p"] == Address("y") and at["a"] == Address("b") and at["q"] == Address("x") and at["b"] == 0
    assert at["z"] == at["z[1]"] == 0 and (at["n"], at["n[1]"], at["n[2]"]) == (7, 8, 0) and at["null"] == 0
    assert t.registers == {(0, "r0"): 5, (0, "r1"): 6}
    assert t.kinds["s"] == "spinlock_t" and t.kinds["ss"] == "struct srcu_struct"


def test_header_comments_and_strings():
    t = parse(
        '(* before *)\nC a+b-c [x]  // rest\n"a title"\n(* Result: never *)\nGenerator=diy\n{ }\n'
        "P0(int *x) // of it\n{ /* in */ WRITE_ONCE(*x, (*x)); (* odd *) }\n(* between (* nested *) *)\nexists (x=1 (* last *))",
        "f",
    )
    assert t.name == "a+b-c [x]" and t.result == "Never"
    assert t.threads[0].body == (Store("once", t.threads[0].body[0].address, t.threads[0].body[0].value, 8),)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("smp_mb();", "mb"), ("smp_rmb();", "rmb"), ("smp_wmb();", "wmb"), ("barrier();", "barrier"),
        ("smp_mb__before_atomic();", "before-atomic"), ("smp_mb__after_atomic();", "after-atomic"),
        ("smp_mb__after_spinlock();", "after-spinlock"), ("smp_mb__after_unlock_lock();", "after-unlock-lock"),
        ("smp_mb__after_srcu_read_unlock();", "after-srcu-read-unlock"), ("smp_acquire__after_ctrl_dep();", "rmb"),
        ("rcu_read_lock();", "rcu-lock"), ("rcu_read_unlock();", "rcu-unlock"),
        ("synchronize_rcu();", "sync-rcu"), ("synchronize_rcu_expedited();", "sync-rcu"),
    ],
)  # fmt: skip
def test_fences(text, kind):
    assert statements(text) == (Fence(kind, 3),)


def test_every_word_of_the_def_file_is_read():
    orders = ["", "_relaxed", "_acquire", "_release"]
    words = [f"r = xchg{o}(x, 1); r = cmpxchg{o}(x, 0, 1);" for o in orders]
    for a in ("atomic", "atomic_long"):
        words += [f"r = {a}_xchg{o}(v, 1); r = {a}_cmpxchg{o}(v, 0, 1);" for o in orders]
        for op in ("add", "sub"):
            words += [f"{a}_{op}(1, v);"] + [f"r = {a}_{op}_return{o}(1, v); r = {a}_fetch_{op}{o}(1, v);" for o in orders]
        for op in ("inc", "dec"):
            words += [f"{a}_{op}(v);"] + [f"r = {a}_{op}_return{o}(v); r = {a}_fetch_{op}{o}(v);" for o in orders]
        for op in ("and", "or", "xor", "andnot"):
            words += [f"{a}_{op}(1, v);"] + [f"r = {a}_fetch_{op}{o}(1, v);" for o in orders]
        words += [f"r = {a}_read(v); r = {a}_read_acquire(v); {a}_set(v, 1); {a}_set_release(v, 1);"]
        words += [f"r = {a}_sub_and_test(1, v); r = {a}_dec_and_test(v); r = {a}_inc_and_test(v);"]
        words += [f"r = {a}_add_negative(1, v); r = {a}_add_unless(v, 1, 2); r = {a}_inc_not_zero(v);"]
    words += ["spin_lock(s); spin_unlock(s); r = spin_trylock(s); r = spin_is_locked(s);"]
    words += ["r = srcu_read_lock(ss); srcu_read_unlock(ss, r); synchronize_srcu(ss); synchronize_srcu_expedited(ss);"]
    words += ["smp_store_mb(*x, 1); smp_store_release(x, 1); r = smp_load_acquire(x); rcu_assign_pointer(*x, y);"]
    words += ["r = rcu_dereference(*x); WRITE_ONCE(*x, READ_ONCE(*y));"]
    for w in words:
        assert statements(w)


def test_orders():
    (a, b, c) = statements("r = xchg_release(x, 1); atomic_inc(v); r = atomic_long_fetch_or_acquire(4, v);")
    assert isinstance(a.value, Rmw) and (a.value.kind, a.value.order) == ("xchg", "release")
    assert (b.value.order, b.value.gives) == ("noreturn", "none")
    assert (c.value.order, c.value.gives, c.value.op) == ("acquire", "old", "|")


def test_statements():
    (s,) = statements("*x = 1;")
    assert isinstance(s, Store) and s.order == "plain"
    (s,) = statements("int r0 = *x, r1;")
    assert isinstance(s, Assign) and isinstance(s.value, Load)
    (s,) = statements("if (x == y) { } else if (1) *x = 2; else { *y = 1; }")
    assert isinstance(s, If) and isinstance(s.other[0], If)
    assert len(statements("long int unsigned *a; u64 b; struct foo *c; foo_t d; foo_t *e = x; (*x)++; x[1] += 2; ;")) == 3


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7), ("2 * 3 + 1 - 2 * 2 * 2", -1), ("1 | 2 ^ 3 & 4 == 4", 3), ("1 << 2 + 1", 8), ("(1 + 2) * 3", 9), ("10 - 4 - 3", 3), ("7 / 2", 3), ("-7 / 2", -3), ("-7 % 3", -1), ("1 << 4 | 1", 17),
        ("0xff & ~0xf", 0xF0), ("5 ^ 1", 4), ("!0 + !7", 1), ("3 > 2 && 2 >= 2", 1), ("0 || 0", 0), ("1 ? 4 : 5", 4),
        ("(int)3u", 3), ("010", 8), ("2 == 2 != 0", 1), ("0x7fffffffffffffff + 1", -(2**63)), ("1 < 2 == 1", 1),
        ("-1 >> 1", -1), ("- - 1", 1), ("3 & 1 == 1", 1),
    ],
)  # fmt: skip
def test_c_expressions(expression, value):
    assert final(f"int r0 = {expression};", "0:r0") == (value,)


def test_pointers():
    init = "{ int y=5; int a[2] = {3, 4}; p=&y; }"
    assert final("int r0 = *(*p);", "0:r0", init, "int **p") == (5,)
    assert final("int *r1 = *p; int r0 = *r1;", "0:r0", init, "int **p") == (5,)
    assert final("int r0 = a[1] + *(a + 1) + *a;", "0:r0", init, "int *a") == (11,)
    assert final("int r0 = READ_ONCE(a[a[0] - 2]);", "0:r0", init, "int *a") == (4,)
    assert final("*p = &a[1]; int r0 = **p;", "0:r0", init, "int **p, int *a") == (4,)
    assert final("int r0 = (x == y) + 2 * (x == x) + 4 * (x != 0) + ((x ^ x) == 0) * 8;", "0:r0") == (14,)
    assert final("int r0 = y;", "0:r0") == (Address("y"),)
    assert final("int r0 = *y;", "0:r0", "{ int y = 9; }", "int *x") == (9,)


def test_loops():
    assert final("int i; for (i = 0; i < 3; i++) { *x = *x + i; }", "x;0:i") == (3, 3)
    assert final("for (int i = 3; i > 0; i--) *x += i;", "x") == (6,)
    assert final("for (int i = 0; i <= 4; i += 2) *x += 1;", "x") == (3,)
    assert final("for (int i = 0; i < 2; i++) for (int j = 0; j != 3; j++) *x += 1;", "x") == (6,)


def test_conditions():
    t = read(asks="locations [0:r1; x; y;]\nfilter (x=0)\n~exists (0:r1=1 /\\ (x=1 \\/ ~[y]=x) => not x=&y /\\ 0:r1!=0:r2)")
    assert t.locations == (RegisterOf(0, "r1"), Address("x"), Address("y"))
    assert t.condition.kind == "~exists" and t.filter is not None
    assert prop_text(t.condition.prop) == (
        "0:r1=1 /\\ (([x]=1 \\/ not ([y]=x)) => not ([x]=y)) /\\ 0:r1!=0:r2"
    )
    assert read(asks="forall (x=1 \\/ true)").condition.kind == "forall"
    assert read(asks="").condition is None


def test_filter():
    body = "P0(int *x) { WRITE_ONCE(*x, 1); } P1(int *x) { int r0 = READ_ONCE(*x); }"
    assert judge(read(body, asks="exists (1:r0=1)")).observation == "Sometimes"
    assert judge(read(body, asks="filter (1:r0=1) exists (1:r0=1)")).observation == "Always"


WRONG = [
    ("hello", 1, "C NAME"),
    ("C t\nP0(int *x)", 2, "no initial state"),
    ("C t\n{}\n", 3, "P0"),
    ("C t\n{}\nP1(int *x) { }", 3, "P0 is expected"),
    ("C t\n{}\nP0(int x) { }", 3, "write int *x"),
    ("C t\n{}\nP0(int *x)\n{\n  foo(x);\n}", 5, "foo() is not in the kernel's model"),
    ("C t\n{}\nP0(int *x)\n{\n  WRITE_ONCE(x, 1);\n}", 5, "WRITE_ONCE(*x, ...)"),
    ("C t\n{}\nP0(int *x)\n{\n  int r0 = READ_ONCE(x);\n}", 5, "READ_ONCE(*x)"),
    ("C t\n{}\nP0(int *x)\n{\n  smp_mb(x);\n}", 5, "takes 0 arguments"),
    ("C t\n{}\nP0(int *x)\n{\n  while (*x) { }\n}", 5, "for (i = 0; i < N; i++)"),
    ("C t\n{}\nP0(int *x)\n{\n  for (int i = 0; i < *x; i++) { }\n}", 5, "constant bound"),
    ("C t\n{}\nP0(int *x)\n{\n  for (int i = 0; i < 1000; i++) { }\n}", 5, "more than 64 turns"),
    ("C t\n{}\nP0(int *x)\n{\n  for (int i = 0; i < 9; i++) { i = 0; }\n}", 5, "no constant bound"),
    ("C t\n{}\nP0(int *x)\n{\n  goto out;\n}", 5, "goto"),
    ("C t\n{}\nP0(int *x)\n{\n  do { } while (1);\n}", 5, "constant bound"),
    ("C t\n{}\nP0(int *x)\n{\n  switch (1) { }\n}", 5, "if/else"),
    ("C t\n{}\nP0(int *x)\n{\n  return 1;\n}", 5, "`;`"),
    ("C t\n{}\nP0(int *x)\n{\n  x->f = 1;\n}", 5, "members"),
    ("C t\n{}\nP0(int *x)\n{\n  int r0 = smp_mb();\n}", 5, "no value"),
    ("C t\n{}\nP0(int *x)\n{\n  int r0; r0 = &r0;\n}", 5, "local variable has none"),
    ("C t\n{}\nP0(int *x)\n{\n  int r[2];\n}", 5, "local array"),
    ("C t\n{}\nP0(int *x)\n{\n  *x = 1\n}", 6, "`;`"),
    ("C t\n{}\nP0(int *x)\n{\n  1 = 2;\n}", 5, "cannot be assigned"),
    ("C t\n{ x=1 y=2 }\nP0(int *x) { }", 2, "`;`"),
    ("C t\n{ x=foo(1); }\nP0(int *x) { }", 2, "foo() is no initial value"),
    ("C t\n{}\nP0(int *x) { /* no end", 3, "does not end"),
    ("C t\n{}\nP0(int *x) { }\nexists (x=)", 4, "a value"),
    ("C t\n{}\nP0(int *x) { }\nexists (3:r0=1)", 4, "no thread P3"),
    ("C t\n{}\nP0(int *x) { }\nexists (x=1) exists (x=2)", 4, "second condition"),
    ("C t\n{}\nP0(int *x) { }\nexists x", 4, "`=`"),
    ("C t\n{}\nP0(int *x) { $ }", 3, "no part of the language"),
    ("C t\n{}\nP0(int *x) {" + "(" * 5000, 3, "nested brackets"),
    ("C t\n{}\nP0(int *x) { }\nexists " + "(" * 5000, 4, "nested brackets"),
    ("C t\n{}\nP0(int *x) {" + "{" * 5000, 3, "nested brackets"),
    ("C t\n{ int x[100000]; }\nP0(int *x) { }", 2, "an array"),
    ("C t\n{}\nP0(int *x) { *x = " + "- " * 5000 + "1; }", 3, "nested brackets"),
    ("C t\n{}\nP0(int *x) { " + "if (1) " * 5000 + "; }", 3, "nested brackets"),
    ("C t\n{}\nP0(int *x) { }\nexists (" + "~(" * 5000, 4, "nested brackets"),
    ("C t\n{ x = " + "(" * 5000, 2, "nested brackets"),
    ("C t\n{}\nP0(int *x) { *x = 1" + " + 1" * 5000 + "; }", 3, "in a row"),
    ("PPC t\n{ }\n", 1, "C NAME"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_files(text, line, message):
    with pytest.raises(LitmusError) as e:
        parse(text, "bad.litmus")
    assert str(e.value).startswith(f"bad.litmus:{line}: "), str(e.value)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_a_lock_is_no_variable():
    with pytest.raises(LitmusError, match="t.litmus:3: s is used as"):
        judge(read("P0(spinlock_t *s) { spin_lock(s); *s = 1; }", asks=""))
    with pytest.raises(LitmusError, match="final value of s"):
        judge(read("P0(spinlock_t *s) { spin_lock(s); }", asks="exists (s=1)"))


@pytest.mark.parametrize(
    ("text", "flag"),
    [("int r0 = 1 / *x;", "division-by-zero"), ("int *r0 = 0; *r0 = 1;", "null-dereference"), ("x[3] = 1;", "out-of-bounds"),
     ("int r0 = x * 2;", "address-arithmetic"), ("int r0 = 1 << 99;", "shift-out-of-range"), ("int r0 = 7; *r0 = 1;", "wild-dereference")],
)  # fmt: skip
def test_what_c_leaves_undefined_is_flagged(text, flag):
    assert judge(read(f"P0(int *x) {{ {text} }}", asks="")).flags == {flag}


def test_mutated_files_give_clean_errors():
    r = random.Random(5)
    texts = [p.read_text() for p in SHAPES]
    pieces = sorted({w for t in texts for w in re.findall(r"\w+|[^\w\s]", t)})
    read_ = 0
    for _ in range(1500):
        text = r.choice(texts)
        for _ in range(r.randint(1, 4)):
            at = r.randrange(len(text))
            how = r.randrange(4)
            if how == 0:
                text = text[:at] + text[at + r.randint(1, 9) :]
            elif how == 1:
                text = text[:at] + r.choice(pieces) + text[at:]
            elif how == 2:
                text = text[:at] + chr(r.randrange(1, 0x250)) + text[at + 1 :]
            else:
                other = r.choice(texts)
                text = text[:at] + other[r.randrange(len(other)) :]
        try:
            judge(parse(text, "m.litmus"), Limits(candidates=3000))
            read_ += 1
        except LitmusError as e:
            assert re.match(r"m\.litmus:\d+: .", str(e)) and "\n" not in str(e)
        except Incomplete:
            read_ += 1
    assert read_ > 150
