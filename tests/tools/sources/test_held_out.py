"""ImageNet's validation images among others: kept with a warning, or refused where they spoil a measurement."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.sources import held_out
from alexnet_fast.tools.sources.find import Source, find_source
from alexnet_fast.tools.sources.imagenet import imagenet_classes, validation_labels
from tests.tools.fake_sources import tar_bytes, write_files

TENCH, GOLDFISH = "n01440764", "n01443537"
OTHER = "n02102040"


def numbers_of(wnid: str) -> list[int]:
    """The 50 validation images of a class, by the built-in labels (which tests/…/test_ilsvrc.py compare)."""
    index = next(entry.index for entry in imagenet_classes() if entry.wnid == wnid)
    return [number for number, label in enumerate(validation_labels(), 1) if label == index]


def val_name(number: int, end: str = ".JPEG") -> str:
    return f"ILSVRC2012_val_{number:08d}{end}"


def subset(folder: str, wnid: str, num_train: int, numbers: Iterable[int]) -> dict[str, bytes]:
    """A class folder of images of ImageNet's train split and of its validation split."""
    names = [f"{wnid}_{number}.JPEG" for number in range(num_train)] + [val_name(number) for number in numbers]
    return {f"{folder}/{name}": f"{folder}{name}".encode() for name in names}


def like_imagenette(train: str = "train/", val: str = "val/") -> dict[str, bytes]:
    """Both splits drawn out of both of ImageNet's, as Imagenette's are."""
    files: dict[str, bytes] = {}
    for wnid in (TENCH, GOLDFISH):
        numbers = numbers_of(wnid)
        files |= subset(f"{train}{wnid}", wnid, 5, numbers[:2]) | subset(f"{val}{wnid}", f"{wnid}_val", 4, numbers[2:4])
    return files


def sizes(source: Source) -> dict[str, int]:
    return {split: int((source.table.split == number).sum()) for number, split in enumerate(source.splits)}


def test_subsets_keep_their_own_splits(tmp_path: Path) -> None:
    source = find_source(write_files(tmp_path, like_imagenette()))
    assert sizes(source) == {"train": 14, "val": 12} and [entry.name for entry in source.classes] == [TENCH, GOLDFISH]
    assert not source.unused
    for number in range(len(source.table)):
        split, label = source.splits[source.table.split[number]], source.classes[source.table.label[number]].name
        assert source.table.origin(number).startswith(f"{split}/{label}/")
    (warning,) = source.warnings
    assert warning.startswith("4 images of train are called as images of the challenge's val split")
    assert f"train/{TENCH}/{val_name(numbers_of(TENCH)[0])}" in warning and "would be too high" in warning


def test_subsets_in_tars_keep_their_own_splits(tmp_path: Path) -> None:
    files = like_imagenette("", "../val/")
    train = tar_bytes({name: content for name, content in files.items() if not name.startswith("../")})
    val = tar_bytes({name[7:]: content for name, content in files.items() if name.startswith("../")})
    source = find_source(write_files(tmp_path, {"train.tar": train, "val.tar": val}))
    assert sizes(source) == {"train": 14, "val": 12} and len(source.warnings) == 1
    whole = find_source(write_files(tmp_path / "one", {"imagenette2.tar": tar_bytes(like_imagenette())}))
    assert sizes(whole) == {"train": 14, "val": 12} and len(whole.warnings) == 1


def test_a_flat_train_folder_of_both(tmp_path: Path) -> None:
    flat = {
        name.replace(f"train/{wnid}/", "train/"): b for name, b in like_imagenette().items() for wnid in [name[6:15]]
    }
    source = find_source(write_files(tmp_path, flat))
    assert sizes(source) == {"train": 14, "val": 12} and len(source.warnings) == 1
    wnids = [source.classes[label].name for label in source.table.label]
    assert wnids == [TENCH] * 7 + [GOLDFISH] * 7 + [TENCH] * 6 + [GOLDFISH] * 6


@pytest.mark.parametrize("num_train", [0, 2])
def test_a_train_class_made_of_them_is_refused(tmp_path: Path, num_train: int) -> None:
    write_files(tmp_path, subset(f"train/{TENCH}", TENCH, num_train, numbers_of(TENCH)[:2]))
    write_files(tmp_path, subset(f"train/{GOLDFISH}", GOLDFISH, 5, []))
    with pytest.raises(
        UsageError, match=rf"train/{TENCH} lies in the train split, but 2 of its {num_train + 2} images"
    ):
        find_source(tmp_path)
    source = find_source(tmp_path, splits=["train=train"])
    assert sizes(source) == {"train": num_train + 7}
    assert source.warnings[0].startswith("2 images of train are called as images of the challenge's val split")


