"""The library: what `from alexnet_fast import …` gives, as its documentation says."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet_fast
from alexnet_fast import AlexNet, Architecture, Dataset, EvaluationLoader, TrainingLoader, load, recipe
from alexnet_fast.inference.evaluation import EvaluationResult, evaluate
from alexnet_fast.inference.load import mean_to_subtract
from alexnet_fast.network.model import NETS, small
from alexnet_fast.tools.errors import UsageError, UserError


def test_importing_the_package_imports_neither_torch_nor_dali() -> None:
    code = "import sys, alexnet_fast; dir(alexnet_fast); print({'torch', 'nvidia.dali', 'numpy'} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout == "set()\n", finished.stderr
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        alexnet_fast.lod  # noqa: B018


def test_every_public_name_is_there_and_explained() -> None:
    for name in alexnet_fast.__all__:
        value = getattr(alexnet_fast, name)
        assert name == "__version__" or (value.__doc__ and name in dir(alexnet_fast)), name


@pytest.mark.parametrize("name", [name for name in alexnet_fast.__all__ if name != "__version__"])
def test_examples_in_docstrings_hold(
    name: str, tiny_shards: Path, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").symlink_to(tiny_shards)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "2013").symlink_to(small_run)
    Image.new("RGB", (300, 260), "teal").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    value = getattr(alexnet_fast, name)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(value, name, importlib.import_module(value.__module__), globs={"torch": torch}):
        runner.run(test)
    assert runner.failures == 0


# ------------------------------------------------------------------------------------------------ the network


def test_a_new_network_is_initialized_as_in_2012() -> None:
    model = AlexNet(Architecture(num_classes=10))
    assert model.training
    assert float(model.get_parameter("conv1.weight").detach().std()) == pytest.approx(0.01, rel=0.02)
    assert float(model.get_parameter("conv4.weight").detach().std()) == pytest.approx(0.03, rel=0.02)
    again, other = AlexNet(Architecture(num_classes=10)), AlexNet(Architecture(num_classes=10), seed=1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        assert name.endswith("bias") or not torch.equal(parameter, other.get_parameter(name))


def test_train_and_eval_mean_dropout_and_none() -> None:
    model, images = AlexNet(small(NETS["167"])), torch.randn(4, 3, 67, 67) * 50
    with torch.no_grad():
        first, second = model(images), model(images)
        assert not torch.equal(first, second)
        torch.manual_seed(7)
        seeded = model(images)
        torch.manual_seed(7)
        assert torch.equal(model(images), seeded)
        model.eval()
        assert torch.equal(model(images), model(images))


def test_print_shows_the_network_and_hooks_are_refused() -> None:
    model = AlexNet(Architecture())
    text = repr(model)
    assert "60.9" in text.replace(",", "") and "weight 96×3×11×11, bias 96" in text and "2 towers" in text
    with pytest.raises(NotImplementedError, match="observe="):
        model.get_submodule("conv1").register_forward_hook(lambda *arguments: None)


def test_ours_trains_in_anybodys_loop() -> None:
    """With torch's own optimizer and loss, forty steps learn which two of ten classes there are."""
    torch.manual_seed(0)
    model = AlexNet(small(NETS["167"], 4))
    images, labels = torch.randn(2, 3, 67, 67) * 50, torch.arange(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-10:]) / 10 < 1.2 < 2.2 < losses[0], losses


def test_a_recipe_is_made_with_changes() -> None:
    assert recipe("2012", epochs=5, lr_weights=[0.1], lr_weights_milestones=[0]).lr_weights == (0.1,)
    assert recipe().network == "167"
    with pytest.raises(UsageError, match="did you mean 'batch_size'"):
        recipe("2013", batchsize=3)
    with pytest.raises(UsageError, match="it must be a number"):
        recipe("2013", epochs="many")


# ----------------------------------------------------------------------------------------------- the loaders


def test_loaders_take_paths_and_strings_and_have_a_length(tiny_shards: Path) -> None:
    loader = TrainingLoader(str(tiny_shards), batch_size=16, device="cpu")
    first, second = list(loader), list(loader)
    assert len(loader) == len(first) == len(second) == 3
    again = TrainingLoader(Dataset.load(tiny_shards), batch_size=16, device=torch.device("cpu"))
    for got, epoch in ((first, 0), (second, 1)):
        for (images, labels), batch in zip(got, again.epoch(epoch), strict=True):
            assert torch.equal(images, batch.images) and torch.equal(labels, batch.labels)
    evaluation = EvaluationLoader(tiny_shards, batch_size=8, device="cpu")
    seen = [(images.shape[1:], labels) for images, labels in evaluation]
    assert len(seen) == len(evaluation) and sum(len(labels) for _, labels in seen) == 30


