"""Names for images: the right names for the right images, and a reason for each that cannot be used."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.inference.evaluation import Predictor
from alexnet_fast.inference.load import Trained
from alexnet_fast.inference.predict import Answer, predict
from alexnet_fast.network.model import AlexNet, load_whole_state, whole_state
from alexnet_fast.runs.checkpoint import Checkpoint, Mean
from alexnet_fast.runs.totals import Totals
from alexnet_fast.tools.dataset import ImageOptions

CPU = torch.device("cpu")
CLASSES = tuple((f"c{number}", f"thing {number}") for number in range(8))
RGB = (100.0, 110.0, 120.0)


@pytest.fixture(scope="module")
def trained() -> Trained:
    recipe = replace(load_recipe("2013"), width_divisor=16, mean="rgb")
    model = AlexNet(recipe.architecture(len(CLASSES)), seed=1).eval()
    tensors = {name: tensor * (5 if "weight" in name else 1) for name, tensor in whole_state(model).items()}
    load_whole_state(model, tensors)
    mean = Mean("rgb", None, torch.tensor(RGB))
    options, totals = ImageOptions(), Totals("")
    checkpoint = Checkpoint(recipe, CLASSES, "f", options, mean, tensors, None, 1, 1, (), {}, None, None, totals)
    return Trained(Path("net.pt"), checkpoint, Predictor(model, model.working_weights(torch.float32)))


def image(file: Path, seed: int) -> Path:
    """Smooth, 256 by 256: nothing has to be resized."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).save(file)
    return file


def stored(file: Path) -> np.ndarray:
    """An image's pixels as shards hold them: a JPEG of quality 95."""
    stream = io.BytesIO()
    Image.open(file).save(stream, "JPEG", quality=95, subsampling="4:2:0")
    return np.asarray(Image.open(stream)).astype(np.float32)


def ask(trained: Trained, *sources: object, num_views: Any = 1) -> list[Answer]:
    precision = choose_precision(CPU, "fp32")
    words = [str(source) for source in sources]
    return list(predict(trained, words, device=CPU, precision=precision, num_views=num_views))


def test_probabilities_are_the_networks_own(trained: Trained, tmp_path: Path) -> None:
    file = image(tmp_path / "a.png", 0)
    pixels = stored(file)
    view = (pixels[16:240, 16:240] - np.array(RGB, np.float32)).transpose(2, 0, 1)
    with torch.inference_mode():
        expected = trained.predictor.model(torch.from_numpy(view[None].copy())).softmax(1)[0].numpy()
    (answer,) = ask(trained, file)
    assert [name for name, _, _ in answer.names] == [f"c{index}" for index in np.argsort(-expected)[:5]]
    assert [p for *_, p in answer.names] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-3)
    assert 0.2 < expected.max() < 0.9


def test_each_image_keeps_its_own_names(trained: Trained, tmp_path: Path) -> None:
    """Also with images between them that are none, and ten views."""
    first, last = image(tmp_path / "a.png", 0), image(tmp_path / "z.bmp", 5)
    (tmp_path / "m.jpg").write_text("text")
    (tmp_path / "n.jpg").touch()
    answers = ask(trained, tmp_path, num_views=10)
    assert [Path(answer.image).name for answer in answers] == ["a.png", "m.jpg", "n.jpg", "z.bmp"]
    assert [bool(answer.problem) for answer in answers] == [False, True, True, False]
    for answer, file in ((answers[0], first), (answers[3], last)):
        (alone,) = ask(trained, file, num_views=10)
        assert [name for name, *_ in answer.names] == [name for name, *_ in alone.names]
        assert [p for *_, p in answer.names] == pytest.approx([p for *_, p in alone.names], abs=1e-5)
    assert [p for *_, p in answers[0].names] != pytest.approx([p for *_, p in answers[3].names], abs=1e-3)


@pytest.mark.parametrize("name", ["gone.jpg", "x" * 300])
def test_what_cannot_be_read_has_its_reason_and_the_rest_is_predicted(
    name: str, trained: Trained, tmp_path: Path
) -> None:
    good = image(tmp_path / "a.png", 0)
    bad, fine = ask(trained, tmp_path / name, good)
    assert ("no such file" if name == "gone.jpg" else "cannot be read") in bad.problem and not bad.names
    assert len(fine.names) == 5


def test_a_folder_that_cannot_be_listed_is_named(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the system, since root may list everything."""
    image(tmp_path / "a.png", 0)
    barred = tmp_path / "barred"
    barred.mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(barred):
            raise PermissionError(13, "Permission denied", str(barred))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    fine, bad = ask(trained, tmp_path)
    assert len(fine.names) == 5
    assert bad == Answer(str(barred), problem="cannot be listed (Permission denied)")


@pytest.mark.parametrize("size", [256, 320])
def test_images_are_made_ready_as_those_of_the_training_were(size: int, trained: Trained, tmp_path: Path) -> None:
    """A network of 320 px shards knows things smaller in its 224 px view."""
    file = image(tmp_path / "a.png", 0)
    Image.open(file).resize((size, size), Image.Resampling.BICUBIC).save(file)
    pixels = stored(file)
    start = (size - 224) // 2
    view = pixels[start : start + 224, start : start + 224] - np.array(RGB, np.float32)
    with torch.inference_mode():
        logits = trained.predictor.model(torch.from_numpy(view.transpose(2, 0, 1)[None].copy()))
    net = replace(trained, checkpoint=replace(trained.checkpoint, image_options=ImageOptions(size=size)))
    (answer,) = ask(net, file)
    assert [p for *_, p in answer.names] == pytest.approx(sorted(logits.softmax(1)[0].tolist())[:2:-1], abs=1e-3)


def test_a_file_without_end_is_no_image(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_fast.inference.predict.LARGEST", 2 << 20)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    with Path("/dev/zero").open("rb") as endless:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(endless))
        answers = ask(trained, Path("/dev/zero"), tmp_path / "pipe", tmp_path / "link.png", "-")
    assert all("it is a pipe or a device, not a file" in answer.problem for answer in answers[:3])
    assert answers[3].problem == "not an image: more than 2 MiB"


def test_what_is_empty_or_closed_is_reported_and_the_rest_is_predicted(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    (tmp_path / "empty").mkdir()
    folder, stdin, fine = ask(trained, tmp_path / "empty", "-", image(tmp_path / "a.png", 0))
    assert folder == Answer(str(tmp_path / "empty"), problem="there is no file in this folder")
    assert stdin == Answer("stdin", problem="standard input is closed") and len(fine.names) == 5
