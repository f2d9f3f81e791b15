"""A stream of tokens, shared by the parsers of the parts of a file."""

from __future__ import annotations

from seqfault.litmus.lex import Token
from seqfault.litmus.tree import LitmusError

TYPES = {
    "int", "long", "short", "char", "unsigned", "signed", "void", "bool", "_Bool", "const", "volatile", "static",
    "register", "struct", "size_t", "ssize_t", "atomic_t", "atomic_long_t", "atomic64_t", "spinlock_t", "srcu_struct",
    "intptr_t", "uintptr_t", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "uint8_t", "uint16_t", "uint32_t",
    "uint64_t", "int8_t", "int16_t", "int32_t", "int64_t", "__rcu",
}  # fmt: skip


class Tokens:
    """The tokens of a file and where the parser is.

    Raises (every method): LitmusError where the text is not what is asked for.
    """

    def __init__(self, tokens: list[Token], file: str) -> None:
        self.tokens, self.file, self.at = tokens, file, 0

    @property
    def now(self) -> Token:
        return self.tokens[self.at]

    def peek(self, n: int = 1) -> Token:
        return self.tokens[min(self.at + n, len(self.tokens) - 1)]

    def fail(self, message: str, line: int | None = None) -> LitmusError:
        return LitmusError(self.file, self.now.line if line is None else line, message)

    def wanted(self, what: str) -> LitmusError:
        text = self.now.text if self.now.kind == "end" else repr(self.now.text)
        return self.fail(f"{what} is expected here, not {text}")

    def next(self) -> Token:
        t = self.now
        if t.kind != "end":
            self.at += 1
        return t

    def take(self, *texts: str) -> str | None:
        """The token if it is one of `texts`; then the next one is at hand."""
        if self.now.kind in ("op", "id") and self.now.text in texts:
            return self.next().text
        return None

    def need(self, text: str) -> Token:
        if self.now.text != text or self.now.kind not in ("op", "id"):
            raise self.wanted(f"`{text}`")
        return self.next()

    def name(self, what: str = "a name") -> str:
        if self.now.kind != "id":
            raise self.wanted(what)
        return self.next().text

    def number(self, what: str = "a number") -> int:
        """A number, perhaps with signs before it."""
        sign = 1
        while s := self.take("-", "+"):
            sign = -sign if s == "-" else sign
        if self.now.kind != "num":
            raise self.wanted(what)
        return sign * integer(self.next().text)

    def types(self) -> str:
        """The words of a type, without its stars; empty if there is none."""
        words = []
        while self.now.kind == "id" and self.now.text in TYPES:
            word = self.next().text
            words.append(word)
            if word == "struct" and self.now.kind == "id":
                words.append(self.next().text)
        return " ".join(words)


def integer(text: str) -> int:
    """A C constant, as a signed number of 64 bits."""
    octal = len(text) > 1 and text[0] == "0" and text.isdigit() and all(c in "01234567" for c in text)
    return wrap(int(text, 8 if octal else 0 if text[:2] in ("0x", "0X") else 10))


def wrap(n: int) -> int:
    """A number as a signed one of 64 bits."""
    n &= (1 << 64) - 1
    return n - (1 << 64) if n >> 63 else n
