"""The demo's data set and the run's figures."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from alexnet_fast.commands.main import group
from alexnet_fast.config.recipe import load_recipe
from alexnet_fast.demo.data import KINDS, DemoData, draw_dataset
from alexnet_fast.demo.tour import DemoResult, remove_run, run_demo, summary, taken
from alexnet_fast.pipelines.preview import color_shifts, contact_samples, draw_preview, network_views
from alexnet_fast.runs.figures import TEN_VIEWS, TRAIN, VALIDATION, draw_curves, draw_filters, tile
from alexnet_fast.runs.folder import RunFolder
from alexnet_fast.runs.lock import InUseError
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "images"
    draw_dataset(folder, DemoData(num_train=5, num_val=2))
    return folder


def test_the_layout_is_imagenets(drawn: Path) -> None:
    assert sorted(split.name for split in drawn.iterdir()) == ["train", "val"]
    for split, count in (("train", 5), ("val", 2)):
        assert sorted(folder.name for folder in (drawn / split).iterdir()) == sorted(KINDS)
        assert all(len(list(folder.iterdir())) == count for folder in (drawn / split).iterdir())


def test_the_usual_oddities_are_there(drawn: Path) -> None:
    files = sorted((drawn / "train" / "star").iterdir())
    modes = [Image.open(file).mode for file in files]
    formats = [Image.open(file).format for file in files]
    assert modes == ["L", "CMYK", "RGB", "RGB", "RGB"]
    assert formats == ["JPEG", "JPEG", "PNG", "JPEG", "JPEG"]
    assert Image.open(files[3]).getexif()[0x0112] == 6
    sizes = {Image.open(file).size for file in drawn.rglob("*.JPEG")}
    assert len(sizes) > 20
    assert [file.parent.parent.name for file in drawn.rglob("*.JPEG") if is_broken(file)] == ["train"]


def is_broken(file: Path) -> bool:
    try:
        Image.open(file).load()
    except OSError:
        return True
    return False


def test_an_image_depends_on_seed_split_class_and_number_alone(drawn: Path, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "more", DemoData(num_train=6, num_val=3))
    draw_dataset(tmp_path / "other", DemoData(num_train=5, num_val=2, seed=1))
    name = Path("train") / "waves" / "waves_0004.JPEG"
    content = (drawn / name).read_bytes()
    assert (tmp_path / "more" / name).read_bytes() == content
    assert (tmp_path / "other" / name).read_bytes() != content
    assert (drawn / "val" / "waves" / "waves_0001.JPEG").read_bytes() != (
        drawn / "train" / "waves" / "waves_0001.JPEG"
    ).read_bytes()


def test_neither_mean_color_nor_place_reveals_the_class() -> None:
    """A nearest-mean guess from the mean color does little better than chance."""
    chance = np.random.default_rng(0)
    from alexnet_fast.demo.data import draw_image

    means: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    for name, kind in KINDS.items():
        images = [np.asarray(draw_image(kind, chance)).mean((0, 1)) for _ in range(16)]
        means[name] = np.array(images)
    centers = np.array([values[:8].mean(0) for values in means.values()])
    guesses = [
        np.linalg.norm(centers - row, axis=1).argmin() == place
        for place, values in enumerate(means.values())
        for row in values[8:]
    ]
    assert np.mean(guesses) < 0.5


def test_the_demos_recipe_is_the_real_network() -> None:
    recipe = load_recipe("demo")
    architecture = recipe.architecture(10)
    assert (recipe.network, recipe.width_divisor, architecture.num_towers) == ("167", 1, 2)
    assert architecture.units == (4096, 4096)


def test_curves_are_drawn_of_any_run(tmp_path: Path) -> None:
    train = {"kind": "train", "lr_weights": 0.01, "loss": 2.0, "error": 0.8}
    metrics = [train | {"step": step, "epoch": step / 5} for step in range(1, 6)]
    metrics += [train | {"step": 6, "epoch": 1.2, "lr_weights": 0.001}]
    draw_curves(metrics, tmp_path / "early.png")
    val = {"kind": "val", "step": 6, "epoch": 1.2, "loss": 1.0, "top1_error": 0.5, "top5_error": 0.1}
    draw_curves([*metrics, val | {"views": 1}, val | {"views": 10}], tmp_path / "late.png")
    early, late = (np.asarray(Image.open(tmp_path / name)) for name in ("early.png", "late.png"))
    assert early.shape == late.shape and (early != late).any()


def test_a_run_of_one_epoch_shows_its_three_points(tmp_path: Path) -> None:
    """One of each curve, two of them with the same values."""
    train = {"kind": "train", "lr_weights": 0.01, "loss": 2.0, "error": 0.8, "step": 9, "epoch": 1}
    val = {"kind": "val", "step": 9, "epoch": 1, "loss": 2.5, "top1_error": 0.9, "top5_error": None}
    draw_curves([train, val | {"views": 1}, val | {"views": 10}], tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    panels = pixels[: int(0.85 * len(pixels))]  # without the legend
    for color in (TRAIN, VALIDATION, TEN_VIEWS):
        rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        near = (np.abs(panels - rgb).sum(2) < 12).any(0)
        left, right = near[: len(near) // 2], near[len(near) // 2 :]
        assert left.any() and right.any(), color


def test_few_kernels_fill_their_sheet(tmp_path: Path) -> None:
    assert tile(np.ones((6, 3, 11, 11), np.float32)).shape == (11, 6 * 12 - 1, 3)
    draw_filters(-np.ones((6, 3, 11, 11), np.float32), 2, tmp_path / "conv1.png")
    sheet = np.asarray(Image.open(tmp_path / "conv1.png").convert("L"))
    assert (sheet < 250).any(0).mean() > 0.7


def test_kernels_are_tiled_with_their_own_contrast() -> None:
    kernels = np.zeros((17, 3, 11, 11), np.float32)
    kernels[0, 0, 0, 0], kernels[16, 2, 10, 10] = 1e-3, -5.0
    sheet = tile(kernels)
    assert sheet.shape == (23, 16 * 12 - 1, 3)
    assert sheet[0, 0].tolist() == [1.0, 0.5, 0.5]
    assert sheet[22, 10].tolist() == [0.5, 0.5, 0.0]
    assert sheet[5, 5].tolist() == [0.5, 0.5, 0.5]
    assert sheet[22, 30].tolist() == [1.0, 1.0, 1.0]


def test_the_preview_shows_what_the_network_sees(tiny_dataset: Dataset, tmp_path: Path) -> None:
    views = network_views(tiny_dataset, "train", num_images=3, num_views=2)
    mean = tiny_dataset.mean_image[16:240, 16:240]
    for image in range(3):
        for view in range(2):
            y, x = views.corners[image, view]
            crop = views.originals[image, y : y + 224, x : x + 224].astype(np.float64)
            if views.mirrored[image, view]:
                crop = crop[:, ::-1]
            expected = (crop + views.shifts[image, view] - tiny_dataset.statistics.mean_rgb) / 1.1
            expected -= (mean - tiny_dataset.statistics.mean_rgb) / 1.1
            assert np.abs(views.images[image, view] - expected).max() < 1e-3
    shifts = color_shifts(tiny_dataset, "train", 5000) @ tiny_dataset.statistics.directions.T
    assert shifts.std(0) == pytest.approx(0.1 * tiny_dataset.statistics.standard_deviations, rel=0.05)
    labels = [sample.label for sample in contact_samples(tiny_dataset, "train", 20)]
    assert labels == sorted(labels) and len(set(labels)) == 10
    draw_preview(tiny_dataset, tmp_path / "preview.png")
    assert Image.open(tmp_path / "preview.png").width > 1000
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw_preview(tiny_dataset, tmp_path / "file" / "preview.png")


@pytest.mark.parametrize("content", ["run/result.json", "shards/dataset.json", "letter.txt"])
def test_a_folder_that_the_demo_did_not_make_is_left_alone(content: str, tmp_path: Path) -> None:
    """Names alone say nothing: `train --out run` makes a folder of that name too."""
    mine = tmp_path / content
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match="something else than a demo"):
        run_demo(tmp_path, lambda text: None)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_the_summary_says_what_to_do_next(tiny_dataset: Dataset, tmp_path: Path) -> None:
    folder = tiny_dataset.folder.parent
    errors = {"top1_error": 0.5, "num_samples": 30}
    result = {"recipe": {"network": "167"}, "precision": "fp32", "device": "cpu", "epochs": 4.0, "images_per_s": 99.0}
    message = summary(DemoResult(tiny_dataset, {**result, "center_view": errors, "10_views": errors}), folder)
    commands = [shlex.split(line) for line in message.splitlines() if line.startswith("  alexnet-fast ")]
    assert [words[1] for words in commands] == [
        "predict", "train", "compare", "train", "compare", "train", "shard", "train",
    ]  # fmt: skip
    assert Path(commands[0][3]).is_file() and Path(commands[1][2]) == tiny_dataset.folder
    for words in commands:  # all options exist, and what was made so far is taken
        program = group.get_command(click.Context(group), words[1])
        assert program is not None and program.make_context(words[1], words[2:])
    assert message.splitlines()[1].startswith("Top-1 error 50.0% on 30 held-out images")


def test_a_demo_that_is_still_running_keeps_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text("seed = 1")
    with run.lock(), pytest.raises(UserError, match="in use by process"):
        remove_run(RunFolder(tmp_path / "run"))
    assert run.recipe.exists()
    remove_run(run)
    assert not run.path.exists()


def test_a_second_demo_leaves_the_images_of_the_first_alone(tmp_path: Path) -> None:
    """It removed them while they were drawn, and both failed."""
    folder = tmp_path / "demo"
    with taken(folder):
        half = atomic.partial_name(folder / "images") / "train" / "star"
        half.mkdir(parents=True)
        with pytest.raises(InUseError, match="demo is in use by process"):
            run_demo(folder, lambda text: None, device="cpu")
        assert half.exists() and not (folder / "images").exists()
    with taken(folder):
        pass
