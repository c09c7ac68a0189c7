"""One training step: forward, backward, all-reduce, update, without synchronizing the host."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.network.convolution import Strategy
from alexnet_fast.network.dropout import DropoutKey, step_key
from alexnet_fast.network.exchange import as_rows
from alexnet_fast.network.model import AlexNet, loss_and_errors
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import GIB, LoaderMemory
from alexnet_fast.pipelines.pipeline_run import free_gpu_memory
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.freed_memory import keep_freed_memory
from alexnet_fast.training.cuda_graph import CapturedStep
from alexnet_fast.training.divergence import DivergedError, Suspects, labels_are_known
from alexnet_fast.training.half_batches import HalfBatches
from alexnet_fast.training.memory import largest_batch, lasting_bytes
from alexnet_fast.training.optimizer import SGD

LAG = 2
"""Steps that the host may be ahead before it looks whether a loss was finite; the device always has work queued."""
FIRST_SCALE = 2.0**16
SCALE_GROWS_EVERY = 2000
"""Steps in a row without overflow, after which float16's loss scale doubles; an overflow halves it."""
LEAST_SCALE = 1.0
"""Of float16: a gradient that overflows even unscaled has diverged."""
ALLOCATION = re.compile(r"out of memory|_ALLOC_FAILED|cudaErrorMemoryAllocation", re.IGNORECASE)
"""What libraries say when memory is too small."""
PERHAPS_ALLOCATION = re.compile(
    r"unable to find an engine|CUDNN_STATUS_(INTERNAL_ERROR|EXECUTION_FAILED|NOT_SUPPORTED)|"
    r"CUBLAS_STATUS_NOT_INITIALIZED|operation failed due to a previous error during capture|invalidated",
    re.IGNORECASE,
)
"""What they also say then, and of other failures too."""


@dataclass(frozen=True)
class StepResult:
    """Of this replica's images; both towers' processes have the same.  Tensors on the device, not synchronized."""

    loss: torch.Tensor
    """0-dim: mean cross-entropy with dropout, before the update."""
    errors: torch.Tensor
    """0-dim int64: images whose first guess was wrong."""
    num_images: int


@dataclass(frozen=True)
class Pending:
    """A step whose loss the host has not checked yet."""

    step: int
    batch: Batch
    dropout: DropoutKey
    alive: torch.Tensor
    arrived: torch.cuda.Event | None


class TrainingStep:
    """Forward, backward, averaging over replicas, update.

    The network computes with working copies of the weights in the precision's dtype; the update writes them anew, so
    nothing is converted in between.
    """

    def __init__(
        self,
        model: AlexNet,
        optimizer: SGD,
        *,
        precision: Precision,
        mesh: Mesh | None = None,
        loader_memory: LoaderMemory | None = None,
        loads_whole_batches: bool = False,
        frozen: Collection[str] = (),
    ) -> None:
        """`loader_memory`: what the loader takes beside the step, for what is said when memory is too small.
        `loads_whole_batches`: both towers' processes load the replica's whole batch; else each loads half, and they
        exchange the halves.
        `frozen`: layers that keep their weights.
        """
        self.model = model
        self.optimizer = optimizer
        self.mesh = mesh if mesh is not None else Mesh()
        self.loading_processes = 1 if loads_whole_batches else self.mesh.processes_per_replica
        """Among which a replica's batch is shared."""
        self.parameters = dict(model.named_parameters())
        first = next(iter(self.parameters.values()))
        self.device = first.device
        self.dtype = first.dtype if precision.name == "fp32" else precision.dtype
        self.scaled = precision.scaled
        if self.device.type == "cpu":
            keep_freed_memory()
        self.captured: CapturedStep | None = None
        self.convolutions: dict[str, Strategy] = {}
        """How grouped convolutions are computed; see `convolution_choice`."""
        self.halves = HalfBatches(
            model.exchange, self.dtype, tower=self.mesh.tower, exchanged=self.loading_processes > 1
        )
        self.loader_memory = loader_memory if loader_memory is not None else LoaderMemory()
        self.working: dict[str, torch.Tensor] = {}
        self.reductions: list[dist.Work] = []
        self.alive = torch.ones((), dtype=torch.bool, device=self.device)
        self.scale = torch.full((), FIRST_SCALE if self.scaled else 1.0, device=self.device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=self.device)
        self.pending: deque[Pending] = deque()
        for name, parameter in self.parameters.items():
            self.working[name] = parameter if parameter.dtype == self.dtype else working_copy(parameter, self.dtype)
            if name.split(".")[0] in frozen:  # no gradient, so no update, no momentum and no averaging
                self.working[name].requires_grad_(False)
            elif self.mesh.replica_group is not None and name.endswith("weight"):
                self.working[name].register_post_accumulate_grad_hook(self.average_soon)  # type: ignore[no-untyped-call]

    def weights_changed(self) -> None:
        """Say so after the model's parameters were written by anything but this step (a checkpoint was loaded)."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.working[name] is not parameter:
                    self.working[name].copy_(parameter)

    def __call__(self, batch: Batch, *, step: int, seed: int) -> StepResult:
        """Train on this process's images; `step`, counted from the run's beginning, and `seed` fix the dropout."""
        num_images = len(batch.labels) * self.loading_processes
        try:
            batch = self.halves.whole_batch(batch)
            dropout = self.dropout(step, seed, num_images)
            loss, errors = self.compute(batch, dropout)
        except RuntimeError as error:
            if (explained := self.out_of_memory(error, num_images)) is None:
                raise
            raise UserError(explained) from None
        self.pending.append(Pending(step, batch, dropout, *self.fetch_alive()))
        if len(self.pending) > (LAG if self.device.type == "cuda" else 0):
            self.look_at(self.pending.popleft())
        return StepResult(loss, errors, num_images)

    def compute(self, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        """The device's part of a step: (loss, errors)."""
        if self.captured is not None and self.captured.fits(batch, dropout):
            return self.captured(batch, dropout)
        return self.compute_now(batch.finished(), dropout)

    def compute_now(self, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        num_classes = self.model.architecture.num_classes
        with fastest_convolutions(self.device):
            logits = self.model(batch.images, dropout, weights=self.working, convolutions=self.convolutions)
            # A label that is none of the classes would stop the GPU for good: it stops this step instead.
            loss, errors = loss_and_errors(logits, batch.labels.clamp(0, num_classes - 1))
            (loss * self.scale if self.scaled else loss).backward()  # type: ignore[no-untyped-call]
        self.finish_averaging()
        alive = self.is_alive(loss.detach(), labels_are_known(batch.labels, num_classes))
        self.optimizer.step(
            {name: tensor.grad for name, tensor in self.working.items() if tensor.grad is not None},
            gradient_scale=1.0 / (self.scale * self.mesh.num_replicas),
            alive=alive,
            working={name: tensor for name, tensor in self.working.items() if tensor is not self.parameters[name]},
        )
        if self.scaled:
            self.adapt_scale(alive)
        for tensor in self.working.values():
            tensor.grad = None
        return loss.detach(), errors

    def is_alive(self, loss: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """0-dim bool, the same in every process: whether this step may change the weights.

        Once the run has diverged no later step may.  A gradient that overflows in float16 makes its step be skipped.
        `known`: 0-dim bool, whether all labels are classes.
        """
        finite = self.alive & loss.isfinite() & known
        # A gradient that is not finite on its way through a layer is not finite in that layer's bias either, and biases
        # are few.  float16 looks at the weights' gradients too: there a sum of finite numbers overflows.
        gradients = [t.grad for name, t in self.working.items() if t.grad is not None and self.is_looked_at(name)]
        gradients_finite = torch.stack(torch._foreach_norm(gradients, float("inf"))).isfinite().all()
        if not self.scaled:
            self.alive.copy_(self.everywhere(finite & gradients_finite)[0])
            return self.alive
        finite, gradients_finite = self.everywhere(finite, gradients_finite)
        self.alive.copy_(finite & (gradients_finite | (self.scale > LEAST_SCALE)))
        return self.alive & gradients_finite

    def is_looked_at(self, name: str) -> bool:
        return self.scaled or name.endswith("bias")

    def average_soon(self, working: torch.Tensor) -> None:
        """Sum a weight's gradient over the replicas while those of earlier layers are still being computed."""
        assert working.grad is not None
        gradient = as_rows(working.grad)
        assert gradient.data_ptr() == working.grad.data_ptr(), "a gradient lies otherwise than its weight"
        work = dist.all_reduce(gradient, group=self.mesh.replica_group, async_op=True)
        assert work is not None
        self.reductions.append(work)

    def finish_averaging(self) -> None:
        """Sum the biases' gradients, all in one; wait for the weights'.  The update divides by the replicas."""
        if self.mesh.replica_group is None:
            return
        gradients = [t.grad for name, t in self.working.items() if name.endswith("bias") and t.grad is not None]
        together = torch.cat(gradients)
        dist.all_reduce(together, group=self.mesh.replica_group)
        totals = torch.split(together, [len(gradient) for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total)
        for work in self.reductions:
            work.wait()
        self.reductions.clear()

    def everywhere(self, *flags: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each flag (0-dim bool): whether it is True in every process."""
        if self.mesh.world_size == 1:
            return flags
        votes = torch.stack(flags).to(torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        return votes.to(torch.bool).unbind()

    def adapt_scale(self, alive: torch.Tensor) -> None:
        """Halve float16's loss scale after an overflow, double it after a long time without."""
        self.good_steps.copy_(torch.where(alive, self.good_steps + 1, 0))
        grows = self.good_steps >= SCALE_GROWS_EVERY
        self.scale.mul_(torch.where(alive, torch.where(grows, 2.0, 1.0), 0.5))
        self.good_steps.mul_(~grows)

    def fetch_alive(self) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Start the copy of `alive` to the host."""
        if self.device.type != "cuda":
            return self.alive.clone(), None
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(self.alive, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return host, arrived

    def drain(self) -> None:
        """Check the steps that were not checked yet; at the end of an epoch, and before a checkpoint."""
        while self.pending:
            self.look_at(self.pending.popleft())

    def look_at(self, pending: Pending) -> None:
        """Raise `DivergedError` if that step's loss or a gradient was not finite: since then nothing was changed."""
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if not bool(pending.alive):
            batch = pending.batch.finished()
            suspects = Suspects(self.model, self.working, self.mesh, self.scale, batch, pending.dropout)
            raise DivergedError(
                f"step {pending.step}: the loss or a gradient is NaN or infinite; {suspects.first_to_blame()}. "
                "The weights are those of the step before. Lower the learning rate, or train in fp32"
            )

    def capture(self, num_images: int, dtype: torch.dtype) -> str | None:
        """Capture the step as a CUDA graph, on synthetic images that change nothing; what to say if it cannot be done.

        `num_images` of `dtype`: what this process's loader gives at once.  All ranks call it together, before
        their loaders start.  Steps with other batches, and all steps where it cannot be done, are computed as before.
        """
        total, side = num_images * self.loading_processes, self.model.architecture.image_size
        images = torch.zeros(
            total, 3, side, side, device=self.device, dtype=self.dtype if self.halves.exchanged else dtype
        )
        labels = torch.zeros(total, dtype=torch.int64, device=self.device)
        batch = Batch(images.contiguous(memory_format=torch.channels_last), labels)
        reason = ""
        try:
            with self.nothing_changes():
                self.captured = CapturedStep(self.compute_now, batch, self.dropout(0, 0, total))
        except RuntimeError as error:
            if (explained := self.out_of_memory(error, total)) is not None:
                raise UserError(explained) from None
            reason = str(error).partition("\n")[0]
        reasons = all_gather_object(self.mesh, reason)
        if not any(reasons):
            return None
        # One that replays its collectives beside others that call them is a risk for nothing.
        self.captured = None
        self.reductions.clear()
        for tensor in self.working.values():
            tensor.grad = None
        return f"The step is launched kernel by kernel: it could not be captured as a CUDA graph ({max(reasons)})"

    @contextmanager
    def nothing_changes(self) -> Iterator[None]:
        """In the block a step computes everything, and leaves weights, momentum and loss scale as they are."""
        state = (self.alive, self.scale, self.good_steps)
        before = [tensor.clone() for tensor in state]
        self.alive.fill_(False)
        try:
            yield
        finally:
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)

    def dropout(self, step: int, seed: int, num_images: int) -> DropoutKey:
        """Of a replica's `num_images` images."""
        key = torch.full((), step_key(seed, step), dtype=torch.int64, device=self.device)
        return DropoutKey(key, first_row=self.mesh.replica * num_images)

    def out_of_memory(self, error: RuntimeError, batch_size: int) -> str | None:
        """What to do when a replica's `batch_size` images are too many: how many fit.  None: `error` is another one."""
        if self.device.type == "cpu" and not isinstance(error, torch.OutOfMemoryError):
            return None
        certain = isinstance(error, torch.OutOfMemoryError) or ALLOCATION.search(str(error)) is not None
        if not certain and not PERHAPS_ALLOCATION.search(str(error)):
            return None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            free_gpu_memory()
        free, _ = torch.cuda.mem_get_info(self.device)
        mine = torch.cuda.memory_reserved(self.device)
        lasting = lasting_bytes(sum(parameter.numel() for parameter in self.parameters.values()), self.dtype)
        # Each process loads its share of the images; what that takes now is not free, and less with fewer images.
        loading, kept = self.loader_memory.per_image / self.loading_processes, self.loader_memory.kept
        available = max(0, int(free + mine - lasting + loading * batch_size))
        fits = largest_batch(self.model.architecture, self.dtype, available, self.model.towers, loading)
        if not certain and fits >= batch_size:
            return None
        total = min(fits, batch_size - 1) * self.mesh.num_replicas
        remedy = f"give batch_size at most about {total}" if total else "other programs may be using this GPU: end them"
        beside = f", beside {kept / GIB:.1f} GiB of decoded images" if kept else ""
        fewer = ", keep fewer decoded images (--cache-decoded)" if kept else ""
        return (
            f"a step with {batch_size} images on this GPU does not fit into its memory "
            f"({(free + mine) / GIB:.1f} GiB are there for it{beside}): {remedy}{fewer}, or take more GPUs"
        )

    def state_dict(self) -> dict[str, float]:
        """float16's loss scale and the steps it has lasted; constant otherwise."""
        return {"scale": float(self.scale), "good_steps": int(self.good_steps)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue with a saved loss scale; one saved in another precision is of no use and is left."""
        if self.scaled and state["scale"] != 1.0:
            self.scale.fill_(state["scale"])
            self.good_steps.fill_(int(state["good_steps"]))


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """In the block cuDNN times its kernels on the first call of each shape; those of training are fixed.

    Not where runs must be reproducible: the fastest kernel may be another one each time.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def working_copy(parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A leaf of its own, in another dtype and the same strides."""
    return parameter.detach().to(dtype, memory_format=torch.preserve_format).requires_grad_()
