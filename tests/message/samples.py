"""Octets that look like mail, for property tests, and a reader of IMAP's parenthesised lists to check what we write."""

from __future__ import annotations

from hypothesis import strategies as st

TOKENS = [
    b"\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\n\n",
    b"\r",
    b" ",
    b"\t",
    b"\r\n ",
    b"\r\n\t",
    b"--b",
    b"\r\n--b\r\n",
    b"\r\n--b--",
    b"\r\n--bb\r\n",
    b"From: ",
    b"To:",
    b"Subject : ",
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000",
    b"Message-ID: <a@b>",
    b"References: <a@b> <c@d>",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/digest; boundary=bb",
    b'Content-Type: multipart/alternative; boundary="b"; boundary=c',
    b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Type: text/html; charset=utf-7",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: x",
    b"Content-Disposition: attachment; filename*0*=utf-8''%e2; filename*1=x",
    b"; name*=iso-2022-jp'ja'%1b",
    b"=?utf-8?b?w6Q=?=",
    b"=?x?q?=4_?=",
    b"(",
    b")",
    b"<",
    b">",
    b"@",
    b",",
    b":",
    b";",
    b'"',
    b"\\",
    b"[",
    b"]",
    b"=",
    b"==",
    b"ada@x.example",
    b"\xff\xfe",
    b"\xc3\xa4",
    b"\0",
    b"re: [x] ",
    b"(fwd)",
    b"[fwd: ",
    b"begin 644 x\r\n",
    b"<script>",
    b"<!--",
    b"&amp;",
    b"{5}",
]

mail_like = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=6), max_size=40).map(b"".join)
"""Pieces of mail in any order."""


def parse_list(data: bytes) -> list[object]:
    """Read IMAP values (lists, NIL, quoted strings, literals, numbers) until the end; ValueError if they are not."""
    stack: list[list[object]] = [[]]
    at = 0
    while at < len(data):
        char = data[at : at + 1]
        if char == b"(":
            stack.append([])
            at += 1
        elif char == b")":
            done = stack.pop()
            stack[-1].append(done)
            at += 1
        elif char == b" ":
            at += 1
        elif char == b'"':
            end = at + 1
            while data[end] != 34:
                end += 2 if data[end] == 92 else 1
            text = data[at + 1 : end]
            if any(octet > 127 or octet in b"\r\n\0" for octet in text):
                raise ValueError("octet not allowed in a quoted string")
            stack[-1].append(text.replace(b'\\"', b'"').replace(b"\\\\", b"\\"))
            at = end + 1
        elif char == b"{":
            close = data.index(b"}\r\n", at)
            size = int(data[at + 1 : close])
            literal = data[close + 3 : close + 3 + size]
            if b"\0" in literal or len(literal) != size:
                raise ValueError("bad literal")
            stack[-1].append(literal)
            at = close + 3 + size
        else:
            end = at
            while end < len(data) and data[end : end + 1] not in (b" ", b")", b"("):
                end += 1
            atom = data[at:end]
            stack[-1].append(None if atom == b"NIL" else int(atom))
            at = end
    if len(stack) != 1:
        raise ValueError("unbalanced")
    return stack[0]