def test_without_a_stated_split_a_few_are_a_warning_and_half_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, subset(TENCH, TENCH, 5, numbers_of(TENCH)[:1]) | subset(GOLDFISH, GOLDFISH, 5, []))
    source = find_source(tmp_path)
    assert sizes(source) == {"train": 11}
    assert source.warnings[0].startswith("1 image of train is called as an image of the challenge's val split")
    write_files(tmp_path, subset(TENCH, TENCH, 5, numbers_of(TENCH)[:5]))
    with pytest.raises(UsageError, match=rf"{TENCH} lies in no folder that states a split, but 5 of its 10 images"):
        find_source(tmp_path)
    assert sizes(find_source(tmp_path, splits=["train=."])) == {"train": 15}


@pytest.mark.parametrize("end", [".JPEG", ".jpg", f"_{TENCH}.JPEG", ".png"])
@pytest.mark.parametrize("splits", [(), ("train=train", "val=val")])
@pytest.mark.parametrize("other", ["val", "test"])
def test_the_same_image_in_two_splits_is_refused(tmp_path: Path, end: str, splits: tuple[str, ...], other: str) -> None:
    number = numbers_of(TENCH)[0]
    write_files(
        tmp_path, like_imagenette(val=f"{other}/") | {f"{other}/{TENCH}/{val_name(number, end)}": b"another size"}
    )
    splits = tuple(text.replace("val", other) for text in splits)
    with pytest.raises(UsageError, match=r"train shares 1 image of the challenge with another split") as caught:
        find_source(tmp_path, splits=splits)
    assert repr(f"train/{TENCH}/{val_name(number)}") in str(caught.value)
    assert repr(f"{other}/{TENCH}/{val_name(number, end)}") in str(caught.value)


def test_the_same_image_in_two_webdataset_splits_is_refused(tmp_path: Path) -> None:
    def samples(*numbers: int) -> bytes:
        members = {f"{name}.jpg": b"%d" % i for i, name in enumerate(map(str, range(5)))} | {
            val_name(number, ".jpg"): b"%d" % number for number in numbers
        }
        return tar_bytes(
            members | {name.replace(".jpg", ".cls"): b"1" if name == "0.jpg" else b"0" for name in members}
        )

    first, second = numbers_of(TENCH)[:2]
    write_files(tmp_path / "one", {"train-0.tar": samples(first), "val-0.tar": samples(second)})
    assert find_source(tmp_path / "one").warnings[-1].startswith("1 image of train is called as")
    write_files(tmp_path / "two", {"train-0.tar": samples(first), "val-0.tar": samples(first, second)})
    with pytest.raises(UsageError, match="train shares 1 image of the challenge"):
        find_source(tmp_path / "two")


def test_webdataset_samples_of_the_validation_split_are_no_train_split(tmp_path: Path) -> None:
    tar = tar_bytes({f"{val_name(n)[:-5]}.{end}": b"%d" % (n % 2) for n in range(1, 9) for end in ("jpg", "cls")})
    write_files(tmp_path, {"shard-0.tar": tar})
    with pytest.raises(UsageError, match="8 of the 8 images of train are called as images of the challenge's"):
        find_source(tmp_path)
    assert sizes(find_source(tmp_path, splits=["val=."])) == {"val": 8}


def labeled(kind: str, wrong: int, right: int) -> dict[str, bytes]:
    """Validation images in the folders or tars of a split, `wrong` of them in another class than the challenge's."""
    names = {
        TENCH: numbers_of(TENCH)[:right] + numbers_of(GOLDFISH)[40 : 40 + wrong],
        GOLDFISH: numbers_of(GOLDFISH)[:right],
    }
    if kind == "named":
        val = {f"val/{val_name(n, f'_{wnid}.JPEG')}": b"%d" % n for wnid, numbers in names.items() for n in numbers}
    else:
        val = {f"val/{wnid}/{val_name(n)}": b"%d" % n for wnid, numbers in names.items() for n in numbers}
    if kind == "tars":
        val = {"val.tar": tar_bytes({name[4:]: content for name, content in val.items()})}
    if kind == "webdataset":
        members = {name.rpartition("/")[2][:-5]: name.split("/")[1] for name in val}
        samples = {f"{key}.{end}": content.encode() for key, content in members.items() for end in ("jpg", "cls")}
        val = {"val-0.tar": tar_bytes(samples)}
        members = {f"{wnid}_{i}": wnid for wnid in (TENCH, GOLDFISH) for i in range(3)}
        samples = {f"{key}.{end}": content.encode() for key, content in members.items() for end in ("jpg", "cls")}
        return val | {"train-0.tar": tar_bytes(samples)}
    return val | subset(f"train/{TENCH}", TENCH, 3, []) | subset(f"train/{GOLDFISH}", GOLDFISH, 3, [])


