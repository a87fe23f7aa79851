"""What is handed to the wire: an envelope for one transaction, and the spooled octets, read as often as it takes.

The stored original is never touched: a next hop without 8BITMIME gets an encoding made for it (RFC 6152 §3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pillarbox.message.eight_bit import downgrade_to_7bit
from pillarbox.message.headers import header_end
from pillarbox.model.envelope import Envelope
from pillarbox.model.mailbox import Content
from pillarbox.store.api import INLINE_OCTETS, Blobs, Claim, Spool, Spooled

_HEADER_OCTETS: Final = 1 << 20


@dataclass(slots=True)
class SpoolParcel:
    """Implements `desk.Parcel` for a spooled message."""

    envelope: Envelope
    size_octets: int
    has_eight_bit: bool
    needs_smtputf8: bool
    prefix: bytes
    content: Content
    blobs: Blobs

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets to send: our fields, then the content as it came."""
        if self.content.data is not None:
            yield self.prefix + self.content.data
            return
        yield self.prefix
        async for chunk in self.blobs.chunks(self.content):
            yield chunk

    async def seven_bit(self) -> bytes | None:
        """The message encoded anew in seven bits; None where that cannot be, or would break a signature."""
        octets = self.prefix + await read_content(self.content, self.blobs)
        if len(octets) <= INLINE_OCTETS:
            return downgrade_to_7bit(octets)
        return await asyncio.to_thread(downgrade_to_7bit, octets)


async def make_parcel(message: Spooled, claims: Sequence[Claim], spool: Spool, blobs: Blobs) -> SpoolParcel:
    """The parcel of a message for these of its recipients. Raises Trouble, DamagedMessage, NotFound."""
    content = await full_content(message, spool)
    envelope = replace(message.envelope, recipients=tuple(claim.job.recipient for claim in claims))
    eight_bit = not message.prefix.isascii()
    header_utf8 = eight_bit
    if content.data is not None:
        if not content.data.isascii():
            eight_bit = True
            header_utf8 = header_utf8 or not content.data[: header_end(content.data)].isascii()
    else:
        start = await blobs.read(content, 0, _HEADER_OCTETS)
        header_utf8 = header_utf8 or not start[: header_end(start)].isascii()
        async for chunk in blobs.chunks(content):
            if eight_bit or not chunk.isascii():
                eight_bit = True
                break
    sender = envelope.reverse_path
    needs_smtputf8 = (
        (sender is not None and sender.needs_smtputf8)
        or any(recipient.address.needs_smtputf8 for recipient in envelope.recipients)
        # Octets over 127 in a header that was not declared are old habits (Latin-1); they have always been passed on.
        or (envelope.smtputf8 and header_utf8)
    )
    size = len(message.prefix) + content.size
    return SpoolParcel(envelope, size, eight_bit, needs_smtputf8, message.prefix, content, blobs)


async def full_content(message: Spooled, spool: Spool) -> Content:
    """The content with its data, where that is small enough to be kept in the spool's row."""
    if message.content.data is not None or message.content.size > INLINE_OCTETS:
        return message.content
    return await spool.content(message.id)


async def read_content(content: Content, blobs: Blobs) -> bytes:
    """All octets of a content, in memory."""
    return content.data if content.data is not None else await blobs.read(content)
