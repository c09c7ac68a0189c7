"""Which folders and tars are the splits, by the meaning of their names; where two readings remain, the user decides.

A name says a split where one of its parts is a word for it (train, val, validation, test, dev, …), in any case, with
anything before and behind it: `ILSVRC2012_img_train`, `train_blurred`, `TestSet`, `imagenet1k-validation-00.tar`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from alexnet_fast.tools.errors import UsageError
from alexnet_fast.tools.messages import few
from alexnet_fast.tools.sources.foreign import text
from alexnet_fast.tools.sources.table import SPLIT_ORDER

Path = tuple[bytes, ...]
"""A folder's path below the source; a tar counts as a folder."""

_WORDS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|validate|dev|devel|development|eval|evaluation|heldout|holdout",
    "test": "test|testing|tst",
}
_AFFIX = "set|sets|data|dataset|dir|split|folder|img|imgs|image|images|part|shard"
_PATTERNS = {split: re.compile(f"(?:{_AFFIX})?(?:{words})(?:{_AFFIX})?") for split, words in _WORDS.items()}

_EMPTY_WORDS = re.compile(
    f"(?:{_AFFIX}|ilsvrc|imagenet|shards|datasets|splits|jpe?gs?|k|of|cls|loc|wds|webdataset|parquet|task|t)"
)
"""Parts of a name that mean nothing beside a split."""


@dataclass(frozen=True)
class Said:
    """What a name says about splits."""

    split: str
    rest: tuple[str, ...]
    """What else the name says: `steam` of "steam train"; nothing for `ILSVRC2012_img_train`."""


