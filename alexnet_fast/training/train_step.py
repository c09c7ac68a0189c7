"""One training step: batch in, weights changed, loss out; the host never waits for the device in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from alexnet_fast.config.precision import Precision
from alexnet_fast.distributed.mesh import Mesh, all_gather_object
from alexnet_fast.network.dropout import DropoutKey, step_key
from alexnet_fast.network.exchange import as_rows
from alexnet_fast.network.model import LAYERS, AlexNet, loss_and_errors
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import GIB, LoaderMemory
from alexnet_fast.tools.errors import UserError
from alexnet_fast.tools.freed_memory import keep_freed_memory
from alexnet_fast.training.cuda_graph import Recording
from alexnet_fast.training.memory import largest_batch, lasting_bytes
from alexnet_fast.training.optimizer import SGD

LAG = 2
"""Steps that the host may be ahead before it looks whether a loss was finite; the device always has work queued."""
FIRST_SCALE = 2.0**16
SCALE_GROWS_EVERY = 2000
"""Steps in a row without overflow, after which float16's loss scale doubles; an overflow halves it."""
LEAST_SCALE = 1.0
"""Of float16: a gradient that overflows even unscaled has diverged."""


class DivergedError(UserError):
    """The loss or a gradient became NaN or infinite."""


@dataclass(frozen=True)
class StepResult:
    """Of this replica's images; both towers' processes have the same.  Tensors on the device, nobody waited."""

    loss: torch.Tensor
    """0-dim: mean cross-entropy with dropout, before the update."""
    errors: torch.Tensor
    """0-dim int64: images whose first guess was wrong."""
    num_images: int


