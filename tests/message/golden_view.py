"""What a golden file says about a message: everything that readers are told, in JSON's types."""

from __future__ import annotations

from typing import Any

from pillarbox.message.scan import Kind, scan
from pillarbox.message.structure import decoded_text, filenames
from pillarbox.message.text import search_text
from pillarbox.message.wire import wire_forms


def view(octets: bytes) -> dict[str, Any]:
    """Octets of wire forms are shown as Latin 1, one character for each."""
    forms = wire_forms(octets)
    message = scan(octets)
    parts = []
    for index, part in enumerate(message.parts):
        shown: dict[str, Any] = {
            "section": message.section_number(index),
            "type": part.content_type.value.decode(),
            "octets": [part.header_start, part.body_start, part.body_end],
        }
        if filenames(part):
            shown["filenames"] = filenames(part)
        if part.kind is Kind.LEAF and part.content_type.value.startswith(b"text/"):
            shown["text"] = decoded_text(message, part)[:120]
        parts.append(shown)
    return {
        "envelope": forms.envelope.decode("latin-1"),
        "body": forms.body.decode("latin-1"),
        "bodystructure": forms.bodystructure.decode("latin-1"),
        "headers": forms.headers.decode("latin-1"),
        "preview": forms.preview,
        "subject": forms.subject,
        "base_subject": forms.base_subject,
        "sent_at": forms.sent_at,
        "message_id": forms.message_id,
        "references": forms.references,
        "defects": list(forms.defects),
        "parts": parts,
        "search": " ".join(search_text(octets))[:300],
    }
