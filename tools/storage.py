"""Files behind URLs (`s3://…`) through fsspec, which is imported only where a URL is used."""

from __future__ import annotations

from alexnet_fast.tools.errors import UserError


def read_range(url: str, offset: int, size: int | None) -> bytes:
    """`size` bytes of a stored file from `offset` on (None: to its end), in one request."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    try:
        content = system.cat_file(path, start=offset or None, end=None if size is None else offset + size)
    except OSError as error:
        raise UserError(f"{url}: cannot be read ({error}). Bring it back and run again.") from error
    return bytes(content)
