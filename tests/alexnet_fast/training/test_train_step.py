"""The training step: the update against numpy, a loss that is no number, the loss scale, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_fast.config.precision import Precision, choose_precision
from alexnet_fast.network.dropout import DropoutKey, step_key
from alexnet_fast.network.kernels import update as update_module
from alexnet_fast.network.model import NETS, AlexNet, loss_and_errors, small, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.pipelines.decoded_cache import GIB, LoaderMemory
from alexnet_fast.tools.errors import UsageError, UserError
from alexnet_fast.training.divergence import DivergedError
from alexnet_fast.training.memory import IMAGES, TEMPORARIES, kept_bytes
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import FIRST_SCALE, SCALE_GROWS_EVERY, TrainingStep

FP32 = Precision("fp32", torch.float32, "")
BF16 = Precision("bf16", torch.bfloat16, "")
FP16 = Precision("fp16", torch.float16, "")
NET = small(NETS["167"])


def random_batch(step: int = 0, num: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(num, 3, 67, 67, generator=generator) * 60
    return Batch(images.contiguous(memory_format=torch.channels_last), torch.arange(num) % 10)


def make(precision: Precision, dtype: torch.dtype = torch.float32) -> tuple[AlexNet, SGD, TrainingStep]:
    model = AlexNet(NET).to(dtype)
    model.initialize(1)
    optimizer = SGD(model)
    optimizer.set_rates(weights=0.01, biases=0.02)
    return model, optimizer, TrainingStep(model, optimizer, precision=precision)


def copies(model: AlexNet) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_update_is_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps against v ← 0.9·v − ε·g − 5e-4·ε·w;  w ← w + v in numpy, in blocks smaller than most tensors."""
    monkeypatch.setattr(update_module, "BLOCK", 1000)
    model, optimizer, step = make(FP32, torch.float64)
    weights = {name: tensor.numpy().copy() for name, tensor in copies(model).items()}
    momentum = {name: np.zeros_like(array) for name, array in weights.items()}
    for number, (rate, lr_biases, lr_conv1) in enumerate([(0.1, 0.2, None), (0.03, 0.2, 0.005), (0.01, 0.02, 0.0)]):
        conv1_biases = None if lr_conv1 is None else lr_conv1 / 3
        batch = Batch(random_batch(number).images.double(), random_batch(number).labels)
        dropout = DropoutKey(torch.tensor(step_key(7, number)))
        loss, _ = loss_and_errors(model(batch.images, dropout), batch.labels)
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        optimizer.set_rates(weights=rate, biases=lr_biases, conv1_weights=lr_conv1, conv1_biases=conv1_biases)
        step(batch, step=number, seed=7)
        for name, gradient in gradients.items():
            bias = name.endswith("bias")
            own = lr_biases if bias else rate
            if name.startswith("conv1.") and lr_conv1 is not None and conv1_biases is not None:
                own = conv1_biases if bias else lr_conv1
            if own == 0:
                continue  # frozen: momentum does not carry on
            decay = 0.0 if bias else 5e-4
            momentum[name] = 0.9 * momentum[name] - own * gradient.numpy() - decay * own * weights[name]
            weights[name] = weights[name] + momentum[name]
    for name, tensor in whole_state(model).items():
        np.testing.assert_allclose(tensor.numpy(), weights[name], rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(optimizer.velocities[name].numpy(), momentum[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_frozen_conv1_stays_to_the_bit(precision: Precision) -> None:
    """Weights, bias, momentum and the working copies; the other layers continue."""
    model, optimizer, step = make(precision)
    for number in range(3):
        step(random_batch(number), step=number, seed=0)
    before, velocities = copies(model), {name: tensor.clone() for name, tensor in optimizer.velocities.items()}
    working = {name: tensor.detach().clone() for name, tensor in step.working.items()}
    assert velocities["conv1.weight"].abs().max() > 0 and velocities["conv1.bias"].abs().max() > 0
    optimizer.set_rates(weights=0.01, biases=0.02, conv1_weights=0.0, conv1_biases=0.0)
    for number in range(3, 5):
        step(random_batch(number), step=number, seed=0)
    for name, tensor in copies(model).items():
        frozen = name.startswith("conv1.")
        assert torch.equal(tensor, before[name]) == frozen, name
        assert torch.equal(optimizer.velocities[name], velocities[name]) == frozen, name
        assert not frozen or torch.equal(step.working[name], working[name]), name


def test_result_is_the_loss_before_the_update() -> None:
    model, _, step = make(FP32)
    batch = random_batch()
    with torch.no_grad():
        loss, errors = loss_and_errors(model(batch.images, DropoutKey(torch.tensor(step_key(3, 9)))), batch.labels)
    result = step(batch, step=9, seed=3)
    assert float(result.loss) == pytest.approx(float(loss), rel=1e-6)
    assert int(result.errors) == int(errors)
    assert result.num_images == 4


def test_bf16_keeps_float32_weights_and_learns_the_same() -> None:
    finals = {}
    for precision in (FP32, BF16):
        model, optimizer, step = make(precision)
        losses = [float(step(random_batch(number % 3), step=number, seed=0).loss) for number in range(40)]
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        assert all(velocity.dtype == torch.float32 for velocity in optimizer.velocities.values())
        assert all(torch.equal(step.working[n], p.to(step.dtype)) for n, p in model.named_parameters())
        finals[precision.name] = (losses[0], np.mean(losses[-10:]))
    assert finals["bf16"][0] == pytest.approx(finals["fp32"][0], rel=0.02)
    assert finals["bf16"][1] == pytest.approx(finals["fp32"][1], rel=0.1)


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_a_bad_image_stops_the_run_and_leaves_the_weights(precision: Precision) -> None:
    model, _, step = make(precision)
    step(random_batch(0), step=0, seed=0)
    before = copies(model)
    bad = random_batch(1)
    bad.images[2, 1, 5, 5] = float("inf")
    with pytest.raises(DivergedError, match=r"step 1: the loss or a gradient is NaN or infinite; .* is the images"):
        step(bad, step=1, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copies(model).items())


@pytest.mark.parametrize("wrong", [10, -1, 99_999])
def test_a_label_that_is_no_class_stops_the_run_and_leaves_the_weights(wrong: int) -> None:
    """On a GPU the loss itself would stop the device for good."""
    model, _, step = make(FP32)
    step(random_batch(0), step=0, seed=0)
    before = copies(model)
    bad = random_batch(1)
    bad.labels[2] = wrong
    with pytest.raises(DivergedError, match=f"step 1: .*a sample has label {wrong}, and there are 10 classes.*verify"):
        step(bad, step=1, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copies(model).items())


def test_the_first_bad_layer_is_named() -> None:
    model, _, step = make(FP32)
    step.working["conv5.weight"].data.mul_(1e39).clamp_(-3e38, 3e38)
    with pytest.raises(DivergedError, match=r"step 5: .*the first to blame is the output of conv5"):
        step(random_batch(), step=5, seed=0)
    model, _, step = make(FP32)
    step.parameters["fc6.weight"].data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"fc6\.weight itself is not finite"):
        step(random_batch(), step=5, seed=0)
    assert bool(model.get_parameter("fc7.weight").isfinite().all())


@pytest.mark.parametrize(("precision", "parameter"), [(FP32, "bias"), (BF16, "bias"), (FP16, "bias"), (FP16, "weight")])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(precision: Precision, parameter: str) -> None:
    model, _, step = make(precision)
    step.scale.fill_(1.0)
    step(random_batch(0), step=0, seed=0)
    before = copies(model)
    step.working[f"conv4.{parameter}"].register_hook(lambda gradient: gradient / 0)  # type: ignore[no-untyped-call]
    with pytest.raises(DivergedError, match=r"step 1: .*the first to blame is the gradient of conv4"):
        step(random_batch(1), step=1, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in copies(model).items())


def test_a_loss_of_finite_outputs_is_blamed_itself() -> None:
    model, _, step = make(FP32)
    with torch.no_grad():
        model.get_parameter("fc8.bias").copy_(torch.tensor([3e38] + [-3e38] * 9))
    with pytest.raises(DivergedError, match=r"the first to blame is the loss itself"):
        step(random_batch(), step=0, seed=0)


def test_an_overflow_in_float16_halves_the_scale_and_is_skipped() -> None:
    model, _, step = make(FP16)
    step.scale.fill_(2.0**40)
    before = copies(model)
    step(random_batch(), step=0, seed=0)
    assert step.state_dict() == {"scale": 2.0**39, "good_steps": 0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in copies(model).items())
    step.scale.fill_(FIRST_SCALE)
    step(random_batch(), step=1, seed=0)
    assert step.state_dict() == {"scale": FIRST_SCALE, "good_steps": 1}
    assert not torch.equal(model.get_parameter("fc8.weight"), before["fc8.weight"])


def test_the_scale_cancels_out() -> None:
    gradients = []
    for scale in (2.0**3, 2.0**10):
        _, optimizer, step = make(FP16)
        step.scale.fill_(scale)
        step(random_batch(), step=0, seed=0)
        gradients.append(optimizer.velocities["fc8.weight"])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.02, atol=1e-5)


def test_the_scale_doubles_after_long_and_moves_with_the_run() -> None:
    _, _, step = make(FP16)
    step.load_state_dict({"scale": 1024.0, "good_steps": SCALE_GROWS_EVERY - 1})
    step(random_batch(), step=0, seed=0)
    assert step.state_dict() == {"scale": 2048.0, "good_steps": 0}
    _, _, unscaled = make(FP32)
    unscaled.load_state_dict({"scale": 1024.0, "good_steps": 3})
    assert unscaled.state_dict() == {"scale": 1.0, "good_steps": 0}


def test_weights_loaded_later_are_used() -> None:
    model, _, step = make(BF16)
    with torch.no_grad():
        model.get_parameter("fc8.weight").zero_()
        model.get_parameter("fc8.bias").zero_()
    step.weights_changed()
    assert float(step(random_batch(), step=0, seed=0).loss) == pytest.approx(np.log(10), rel=1e-3)


def test_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_precision(cpu, "fp32").dtype == torch.float32
    assert choose_precision(cpu, "bf16").dtype == torch.bfloat16
    with pytest.raises(UsageError, match="fp16 on a CPU"):
        choose_precision(cpu, "fp16")
    with pytest.raises(UsageError, match="choose auto, bf16, fp16, fp32"):
        choose_precision(cpu, "int8")


def test_bfloat16_is_refused_on_gpus_that_compute_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UsageError, match=r"bf16 on a Tesla T4: .* choose fp16 or fp32"):
        choose_precision(gpu, "bf16")
    assert choose_precision(gpu).name == choose_precision(gpu, "fp16").name == "fp16"
    assert "TF32 is off" in choose_precision(gpu, "fp32").reason
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert choose_precision(gpu, "bf16").name == "bf16"