@pytest.mark.parametrize("kind", ["folders", "tars", "named", "webdataset"])
def test_classes_that_contradict_the_challenge(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule: a warning, and the source's labels are kept; but many, and half of a split or more, are refused."""
    source = find_source(write_files(tmp_path / "few", labeled(kind, 1, 3)))
    (warning,) = source.warnings
    assert warning.startswith(
        "1 of 7 images of val are in another class than their names or the challenge's validation labels say"
    )
    assert f"is {TENCH} here, but {GOLDFISH} by its name" in warning
    tench = [number for number in range(len(source.table)) if source.classes[source.table.label[number]].name == TENCH]
    assert any(f"{numbers_of(GOLDFISH)[40]:08d}" in source.table.origin(number) for number in tench)
    write_files(tmp_path / "many", labeled(kind, 4, 2))
    assert any(text.startswith("4 of 8 images of val are in") for text in find_source(tmp_path / "many").warnings)
    monkeypatch.setattr(held_out, "MANY", 4)
    with pytest.raises(UsageError, match=r"4 of 8 images of val are in another class .*Correct the labels"):
        find_source(tmp_path / "many")


def test_superclasses_contradict_nothing(tmp_path: Path) -> None:
    """A folder called by a WordNet id that is none of the 1,000 (dog) may hold images of several of them."""
    dogs, cats = "n02084071", "n02121620"
    write_files(tmp_path, {f"train/{wnid}/{i}.jpg": b"" for wnid in (dogs, cats) for i in range(2)})
    write_files(tmp_path, {f"val/{dogs}/{val_name(n)}": b"" for n in numbers_of(OTHER)[:2]})
    write_files(tmp_path, {f"val/{cats}/{val_name(n)}": b"" for n in [*numbers_of(OTHER)[2:4], *numbers_of(TENCH)[:2]]})
    assert not find_source(tmp_path).warnings


def test_class_folders_by_other_names(tmp_path: Path) -> None:
    """Validation images in folders called as train's classes are of these, whatever their numbers' wnids are called."""
    write_files(tmp_path, {f"train/{name}/{i}.jpg": b"" for name in ("tench", "goldfish") for i in range(2)})
    for name, wnid in (("tench", TENCH), ("goldfish", GOLDFISH)):
        write_files(tmp_path, {f"val/{name}/{val_name(number)}": b"" for number in numbers_of(wnid)[:2]})
    source = find_source(tmp_path)
    assert sizes(source) == {"train": 4, "val": 4} and not source.unused and not source.warnings


@pytest.mark.parametrize("kind", ["folders", "webdataset"])
def test_classes_that_contradict_wordnet_ids(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of train called n01440764_… in another of the 1,000 classes; a split is judged by itself."""

    def files(wrong: int, right: int) -> dict[str, bytes]:
        labels = {f"{GOLDFISH}_{i}": 1 for i in range(right)} | {
            f"{TENCH}_{i}": 0 if i < right else 1 for i in range(right + wrong)
        }
        if kind == "folders":
            return {f"train/{(TENCH, GOLDFISH)[label]}/{name}.JPEG": name.encode() for name, label in labels.items()}
        return {
            "train-0.tar": tar_bytes(
                {f"{name}.{end}": b"%d" % label for name, label in labels.items() for end in ("jpg", "cls")}
            )
        }

    source = find_source(write_files(tmp_path / "few", files(2, 3)))
    assert [entry.name for entry in source.classes][:2] == [TENCH, GOLDFISH]
    assert any(text.startswith("2 of 8 images of train are in another class than") for text in source.warnings)
    monkeypatch.setattr(held_out, "MANY", 6)
    if kind == "folders":  # numbers are refused for their numbering first
        with pytest.raises(UsageError, match="6 of 12 images of train are in another class than"):
            find_source(write_files(tmp_path / "many", files(6, 3)))


def test_folders_that_are_taken_for_no_classes_are_named(tmp_path: Path) -> None:
    """Validation images by number beat a folder's name that nothing else calls a class, but not without a word."""
    write_files(tmp_path, {f"val/{kind}/{val_name(n)}": b"" for kind, n in (("fish", 293), ("dog", 1), ("dog", 2))})
    source = find_source(tmp_path)
    assert (
        len(source.classes) == 1000
        and "The names of 'val/dog', 'val/fish' are taken for no classes" in source.warnings[0]
    )
    source = find_source(tmp_path, splits=["val=val"])
    assert [entry.name for entry in source.classes] == ["dog", "fish"]


def test_an_image_in_two_classes_of_one_split_is_a_warning(tmp_path: Path) -> None:
    number = numbers_of(TENCH)[:1]
    write_files(tmp_path, subset(TENCH, TENCH, 5, number) | subset(GOLDFISH, GOLDFISH, 5, number))
    (warning,) = [text for text in find_source(tmp_path).warnings if "in two classes" in text]
    assert val_name(number[0]) in warning and TENCH in warning and GOLDFISH in warning
