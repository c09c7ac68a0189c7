"""The keys of a recipe: what each means, its default, and the source of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RecipeKeys:
    """A training run.  The defaults are those of net 167, the recipe "2013".

    Below each key: what it means, and the source of its default.  Files are those of the authors' release
    (Computer History Museum, repository computerhistory/AlexNet-Source-Code), as FILE:LINE; "paper" is Krizhevsky,
    Sutskever, Hinton (2012); "ours" is a choice of this project; "inferred" comes with the evidence.
    """

    name: str = "2013"
    """Name of the recipe: its file's, unless the file says otherwise, as a run's recipe.toml does."""
    description: str = ""
    """What the recipe is, in one line."""
    source: str = ""
    """Where the numbers come from, in one line; each key has its own source beside it."""
    expected: str = ""
    """Error to expect on ImageNet, and where that is stated."""
    network: str = "167"
    """Number of the authors' net: 145, 167, 145-half, 147, 148 or 150; "paper" is the paper's text.

    Source: layers/layers-167.cfg:1.
    """
    init: str = ""
    """Checkpoint whose weights the run starts from (fc8 anew where the classes are others); "" is a random
    initialization.

    Source: ours; "" changes nothing.
    """
    freeze: str = ""
    """Layers that keep their initial weights, separated by commas, such as conv1,conv2.

    Source: ours; "" changes nothing.
    """
    norms: str = "net"
    """Norms of the network: "net" for those of `network`, "none", or some of conv1, conv2, conv2-spatial, separated by
    commas.

    Source: ours; "net" changes nothing.
    """
    pooling: Literal["net", "3/2", "2/2"] = "net"
    """Max pooling, window / stride in pixels; "net" for that of `network`.  2/2 takes a pixel off the paddings of conv2
    and conv5, so that fc6 keeps its size.

    Source: ours; "net" changes nothing.
    """
    activation: Literal["net", "relu", "tanh"] = "net"
    """Activation function after every layer but the last; "net" for that of `network`.

    Source: ours; "net" changes nothing.
    """
    dropout: float = 0.5
    """Fraction of the outputs of fc6 and fc7 that training sets to zero; 0 is no dropout.

    Source: layers/layers-167.cfg:234; paper, section 4.2.
    """
    dropout_inverted: bool = False
    """False: testing multiplies these outputs by 1 - dropout, as in 2012.  True: training divides what it keeps by
    1 - dropout instead, as torch.nn.Dropout does; at 0.5 the logits begin four times as large.

    Source: src/layer.cu:1126; paper, section 4.2.
    """
    width_divisor: int = 1
    """Divides the width of every layer; 1 is the real network, more is for trying things out.

    Source: ours; 1 changes nothing.
    """
    epochs: float = 95.0
    """Length of the run, in epochs.

    Source: inferred: net 167's notes state no length. Net 169, of the same program and week, ran "80 epochs instead of
    95" (layers/layer-params-169.cfg:204); its first 24 epochs (95/4) are net 170's (layers/layer-params-170.cfg:196).
    """
    schedule_epochs: float = 95.0
    """Length in which all epochs below are counted: a run of another length has them in proportion.

    Source: inferred: as epochs.
    """
    batch_size: int = 128
    """Images of a step, all processes together.

    Source: convnet.py:177; paper, section 5.
    """
    seed: int = 0
    """Seed of initialization, order, crops, mirrors, color jitter and dropout.

    Source: ours.
    """
    lr_weights: tuple[float, ...] = (0.01, 0.001, 0.0001, 0.00001)
    """Learning rates of the weights, one after the other, for steps of `lr_base_batch_size` images.

    Source: layers/layer-params-167.cfg:22-28, dexp[1000,4]; src/lr.cu:132.
    """
    lr_weights_milestones: tuple[float, ...] = (0.0, 23.75, 47.5, 71.25)
    """Epoch from which each of them holds.

    Source: inferred: four equal parts (src/lr.cu:144) of 95 epochs.
    """
    lr_biases: tuple[float, ...] = (0.02, 0.002)
    """Learning rates of the biases, which have no weight decay.

    Source: layers/layer-params-167.cfg:23-29, dexp[10,2].
    """
    lr_biases_milestones: tuple[float, ...] = (0.0, 47.5)
    """Epoch from which each of them holds.

    Source: inferred: two equal parts (src/lr.cu:144) of 95 epochs.
    """
    lr_base_batch_size: int = 128
    """Batch size for which the learning rates are meant: they are multiplied by batch_size / lr_base_batch_size.

    Source: layers/layer-params-170-256-double.cfg:195-203: batch 256 with doubled rates matched net 170.
    """
    warmup_epochs: float = 5.0
    """Epochs over which learning rates that are multiplied by more than 1 rise to that.

    Source: ours, after Goyal et al. (2017), section 2.2; batch 128 has no warm-up.
    """
    lr_conv1: float = 0.00001
    """Learning rate of conv1's weights from `lr_conv1_from_epoch` on.

    Source: layers/layer-params-145.cfg:177; net 167 does not use it.
    """
    lr_conv1_biases: float = 0.002
    """Learning rate of conv1's biases from `lr_conv1_from_epoch` on.

    Source: layers/layer-params-145-half.cfg:3, layers/layer-params-120-4gpu-auto4.cfg:3; net 167 does not use it.
    """
    lr_conv1_from_epoch: float | None = None
    """Epoch from which conv1 learns at its own rates; "none": never.

    Source: layers/layer-params-167.cfg:177-185 mention no such epoch.
    """
    freeze_conv1_epoch: float | None = 73.0
    """Epoch from which conv1 is not updated at all, neither weights nor biases nor their momentum; "none": never.

    Source: layers/layer-params-167.cfg:183, by hand; src/weights.cu:148.
    """
    momentum: float = 0.9
    """Fraction of the last update that is added to the next.

    Source: layers/layer-params-167.cfg:24; paper, section 5.
    """
    weight_decay: float = 0.0005
    """Each step takes learning rate · weight_decay · weight from every weight; biases have no decay.

    Source: layers/layer-params-167.cfg:26; paper, section 5.
    """
    mean: Literal["image", "rgb"] = "image"
    """What is subtracted from the pixels: the center crop of the mean image, or the mean color.

    Source: convdata.py:137, 225.
    """
    crop_and_mirror: bool = True
    """Whether training images are random crops, half of them mirrored; false takes the center crop of each.

    Source: paper, section 4.1.
    """
    pca_jitter: float = 0.1
    """Strength of the PCA color jitter: standard deviation of the factors g along the eigenvectors p of the RGB
    covariance, drawn once per image.

    Source: layers/layer-params-167.cfg:182; paper, section 4.1.
    """
    pca_jitter_scale: Literal["sqrt_eigenvalue", "eigenvalue"] = "sqrt_eigenvalue"
    """What the factors multiply: g·√λ·p, as the program does, or g·λ·p, as the paper's text says, λ being the
    eigenvalue for pixels of 0..1 (for pixels of 0..255 nothing would be left of the image): about half the strength.

    Source: convdata.py:113.
    """
    pca_jitter_divisor: bool = True
    """Whether pixels are divided by 1 + pca_jitter while the jitter is on.

    Source: convdata.py:205.
    """
    pca_jitter_off_epoch: float | None = 63.0
    """Epoch from which there is no PCA color jitter; "none": to the end.

    Source: layers/layer-params-167.cfg:182, by hand.
    """
    exact_2012: bool = False
    """Train as the program of 2012 did where this one otherwise departs from it: images in the shards' fixed order, one
    crop and mirror for every 32 consecutive images, the short last batch trained, the gradient of max pooling to all
    tied maxima, float32.  For one replica: one GPU, or two as towers.

    Source: ours; the program is convdata.py:125, 252-260 and src/data.cu:77-81.
    """
    shuffle_buffer: int = 8192
    """Samples among which each process draws the next one, beside the shuffle of the shards.

    Source: ours.
    """
    precision: str = "auto"
    """bf16, fp16, fp32, or auto: what the device multiplies fastest, with exact_2012 fp32.

    Source: ours; 2012 computed in float32.
    """
    cuda_graph: bool = True
    """On one GPU: launch each step as one CUDA graph instead of its hundreds of kernels one by one.

    Source: ours.
    """
    final_views: Literal[1, 10] = 10
    """Views of each image in the evaluation at the end; after each epoch it is the center view.

    Source: paper, section 4.1; layers/layer-params-167.cfg:185.
    """
    val_split: str = "val"
    """Split of the evaluation after each epoch; a data set without it is not evaluated.

    Source: ours.
    """
    final_split: str = "val"
    """Split of the evaluation at the end; after each epoch it is val_split.

    Source: layers/layer-params-167.cfg:177-185; paper, section 6: validation and test errors differ by at most 0.1 %.
    """
    checkpoint_minutes: float = 15.0
    """Minutes between checkpoints, beside the one after each epoch.

    Source: ours.
    """
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept, beside the best.

    Source: ours.
    """

    @property
    def frozen(self) -> tuple[str, ...]:
        """Layers of `freeze`."""
        return tuple(layer.strip() for layer in self.freeze.split(",") if layer.strip())

    @property
    def precision_to_train_in(self) -> str:
        """`precision`, or what exact_2012 requires."""
        return "fp32" if self.exact_2012 else self.precision