def test_no_norm_is_no_norm() -> None:
    """Nets with and without norms differ, and in nothing but that."""
    logits = []
    for norms in ((), ("conv1",)):
        model = AlexNet(replace(NET, norms=norms), seed=1).eval()
        logits.append(model(random_batch().images))
    assert not torch.allclose(logits[0], logits[1], rtol=1e-3)


def test_memory_of_a_step_is_what_it_keeps() -> None:
    """Against a count by hand, for a net whose every kept tensor is known."""
    net = replace(NETS["148"], num_towers=1)
    kept = 48 * 57**2 + 96 * 27**2 + 256 * 13**2 + 384 * 13**2 * 2 + 256 * 6**2  # what conv1..5 and fc6 see, numbers
    kept += 2 * 2 * 4096  # fc6 and fc7, before and after their dropout
    kept += 96 * 48 * 3**2 // IMAGES  # conv1's kernels, folded: once for all images
    bytes_ = 96 * 27**2 + 256 * 13**2 + 256 * 6**2 + 2 * 4096  # places of the maxima, dropout masks
    assert kept_bytes(net, torch.float32, (0,)) == 4 * kept + bytes_


def test_one_tower_keeps_its_own_maps_and_what_it_sees_of_the_others() -> None:
    net = NETS["148"]
    both, one = (kept_bytes(net, torch.bfloat16, towers) for towers in ((0, 1), (1,)))
    whole = 48 * 57**2 + 256 * 13**2 + 256 * 6**2 + 2 * 4096  # images, and what conv3, fc6, fc7 and fc8 see
    assert one == both / 2 + 2 * whole / 2


