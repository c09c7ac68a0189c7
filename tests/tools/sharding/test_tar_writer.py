"""The tar's bytes: as webdataset's TarWriter and tarfile make them."""

import io
import tarfile

import numpy as np
import pytest

from alexnet_fast.tools.sharding.tar_writer import ShardWriter, member_header


@pytest.mark.parametrize("samples", [0, 1, 7, 40])
def test_a_tar_has_the_bytes_that_webdataset_writes(samples: int) -> None:
    webdataset = pytest.importorskip("webdataset")
    random = np.random.default_rng(samples)
    ours, theirs = io.BytesIO(), io.BytesIO()
    writer, reference = ShardWriter(ours), webdataset.TarWriter(theirs, mtime=0, encoder=False)
    for number in range(samples):
        stem = f"n{number:08d}_{'x' * (number * 2 % 70)}"
        jpeg = random.bytes((0, 1, 511, 512, 513, 36_000)[number % 6])
        writer.add(stem, jpeg, number)
        reference.write({"__key__": stem, "cls": b"%05d" % number, "jpg": jpeg})
    writer.close()
    reference.close()
    assert ours.getvalue() == theirs.getvalue()
    assert writer.num_bytes == len(ours.getvalue())


@pytest.mark.parametrize(("length", "size"), [(1, 0), (100, 7), (99, 8**11 - 1)])
def test_a_header_is_the_one_of_tarfile(length: int, size: int) -> None:
    member = tarfile.TarInfo("n" * length)
    member.size, member.mode, member.uname, member.gname = size, 0o444, "bigdata", "bigdata"
    assert member_header(member.name, size) == member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@pytest.mark.parametrize(("length", "size"), [(101, 5), (5, 8**11)])
def test_what_no_ustar_header_holds_is_refused(length: int, size: int) -> None:
    with pytest.raises(ValueError, match="no ustar header holds"):
        member_header("n" * length, size)
