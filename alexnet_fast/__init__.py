"""AlexNet as it was in 2012, and an ImageNet pipeline that keeps up with it.

The public names below are loaded when they are first used: importing this package imports neither torch nor DALI, so
that `alexnet-fast shard` runs without them.

    load("runs/2013")       a trained network: .predict(image), .features(image, "fc7"), .classes
    AlexNet, PlainAlexNet   the network, fused and fast; and as an ordinary PyTorch module
    Architecture            what defines a network
    recipe("2013")          every choice of a training run; recipe("2013").architecture(10) is its network
    Dataset.load("shards")  what is in a shards folder
    TrainingLoader, EvaluationLoader   batches of a shards folder, for any PyTorch model
    Augmentation            crop, mirror and color jitter of a TrainingLoader
    UserError, UsageError   what all of them raise for what a person can put right
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alexnet_fast.tools.version import __version__ as __version__

if TYPE_CHECKING:
    from alexnet_fast.config.recipe import Recipe as Recipe
    from alexnet_fast.config.recipe import recipe as recipe
    from alexnet_fast.inference.plain import PlainAlexNet as PlainAlexNet
    from alexnet_fast.inference.trained_network import TrainedNetwork as TrainedNetwork
    from alexnet_fast.inference.trained_network import load as load
    from alexnet_fast.network.model import AlexNet as AlexNet
    from alexnet_fast.network.model import Architecture as Architecture
    from alexnet_fast.pipelines.augmentation import Augmentation as Augmentation
    from alexnet_fast.pipelines.loader import EvaluationLoader as EvaluationLoader
    from alexnet_fast.pipelines.loader import TrainingLoader as TrainingLoader
    from alexnet_fast.tools.dataset import Dataset as Dataset
    from alexnet_fast.tools.errors import UsageError as UsageError
    from alexnet_fast.tools.errors import UserError as UserError


_PLACES = {
    "AlexNet": "network.model",
    "Architecture": "network.model",
    "Augmentation": "pipelines.augmentation",
    "Dataset": "tools.dataset",
    "EvaluationLoader": "pipelines.loader",
    "PlainAlexNet": "inference.plain",
    "Recipe": "config.recipe",
    "TrainedNetwork": "inference.trained_network",
    "TrainingLoader": "pipelines.loader",
    "UsageError": "tools.errors",
    "UserError": "tools.errors",
    "load": "inference.trained_network",
    "recipe": "config.recipe",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
