"""Many texts in one, as a store reads them: cut apart only where somebody asks for single ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

PIECES_AT_ONCE: Final = 2000
"""`bytes.join` takes 80 octets of memory for each piece; what comes to 256 KiB is mapped and unmapped every time."""


class Joined(Sequence[bytes]):
    """Texts with a separator between them, which is in none of them."""

    __slots__ = ("_texts", "separator", "text")

    def __init__(self, text: bytes, separator: bytes) -> None:
        self.text = text
        self.separator = separator
        self._texts: list[bytes] | None = None

    def texts(self) -> list[bytes]:
        """The single texts."""
        if self._texts is None:
            self._texts = self.text.split(self.separator)
        return self._texts

    def __len__(self) -> int:
        return len(self.texts())

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.texts())

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.texts()[index]


def join(texts: Sequence[bytes], separator: bytes) -> bytes:
    """The texts with this separator between them; at no cost if they come so."""
    if isinstance(texts, Joined) and texts.separator == separator:
        return texts.text
    return separator.join(texts)


def blocks(pieces: list[bytes], separator: bytes = b"") -> list[bytes]:
    """Many pieces joined to few blocks: the separator is still to be put between those."""
    return [separator.join(pieces[at : at + PIECES_AT_ONCE]) for at in range(0, len(pieces), PIECES_AT_ONCE)]
