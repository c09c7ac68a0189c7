"""What the tests of the report share: hostile class names, and a data set without one of its splits.

The names try to be HTML, a script, a template, an attribute, a property that every object has.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from alexnet_fast.tools.dataset import MANIFEST

HOSTILE = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</script><script>document.title='pwned'</script>",
    "{{ 7 * 7 }} ${7*7} datum.x",
    "\"'><b>&amp;",
    "javascript:alert(1)",
    "constructor",
)
"""Labels of the first classes."""


def without_split(split: str, shards: Path, copy: Path) -> Path:
    """A copy of a shards folder whose manifest has no such split."""
    shutil.copytree(shards, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["splits"][split]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy
