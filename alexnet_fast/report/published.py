"""What the paper and its authors' notebook say of each net, to stand beside a run's own result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alexnet_fast.config.recipe import Recipe
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.sources.imagenet import imagenet_classes

VAL_IMAGES = 50_000
"""Of ILSVRC-2012's validation split."""


@dataclass(frozen=True)
class Published:
    """Errors (0..1) on ILSVRC-2012's validation images, ten views unless said otherwise."""

    where: str
    top1_error: float
    top5_error: float | None


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "145": (
        Published("paper, table 2, ten views", 0.407, 0.182),
        Published("authors' notebook, net 145, ten views", 0.4066, 0.1821),
    ),
    "167": (Published("authors' notebook, net 167, ten views", 0.4049, 0.1812),),
    "147": (Published("authors' notebook, net 147, ten views", 0.4106, 0.1851),),
    "148": (Published("authors' notebook, net 148, ten views", 0.4203, 0.1936),),
    "150": (Published("authors' notebook, net 150, ten views", 0.4183, 0.1933),),
    "paper": (Published("paper, table 2, ten views (of net 145)", 0.407, 0.182),),
}
"""Network of a recipe -> its published errors.  145-half and tanh have none on these images."""


def published_for(network: str) -> tuple[Published, ...]:
    """The net's own numbers; the paper's where it has none."""
    return PUBLISHED.get(network, PUBLISHED["145"][:1])


def why_not_comparable(dataset: Dataset | None, classes: tuple[tuple[str, str], ...], recipe: Recipe) -> str:
    """Why a result cannot be compared with the published ones; "": it can."""
    wnids = [entry.wnid for entry in imagenet_classes()]
    if [name for name, _ in classes] != wnids:
        return f"not comparable: another data set, of {len(classes):,} classes"
    split = recipe.final_split
    if dataset is not None and split in dataset.splits and dataset.split(split).samples != VAL_IMAGES:
        count = dataset.split(split).samples
        return f"not comparable: {count:,} validation images, not ILSVRC-2012's {VAL_IMAGES:,}"
    published = replace(recipe, width_divisor=1, norms="net", pooling="net", activation="net")
    if recipe.network not in PUBLISHED or recipe.architecture(len(wnids)) != published.architecture(len(wnids)):
        return "another network than the published one"
    return ""
