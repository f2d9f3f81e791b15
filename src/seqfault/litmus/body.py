"""The text of a thread to statements."""

from __future__ import annotations

from seqfault.litmus import words
from seqfault.litmus.models import Model
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
    Jump,
    Load,
    Loop,
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
DEEPEST = 100  # nested brackets
COMPOUND = ("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
REFUSED = {
    "goto": "`goto` is not supported; write the branch as if/else",
    "switch": "`switch` is not supported; write if/else",
    "asm": "assembler is not supported; write the kernel's word for it",
    "sizeof": "`sizeof` is not supported; write the number",
}


class Body:
    """The parser of one thread.

    `params`: its parameters. `globals_`: the shared variables that the initial state names.
    """

    def __init__(self, tokens: Tokens, params: tuple[str, ...], globals_: set[str], model: Model) -> None:
        self.t, self.params, self.globals, self.model = tokens, set(params), globals_, model
        self.locals: set[str] = set()
        self.depth = 0

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
        if t.now.kind == "id" and t.now.text in ("for", "while", "do"):
            return self.loop()
        if jump := t.take("break", "continue", "return"):
            t.need(";")
            return [Jump(jump, line)]
        if t.now.kind == "id" and t.peek().text == ":":
            raise t.fail("labels are not supported; write the branch as if/else")
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
            if t.now.text == "{":
                raise t.fail("a structure's definition; use a shared variable for each member")
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
            return self.chain(target, line)
        if op := t.take(*COMPOUND):
            return [self.store(target, Binary(op[:-1], target, self.expression(), line), line)]
        if op := t.take("++", "--"):
            return [self.store(target, Binary(op[0], target, Const(1), line), line)]
        return [Eval(target, line)]

    def chain(self, target: Expr, line: int) -> list[Stmt]:
        """``r0 = e``, ``r0 = r1 = e``."""
        value = self.expression(chained=True)
        if isinstance(value, Reg) and self.t.take("="):
            return [*self.chain(value, line), self.store(target, value, line)]
        return [self.store(target, value, line)]

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
        t, line = self.t, self.t.now.line
        if t.take("do"):
            body = self.statement()
            t.need("while")
            t.need("(")
            cond = self.expression()
            t.need(")")
            t.need(";")
            return [Loop(cond, tuple(body), (), False, line)]
        if t.take("while"):
            t.need("(")
            cond = self.expression()
            t.need(")")
            return [Loop(cond, tuple(self.statement()), (), True, line)]
        t.need("for")
        t.need("(")
        first = [] if t.now.text == ";" else self.declaration() if self.is_declaration() else self.several()
        t.need(";")
        cond = Const(1) if t.now.text == ";" else self.expression()
        t.need(";")
        step = [] if t.now.text == ")" else self.several()
        t.need(")")
        return [*first, Loop(cond, tuple(self.statement()), tuple(step), True, line)]

    def several(self) -> list[Stmt]:
        """``i = 0, j = 1``."""
        out = self.simple()
        while self.t.take(","):
            out += self.simple()
        return out

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
            how, count = words.arguments(word, self.model)
        except words.Unknown as e:
            raise t.fail(str(e), line) from None
        t.need("(")
        args: list[Expr] = []
        while not t.take(")"):
            if args:
                t.need(",")
            args.append(self.kept(word) if "try_cmpxchg" in word and len(args) == 1 else self.expression())
            if word in words.CHECKED and t.take(","):
                self.skip()
                break
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

    def kept(self, word: str) -> Expr:
        """``&r0`` of a local variable."""
        t = self.t
        if t.now.text != "&" or t.peek().kind != "id" or t.peek().text in self.params | self.globals:
            raise t.fail(f"{word}() keeps the value that it finds in a local variable; write {word}(v, &r0, new)")
        t.next()
        return Reg(t.name())

    def skip(self) -> None:
        """To the end of a call's arguments."""
        depth = 1
        while depth:
            if self.t.now.kind == "end":
                raise self.t.wanted("`)`")
            depth += {"(": 1, ")": -1}.get(self.t.next().text, 0)

    # expressions

    def expression(self, chained: bool = False) -> Expr:
        self.deeper()
        cond = self.binary(0)
        if self.t.take("?"):
            then = self.expression()
            self.t.need(":")
            cond = Choose(cond, then, self.expression())
        self.depth -= 1
        inner = self.t.now.text
        if inner in ("++", "--", *COMPOUND) or (inner == "=" and not (chained and isinstance(cond, Reg))):
            raise self.t.fail(f"`{inner}` within an expression is not supported; write it as a statement of its own")
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
        if word in REFUSED:
            raise t.fail(REFUSED[word])
        if word in ("likely", "unlikely") and t.peek().text == "(":
            t.next()
            word, line = t.now.text, t.now.line
            return self.primary()
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
