"""Checks that need a GPU.  `pytest -m gpu` calls the same functions.

None of them has run on a GPU yet.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet_fast.bench.measurement import finish
from alexnet_fast.check.loading import second_epoch_from_cache
from alexnet_fast.check.program import judge, kernel_errors, prints, tiny_shards
from alexnet_fast.check.reference import FP32, compare_steps, compare_ten_views, pixels_by_pillow, small_batch
from alexnet_fast.check.runner import Check, CheckFailedError, Place, SkippedError
from alexnet_fast.check.worlds import compare_two_by_two, compare_worlds, end_after_a_killed_rank
from alexnet_fast.config.precision import Precision, choose_precision
from alexnet_fast.distributed.devices import use_device
from alexnet_fast.network.dropout import DropoutKey, drop, dropout_mask
from alexnet_fast.network.kernels import norms
from alexnet_fast.network.kernels.residual import subtract
from alexnet_fast.network.layers import fold_images
from alexnet_fast.network.model import NETS, AlexNet, small
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoding import PLACES, Decoding, decode
from alexnet_fast.pipelines.loader import EvaluationLoader, TrainingLoader
from alexnet_fast.pipelines.pipeline_run import Execution, PipelineRun, to_torch
from alexnet_fast.pipelines.reader import Reading, read_samples
from alexnet_fast.pipelines.settings import LoaderOptions
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

STEPS = 12
FORMULA_STEPS = 4
MANY_STEPS = 2000
CAPTURES = 50
EPOCHS = 50
REPORT = "report it with this table: training on this GPU cannot be trusted"


def gpu() -> torch.device:
    return use_device("cuda")


# ------------------------------------------------------------------------------- kernels


def check_kernels(place: Place) -> str:
    device = gpu()
    exact = judge(kernel_errors(device, torch.float32), 1e-4)
    half_dtype = choose_precision(device).dtype
    half = judge(kernel_errors(device, half_dtype), 2e-2)
    key = DropoutKey(torch.tensor(12345, device=device), first_row=3)
    x = torch.randn(16, 4096, device=device, dtype=half_dtype)
    mask = dropout_mask(key, 6, 16, 4096, 2048, 0.5)
    if not torch.equal(drop(x, key, 6, 2048, 0.5), torch.where(mask, x, 0)):
        raise CheckFailedError("dropout draws another mask than the reference")
    images = torch.randn(5, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    if not torch.equal(fold_images(images, 57, half_dtype).cpu(), fold_images(images.cpu(), 57, half_dtype)):
        raise CheckFailedError("conv1's folded input differs from the reference")
    residual, less = images[0] / 9, torch.empty_like(images)
    subtract(images, residual, less)
    if not torch.equal(less, images - residual):
        raise CheckFailedError("images less the rest of the mean differ from torch's")
    nan = torch.zeros(1, 8, 2, 2, device=device).contiguous(memory_format=torch.channels_last)
    nan[0, 1, 1, 1] = float("nan")
    if not bool(norms.local_response_norm(nan, 2, 1e-4, relu=True)[0, 1, 1, 1].isnan()):
        raise CheckFailedError("a norm hides NaN")
    return f"Triton against float64: float32 {exact}; {half_dtype} {half}; dropout and folding equal"


# ---------------------------------------------------------------------------------- step


def small_step(device: torch.device, precision: Precision) -> TrainingStep:
    model = AlexNet(small(NETS["145"], divisor=2, image_size=131)).to(device)
    model.initialize(1)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return TrainingStep(model, optimizer, precision=precision)


def losses_of(step: TrainingStep) -> list[float]:
    results = [step(small_batch(number, step.device), step=number, seed=0) for number in range(STEPS)]
    step.drain()
    return [float(result.loss) for result in results]


def furthest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def check_training(place: Place) -> str:
    """The GPU against the CPU, and the captured step against the eager one."""
    device = gpu()
    expected = losses_of(small_step(torch.device("cpu"), FP32))
    single = furthest(losses_of(small_step(device, FP32)), expected)
    half = choose_precision(device)
    eager = losses_of(small_step(device, half))
    captured = small_step(device, half)
    if (problem := captured.capture(16, torch.float32)) is not None:
        raise CheckFailedError(problem)
    replayed = losses_of(captured)
    figures = f"losses of {STEPS} steps: float32 within {single:.1e} of the CPU, {half.name} within "
    figures += f"{furthest(eager, expected):.1e}, captured within {furthest(replayed, eager):.1e} of eager"
    if single > 1e-3 or furthest(eager, expected) > 2e-2 or furthest(replayed, eager) > 2e-3:
        raise CheckFailedError(figures)
    return figures


def check_formula(place: Place) -> str:
    return compare_steps(gpu(), FORMULA_STEPS)


def check_no_waiting(place: Place) -> str:
    """torch raises where a step makes the host wait for the device."""
    step = small_step(gpu(), choose_precision(gpu()))
    for captured in (False, True):
        if captured:
            step.capture(16, torch.float32)
        losses_of(step)
        batches = [small_batch(number, step.device) for number in range(2)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number, batch in enumerate(batches):
                step(batch, step=number, seed=0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "a step makes the host wait for nothing, eager and captured"


def check_captures_beside_dali(place: Place) -> str:
    """More than training asks for: it captures before the loader starts."""
    device, dataset = gpu(), tiny_shards(place)
    failed = []
    with TrainingLoader(dataset, batch_size=8, device=device, seed=0) as loader:
        for number in range(CAPTURES):
            stream = loader.epoch(number)
            next(stream)
            problem = small_step(device, FP32).capture(16, torch.float32)
            failed += [problem] if problem is not None else []
            next(stream)
    done = CAPTURES - len(failed)
    return f"{done} of {CAPTURES} captures succeeded while DALI decoded; the others fall back: {failed[:1]}"


def check_wrong_label(place: Place) -> str:
    device = gpu()
    step = small_step(device, FP32)
    batch = small_batch(0, device)
    batch.labels[3] = 12_345
    try:
        step(batch, step=0, seed=0)
        step.drain()
    except DivergedError as error:
        if "label 12345" not in str(error):
            raise CheckFailedError(str(error)) from error
    else:
        raise CheckFailedError("a label that is no class went unnoticed")
    losses_of(small_step(device, FP32))
    return "a label that is no class is named, and the GPU works on"


def check_reproducible(place: Place) -> str:
    device = gpu()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        one, other = (small_step(device, FP32) for _ in range(2))
        equal = losses_of(one) == losses_of(other)
        equal = equal and all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)
    finally:
        torch.use_deterministic_algorithms(before)
    if not equal:
        raise CheckFailedError("two runs differ although reproducible kernels were asked for")
    for load in (0.0, 1.0):
        first, second = (images_of(tiny_shards(place), device, hw_decoder_load=load) for _ in range(2))
        if not torch.equal(first, second):
            raise CheckFailedError(f"engines {load:g}: two epochs decoded alike differ")
    return f"two runs of {STEPS} steps with reproducible kernels are equal to the last bit; images too, engines 0 and 1"


# -------------------------------------------------------------------------------- loader


def decoder_difference(dataset: Dataset, load: float) -> tuple[int, float]:
    """(largest, mean) difference of decoded pixels, 0..255, from Pillow's."""
    tars = dataset.tars("val")
    reading = Reading.of(tars, dataset.indexes("val"), rank=0, num_ranks=1, shuffle_buffer=None, seed=0)
    decoding, wanted = Decoding("mixed", dataset.image_options.size, load), pixels_by_pillow(tars)
    run = PipelineRun(
        lambda: (decode(read_samples(reading)[0], decoding),),
        Execution(len(wanted), gpu(), num_threads=2, prefetch=1),
        1,
    )
    difference = np.abs(to_torch(run.next()[0]).cpu().numpy().astype(np.int16) - wanted)
    run.close()
    return int(difference.max()), float(difference.mean())


