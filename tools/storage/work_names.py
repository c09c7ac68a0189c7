"""Names of what an unfinished run keeps in the output's folder."""

from __future__ import annotations

WORK = ".sharding"
"""Subfolder for what an unfinished run needs; gone when the run is done."""

LOCK = f"{WORK}/lock"
UNFINISHED = "unfinished-"
"""Start of the name of a file that is being written, in WORK."""
