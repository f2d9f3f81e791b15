"""A litmus file to a `Litmus`: the initial state, the threads' heads, the conditions."""

from __future__ import annotations

import re

from seqfault.litmus.body import Body
from seqfault.litmus.lex import lex
from seqfault.litmus.models import V6_1, Model
from seqfault.litmus.tokens import Tokens, integer
from seqfault.litmus.tree import (
    Address,
    And,
    Condition,
    Equal,
    Implies,
    Litmus,
    Not,
    Or,
    Place,
    Prop,
    RegisterOf,
    Thread,
    Truth,
    Value,
    places_of,
)
from seqfault.litmus.unroll import unroll

LONGEST_ARRAY = 1024


def parse(text: str, file: str, model: Model = V6_1) -> Litmus:
    """Read a C litmus test of the kernel's dialect.

    Args:
        text: the file's contents.
        file: its name, for messages.
        model: by whose memory model it will be judged.

    Raises:
        LitmusError: with file, line and remedy: it is not of the dialect, or not supported (docs/litmus.md).
    """
    lexed = lex(text, file)
    parser = _Parser(Tokens(lexed.tokens, file), lexed.name, model)
    parser.litmus.result = lexed.result
    parser.litmus.source = text.splitlines()
    return parser.run()


class _Parser:
    def __init__(self, tokens: Tokens, name: str, model: Model) -> None:
        self.t = tokens
        self.litmus = Litmus(tokens.file, name, {}, {}, {}, (), model=model)
        self.sizes: dict[str, int] = {}
        self.depth = 0

    def run(self) -> Litmus:
        self.initial_state()
        self.threads()
        self.asks()
        for name, size in self.sizes.items():
            for i in range(size):
                self.litmus.init.setdefault(Address(name, i), 0)
        return self.litmus

    # the initial state

    def initial_state(self) -> None:
        t = self.t
        t.need("{")
        while not t.take("}"):
            if not t.take(";", ","):
                self.item()
                if t.now.text not in (";", ",", "}"):
                    raise t.wanted("`;`")

    def item(self) -> None:
        t = self.t
        kind = t.types()
        while t.take("*"):
            kind += "*"
        if (thread := self.thread_of()) is not None:
            kind = t.types() or kind
            while t.take("*"):
                pass
            name = t.name("a register")
            if t.take("="):
                self.litmus.registers[thread, name] = self.value()
            return
        if kind and t.now.text == "=":  # the type's name is not one that is known: `foo_t x`
            raise t.wanted("a variable's name")
        bracket = t.take("[")
        line, name = t.now.line, t.name("a variable's name")
        if t.now.kind == "id" or t.now.text == "*":
            while t.take("*"):
                pass
            kind, name = name, t.name()
        index, size = 0, 1
        if bracket:
            if t.take("["):
                index = t.number()
                t.need("]")
            t.need("]")
            size = index + 1
        elif t.take("["):
            index = size = 0 if t.now.text == "]" else t.number()
            t.need("]")
            if not kind:
                size = index + 1
            else:
                index = 0
        if not 0 <= index < LONGEST_ARRAY or not 0 <= size <= LONGEST_ARRAY:
            raise t.fail(f"an array has 1 to {LONGEST_ARRAY} elements", line)
        if kind:
            self.litmus.kinds[name] = kind
        values = self.initializer() if t.take("=") else []
        size = max(size, index + len(values), 1)
        self.sizes[name] = max(size, self.sizes.get(name, 1))
        for i, v in enumerate(values):
            self.litmus.init[Address(name, index + i)] = v

    def thread_of(self) -> int | None:
        """``0:`` or ``P0:``."""
        t = self.t
        if t.now.kind == "num":
            thread = integer(t.next().text)
            t.need(":")
            return thread
        if t.now.kind == "id" and t.peek().text == ":" and (m := re.fullmatch(r"P(\d{1,4})", t.now.text)):
            t.next()
            t.next()
            return int(m[1])
        return None

    def initializer(self) -> list[Value]:
        t = self.t
        if not t.take("{"):
            return [self.value()]
        out: list[Value] = []
        while not t.take("}"):
            out.append(self.value())
            if not t.take(",") and t.now.text != "}":
                raise t.wanted("`,`")
        return out

    def value(self) -> Value:
        """``1``, ``-1``, ``x``, ``&x``, ``&x[1]``, ``NULL``, ``ATOMIC_INIT(1)``."""
        t = self.t
        if t.now.text == "(":
            t.next()
            kind = t.types()
            while t.take("*"):
                pass
            self.depth += 1
            if self.depth > 100:
                raise t.fail("more than 100 nested brackets in a value")
            inner = None if kind else self.value()
            t.need(")")
            value = self.value() if inner is None else inner
            self.depth -= 1
            return value
        if t.take("&") or t.now.kind == "id":
            word = t.name("a variable's name")
            if word in ("NULL", "false", "true"):
                return int(word == "true")
            if t.now.text == "(":
                t.next()
                if not word.isupper() or t.now.kind not in ("num", "op", "id"):
                    raise t.fail(f"{word}() is no initial value; write a number, or &x")
                name = t.now.text
                v = 0 if t.now.kind == "id" else t.number()
                if t.now.kind == "id" and t.now.text == name:  # __SPIN_LOCK_UNLOCKED(s)
                    t.next()
                t.need(")")
                return v
            at = Address(word)
            if t.take("["):
                at = Address(word, t.number())
                t.need("]")
                if not 0 <= at.cell < LONGEST_ARRAY:
                    raise t.fail(f"an array has 1 to {LONGEST_ARRAY} elements")
            self.sizes[word] = max(self.sizes.get(word, 1), at.cell + 1)
            return at
        return t.number("a value")

    # the threads

    def threads(self) -> None:
        t = self.t
        out: list[Thread] = []
        while t.now.kind == "id" and t.now.text not in ("exists", "forall", "filter", "locations"):
            line = t.now.line
            word = t.next().text
            while t.now.kind == "id":  # static void P0
                word = t.next().text
            m = re.fullmatch(r"P(\d{1,4})", word)
            if not m:
                raise t.fail(f"{word} is no thread; a thread is called P0, P1, ...", line)
            if int(m[1]) != len(out):
                raise t.fail(f"P{int(m[1])} stands where P{len(out)} is expected; number the threads from P0", line)
            params = self.params()
            text = Body(t, params, set(self.sizes), self.litmus.model).block()
            given = {name for number, name in self.litmus.registers if number == len(out)}
            out.append(Thread(len(out), params, unroll(text, t.file, given.union(params)), line))
        if not out:
            raise t.wanted("`P0(...)`")
        self.litmus.threads = tuple(out)

    def params(self) -> tuple[str, ...]:
        t = self.t
        t.need("(")
        names: list[str] = []
        while not t.take(")"):
            if names:
                t.need(",")
            kind = t.types() or t.name("a type")
            if kind == "void" and t.now.text == ")" and not names:
                continue
            stars = 0
            while w := t.take("*", "const", "volatile", "__rcu", "restrict"):
                stars += w == "*"
            line, name = t.now.line, t.name("a parameter's name")
            if t.take("["):
                if t.now.kind == "num":
                    t.next()
                t.need("]")
                stars += 1
            if not stars:
                raise t.fail(f"a thread is handed addresses only; write {kind} *{name}", line)
            names.append(name)
            self.sizes.setdefault(name, 1)
            if kind in ("spinlock_t", "struct srcu_struct") and stars == 1:
                self.litmus.kinds.setdefault(name, kind)
        return tuple(names)

    # conditions

    def asks(self) -> None:
        t, test = self.t, self.litmus
        while t.now.kind != "end":
            line = t.now.line
            if t.take("locations"):
                test.locations += self.locations()
            elif t.take("filter"):
                test.filter = self.prop()
            elif t.now.text == "(" and not test.condition:
                test.condition = Condition("exists", self.prop())
            elif (word := t.take("exists", "forall", "~", "not")) is None:
                raise t.wanted("`exists`, `~exists`, `forall`, `filter` or `locations`")
            else:
                if test.condition:
                    raise t.fail("a second condition; a file has one", line)
                if word in ("~", "not"):
                    t.need("exists")
                    word = "~exists"
                test.condition = Condition(word, self.prop())
            t.take(";")
        asked = set(test.locations)
        for p in [test.condition.prop] if test.condition else []:
            asked |= places_of(p)
        if test.filter:
            asked |= places_of(test.filter)
        for place in asked:
            if isinstance(place, RegisterOf):
                if place.thread >= len(test.threads):
                    raise t.fail(f"{place}: there is no thread P{place.thread}", t.now.line)
            else:
                self.sizes[place.name] = max(self.sizes.get(place.name, 1), place.cell + 1)

    def locations(self) -> tuple[Place, ...]:
        t = self.t
        t.need("[")
        out: list[Place] = []
        while not t.take("]"):
            if t.take(";", ","):
                continue
            t.types()
            while t.take("*"):
                pass
            out.append(self.place())
            t.types()
            while t.take("*"):
                pass
        return tuple(out)

    def place(self) -> Place:
        t = self.t
        if (thread := self.thread_of()) is not None:
            return RegisterOf(thread, t.name("a register"))
        bracket = t.take("[")
        t.take("*", "&")
        name = t.name("a register such as 0:r1, or a shared variable")
        index = 0
        if t.now.text == "[" and t.peek().kind == "num":
            t.next()
            index = t.number()
            t.need("]")
        if bracket:
            t.need("]")
        if not 0 <= index < LONGEST_ARRAY:
            raise t.fail(f"an array has 1 to {LONGEST_ARRAY} elements")
        return Address(name, index)

    def prop(self) -> Prop:
        """In herd7's grammar ``=>`` binds tighter than ``/\\``, and that tighter than ``\\/``."""
        self.deeper()
        parts = [self.both()]
        while self.t.take("\\/", "||"):
            parts.append(self.both())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > 100:
            raise self.t.fail("more than 100 nested brackets in a condition")

    def both(self) -> Prop:
        parts = [self.implication()]
        while self.t.take("/\\", "&&"):
            parts.append(self.implication())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def implication(self) -> Prop:
        self.deeper()
        left = self.atom()
        if self.t.take("=>"):
            left = Implies(left, self.implication())
        self.depth -= 1
        return left

    def atom(self) -> Prop:
        t = self.t
        negate = False
        while t.take("~", "not", "!"):
            negate = not negate
        prop: Prop
        if t.take("("):
            prop = self.prop()
            t.need(")")
        elif word := t.take("true", "false"):
            prop = Truth(word == "true")
        else:
            place = self.place()
            same = t.take("=", "==", "!=")
            if not same:
                raise t.wanted("`=`")
            value: Value | RegisterOf
            if t.peek().text == ":" and (thread := self.thread_of()) is not None:
                value = RegisterOf(thread, t.name("a register"))
            else:
                value = self.value()
            prop = Equal(place, value, same != "!=")
        return Not(prop) if negate else prop