def check_decoders(place: Place) -> str:
    """A wrong color space, swapped channels or a shifted image are further away than rounding."""
    found = {load: decoder_difference(tiny_shards(place), load) for load in (0.0, 0.65, 1.0)}
    text = "; ".join(f"engines {load:g}: at most {most}, {mean:.3f} on average" for load, (most, mean) in found.items())
    if any(mean >= 2 for _, mean in found.values()):
        raise CheckFailedError(f"decoded pixels differ from Pillow's: {text}")
    return f"decoded pixels against Pillow's, of 255: {text}"


def images_of(dataset: Dataset, device: torch.device, **options: Any) -> torch.Tensor:
    """One epoch's images in float32, on the CPU."""
    with TrainingLoader(dataset, batch_size=4, device=device, seed=0, options=LoaderOptions(2, **options)) as loader:
        return torch.cat([batch.images.float().cpu() for batch in loader.epoch(0)])


def check_ten_views(place: Place) -> str:
    return compare_ten_views(tiny_shards(place), gpu())


def check_cache(place: Place) -> str:
    return second_epoch_from_cache(tiny_shards(place), gpu(), place.folder / "cached")


def check_loader(place: Place) -> str:
    """The CPU's loader against the GPU's: the same samples, crops, mirrors and colors."""
    device, dataset = gpu(), tiny_shards(place)
    wanted = images_of(dataset, torch.device("cpu"))
    found = {}
    for where in PLACES:
        difference = (images_of(dataset, device, decode_on=where) - wanted).abs()
        found[where] = float(difference.mean())
    exact = float((images_of(dataset, device, decode_on="cpu") - wanted).abs().max())
    text = ", ".join(f"{where} {mean:.4f}" for where, mean in found.items())
    if exact > 1e-3 or any(mean > 2 for mean in found.values()):
        raise CheckFailedError(
            f"the GPU's images differ from the CPU's: {text}, decoded by the CPU at most {exact:.1e}"
        )
    return f"images against the CPU's: on average {text}; decoded by the CPU at most {exact:.1e}"


