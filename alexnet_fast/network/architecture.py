"""What defines the network: sizes, norms, pooling, initialization; and the authors' numbered nets.

Sources are files and lines of the authors' release (repository computerhistory/AlexNet-Source-Code), folder layers/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alexnet_fast.network import layers
from alexnet_fast.network.kernels.pooling import pooled_size
from alexnet_fast.tools.errors import UsageError

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
BIAS_ONE = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""Layers whose biases begin as 1, the others' as 0 (layers-145.cfg:74, 173, 201, 243, 271; paper, section 5)."""
NORMS = ("conv1", "conv2", "conv2-spatial")
"""Norms that a network can have: across maps after conv1 and conv2, and inside each map after conv2's."""


@dataclass(frozen=True)
class Architecture:
    """Everything that defines the network.  The defaults are those of net 167 (layers-167.cfg)."""

    num_classes: int = 1000
    """Any number from 2; an odd one gives the first tower one row of fc8 more."""
    num_towers: int = 2
    """2, or 1 for the paper's one-GPU comparison (layers-145-half.cfg)."""
    exchanged: bool = True
    """Whether conv3, fc6 and fc7 see both towers (layers-145.cfg:137, 240, 268); fc8 always does (297)."""
    maps: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    """Maps of conv1..conv5, both towers together.  Source: layers-145.cfg:13, 68, 138, 166, 195; paper, section 3.5."""
    units: tuple[int, int] = (4096, 4096)
    """Units of fc6 and fc7, both towers together.  Source: layers-145.cfg:241, 269; paper, section 3.5."""
    norms: tuple[str, ...] = ("conv1",)
    """Which of `NORMS` there are.  Net 145 has all three (layers-145.cfg:35, 95, 107), the paper the first two."""
    norm_alpha: float = 1e-4
    """Scale of the norm across maps, divided by its window of 5 (layer-params-145.cfg:138; layer.py:1183).  The paper's
    text does not divide, which is 5e-4 here."""
    relu_first: bool = False
    """conv1: False: linear → norm → pool → activation, as the program (layers-145.cfg:35-54); True: activation → norm →
    pool, as the paper's section 3.5."""
    activation: str = "relu"
    """"relu" (layers-145.cfg:54) or "tanh"."""
    pool_size: int = 3
    """Pixels; the stride is 2 (layers-145.cfg:51).  2 makes windows that do not overlap."""
    conv2_padding: int = 2
    """Pixels on each side (layers-145.cfg:69); 1 in the net with 2/2 pooling (layers-147.cfg:69)."""
    conv5_padding: int = 1
    """Pixels on each side (layers-145.cfg:196); 0 in the net with 2/2 pooling (layers-147.cfg:195)."""
    middle_sigma: float = 0.03
    """Standard deviation of the initial weights of conv3..conv5 (layers-145.cfg:143, 172, 200); elsewhere 0.01 (17).
    The paper says 0.01 everywhere."""
    dropout: float = 0.5
    """Fraction of the outputs of fc6 and fc7 that training sets to zero (layers-145.cfg:258)."""
    dropout_inverted: bool = False
    """False: testing multiplies these outputs by 1 - dropout (2012).  True: training divides what it keeps by that."""
    all_ties: bool = False
    """Max pooling's gradient goes to every pixel that equals the maximum (2012), not to one of them."""
    image_size: int = 224
    """Pixels; smaller ones are for trying."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}: a network that chooses needs at least 2 classes")
        if self.num_towers not in (1, 2):
            raise UsageError(f"num_towers is {self.num_towers}: choose 1 or 2")
        if self.activation not in ("relu", "tanh"):
            raise UsageError(f"activation is {self.activation!r}: choose 'relu' or 'tanh'")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}: give a fraction from 0 to below 1")
        unknown = [norm for norm in self.norms if norm not in NORMS]
        if unknown:
            raise UsageError(f"norms has {unknown[0]!r}: choose from {', '.join(NORMS)}")
        odd = [size for size in (*self.maps, *self.units) if size % self.num_towers]
        if odd:
            raise UsageError(f"{odd[0]} maps or units do not divide into {self.num_towers} towers")
        if self.last_map_size < 1:
            raise UsageError(f"image_size is {self.image_size}: too small, nothing is left after the last pooling")

    @property
    def last_map_size(self) -> int:
        """Pixels on each side of what fc6 sees: 6."""
        return self.map_sizes[-1]

    @property
    def map_sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """Pixels on a side after conv1, pool1, conv2, pool2, conv3 = conv4, conv5, pool5: 55, 27, 27, 13, 13, 13, 6."""
        conv1 = layers.conv1_size(self.image_size)
        pool1 = pooled_size(conv1, self.pool_size)
        conv2 = pool1 + 2 * self.conv2_padding - 4
        pool2 = pooled_size(conv2, self.pool_size)
        conv5 = pool2 + 2 * self.conv5_padding - 2
        return conv1, pool1, conv2, pool2, pool2, conv5, pooled_size(conv5, self.pool_size)

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Layer -> its whole weight: conv (maps, seen, k, k), fc6 (units, seen, H, W), fc7, fc8 (units, seen)."""
        own = 1 if self.num_towers == 1 else 2
        both = 1 if self.exchanged else own
        m1, m2, m3, m4, m5 = self.maps
        last = self.last_map_size
        return {
            "conv1": (m1, 3, 11, 11),
            "conv2": (m2, m1 // own, 5, 5),
            "conv3": (m3, m2 // both, 3, 3),
            "conv4": (m4, m3 // own, 3, 3),
            "conv5": (m5, m4 // own, 3, 3),
            "fc6": (self.units[0], m5 // both, last, last),
            "fc7": (self.units[1], self.units[0] // both),
            "fc8": (self.num_classes, self.units[1]),
        }

    @property
    def test_scale(self) -> float:
        """What testing multiplies the outputs of fc6 and fc7 by."""
        return 1.0 if self.dropout_inverted else 1.0 - self.dropout

    def sigma(self, layer: str) -> float:
        """Standard deviation of a layer's start weights."""
        return self.middle_sigma if layer in ("conv3", "conv4", "conv5") else 0.01

    def rows(self, layer: str, towers: tuple[int, ...]) -> slice:
        """Which rows (dimension 0) of a layer's whole weight belong to these towers."""
        size = self.weight_shapes[layer][0]
        edges = (0, size) if self.num_towers == 1 else (0, (size + 1) // 2, size)
        return slice(edges[towers[0]], edges[towers[-1] + 1])


NETS: dict[str, Architecture] = {
    "145": Architecture(norms=NORMS),
    "167": Architecture(),
    "paper": Architecture(norms=("conv1", "conv2"), norm_alpha=5e-4, relu_first=True, middle_sigma=0.01),
    "145-half": Architecture(norms=NORMS, num_towers=1, maps=(48, 128, 192, 192, 256)),
    "147": Architecture(norms=NORMS, pool_size=2, conv2_padding=1, conv5_padding=0),
    "148": Architecture(norms=()),
    "caffe": Architecture(norms=("conv1", "conv2"), norm_alpha=2e-4, relu_first=True),
    "150": Architecture(norms=NORMS, exchanged=False, maps=(96, 320, 384, 384, 256), units=(8192, 4096)),
}
"""The authors' numbered nets (layers/layers-NUMBER.cfg); "paper" is the paper's text.

145: the paper's net as it ran.  167: one norm, not three.  145-half: one tower.  147: pooling without overlap.  148: no
norms.  150: towers that never exchange.  Net 170 is net 145 with another schedule (its file is layers/layers-153.cfg).

caffe: that of Caffe's published AlexNet, to fine-tune it.
"""
POOLINGS: dict[str, dict[str, int]] = {
    "3/2": {"pool_size": 3, "conv2_padding": 2, "conv5_padding": 1},
    "2/2": {"pool_size": 2, "conv2_padding": 1, "conv5_padding": 0},
}
"""Window / stride of max pooling -> what it is in an `Architecture`; 2/2 as in net 147 (layers/layers-147.cfg)."""


def small(architecture: Architecture, divisor: int = 8, image_size: int = 67, num_classes: int = 10) -> Architecture:
    """The same network with every width divided and smaller images, for trying on any machine."""
    m1, m2, m3, m4, m5 = (size // divisor for size in architecture.maps)
    units = (architecture.units[0] // divisor, architecture.units[1] // divisor)
    return replace(architecture, maps=(m1, m2, m3, m4, m5), units=units, image_size=image_size, num_classes=num_classes)
