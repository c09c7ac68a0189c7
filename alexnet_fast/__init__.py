"""AlexNet as it was in 2012, and an ImageNet pipeline that keeps up with it.

Importing this package imports neither torch nor DALI, so that `alexnet-fast shard` runs without them.
"""

__version__ = "0.1.0"
