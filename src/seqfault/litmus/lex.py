"""Characters to tokens: the header, comments of both languages, and which part of the file a token is in."""

from __future__ import annotations

import re
from typing import NamedTuple

from seqfault.litmus.tree import LitmusError


class Token(NamedTuple):
    """`kind`: ``num``, ``id``, ``str``, ``op``, ``end``."""

    kind: str
    text: str
    line: int


TOKEN = re.compile(
    r"(?P<num>0[xX][0-9a-fA-F]+|\d+)[uUlL]*(?![\w])|(?P<id>[A-Za-z_]\w*)|(?P<str>\"[^\"\n]*\")"
    r"|(?P<op><<=|>>=|/\\|\\/|=>|->|==|!=|<=|>=|&&|\|\||<<|>>|\+\+|--|\+=|-=|\*=|/=|&=|\|=|\^=|%=|[-+*/%&|^~!<>=?:;,.(){}\[\]])"
)
BLANK = re.compile(r"[ \t\r\n\f\v]+")
SECTIONS = {"exists", "forall", "filter", "locations"}
# judgelitmus.sh looks for a line ` * Result: Never` in the comment at the top
RESULT = re.compile(
    r"^[\s*/(]*Result:\s*(?:(?:Never|Sometimes|Always)\s+(?=DATARACE))?(Never|Sometimes|Always|DEADLOCK|DATARACE)\b",
    re.IGNORECASE | re.MULTILINE,
)
HEADER = re.compile(r"C[ \t]+(\S[^\n]*)")
LONGEST = 1 << 20


class Lexed(NamedTuple):
    """A file's name for itself, its tokens, and what its comments say the result is."""

    name: str
    tokens: list[Token]
    result: str | None


def lex(text: str, file: str) -> Lexed:
    """The tokens of a litmus file.

    ``(* ... *)`` is a comment outside the threads' bodies and, in a body, where a blank or a star follows it and ``*)``
    comes before the line ends, or where it begins its line: ``READ_ONCE(*x)`` is none.

    Raises:
        LitmusError: a comment that does not end, a character that is none of C's, no header.
    """
    if len(text) > LONGEST:
        raise LitmusError(file, 1, f"the file has {len(text)} characters; at most {LONGEST} are read")
    return _Lexer(text, file).run()


class _Lexer:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.at, self.line = 0, 1
        self.comments: list[str] = []

    def fail(self, message: str, line: int | None = None) -> LitmusError:
        return LitmusError(self.file, line or self.line, message)

    def move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def skip(self, code: bool) -> None:
        """Past blanks and comments; `code`: inside a thread's body."""
        while self.at < len(self.text):
            t, at = self.text, self.at
            if m := BLANK.match(t, at):
                self.move(m.end())
            elif t.startswith("//", at):
                end = t.find("\n", at)
                end = len(t) if end < 0 else end
                self.comments.append(t[at:end])
                self.move(end)
            elif t.startswith("/*", at):
                self.comment("/*", "*/", False)
            elif t.startswith("(*", at) and (not code or self.is_comment(at)):
                self.comment("(*", "*)", True)
            else:
                return

    def is_comment(self, at: int) -> bool:
        begins = self.text.rfind("\n", 0, at) + 1
        line = self.text[at : max(self.text.find("\n", at), at)] or self.text[at:]
        if not re.match(r"\(\*(\s|\*+[\s)])", self.text[at : at + 80]):
            return False
        end = self.text.find("*)", at + 2)
        return "*)" in line[2:] or (end >= 0 and (";" not in self.text[at:end] or not self.text[begins:at].strip()))

    def outside(self) -> None:
        """Past a block between the threads: C that the threads share, which litmus7 copies and herd7 does not read."""
        line, depth = self.line, 0
        while self.at < len(self.text):
            depth += {"{": 1, "}": -1}.get(self.text[self.at], 0)
            self.move(self.at + 1)
            if not depth:
                return
            self.skip(True)
        raise self.fail("a block starts here and does not end; write }", line)

    def comment(self, opens: str, closes: str, nested: bool) -> None:
        start, line, depth = self.at, self.line, 1
        at = start + 2
        while depth:
            end = self.text.find(closes, at)
            if end < 0:
                raise self.fail(f"a comment starts here and does not end; write {closes}", line)
            depth += (self.text.count(opens, at, end) if nested else 0) - 1
            at = end + 2
        self.comments.append(self.text[start:at])
        self.move(at)

    def run(self) -> Lexed:
        self.skip(False)
        m = HEADER.match(self.text, self.at)
        if not m:
            raise self.fail("a litmus file of C starts with a line `C NAME`")
        name = re.split(r"\s*(?://|/\*|\(\*)", m[1])[0].strip()
        self.move(self.at + 2)
        self.move(self.text.index(m[1], self.at) + len(name))
        tokens: list[Token] = []
        section, depth = "head", 0
        while True:
            self.skip(section == "code" and depth > 0)
            if self.at >= len(self.text):
                break
            if self.text[self.at] == "#" and section == "code" and not depth:  # a line for the preprocessor
                end = self.text.find("\n", self.at)
                self.move(len(self.text) if end < 0 else end)
                continue
            t = TOKEN.match(self.text, self.at)
            if not t:
                if section == "head":  # free text may stand before the initial state
                    self.move(self.at + 1)
                    continue
                raise self.fail(f"{self.text[self.at]!r} is no part of the language")
            kind = str(t.lastgroup)
            word = t[kind]
            if word == "{" and section == "code" and not depth and tokens[-1].text == "}":
                self.outside()
                continue
            if word == "{":
                depth += 1
                section = "init" if section == "head" else section
            elif word == "}":
                depth -= 1
                if section == "init" and not depth:
                    section = "code"
            elif word in SECTIONS and not depth and section == "code":
                section = "asks"
            if section != "head":
                tokens.append(Token(kind, word, self.line))
            self.move(t.end())
        tokens.append(Token("end", "the end of the file", self.line))
        if section == "head":
            raise self.fail("no initial state; write `{}` after the header")
        found = [r[1] if r[1].isupper() else r[1].capitalize() for c in self.comments if (r := RESULT.search(c))]
        return Lexed(name, tokens, found[0] if found else None)