def test_a_loader_iterated_after_a_resume_finishes_the_epoch(tiny_shards: Path) -> None:
    loader = TrainingLoader(tiny_shards, batch_size=16, device="cpu")
    batches = iter(loader)
    next(batches)
    state, rest = loader.state_dict(), [batch.labels for batch in batches]
    resumed = TrainingLoader(tiny_shards, batch_size=16, device="cpu")
    resumed.load_state_dict(state)
    assert [batch.labels.tolist() for batch in resumed] == [labels.tolist() for labels in rest]
    assert [batch.labels.tolist() for batch in resumed] == [batch.labels.tolist() for batch in loader]


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda"])
def test_a_device_that_is_not_there_is_reported(device: str, tiny_shards: Path) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match=device):
        TrainingLoader(tiny_shards, batch_size=16, device=device)


# ------------------------------------------------------------------------------------------ a trained network


def test_predict_takes_whatever_holds_an_image(small_run: Path, tiny_shards: Path) -> None:
    network = load(small_run, device="cpu")
    file = sorted((tiny_shards.parent / "images" / "val" / "star").iterdir())[-1]
    expected = network.predict(file)
    assert len(expected) == 5 and expected == sorted(expected, key=lambda guess: -guess.probability)
    pixels = np.asarray(Image.open(file))
    for image in (str(file), file.read_bytes(), Image.open(file), pixels):
        got = network.predict(image)
        assert [guess.label for guess in got] == [guess.label for guess in expected]
        assert got[0].probability == pytest.approx(expected[0].probability, abs=1e-5)
    both = network.predict([file, Image.open(file)], views=1, top=2)
    assert [len(guesses) for guesses in both] == [2, 2] and network.predict([]) == []
    assert {guess.label for guess in network.predict(file, top=99)} == set(network.classes)
    assert "10 classes" in repr(network)


def test_an_image_in_memory_is_turned_upright_as_its_file_is(small_run: Path, tiny_shards: Path) -> None:
    """The first images of each class are the odd ones: gray, CMYK, PNG, lying on their side."""
    network = load(small_run, device="cpu")
    for file in sorted((tiny_shards.parent / "images" / "train" / "disc").iterdir())[:4]:
        theirs, ours = network.features([file, Image.open(file)], "pool1")
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_predictions_are_those_of_the_evaluation(small_run: Path, tiny_shards: Path) -> None:
    """From the shards' own JPEGs the network is right as often as `eval` says."""
    import tarfile

    network, dataset = load(small_run, device="cpu"), Dataset.load(tiny_shards)
    wrong = total = 0
    for tar in dataset.tars("val"):
        with tarfile.open(tar) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name, content in members.items():
            if name.endswith(".jpg"):
                label = int(members[name.replace(".jpg", ".cls")])
                wrong += network.predict(content, views=1)[0].class_index != label
                total += 1
    loader = EvaluationLoader(dataset, batch_size=30, device="cpu", mean=mean_to_subtract(network.checkpoint.mean))
    result: EvaluationResult = evaluate([network.trained.predictor], loader, num_views=1)
    assert total == result.num_samples
    assert wrong / total == pytest.approx(result.top1_error, abs=1.01 / total)


def test_features_have_their_shapes(small_run: Path, tiny_shards: Path) -> None:
    network = load(small_run, device="cpu")
    file = next((tiny_shards.parent / "images" / "val" / "star").iterdir())
    a = network.model.architecture
    fully = {"fc6": a.units[:1], "fc7": a.units[1:], "fc8": (10,)}
    shapes = {"conv1": (a.maps[0], 55, 55), "pool5": (a.maps[4], 6, 6), **fully}
    for layer, shape in shapes.items():
        assert network.features(file, layer).shape == shape
        assert network.features([file, file], layer).shape == (2, *shape)
    logits = network.features(file, "fc8")
    probabilities = torch.tensor([guess.probability for guess in network.predict(file, views=1)])
    torch.testing.assert_close(logits.softmax(0).topk(5).values, probabilities)
    with pytest.raises(UsageError, match="layer is 'fc9'"):
        network.features(file, "fc9")


def test_what_is_no_image_is_reported(small_run: Path, tmp_path: Path) -> None:
    network = load(small_run, device="cpu")
    (tmp_path / "text.jpg").write_text("no image")
    mistakes: list[tuple[Any, type[UserError], str]] = [
        (tmp_path / "text.jpg", UserError, "text.jpg"),
        (tmp_path / "gone.jpg", UserError, "there is no such file"),
        (np.zeros((3, 8, 8), np.float32), UsageError, "uint8"),
        (7, UsageError, "a int is not an image"),
    ]
    for image, error, sentence in mistakes:
        with pytest.raises(error, match=sentence):
            network.predict(image)
    with pytest.raises(UsageError, match="views is 3"):
        network.predict(tmp_path / "text.jpg", views=3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_python_dash_m_is_the_program() -> None:
    finished = subprocess.run([sys.executable, "-m", "alexnet_fast", "--version"], capture_output=True, text=True)
    assert finished.returncode == 0 and finished.stdout.startswith("alexnet-fast, version")
