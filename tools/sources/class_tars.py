"""Tars of one class each, as ImageNet-21k comes: the class is the tar's name.  Read in place, never unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import counted, few
from alexnet_fast.tools.sources.folders import SPLIT_NAMES, class_name
from alexnet_fast.tools.sources.ilsvrc import CLASS_TAR, Collected
from alexnet_fast.tools.sources.table import SPLIT_ORDER, Source
from alexnet_fast.tools.sources.tar_index import ScanCache
from alexnet_fast.tools.storage.filesystem import join, list_folder


def class_tars(root: str, names: Mapping[str, bool]) -> dict[str, list[str]]:
    """Split -> its tars relative to the root, sorted: those in the folder, which are train, or in split folders in it.

    Where some are named by a wnid, the others (a backup, a list of images' addresses) are none.
    """
    by_split = {"train": [name for name, folder in names.items() if not folder and name.endswith(".tar")]}
    if not by_split["train"]:
        split_of = {name: SPLIT_NAMES.get(name.lower().encode()) for name, folder in names.items() if folder}
        by_split = {
            split: [f"{folder}/{name}" for name in list_folder(join(root, folder)) if name.endswith(".tar")]
            for folder, split in split_of.items()
            if split
        }
    wnids = {split: [tar for tar in tars if is_named_by_wnid(tar)] for split, tars in by_split.items()}
    chosen = wnids if any(wnids.values()) else by_split
    return {split: sorted(chosen[split]) for split in SPLIT_ORDER if chosen.get(split)}


def is_named_by_wnid(tar: str) -> bool:
    return bool(CLASS_TAR.match(PurePosixPath(tar).name))


def is_class_tars(root: str, names: Mapping[str, bool]) -> bool:
    return any(is_named_by_wnid(tar) for tars in class_tars(root, names).values() for tar in tars)


def find_class_tars(root: str, names: Mapping[str, bool], scans: ScanCache) -> Source:
    """Class tars under `root`, an absolute path or a URL.

    UsageError where there are none, or where val has a class that train has not.
    """
    tars = class_tars(root, names)
    if not tars:
        raise UsageError(
            f"{root}: holds no tars, and no train or val folder with tars, of one class each. Leave --source away: "
            "what is there is found by looking."
        )
    splits = tuple(tars)
    classes = {split: [PurePosixPath(tar).stem for tar in tars[split]] for split in splits}
    unknown = sorted({name for split in splits[1:] for name in classes[split]} - set(classes[splits[0]]))
    if unknown:
        raise UsageError(
            f"{root}: there are tars of the class {few(unknown)}, which {splits[0]} has not. The same classes must "
            "have tars of the same names in every split."
        )
    index_of = {name: index for index, name in enumerate(sorted(classes[splits[0]]))}
    collected = Collected(root, scans, [tar for split in splits for tar in tars[split]], splits, index_of)
    container = 0
    for split in splits:
        for name in classes[split]:
            collected.add_classes(container, name, split)
            container += 1
    return Source(
        "class-tars",
        f"{counted(len(collected.containers), 'tar')} of one class each in {root}",
        tuple(class_name(name) for name in index_of),
        splits,
        collected.builder.finish(),
        tuple(collected.notes({})),
    )