def said(name: bytes) -> Said | None:
    """The split that a name says; None where it says none, or two."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name.decode("utf-8", "replace"))
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    splits = [next((split for split, pattern in _PATTERNS.items() if pattern.fullmatch(word)), None) for word in words]
    if len({split for split in splits if split}) != 1:
        return None
    rest = (word for word, split in zip(words, splits, strict=True) if not split and not _EMPTY_WORDS.fullmatch(word))
    return Said(next(split for split in splits if split), tuple(rest))


@dataclass(frozen=True)
class Assignment:
    """The split of a folder, and the parts of its path that make its class."""

    split: str
    class_path: Path
    stated: bool = True
    """Whether a name or the user says the split; where nothing does, it is train."""
    unread: bool = False
    """Whether names below the split's folder are not taken for a class, since the images' own names say theirs."""


class AmbiguousSplitsError(UsageError):
    """Two readings of the source remain, and the program does not choose between them."""


def ambiguous(root: str, first: str, second: str, flags: str) -> AmbiguousSplitsError:
    return AmbiguousSplitsError(
        f"{root}: can be read in two ways. Either {first}; or {second}. Say which: {flags} (PATH is relative to "
        "SOURCE and may hold wildcards)."
    )


def shown(path: Path) -> str:
    return text(b"/".join(path)) or "."


class SplitFinder:
    """Looks for the splits among the folders that hold images."""

    def __init__(self, root: str, folders: Iterable[Path]) -> None:
        self.root = root
        self.folders = sorted(set(folders))
        self.children: dict[Path, set[bytes]] = {}
        for folder in self.folders:
            for depth in range(len(folder)):
                self.children.setdefault(folder[:depth], set()).add(folder[depth])
        self.named = {parent: self._named(parent) for parent in self.children}

    def _named(self, parent: Path) -> dict[bytes, str]:
        """The children of a folder that are splits by their names.

        A name that says more than a split ("steam train") is one only where a sibling says the same of another split
        (`cats_train`, `cats_test`), or where it is the only child and holds folders, which are the classes then.
        """
        names = self.children[parent]
        only = next(iter(names))
        if len(names) == 1 and (what := said(only)) and self._holds_classes((*parent, only)):
            return {only: what.split}
        all_said = {name: what for name in names if (what := said(name))}
        splits_of: dict[tuple[str, ...], set[str]] = {}
        for what in all_said.values():
            splits_of.setdefault(what.rest, set()).add(what.split)
        return {name: what.split for name, what in all_said.items() if not what.rest or len(splits_of[what.rest]) > 1}

    def _holds_classes(self, folder: Path) -> bool:
        """Whether folders in it may be classes, which one called `images` is not."""
        return any(not is_plain_folder(name) for name in self.children.get(folder, ()))

    def find(self) -> dict[Path, Assignment | None]:
        """Folder -> what it is; None for folders that are part of no split.  Where nothing says a split, all is train.

        Raises AmbiguousSplitsError.
        """
        nodes = {folder: self.node_of(folder) for folder in self.folders}
        splits = {node: self.split_of(node) for node in nodes.values() if node is not None}
        outside = [folder for folder, node in nodes.items() if node is None and folder]
        if not splits:
            self.check_same_names()
            self.check_unlike_siblings()
            return {folder: Assignment("train", folder, stated=False) for folder in self.folders}
        if self.classes_hold_splits(nodes, outside):
            return {
                folder: Assignment(splits[node], node[:-1] + folder[len(node) :]) if node else None
                for folder, node in nodes.items()
            }
        self.check_nodes(splits)
        self.check_outside(splits, outside)
        return {
            folder: Assignment(splits[node], folder[len(node) :]) if node else None for folder, node in nodes.items()
        }

    def split_of(self, node: Path) -> str:
        return self.named[node[:-1]][node[-1]]

    def is_strong(self, node: Path) -> bool:
        """Whether another split lies beside this one."""
        return len(set(self.named[node[:-1]].values())) > 1

    def node_of(self, folder: Path) -> Path | None:
        """The folder of the split that `folder` lies in: the outermost that has another split beside it, else the
        outermost; of `train/train` the inner one.
        """
        depths = [d for d in range(1, len(folder) + 1) if folder[d - 1] in self.named.get(folder[: d - 1], {})]
        if not depths:
            return None
        strong = [depth for depth in depths if self.is_strong(folder[:depth])]
        if not strong and len({self.split_of(folder[:depth]) for depth in depths}) > 1:
            names = [shown(folder[:depth]) for depth in depths]
            raise ambiguous(
                self.root,
                f"{names[0]} is the {self.split_of(folder[: depths[0]])} split",
                f"{names[-1]} is the {self.split_of(folder[: depths[-1]])} split",
                " or ".join(
                    f"--split {self.split_of(folder[:depth])}={shown(folder[:depth])}"
                    for depth in depths[:: len(depths) - 1]
                ),
            )
        depth = (strong or depths)[0]
        split = self.split_of(folder[:depth])
        while depth < len(folder) and self._doubled(folder, depth, split):
            depth += 1
        return folder[:depth]

    def _doubled(self, folder: Path, depth: int, split: str) -> bool:
        """Whether the folder's only content is one that is called as the split again, as archives unpack.

        One that says more (`val/val d'or`) is a class, but for one of the very same name (`seg_test/seg_test`).
        """
        if len(self.children[folder[:depth]]) > 1 or self.named[folder[:depth]].get(folder[depth]) != split:
            return False
        what = said(folder[depth])
        return folder[depth] == folder[depth - 1] or (what is not None and not what.rest)

    def classes_hold_splits(self, nodes: dict[Path, Path | None], outside: list[Path]) -> bool:
        """Whether every class has its own split folders: `cat/train`, `cat/val`, `dog/train`, …"""
        inside = {node for node in nodes.values() if node}
        parents = {node[:-1] for node in inside}
        flat = all(is_without_classes(folder[len(node) :]) for folder, node in nodes.items() if node)
        return flat and len(parents) > 1 and () not in parents and not outside

    def check_nodes(self, splits: dict[Path, str]) -> None:
        """Refuse several folders of one split, but for numbered ones (`train-000.tar`, `train_part2`)."""
        by_split: dict[str, list[Path]] = {}
        for node in sorted(splits):
            by_split.setdefault(splits[node], []).append(node)
        for split, nodes in by_split.items():
            kinds = {(node[:-1], re.sub(rb"\d+", b"", node[-1]).lower()) for node in nodes}
            if len(kinds) == 1:
                continue
            names = [shown(node) for node in nodes]
            raise AmbiguousSplitsError(
                f"{self.root}: {few(names)} are both the {split} split by their names. Choose with --split NAME=PATH, "
                f"such as {' '.join(f'--split {name}={shown(of[0])}' for name, of in by_split.items())}, or move the "
                "others away."
            )

    def check_outside(self, splits: dict[Path, str], outside: list[Path]) -> None:
        """Refuse folders of images beside the splits where these may be meant as classes."""
        if not outside:
            return
        below = {
            folder[len(node)]
            for node in splits
            for folder in self.folders
            if folder[: len(node)] == node and folder != node
        }
        beside = {folder[-1] for folder in outside}
        settled = len(set(splits.values())) > 1 or set(splits.values()) == {"train"}
        if settled and below and not below & beside:
            return
        names = [shown(node) for node in splits]
        others = few([shown(folder) for folder in outside])
        split = next(iter(splits.values()))
        raise ambiguous(
            self.root,
            f"{few(names)} is a split by its name, and {others} beside it is not used",
            "all of these are classes or folders of classes of one split",
            f"`--split {split}={names[0]}` uses nothing else; `--split train=. --split {split}={names[0]}` takes the "
            "rest for the train split; `--split train=.` makes all of them classes",
        )

    def check_unlike_siblings(self) -> None:
        """Refuse a flat folder with a split in its name beside folders of classes: `val_large` beside `data_large`."""
        for parent, names in self.children.items():
            holders = sorted(name for name in names if (*parent, name) in self.children)
            flat = sorted(name for name in names if (*parent, name) not in self.children)
            for name in flat if holders else []:
                what = said(name)
                if what:
                    mine, beside = shown((*parent, name)), few([shown((*parent, holder)) for holder in holders])
                    raise ambiguous(
                        self.root,
                        f"{mine} is the {what.split} split by its name, and {beside} holds the classes of train",
                        f"{mine} is one class, beside those in {beside}",
                        f"--split train={shown((*parent, holders[0]))} --split {what.split}={mine}, or --split train=.",
                    )

    def check_same_names(self) -> None:
        """Refuse classes of the same names under two parents, which may be splits by names that say none."""
        leaves: dict[Path, set[bytes]] = {}
        for folder in self.folders:
            path = folder[:-1] if folder and is_without_classes(folder[-1:]) else folder
            if len(path) > 1:
                leaves.setdefault(path[:-1], set()).add(path[-1])
        parents = sorted(leaves)
        seen: dict[bytes, Path] = {}
        for parent in parents:
            for name in leaves[parent]:
                other = seen.setdefault(name, parent)
                common = leaves[parent] & leaves[other]
                if other != parent and 2 * len(common) >= min(len(leaves[parent]), len(leaves[other])):
                    raise ambiguous(
                        self.root,
                        f"{shown(other)} and {shown(parent)} are splits, with the classes "
                        f"{few(sorted(map(text, common)))} in both",
                        f"each is a part of the train split, with classes such as {shown((*other, name))!r} and "
                        f"{shown((*parent, name))!r}",
                        f"--split train={shown(other)} --split val={shown(parent)}, or --split train=.",
                    )


def is_without_classes(path: Path) -> bool:
    """Whether a path from a split's folder on names no class: it is empty, or an `images` folder."""
    return all(is_plain_folder(part) for part in path)