@dataclass(frozen=True)
class Pending:
    """A step of which the host does not know yet whether it went well."""

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
        record: bool = False,
        loader_memory: LoaderMemory | None = None,
        loads_whole_batches: bool = False,
    ) -> None:
        """`record`: record the step as a CUDA graph and replay it; for one GPU.

        `loader_memory`: what the loader takes beside the step, for what is said when memory is too small.
        `loads_whole_batches`: both towers' processes load the replica's whole batch; else each loads half, and they
        exchange the halves.
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
        assert not record or (self.device.type == "cuda" and self.mesh.world_size == 1)
        self.recording = Recording() if record else None
        self.loader_memory = loader_memory if loader_memory is not None else LoaderMemory()
        self.working: dict[str, torch.Tensor] = {}
        self.reductions: list[dist.Work] = []
        self.alive = torch.ones((), dtype=torch.bool, device=self.device)
        self.scale = torch.full((), FIRST_SCALE if self.scaled else 1.0, device=self.device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=self.device)
        self.pending: deque[Pending] = deque()
        self.sent: deque[tuple[Batch, Callable[[], Batch]]] = deque()
        for name, parameter in self.parameters.items():
            self.working[name] = parameter if parameter.dtype == self.dtype else working_copy(parameter, self.dtype)
            if self.mesh.replica_group is not None and name.endswith("weight"):
                self.working[name].register_post_accumulate_grad_hook(self.average_soon)  # type: ignore[no-untyped-call]

    def weights_changed(self) -> None:
        """Say so after the model's parameters were written by anything but this step (a checkpoint was loaded)."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.working[name] is not parameter:
                    self.working[name].copy_(parameter)

    def __call__(self, batch: Batch, *, step: int, seed: int) -> StepResult:
        """Train on this process's images; `step`, counted from the run's beginning, and `seed` fix the dropout."""
        key = torch.full((), step_key(seed, step), dtype=torch.int64, device=self.device)
        num_images = len(batch.labels) * self.loading_processes
        try:
            batch = self.whole_batch(batch)
            dropout = DropoutKey(key, first_row=self.mesh.replica * num_images)
            loss, errors = self.compute(batch, dropout)
        except torch.OutOfMemoryError:
            raise UserError(self.out_of_memory(num_images)) from None
        self.pending.append(Pending(step, batch, dropout, *self.fetch_alive()))
        if len(self.pending) > (LAG if self.device.type == "cuda" else 0):
            self.look_at(self.pending.popleft())
        return StepResult(loss, errors, num_images)

    def send_ahead(self, batch: Batch) -> None:
        """Let the two halves of a replica's batch travel from now on, while earlier batches are trained on.

        Both towers' processes call it at the same place, and train on these batches in the same order.
        """
        self.sent.append((batch, self.bring_together(batch)))

    def whole_batch(self, batch: Batch) -> Batch:
        """The replica's images; waits for the other half of them."""
        if not self.sent:
            return self.bring_together(batch)()
        sent, arrived = self.sent.popleft()
        assert sent is batch, "another batch was sent ahead"
        return arrived()

    def bring_together(self, batch: Batch) -> Callable[[], Batch]:
        """Begin to exchange the halves that a replica's two processes loaded; what is returned waits for them."""
        if self.loading_processes == 1:
            return lambda: batch  # conv1 brings them to the network's precision on its way
        own = (batch.images.to(self.dtype), batch.labels)
        waits = [self.model.exchange.start(tensor, tensor.shape) for tensor in own]

        def arrived() -> Batch:
            peers = [wait() for wait in waits]
            pairs = zip(own, peers, strict=True) if self.mesh.tower == 0 else zip(peers, own, strict=True)
            return Batch(*(torch.cat(pair) for pair in pairs))

        return arrived

    def compute(self, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        """Everything that is done on the device: (loss, errors)."""
        if self.recording is not None:
            return self.recording(self.compute_now, batch, dropout)
        return self.compute_now(batch, dropout)

    def compute_now(self, batch: Batch, dropout: DropoutKey) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(batch.images, dropout, weights=self.working)
        loss, errors = loss_and_errors(logits, batch.labels)
        (loss * self.scale if self.scaled else loss).backward()  # type: ignore[no-untyped-call]
        self.finish_averaging()
        alive = self.is_alive(loss.detach())
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

    def is_alive(self, loss: torch.Tensor) -> torch.Tensor:
        """0-dim bool, the same in every process: whether this step may change the weights.

        Once the run has diverged no later step may.  A gradient that overflows in float16 makes its step be skipped.
        """
        finite = self.alive & loss.isfinite()
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
        """Begin to bring `alive` to the host."""
        if self.device.type != "cuda":
            return self.alive.clone(), None
        host = torch.empty((), dtype=torch.bool, pin_memory=True)
        host.copy_(self.alive, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return host, arrived

    def drain(self) -> None:
        """Look at the steps that nobody has looked at yet; at the end of an epoch, and before a checkpoint."""
        while self.pending:
            self.look_at(self.pending.popleft())

    def look_at(self, pending: Pending) -> None:
        """Raise `DivergedError` if that step's loss or a gradient was not finite: since then nothing was changed."""
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if not bool(pending.alive):
            raise DivergedError(
                f"step {pending.step}: the loss or a gradient is NaN or infinite; {self.first_to_blame(pending)}. "
                "The weights are those of the step before. Lower the learning rate, or train in fp32"
            )

    def first_to_blame(self, pending: Pending) -> str:
        """Where the first number that is not finite comes from: a weight, the images, a layer's output or gradient.

        Does the step again without its update, in every process, and looks everywhere.
        """
        found = self.first_bad_output(pending)
        if not any(all_gather_object(self.mesh, found)):
            found = self.first_bad_gradient(pending)
        suspects = [suspect for suspect in all_gather_object(self.mesh, found) if suspect is not None]
        return min(suspects)[1] if suspects else "the second time all numbers were finite: look at the GPU's health"

    def first_bad_output(self, pending: Pending) -> tuple[int, str] | None:
        """(place on the way forward, words) of the first weight, image or output that is not finite."""
        bad: list[str] = []
        for name, tensor in self.parameters.items():
            if not is_finite(tensor):
                bad.append(f"{name} itself is not finite: it was so when it was loaded")
        if not is_finite(pending.batch.images):
            bad.append("the first to blame is the images")
        outputs: list[tuple[int, str]] = []

        def observe(layer: str, output: torch.Tensor) -> None:
            if not is_finite(output):
                outputs.append((1 + len(seen), f"the first to blame is the output of {layer}"))
            seen.append(layer)

        seen: list[str] = []
        with torch.no_grad():
            logits = self.model(pending.batch.images, pending.dropout, weights=self.working, observe=observe)
            loss, _ = loss_and_errors(logits, pending.batch.labels)
        if not is_finite(loss):
            outputs.append((1 + len(seen), "the first to blame is the loss itself: fc8's outputs are too far apart"))
        return (0, bad[0]) if bad else outputs[0] if outputs else None

    def first_bad_gradient(self, pending: Pending) -> tuple[int, str] | None:
        """(place on the way back, words) of the first layer whose weights' gradients are not finite."""
        logits = self.model(pending.batch.images, pending.dropout, weights=self.working)
        loss, _ = loss_and_errors(logits, pending.batch.labels)
        gradients = torch.autograd.grad(loss * self.scale, list(self.working.values()))
        finite = {name: is_finite(gradient) for name, gradient in zip(self.working, gradients, strict=True)}
        for place, layer in enumerate(reversed(LAYERS)):
            if not (finite[f"{layer}.weight"] and finite[f"{layer}.bias"]):
                return place, f"the first to blame is the gradient of {layer}"
        return None

    def out_of_memory(self, batch_size: int) -> str:
        """What to do when a replica's `batch_size` images are too many: how many would fit."""
        free, _ = torch.cuda.mem_get_info(self.device)
        mine = torch.cuda.memory_reserved(self.device)
        lasting = lasting_bytes(sum(parameter.numel() for parameter in self.parameters.values()), self.dtype)
        # Each process loads its share of the images; what that takes now is not free, and less with fewer images.
        loading, kept = self.loader_memory.per_image / self.loading_processes, self.loader_memory.kept
        available = max(0, int(free + mine - lasting + loading * batch_size))
        fits = largest_batch(self.model.architecture, self.dtype, available, self.model.towers, loading)
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


class BatchesAhead:
    """A process's batches; where towers are processes of their own, their halves travel during the step before."""

    def __init__(self, batches: Iterator[Batch], train_step: TrainingStep) -> None:
        self.batches, self.train_step = batches, train_step
        self.following: Batch | None = None

    def next(self, *, ahead: bool) -> Batch:
        """The next one; `ahead`: the one after may be taken from the loader too, and begin to travel."""
        batch = self.take() if self.following is None else self.following
        self.following = self.take() if ahead and self.train_step.mesh.split else None
        return batch

    def take(self) -> Batch:
        batch = next(self.batches)
        if self.train_step.mesh.split:
            self.train_step.send_ahead(batch)
        return batch


def is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def working_copy(parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A leaf of its own, in another dtype and the same strides."""
    return parameter.detach().to(dtype, memory_format=torch.preserve_format).requires_grad_()
