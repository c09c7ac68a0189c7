"""Files that make other people's programs read a shards folder: timm's `_info.json`, Hugging Face's README.md."""

from __future__ import annotations

import json
from collections import Counter

from alexnet_fast.tools.dataset import MANIFEST, Dataset
from alexnet_fast.tools.messages import counted

THEIR_NAMES = {"val": "validation"}
"""Our split -> what timm and Hugging Face call it."""


def timm_info(dataset: Dataset) -> bytes:
    """What timm's WebDataset reader looks for (timm/data/readers/reader_wds.py).

    The validation split is there as val and as validation, the name that timm's scripts use by default.
    """
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.name for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in dataset.splits.items()
    }
    for name, theirs in THEIR_NAMES.items():
        if name in splits:
            splits[theirs] = splits[name] | {"name": theirs}
    return (json.dumps({"splits": splits}, indent=1) + "\n").encode("ascii")


def dataset_card(dataset: Dataset) -> bytes:
    """README.md for Hugging Face's `load_dataset(FOLDER)`: which tars are which split, and the classes' names.

    Without it the labels are numbers.  Not checked by `verify`: it is there to be extended.
    """
    size = dataset.image_options.size
    lines = ["---", "pretty_name: ImageNet-style shards", "task_categories:", "- image-classification", "configs:"]
    lines += ["- config_name: default", "  data_files:"]
    for name in dataset.splits:
        lines += [f"  - split: {THEIR_NAMES.get(name, name)}", f"    path: {name}-*.tar"]
    lines += ["dataset_info:", "  features:", "  - name: cls", "    dtype:", "      class_label:", "        names:"]
    # JSON's strings are YAML's too; every one is quoted, since a class may be called `no` or `1e3`.
    lines += [f"          '{number}': {json.dumps(name)}" for number, name in enumerate(class_names(dataset))]
    lines += ["  - name: jpg", "    dtype: image", "  - name: __key__", "    dtype: string"]
    lines += ["  - name: __url__", "    dtype: string", "---", ""]
    lines += [f"# {counted(len(dataset.classes), 'class', 'classes')}, {size}×{size} JPEGs", ""]
    for name, split in dataset.splits.items():
        lines.append(f"- {name}: {counted(split.samples, 'image')} in {counted(len(split.shards), 'shard')}")
    lines += ["", f"Made by alexnet-fast; {MANIFEST} says from what and how.", "", "```python"]
    lines += ["from datasets import load_dataset", "", 'splits = load_dataset("FOLDER")', "```"]
    return ("\n".join(lines) + "\n").encode()


def class_names(dataset: Dataset) -> list[str]:
    """The classes' labels for people, in order; where two are alike (ImageNet has two cranes), with their names.

    A name that is no UTF-8 is escaped.
    """
    count = Counter(entry.label for entry in dataset.classes)
    names = [entry.label if count[entry.label] == 1 else f"{entry.label} ({entry.name})" for entry in dataset.classes]
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]