def is_plain_folder(name: bytes) -> bool:
    """Whether a folder's name only says that images are in it, so that it is no class and no part of one's name."""
    return name.lower() in (b"images", b"image", b"imgs", b"img", b"jpegimages")


def parse_splits(root: str, given: Sequence[str]) -> list[tuple[str, Path]]:
    """`--split NAME=PATH` -> (split, parts of the path relative to the root); UsageError where it cannot be."""
    parsed = []
    for words in given:
        name, equals, path = words.partition("=")
        what = said(name.encode("utf-8", "surrogateescape"))
        if not equals or not path or not what or what.rest:
            raise UsageError(f"--split {words}: must be NAME=PATH with one of the names {', '.join(SPLIT_ORDER)}.")
        if path.rstrip("/") == root or path.startswith(root.rstrip("/") + "/"):
            path = path[len(root.rstrip("/")) + 1 :]
        parts = path.replace("!", "/").encode("utf-8", "surrogateescape").split(b"/")
        parsed.append((what.split, tuple(part for part in parts if part not in (b"", b"."))))
    return parsed


def explicit_splits(root: str, given: Sequence[str], folders: Iterable[Path]) -> dict[Path, tuple[str, int] | None]:
    """Folder (tars with their endings) -> its split and the depth of the path that says it; None where no path does.

    The longest path counts.  UsageError where a path leads to no images, or where two of one length disagree.
    """
    patterns = parse_splits(root, given)
    used: set[int] = set()
    found: dict[Path, tuple[str, int] | None] = {}
    for folder in folders:
        matching = [number for number, (_, pattern) in enumerate(patterns) if matches(folder, pattern)]
        longest = max((len(patterns[number][1]) for number in matching), default=-1)
        last = [number for number in matching if len(patterns[number][1]) == longest]
        if len({patterns[number][0] for number in last}) > 1:
            raise UsageError(
                f"--split {' --split '.join(given[number] for number in last)}: both hold {shown(folder)}."
            )
        used.update(matching)
        found[folder] = (patterns[last[0]][0], longest) if last else None
    unused = [given[number] for number in range(len(given)) if number not in used]
    if unused:
        raise UsageError(f"--split {unused[0]}: no image lies under this path. It is relative to SOURCE, {root}.")
    return found


def matches(folder: Path, pattern: Path) -> bool:
    """Whether a folder is one that the pattern means, or lies below one."""
    return len(pattern) <= len(folder) and all(
        fnmatchcase(os_text(part), os_text(glob)) for part, glob in zip(folder, pattern, strict=False)
    )


def os_text(part: bytes) -> str:
    return part.decode("utf-8", "surrogateescape")
