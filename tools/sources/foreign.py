"""What lies among images besides them, decided by name, for folders and tars alike, in this one place."""

from __future__ import annotations

import re

IMAGE_EXTENSIONS = frozenset(
    b".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
"""A file with one of these is an image of the source, whatever is in it; what cannot be read is skipped by name."""

FOREIGN = frozenset(
    b"""
    .ds_store .appledouble .appledesktop .appledb .apdisk .spotlight-v100 .fseventsd .temporaryitems .trashes
    .documentrevisions-v100 .volumeicon.icns __macosx
    thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini $recycle.bin
    @eadir @tmp #recycle #snapshot @recycle @recently-snapshot @sharebin @synoresource
    .ipynb_checkpoints __pycache__ .git .svn .hg .gitattributes .gitignore .gitkeep .keep .dvc .cache .huggingface
    .thumbnails .thumb .thumbs .sh_thumbnails .picasa.ini .picasaoriginals .xvpics .comments .directory .nomedia
    .localized .idea .vscode .snapshot .snapshots .zfs lost+found .stfolder .stversions .dropbox .dropbox.cache .sync
    .syncing_db
    """.split()
) | {b"icon\r", b"system volume information", b"network trash folder", b"temporary items"}
"""Files and folders that operating systems, storage servers, editors and tools leave, in lower case."""

_FOREIGN_START = (b"._", b".trash", b".nfs", b".fuse_hidden", b".@__", b"~$", b"paxheader", b".smbdelete")
"""Starts of such names: AppleDouble files hold a Mac's attributes and are called as the image they belong to."""

PARTIAL = (b".part", b".partial", b".crdownload", b".download", b".incomplete", b".aria2", b".filepart", b".!ut")
"""Ends of the names of downloads that are not finished."""

_PIECE = re.compile(rb"\.(tar|tgz|zip|gz|7z|rar)\.?(part)?-?((?!gz|xz|lz)[a-z]{2}|\d{2,3})\Z|\.z\d\d\Z")
"""The end of the name of one piece of an archive that was split."""

PACKED_TARS = (b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tbz", b".tar.xz", b".txz")
"""Ends of the names of compressed tars, which are read."""

ARCHIVES = (b".zip", b".7z", b".rar", b".zst", b".tzst", b".lz4", b".lz", b".z", b".gz", b".bz2", b".xz", b".iso")
"""Ends of the names of archives that must be unpacked first."""

UNREAD_DATA = frozenset(
    b""".npz .npy .h5 .hdf5 .lmdb .mdb .rec .tfrecord .tfrecords .arrow .feather .beton .pkl .pickle .bin
    .tga .psd .ico .exr .hdr .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .jxl .j2k .jpx""".split()
)
"""Formats in which images come, and that are not read."""

NO_DATA = frozenset(
    b""".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .conf .html .htm .css .js .svg .pdf .doc
    .docx .xls .xlsx .ods .py .sh .bat .m .c .cpp .ipynb .log .db .sqlite .idx .index .mat .lst .list .names .data
    .sha256 .sha1 .md5 .sum .asc .sig .torrent .url .lnk .bib .tex .lock .cls .label .labels .prototxt""".split()
)
"""Texts, tables and notes; a file with another ending is looked into."""

_NO_DATA_NAMES = re.compile(
    rb"(?i)(readme|licen[cs]e|copying|changelog|makefile|md5sums?|sha\d+sums?|_success|checksums?)"
)

_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM.{4}\0\0\0\0|RIFF....WEBP|II\*\0|MM\0\*|P[1-6]\s|....ftyp(avif|heic|mif1|heix)"
    rb"|\0\0\0\x0cjP  |\x1f\x8b|PK\x03\x04|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|PAR1|ARROW1|\x89HDF",
    re.DOTALL,
)


def text(name: bytes) -> str:
    """A name for people and for the manifest; bytes that are no UTF-8 show as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


def extension(name: bytes) -> bytes:
    """The last extension with its dot, in lower case; empty where there is none."""
    dot = name.rfind(b".")
    return name[dot:].lower() if dot > 0 else b""


def is_image(name: bytes) -> bool:
    """By the name alone, so that no file is opened."""
    return extension(name) in IMAGE_EXTENSIONS and not name.startswith(b".")


def is_foreign(name: bytes) -> bool:
    """Whether a file or folder of this name is another program's, and no part of any data set."""
    lower = name.lower()
    return lower in FOREIGN or lower.startswith(_FOREIGN_START)


def is_hidden(name: bytes) -> bool:
    """A name that file managers do not show; images under one are counted, but not taken."""
    return name.startswith(b".") and name not in (b".", b"..")


def is_tar(name: bytes) -> bool:
    """A tar, compressed or not."""
    return name.lower().endswith((b".tar", *PACKED_TARS)) and not name.startswith(b".")


def without_tar(name: bytes) -> bytes:
    """A tar's name without its endings."""
    end = next((end for end in (*PACKED_TARS, b".tar") if name.lower().endswith(end)), b"")
    return name[: len(name) - len(end)]


def unfinished(name: bytes) -> str | None:
    """What is wrong with a file whose name says that it is a part of one; None where it says nothing of the kind."""
    lower = name.lower()
    if lower.endswith(PARTIAL) or (lower.endswith((b".tmp", b".temp")) and could_be_data(lower[: lower.rfind(b".")])):
        return "is a download that is not finished. Finish it, or remove the file."
    if _PIECE.search(lower):
        return "is a piece of an archive that was split. Join the pieces (cat PIECES > FILE) and unpack what comes out."
    return None


def could_be_data(name: bytes) -> bool:
    """Whether the name is that of an image, a tar or another container of images."""
    lower = name.lower()
    return (
        is_image(lower) or is_tar(lower) or lower.endswith((b".parquet", *ARCHIVES)) or extension(lower) in UNREAD_DATA
    )


def is_no_data(name: bytes) -> bool:
    """Whether the name says that the file is a text or a table, so that nobody need look into it."""
    return extension(name) in NO_DATA or bool(_NO_DATA_NAMES.match(name))


def looks_like_data(head: bytes) -> bool:
    """Whether a file begins like an image or an archive; `head` is its first 512 bytes."""
    return bool(_MAGIC.match(head)) or head[257:262] == b"ustar"
