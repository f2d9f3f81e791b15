"""The text of a thread to statements."""

from __future__ import annotations

from seqfault.litmus import words
from seqfault.litmus.tokens import TYPES, Tokens, integer
from seqfault.litmus.tree import (
    Address,
    Assign,
    Binary,
    Choose,
    Const,
    Eval,
    Expr,
    If,
    Load,
    Reg,
    Stmt,
    Store,
    Unary,
)

PRECEDENCE = {
    op: level
    for level, ops in enumerate(["||", "&&", "|", "^", "&", "==,!=", "<,>,<=,>=", "<<,>>", "+,-", "*,/,%"])
    for op in ops.split(",")
}  # fmt: skip
LONGEST_CHAIN = 300  # operators of one expression
UNROLLED = 64  # turns of one loop
STATEMENTS = 20_000  # of one thread, loops unrolled
DEEPEST = 100  # nested brackets
COMPOUND = ("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
REFUSED = {
    "while": "a loop that has no constant bound; write `for (i = 0; i < N; i++)` or write its turns out",
    "do": "a loop that has no constant bound; write `for (i = 0; i < N; i++)` or write its turns out",
    "goto": "`goto` is not supported; write the branch as if/else",
    "switch": "`switch` is not supported; write if/else",
    "return": "`return` is not supported; put the rest into an else branch",
    "break": "`break` is not supported; put the rest into an if branch",
    "continue": "`continue` is not supported; put the rest into an if branch",
}


class Body:
    """The parser of one thread.

    `params`: its parameters. `globals_`: the shared variables that the initial state names.
    """

    def __init__(self, tokens: Tokens, params: tuple[str, ...], globals_: set[str]) -> None:
        self.t, self.params, self.globals = tokens, set(params), globals_
        self.locals: set[str] = set()
        self.depth = self.written = 0

    def block(self) -> list[Stmt]:
        """``{ ... }``."""
        self.t.need("{")
        out: list[Stmt] = []
        while not self.t.take("}"):
            out += self.statement()
        return out

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.t.fail(f"more than {DEEPEST} nested brackets; write it in several statements")

    def statement(self) -> list[Stmt]:
        self.deeper()
        out = self.statement_()
        self.depth -= 1
        self.written += len(out)
        if self.written > STATEMENTS:
            raise self.t.fail(f"a thread of more than {STATEMENTS} statements, loops unrolled")
        return out

    def statement_(self) -> list[Stmt]:
        t = self.t
        if t.take(";"):
            return []
        if t.now.text == "{":
            return self.block()
        if t.now.text in REFUSED and t.now.kind == "id":
            raise t.fail(REFUSED[t.now.text])
        line = t.now.line
        if t.take("if"):
            t.need("(")
            cond = self.expression()
            t.need(")")
            then = self.statement()
            other = self.statement() if t.take("else") else []
            return [If(cond, tuple(then), tuple(other), line)]
        if t.now.text == "for":
            return self.loop()
        out = self.declaration() if self.is_declaration() else self.simple()
        t.need(";")
        return out

    def is_declaration(self) -> bool:
        t = self.t
        if t.now.kind != "id":
            return False
        if t.now.text in TYPES:
            return True
        if t.now.text in self.locals | self.params:
            return False
        n = 1
        while t.peek(n).text == "*":
            n += 1
        return t.peek(n).kind == "id" and (n == 1 or t.peek(n + 1).text in ("=", ";", ","))

    def declaration(self) -> list[Stmt]:
        t = self.t
        if not t.types():
            t.name()
        out: list[Stmt] = []
        while True:
            while t.take("*", "const", "volatile", "__rcu"):
                pass
            line, name = t.now.line, t.name("a variable's name")
            if t.now.text == "[":
                raise t.fail(f"a local array {name}[]; use a shared variable or several locals")
            if name in self.params:
                raise t.fail(f"{name} is a parameter already; give the local variable another name", line)
            self.locals.add(name)
            if t.take("="):
                out.append(Assign(name, self.expression(), line))
            if not t.take(","):
                return out

    def simple(self) -> list[Stmt]:
        """An assignment, a call, an increment."""
        t, line = self.t, self.t.now.line
        if t.now.kind == "id" and t.peek().text == "(" and t.now.text not in self.locals:
            return self.call_statement()
        if t.take("++", "--"):
            sign = self.t.tokens[self.t.at - 1].text[0]
            return [self.store(target := self.unary(), Binary(sign, target, Const(1), line), line)]
        target = self.unary()
        if t.take("="):
            return [self.store(target, self.expression(), line)]
        if op := t.take(*COMPOUND):
            return [self.store(target, Binary(op[:-1], target, self.expression(), line), line)]
        if op := t.take("++", "--"):
            return [self.store(target, Binary(op[0], target, Const(1), line), line)]
        return [Eval(target, line)]

    def store(self, target: Expr, value: Expr, line: int) -> Stmt:
        if isinstance(target, Reg):
            if target.name not in self.params:
                self.locals.add(target.name)
            return Assign(target.name, value, line)
        if isinstance(target, Load) and target.order == "plain":
            return Store("plain", target.address, value, line)
        hint = f"*{target.value}" if isinstance(target, Const) and isinstance(target.value, Address) else "*x"
        raise self.t.fail(f"this cannot be assigned to; write `r = ...`, `{hint} = ...` or `x[i] = ...`", line)

    def loop(self) -> list[Stmt]:
        """``for`` with a constant bound, unrolled."""
        t, line = self.t, self.t.need("for").line
        wrong = t.fail(f"{REFUSED['while']} (N at most {UNROLLED})", line)
        t.need("(")
        first = self.declaration() if self.is_declaration() else self.simple()
        t.need(";")
        cond = self.expression()
        t.need(";")
        step = self.simple()
        t.need(")")
        match first, cond, step:
            case [Assign(name, Const(int(i)), _)], Binary(op, Reg(a), Const(int(end)), _), [Assign(b, by, _)] if (
                a == b == name and op in ("<", "<=", ">", ">=", "!=")
            ):
                pass
            case _:
                raise wrong
        if not (isinstance(by, Binary) and by.op in "+-" and by.left == Reg(name) and isinstance(by.right, Const)):
            raise wrong
        change = by.right.value if isinstance(by.right.value, int) else 0
        change = -change if by.op == "-" else change
        body = self.statement()
        if _assigns(body, name):
            raise t.fail(f"the loop's body assigns {name}; its bound is then no constant", line)
        out: list[Stmt] = []
        compare = {"<": int.__lt__, "<=": int.__le__, ">": int.__gt__, ">=": int.__ge__, "!=": int.__ne__}[op]
        for _ in range(UNROLLED + 1):
            out.append(Assign(name, Const(i), line))
            if not compare(i, end):
                return out
            out += body
            i += change
        raise wrong

    # calls

    def call_statement(self) -> list[Stmt]:
        t, line, word = self.t, self.t.now.line, self.t.now.text
        start = t.at
        address, rest = self.arguments()
        if t.now.text != ";":  # `xchg(x, 1) + 1;`
            t.at = start
            return [Eval(self.expression(), line)]
        return words.statements_of(word, address, rest, line)

    def arguments(self) -> tuple[Expr | None, list[Expr]]:
        t, line, word = self.t, self.t.now.line, self.t.next().text
        try:
            how, count = words.arguments(word)
        except words.Unknown as e:
            raise t.fail(str(e), line) from None
        t.need("(")
        args: list[Expr] = []
        while not t.take(")"):
            if args:
                t.need(",")
            args.append(self.expression())
        if len(args) != count:
            raise t.fail(f"{word}() takes {count} argument{'s' * (count != 1)}, not {len(args)}", line)
        if how == "second":
            args.reverse()
            how = words.POINTER
        if not how:
            return None, []
        address = args.pop(0)
        if how == words.LVALUE:
            if not (isinstance(address, Load) and address.order == "plain"):
                name = address.name if isinstance(address, Reg) else "p"
                raise t.fail(f"{word}() takes what is pointed at; write {word}(*{name}, ...)".replace(
                    ", ..." if count == 1 else "\0", ""), line)  # fmt: skip
            address = address.address
        return address, args

    # expressions

    def expression(self) -> Expr:
        self.deeper()
        cond = self.binary(0)
        if self.t.take("?"):
            then = self.expression()
            self.t.need(":")
            cond = Choose(cond, then, self.expression())
        self.depth -= 1
        return cond

    def binary(self, lowest: int) -> Expr:
        left, chain = self.unary(), 0
        while self.t.now.kind == "op" and (level := PRECEDENCE.get(self.t.now.text, -1)) >= lowest:
            op = self.t.next()
            left = Binary(op.text, left, self.binary(level + 1), op.line)
            chain += 1
            if chain > LONGEST_CHAIN:
                raise self.t.fail(f"more than {LONGEST_CHAIN} operators in a row; write it in several statements")
        return left

    def unary(self) -> Expr:
        self.deeper()
        out = self.unary_()
        self.depth -= 1
        return out

    def unary_(self) -> Expr:
        t, line = self.t, self.t.now.line
        if op := t.take("-", "~", "!"):
            of = self.unary()
            if op == "-" and isinstance(of, Const) and isinstance(of.value, int):
                return Const(-of.value)
            return Unary(op, of)
        if t.take("+"):
            return self.unary()
        if t.take("*"):
            return Load("plain", self.unary(), line)
        if t.take("&"):
            return self.address_of()
        if t.now.text == "(" and t.peek().kind == "id" and t.peek().text in TYPES:  # a cast
            t.next()
            t.types()
            while t.take("*"):
                pass
            t.need(")")
            return self.unary()
        return self.postfix(self.primary())

    def address_of(self) -> Expr:
        t, line = self.t, self.t.now.line
        of = self.unary()
        if isinstance(of, Load) and of.order == "plain":  # &*p, &x[1]
            return of.address
        if isinstance(of, Const) and isinstance(of.value, Address):
            return of
        if isinstance(of, Reg) and of.name in self.params:
            raise t.fail(f"&{of.name}: the parameter {of.name} is an address already; write {of.name}", line)
        raise t.fail("only a shared variable has an address; a local variable has none", line)

    def postfix(self, of: Expr) -> Expr:
        t = self.t
        while True:
            line = t.now.line
            if t.take("["):
                index = self.expression()
                t.need("]")
                of = Load("plain", Binary("+", of, index, line), line)
            elif t.now.text in ("->", "."):
                raise t.fail("structures have no members here; use a shared variable for each member")
            else:
                return of

    def primary(self) -> Expr:
        t = self.t
        if t.now.kind == "num":
            return Const(integer(t.next().text))
        if t.take("("):
            inner = self.expression()
            t.need(")")
            return inner
        if t.now.kind != "id":
            raise t.wanted("an expression")
        line, word = t.now.line, t.now.text
        if word in ("NULL", "false", "true"):
            t.next()
            return Const(int(word == "true"))
        if t.peek().text != "(":
            t.next()
            if word in self.globals - self.params - self.locals:
                return Const(Address(word))  # herd7 wants a parameter; what is meant is clear
            return Reg(word)
        address, rest = self.arguments()
        value = words.value_of(word, address, rest, line) if address is not None else None
        if value is None:
            raise t.fail(f"{word}() has no value; write it as a statement of its own", line)
        return value


def _assigns(body: list[Stmt] | tuple[Stmt, ...], name: str) -> bool:
    return any(
        (isinstance(s, Assign) and s.name == name)
        or (isinstance(s, If) and (_assigns(s.then, name) or _assigns(s.other, name)))
        for s in body
    )