def check_resume(place: Place) -> str:
    device, dataset = gpu(), tiny_shards(place)
    for where in PLACES:
        options = LoaderOptions(2, decode_on=where, decode_batch=12)
        with TrainingLoader(dataset, batch_size=4, device=device, seed=0, options=options) as loader:
            wanted = prints([Batch(batch.images.cpu(), batch.labels.cpu()) for batch in loader.epoch(1)])
            stream = loader.epoch(1)
            for _ in range(5):
                next(stream)
            state = loader.state_dict()
        with TrainingLoader(dataset, batch_size=4, device=device, seed=0) as other:  # tuned otherwise meanwhile
            other.load_state_dict(state)
            found = prints([Batch(batch.images.cpu(), batch.labels.cpu()) for batch in other.epoch(1)])
        if found != wanted[5:]:
            raise CheckFailedError(f"decoded on {where}, a resumed epoch continues with other images")
    return f"resumed epochs are equal to the last bit, decoded on {', '.join(PLACES)}"


def check_damaged(place: Place) -> str:
    """A damaged JPEG is named, without a hang: with JPEG engines, without, and with both."""
    device = gpu()
    folder = place.folder / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    dataset = Dataset.load(shutil.copytree(tiny_shards(place).folder, folder))
    tar = dataset.tars("train")[0]
    content = bytearray(tar.read_bytes())
    with tarfile.open(tar) as opened:
        member = next(member for member in opened.getmembers() if member.name.endswith(".jpg"))
    content[member.offset_data : member.offset_data + 400] = bytes(400)
    tar.write_bytes(content)
    stem = Path(member.name).stem
    for load in (0.0, 0.65, 1.0):
        message = complaint_of(dataset, device, load)
        if stem not in message:
            raise CheckFailedError(f"engines {load:g}: {stem} is damaged, and the error was {message or 'none'}")
    return "a damaged JPEG is named with 0, 0.65 and 1 of the images for the engines"


