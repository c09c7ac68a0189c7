"""The members of WebDataset samples, by the webdataset library's convention.

A member's key ends at the first dot of its base name; what follows is its component: `dog/1.seg.png` is the component
`seg.png` of the sample `dog/1`.
"""

from __future__ import annotations

import json

from alexnet_fast.tools.sources.foreign import is_image
from alexnet_fast.tools.sources.sample_labels import NAME_FIELDS, NUMBER_FIELDS

LABEL_ENDS = frozenset((b"cls", b"json", b"txt", b"label", b"class", b"target"))
"""Last extensions of components that may say a sample's class."""

LARGEST_LABEL = 1 << 20
"""Bytes; a larger JSON is no sample's."""

DAMAGED = b"\0"
"""Start of `label_content` where the JSON is damaged; the reason follows."""


def split_member(name: bytes) -> tuple[bytes, bytes]:
    """A member's key and component; the component is empty where the base name has no dot, or begins with it."""
    start = max(name.rfind(b"/"), name.rfind(b".tar!") + 4 if b".tar!" in name else -1) + 1
    dot = name.find(b".", start)
    key, component = (name, b"") if dot <= start else (name[:dot], name[dot + 1 :].lower())
    return key.removeprefix(b"./"), component


def is_label(name: bytes, size: int) -> bool:
    """Whether a member may say a sample's class."""
    return name.lower().rpartition(b".")[2] in LABEL_ENDS and size <= LARGEST_LABEL


def is_image_component(component: bytes) -> bool:
    return is_image(b"x." + component)


def label_content(name: bytes, content: bytes) -> bytes:
    """What a label member says, short: of a JSON only the fields that may say a class.

    Empty where it says nothing of a class, beginning with `DAMAGED` where it is a JSON that cannot be read.
    """
    if not name.lower().endswith(b".json"):
        return content.strip()[:1000] or b" "
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        return DAMAGED + str(error).encode()
    if not isinstance(fields, dict):
        return b""
    known = {key: fields[key] for key in (*NUMBER_FIELDS, *NAME_FIELDS) if key in fields}
    return json.dumps(known).encode() if known else b""
