"""What the processes of test_split.py do: train a small float64 network on their share of the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.network.convolution import STRATEGIES
from alexnet_fast.network.exchange import Wait
from alexnet_fast.network.model import NETS, AlexNet, load_whole_state, small, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.half_batches import BatchesAhead
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

IMAGES = 8
SEED = 5
DECAY = 5e-3  # ten times the authors', so that forgetting it would be seen
State = dict[str, torch.Tensor]


@dataclass
class Run:
    """What came out."""

    start: State
    gradients: State
    """Of the first step's loss."""
    losses: list[float]
    errors: list[int]
    weights: State
    momentum: State


def random_batch(step: int) -> Batch:
    """The whole batch of a step, the same in every process."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 3, 67, 67, dtype=torch.float64, generator=generator) * 60
    labels = torch.randint(0, 11, (IMAGES,), generator=generator)
    return Batch(images.contiguous(memory_format=torch.channels_last), labels)


def share(batch: Batch, mesh: Mesh) -> Batch:
    """This process's images."""
    own = slice(mesh.data_rank * IMAGES // mesh.num_data_ranks, (mesh.data_rank + 1) * IMAGES // mesh.num_data_ranks)
    return Batch(batch.images[own], batch.labels[own])


def train(mesh: Mesh, net: str, steps: range, state: tuple[State, State] | None = None) -> Run:
    """Train with dropout, momentum, decay and a schedule.  11 classes: the towers' shares of fc8 differ."""
    architecture = small(NETS[net], num_classes=11)
    model = AlexNet(architecture, exchange=mesh.make_exchange()).double()
    model.initialize(SEED)
    optimizer = SGD(model, weight_decay=DECAY)
    if state is not None:
        load_whole_state(model, state[0])
        optimizer.load_whole_state(state[1])
    start = whole_state(model)
    step = TrainingStep(model, optimizer, precision=Precision("fp32", torch.float32, ""), mesh=mesh)
    run = Run(start, {}, [], [], {}, {})
    for number in steps:
        weights = 0.01 if number < 8 else 0.002
        biases = 2 * weights if number < 12 else 0.001
        frozen = None if number < 15 else 0.0
        optimizer.set_rates(weights=weights, biases=biases, conv1_weights=frozen, conv1_biases=frozen)
        result = step(share(random_batch(number), mesh), step=number, seed=SEED)
        run.losses.append(float(mesh.sum_over_replicas(result.loss)) / mesh.num_replicas)
        run.errors.append(int(mesh.sum_over_replicas(result.errors)))
        if not run.gradients and state is None:
            run.gradients = {
                name: -velocity / (biases if name.endswith("bias") else weights)
                - (0.0 if name.endswith("bias") else DECAY) * start[name]
                for name, velocity in optimizer.whole_state().items()
            }
    step.drain()
    run.weights, run.momentum = whole_state(model), optimizer.whole_state()
    return run


def train_all(
    mesh: Mesh, device: torch.device, halfway: tuple[State, State] | None
) -> tuple[Run, Run | None, Run, tuple[State, State]]:
    """Net 145, 20 steps; the last 10 of them from another topology's state; net 150, 3 steps; our state after 10."""
    whole = train(mesh, "145", range(20))
    first_half = train(mesh, "145", range(10))
    second_half = None if halfway is None else train(mesh, "145", range(10, 20), halfway)
    return whole, second_half, train(mesh, "150", range(3)), (first_half.weights, first_half.momentum)


def new_step(mesh: Mesh) -> TrainingStep:
    model = AlexNet(small(NETS["167"], num_classes=11), exchange=mesh.make_exchange())
    model.initialize(SEED)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=Precision("fp32", torch.float32, ""), mesh=mesh)