def complaint_of(dataset: Dataset, device: torch.device, load: float) -> str:
    """Empty where an epoch was given without one."""
    try:
        images_of(dataset, device, hw_decoder_load=load)
    except UserError as error:
        return str(error)
    return ""


def check_memory(place: Place) -> str:
    device, dataset = gpu(), tiny_shards(place)
    free = []
    with TrainingLoader(dataset, batch_size=8, device=device, seed=0) as loader:
        evaluation = EvaluationLoader(dataset, batch_size=16, device=device)
        for epoch in range(EPOCHS):
            for _ in loader.epoch(epoch):
                pass
            loader.pause()
            for batch in evaluation:
                batch.cut_view(7)
            finish(device)
            free.append(torch.cuda.mem_get_info(device)[0])
    lost = (max(free[5:15]) - min(free[-10:])) / 2**20
    if lost > 64:
        raise CheckFailedError(f"{lost:.0f} MiB were lost in {EPOCHS} epochs with evaluations")
    return f"{EPOCHS} epochs with evaluations: {max(0.0, lost):.0f} MiB lost, least free {min(free) / 2**30:.1f} GiB"


def check_libraries(place: Place) -> str:
    """Which of several installed CUDA libraries are in this process."""
    images_of(tiny_shards(place), gpu())
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    found = sorted(set(re.findall(r"\S*/lib(?:nvjpeg|nvimgcodec|cudart|cudnn)[^/\s]*\.so[.\d]*", maps)))
    return ", ".join(found)


# ------------------------------------------------------------------------------- several


def check_nccl(place: Place) -> str:
    found = compare_worlds("cuda", 2)
    captured = compare_worlds("cuda", 2, captured=True)
    worst = max(*found.values(), *captured.values())
    if not worst < 1e-3:
        raise CheckFailedError(f"two GPUs differ from one: {found}, captured {captured}")
    return f"two GPUs train as one: weights within {worst:.1e} (towers and replicas, eager and captured)"


def check_two_by_two(place: Place) -> str:
    if torch.cuda.device_count() < 4:
        raise SkippedError(f"needs four GPUs, and there are {torch.cuda.device_count()}")
    return compare_two_by_two("cuda", steps=MANY_STEPS, captured=True)


def check_killed_rank(place: Place) -> str:
    return end_after_a_killed_rank("cuda", place.folder)


CHECKS = (
    Check("GPU kernels", check_kernels, REPORT, 180.0),
    Check("GPU training", check_training, REPORT, 120.0),
    Check("formula", check_formula, REPORT, 120.0),
    Check("no waiting", check_no_waiting, "it costs speed alone; report it with this table"),
    Check("wrong label", check_wrong_label, REPORT),
    Check("decoders", check_decoders, "give LoaderOptions(decode_on='cpu'), and report it with this table"),
    Check("GPU loader", check_loader, REPORT),
    Check("ten views", check_ten_views, REPORT, 120.0),
    Check("decoded cache", check_cache, "train without --cache-decoded, and report it with this table"),
    Check("GPU resume", check_resume, REPORT),
    Check("damaged JPEG", check_damaged, "run `alexnet-fast verify --decode` before training", 120.0),
    Check("GPU memory", check_memory, "report it with this table: long runs may run out of memory", 120.0),
    Check("reproducible", check_reproducible, "--deterministic cannot be relied on with this GPU and torch"),
    Check("captures beside DALI", check_captures_beside_dali, "", 120.0),
    Check("libraries", check_libraries, ""),
)
CHECKS_OF_SEVERAL = (
    Check("two GPUs", check_nccl, "give --gpus 1, or --set cuda_graph=false; NCCL_DEBUG=INFO says more", 240.0),
    Check("2 × 2 GPUs", check_two_by_two, "give --parallel data; NCCL_LAUNCH_ORDER_IMPLICIT=1 may help", 300.0),
    Check("killed rank", check_killed_rank, "end what is left by hand after a crash; NCCL_DEBUG=INFO says more", 180.0),
)