def test_out_of_memory_says_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, step = make(FP32)

    def fail(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "compute", fail)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**23, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**23)
    with pytest.raises(UserError, match=r"a step with 300 images .*0\.0 GiB.* at most about (\d+)") as caught:
        step(random_batch(num=300), step=0, seed=0)
    fits = int(str(caught.value).split("about ")[1].split(",")[0])
    lasting = 4 * 4 * sum(parameter.numel() for parameter in step.parameters.values())
    assert (
        fits * kept_bytes(NET, torch.float32, (0, 1))
        < 2**24 - lasting
        < 2 * (fits + 16) * kept_bytes(NET, torch.float32, (0, 1))
    )


def test_out_of_memory_counts_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes for each image is free again with fewer of them; what it keeps can be fewer."""
    _, _, step = make(FP32)
    each = TEMPORARIES * kept_bytes(NET, torch.float32, (0, 1))
    lasting = 4 * 4 * sum(parameter.numel() for parameter in step.parameters.values())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (lasting + int(100 * each), 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    assert "at most about 96, or take more GPUs" in str(step.out_of_memory(torch.OutOfMemoryError(), 300))
    step.loader_memory = LoaderMemory(per_image=each, kept=5 * GIB)
    message = str(step.out_of_memory(torch.OutOfMemoryError(), 300))
    assert "beside 5.0 GiB of decoded images" in message
    assert "at most about 192, keep fewer decoded images (--cache-decoded), or" in message  # (100 + 300) / 2


@pytest.mark.parametrize("precision", [BF16, FP16])
@pytest.mark.parametrize("net", ["145", "147", "150"])
def test_a_step_looks_at_no_number(net: str, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers to wait for: whoever wants to see one fails."""
    updates: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr("alexnet_fast.training.optimizer.update", lambda *tensors, **scalars: updates.append(tensors))
    with torch.device("meta"):
        model = AlexNet(small(NETS[net]))
        step = TrainingStep(model, SGD(model), precision=precision)
        images = torch.empty(4, 3, 67, 67, dtype=step.dtype).contiguous(memory_format=torch.channels_last)
        batch = Batch(images, torch.empty(4, dtype=torch.int64))
        loss, errors = step.compute(batch, DropoutKey(torch.empty((), dtype=torch.int64)))
    assert loss.shape == errors.shape == ()
    assert len(updates) == 16
    for weight, velocity, gradient, working in updates:
        # One line of numbers, in the same order: the update is one pass.
        assert weight.stride() == velocity.stride() == gradient.stride() == working.stride()
        assert gradient.dtype == working.dtype == precision.dtype