def train_with_images_ahead(mesh: Mesh, device: torch.device) -> tuple[State, State, list[str]]:
    """Weights after six steps: batch by batch, and with images sent ahead in all but each third; what was begun."""
    numbers, begun = range(6), list[str]()
    plain = new_step(mesh)
    for number in numbers:
        plain(share(single(number), mesh), step=number, seed=SEED)
    step = new_step(mesh)
    exchange = step.model.exchange
    start = exchange.start

    def noted(own: torch.Tensor, peer_shape: torch.Size) -> Wait:
        if own.shape[1:] == (3, 67, 67):
            begun.append("images")
        return start(own, peer_shape)

    exchange.start = noted  # type: ignore[method-assign]
    batches = BatchesAhead((share(single(number), mesh) for number in numbers), step.halves)
    for number in numbers:
        batch = batches.next(ahead=number % 3 != 2)
        begun.append(f"step {number}")
        step(batch, step=number, seed=SEED)
    return whole_state(plain.model), whole_state(step.model), begun


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the collectives, and what makes the host wait for a number."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.collectives: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            tensors = [arg for arg in tree_leaves(args) if isinstance(arg, torch.Tensor)]
            self.collectives.append(f"{name} {[(tuple(tensor.shape), str(tensor.dtype)) for tensor in tensors]}")
        if name.startswith(("aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.is_nonzero")):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def record_a_step(mesh: Mesh, device: torch.device) -> tuple[list[list[str]], list[list[str]], bool]:
    """(each rank's collectives in their order, each rank's waits, whether `nothing_changes` changes nothing)."""
    step = new_step(mesh)
    # Whatever each process finds fastest; one that holds a tower has no grouped layers.
    step.convolutions = dict.fromkeys(("conv2", "conv4", "conv5"), STRATEGIES[mesh.rank % 3])
    batch = step.halves.whole_batch(share(single(0), mesh))
    step(share(single(1), mesh), step=0, seed=SEED)  # momentum, so that an update would be seen
    before = {name: tensor.detach().clone() for name, tensor in {**step.parameters, **step.working}.items()}
    before |= {f"velocity {name}": tensor.clone() for name, tensor in step.optimizer.velocities.items()}
    key = step.dropout(1, SEED, len(batch.labels))
    with step.nothing_changes():  # as a capture is warmed up
        step.compute_now(batch, key)
    after = {**step.parameters, **step.working}
    after |= {f"velocity {name}": tensor for name, tensor in step.optimizer.velocities.items()}
    unchanged = all(torch.equal(tensor, before[name]) for name, tensor in after.items()) and bool(step.alive)
    recorder = Recorder()
    # A CPU's loops and its update read numbers on the host; a GPU's kernels do that on the device.
    plain = mock.patch("alexnet_fast.network.kernels.norms.COMPILED_DTYPES", ())
    with plain, mock.patch("alexnet_fast.training.optimizer.update"), recorder:
        step.compute_now(batch, key)
    return all_gather_object(mesh, recorder.collectives), all_gather_object(mesh, recorder.waits), unchanged


def single(step: int) -> Batch:
    """`images` in float32."""
    batch = random_batch(step)
    return replace(batch, images=batch.images.float())


def diverge(mesh: Mesh, device: torch.device) -> None:
    """An image that is not finite, in the last process's share, while the next batch is on its way."""
    step = new_step(mesh)
    batches = [share(single(number), mesh) for number in range(2)]
    if mesh.rank == mesh.world_size - 1:
        batches[0].images[0, 0, 0, 0] = float("nan")
    step(BatchesAhead(iter(batches), step.halves).next(ahead=True), step=41, seed=SEED)
    step.drain()


def diverge_in_the_last_process(mesh: Mesh, device: torch.device) -> None:
    """conv2 overflows in one process; where that holds a tower, the other sees it in conv3 at first."""
    step = new_step(mesh)
    if mesh.rank == mesh.world_size - 1:
        with torch.no_grad():
            step.parameters["conv2.weight"].mul_(3e38)
    batch = share(random_batch(0), mesh)
    step(replace(batch, images=batch.images.float()), step=3, seed=SEED)
    step.drain()
