"""Every recipe against the authors' layer files as data: sizes, initialization, forward, gradients, three updates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from alexnet_fast.config.precision import Precision
from alexnet_fast.config.recipe import Recipe, load_recipe, recipe_names
from alexnet_fast.config.schedule import Schedule
from alexnet_fast.network.dropout import DropoutKey, dropout_mask, step_key
from alexnet_fast.network.model import NETS, AlexNet, whole_state
from alexnet_fast.pipelines.batch import Batch
from alexnet_fast.training.optimizer import SGD
from alexnet_fast.training.train_step import TrainingStep

STEPS_PER_EPOCH = 1000
IMAGES = 3


def load_tables() -> ModuleType:
    path = Path(__file__).parent / "layer_tables.py"
    spec = importlib.util.spec_from_file_location("layer_tables", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


tables = load_tables()

Rates = tuple[float, float, float, float]
"""Of weights, biases, conv1's weights, conv1's biases."""
RATES: dict[str, dict[float, Rates]] = {
    "2012": {
        24.9: (0.01, 0.02, 0.01, 0.02), 25: (1e-3, 0.02, 1e-3, 0.02), 51: (1e-4, 0.02, 1e-4, 0.02),
        67: (1e-4, 0.02, 1e-5, 0.002), 72: (1e-4, 0.02, 0, 0), 79: (1e-5, 0.02, 0, 0),
    },
    "2010": {
        22.9: (0.01, 0.02, 0.01, 0.02), 23: (1e-3, 0.002, 1e-3, 0.002), 51: (1e-4, 0.002, 1e-4, 0.002),
        68: (1e-4, 0.002, 1e-5, 0.002), 72: (1e-4, 0.002, 0, 0), 78: (1e-5, 0.002, 0, 0),
    },
    "145-half": {
        19.9: (0.01, 0.02, 0.01, 0.02), 20: (1e-3, 0.02, 1e-3, 0.02), 48: (1e-4, 0.02, 1e-4, 0.02),
        66: (1e-4, 0.02, 1e-5, 0.002), 72: (1e-4, 0.02, 0, 0), 78: (1e-5, 0.02, 0, 0),
    },
    "147": {
        22.9: (0.01, 0.02, 0.01, 0.02), 23: (1e-3, 0.002, 1e-3, 0.002), 78.9: (1e-4, 0.002, 1e-4, 0.002),
        79: (1e-5, 0.002, 0, 0),
    },
    "148": {
        21.9: (0.01, 0.02, 0.01, 0.02), 22: (1e-3, 0.02, 1e-3, 0.02), 44: (1e-4, 0.02, 1e-4, 0.02),
        69: (1e-4, 0.02, 1e-5, 0.002), 73: (1e-4, 0.02, 0, 0), 86: (1e-5, 0.02, 0, 0),
    },
    "150": {
        24.9: (0.01, 0.02, 0.01, 0.02), 25: (1e-3, 0.02, 1e-3, 0.02), 49: (1e-4, 0.02, 1e-4, 0.02),
        66: (1e-4, 0.02, 1e-5, 0.002), 72: (1e-4, 0.02, 0, 0), 79: (1e-5, 0.02, 0, 0),
    },
    "2013": {
        23.7: (0.01, 0.02, 0.01, 0.02), 23.75: (1e-3, 0.02, 1e-3, 0.02), 47.5: (1e-4, 0.002, 1e-4, 0.002),
        71.25: (1e-5, 0.002, 1e-5, 0.002), 73: (1e-5, 0.002, 0, 0),
    },
    "170": {
        23.7: (0.01, 0.02, 0.01, 0.02), 23.75: (0.0015874011, 0.02, 0.0015874011, 0.02),
        47.5: (0.00025198421, 0.002, 0.00025198421, 0.002), 71.25: (4e-5, 0.002, 4e-5, 0.002), 74: (4e-5, 0.002, 0, 0),
    },
    "paper": {24.9: (0.01, 0.01, 0.01, 0.01), 25: (1e-3, 1e-3, 1e-3, 1e-3), 89: (1e-5, 1e-5, 1e-5, 1e-5)},
    "tanh": {23.7: (0.01, 0.02, 0.01, 0.02), 48: (1e-4, 0.002, 1e-4, 0.002), 73: (1e-5, 0.002, 0, 0)},
    "caffe": {19.9: (1e-3, 2e-3, 1e-3, 2e-3), 20: (1e-4, 2e-4, 1e-4, 2e-4), 29.9: (1e-4, 2e-4, 1e-4, 2e-4)},
    "demo": {1.9: (0.01, 0.02, 0.01, 0.02), 2: (1e-3, 0.002, 1e-3, 0.002), 3.9: (1e-3, 0.002, 1e-3, 0.002)},
}  # fmt: skip
"""Recipe -> epoch -> learning rates from then on, by the notes of the nets; the last of all is that of the end."""


def net_of(recipe: Recipe, divisor: int, classes: int) -> object:
    table = tables.TABLES[recipe.network]
    if recipe.activation == "tanh":
        table = [tables.replace(row, neuron="tanh" if row.neuron else "") for row in table]
    return tables.Net(table, divisor, classes, scale={"paper": 5e-4, "caffe": 2e-4}.get(recipe.network, 1e-4))


def test_the_tables_are_those_of_the_nets() -> None:
    assert tables.TABLES.keys() == NETS.keys()
    assert RATES.keys() == set(recipe_names())


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_the_notebooks(name: str) -> None:
    schedule = Schedule(load_recipe(name), STEPS_PER_EPOCH)
    for epoch, expected in {**RATES[name], schedule.recipe.epochs - 0.001: list(RATES[name].values())[-1]}.items():
        rates = schedule.rates(round(epoch * STEPS_PER_EPOCH))
        found = (rates.weights, rates.biases, rates.conv1_weights, rates.conv1_biases)
        assert found == pytest.approx(expected, rel=1e-6), epoch


@pytest.mark.parametrize("net", NETS)
def test_full_size_sizes_initialization_and_forward(net: str) -> None:
    model = AlexNet(NETS[net])
    model.initialize(seed=3)
    model = model.double().eval()
    reference = tables.Net(tables.TABLES[net], scale=NETS[net].norm_alpha)
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}
    parameters = tables.split(state, reference.table)
    for row in reference.table:
        if row.type in ("conv", "fc"):
            assert parameters[row.name].shape == (row.outputs,) and (parameters[row.name] == row.init_b).all()
            for name in row.inputs:
                block = parameters[f"{row.name}<{name}"]
                assert block.shape[0] == row.outputs and float(block.std()) == pytest.approx(row.init_w, rel=0.03)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 60
    with torch.no_grad():
        expected = reference.forward(images, parameters, {})
        assert expected.abs().max() > (1e-3 if net == "paper" else 0.01)  # the paper's weights leave little signal
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RATES)
def test_three_updates_of_every_recipe(name: str) -> None:
    """In three parts of the schedule, with dropout and momentum; in the last conv1 is frozen, if it ever is."""
    recipe = load_recipe(name, ["width_divisor=8", "precision=fp32"])
    batch_size = recipe.batch_size
    architecture = recipe.architecture(num_classes=11)
    model = AlexNet(architecture)
    model.initialize(1)
    model = model.double()
    optimizer = SGD(model, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    train_step = TrainingStep(model, optimizer, precision=Precision("fp32", torch.float32, ""))
    schedule = Schedule(recipe, STEPS_PER_EPOCH)
    reference = net_of(recipe, 8, 11)
    parameters = tables.split(whole_state(model), reference.table)  # type: ignore[attr-defined]
    velocities = {key: torch.zeros_like(tensor) for key, tensor in parameters.items()}
    assert batch_size == recipe.lr_base_batch_size
    epochs = list(RATES[name])
    for epoch in (epochs[0], epochs[len(epochs) // 2], epochs[-1]):
        step, (weights, biases, conv1_weights, conv1_biases) = round(epoch * STEPS_PER_EPOCH), RATES[name][epoch]
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(IMAGES, 3, 224, 224, dtype=torch.float64, generator=generator) * 60
        labels = torch.randint(11, (IMAGES,), generator=generator)

        rates = schedule.rates(step)
        optimizer.set_rates(
            weights=rates.weights, biases=rates.biases, conv1_weights=rates.conv1_weights,
            conv1_biases=rates.conv1_biases,
        )  # fmt: skip
        result = train_step(Batch(images.contiguous(memory_format=torch.channels_last), labels), step=step, seed=5)

        masks = masks_of(architecture.units, step, two=architecture.num_towers == 2)
        leaves = {key: tensor.clone().requires_grad_() for key, tensor in parameters.items()}
        loss = F.cross_entropy(reference.forward(images, leaves, masks), labels)  # type: ignore[attr-defined]
        assert float(result.loss) == pytest.approx(float(loss.detach()), rel=1e-12)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        rate_of = {key: weights if "<" in key else biases for key in leaves}
        rate_of |= {key: conv1_weights if "<" in key else conv1_biases for key in leaves if key.startswith("conv1")}
        tables.update(parameters, velocities, gradients, rate_of)
        compare(whole_state(model), parameters, reference)
        compare(optimizer.whole_state(), velocities, reference)


def masks_of(units: tuple[int, int], step: int, *, two: bool) -> dict[str, torch.Tensor]:
    """The step's dropout masks as the table's layers want them; that they are right is `test_model`'s to say."""
    key = DropoutKey(torch.tensor(step_key(5, step)))
    masks: dict[str, torch.Tensor] = {}
    for number, (layer, size) in enumerate(zip((6, 7), units, strict=True), start=1):
        whole = dropout_mask(key, layer, IMAGES, size, 0, 0.5).double()
        towers = dict(zip("ab", whole.chunk(2, dim=1), strict=True)) if two else {"a": whole}
        masks |= {f"hs{number}{tower}": mask for tower, mask in towers.items()}
    return masks


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], reference: object) -> None:
    for key, block in tables.split(ours, reference.table).items():  # type: ignore[attr-defined]
        size = float(theirs[key].abs().max())
        torch.testing.assert_close(block, theirs[key], rtol=1e-7, atol=1e-11 * max(size, 1e-3), msg=key)
