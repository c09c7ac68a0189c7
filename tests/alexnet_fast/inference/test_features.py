"""Features on the disk: the right row for the right image, whoever computed it, however often it was stopped."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_fast.config.precision import choose_precision
from alexnet_fast.inference import feature_images
from alexnet_fast.inference import features as module
from alexnet_fast.inference.features import OBSERVED, Request, layer_output, write_features
from alexnet_fast.inference.load import Trained, load_trained, mean_to_subtract
from alexnet_fast.inference.predict import read
from alexnet_fast.pipelines.evaluation_loader import EvaluationLoader
from alexnet_fast.runs.lock import InUseError
from alexnet_fast.tools import atomic
from alexnet_fast.tools.dataset import Dataset
from alexnet_fast.tools.errors import UsageError, UserError
from tests.stored_samples import stored_samples

CPU = torch.device("cpu")


def silent(text: str) -> None: ...


@pytest.fixture(scope="module")
def trained(small_run: Path) -> Trained:
    return load_trained(small_run, CPU, choose_precision(CPU, "fp32"))


def request_for(run: Path, data: Path, out: Path, **changes: str) -> Request:
    options = {"split": "train", "layer": "fc7", "dtype": "float32", "precision": "fp32", **changes}
    return Request(run, data, out=out, **options)


def stored_stems(dataset: Dataset, split: str) -> list[str]:
    return [sample.stem for sample in stored_samples(dataset, split)]


@pytest.mark.parametrize("key", ["network", "images"])
def test_ranks_that_read_different_files_mix_no_rows(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """best.pt, which a run that trains on replaces, was another network on each rank, and the array held both."""
    monkeypatch.setattr(module, "all_gather_object", lambda mesh, own: [own | {key: "another"}, own])
    out = tmp_path / "f.npy"
    with pytest.raises(UserError, match=r"step-\d+\.pt or .* changed while the processes read it"):
        write_features(request_for(small_run, tiny_dataset.folder, out), device="cpu", say=silent)
    assert not list(tmp_path.iterdir())


def test_each_row_is_the_hidden_layer_of_its_image(
    small_run: Path, trained: Trained, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fc8 of the features is the network's own output; stems and labels stand beside them."""
    monkeypatch.setattr(module, "PART_IMAGES", 20)
    out = tmp_path / "f.npy"
    assert write_features(request_for(small_run, tiny_dataset.folder, out), device="cpu", say=silent) == []
    found = np.load(out, mmap_mode="r")
    samples = tiny_dataset.split("train").samples
    assert found.shape == (samples, 4096 // 16) and found.dtype == np.float32
    mean = mean_to_subtract(trained.checkpoint.mean)
    loader = EvaluationLoader(tiny_dataset, split="train", batch_size=64, device=CPU, mean=mean)
    (batch,) = list(loader)
    weights = trained.predictor.weights
    with torch.inference_mode():
        logits = trained.predictor.model(batch.cut_view(0), weights=weights)
        own = torch.from_numpy(np.array(found)) @ weights["fc8.weight"].T + weights["fc8.bias"]
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-5)
    header, *rows = (line.split("\t") for line in out.with_suffix(".tsv").read_text().splitlines())
    assert header == ["row", "sample", "label", "class", "problem"]
    assert [int(row[2]) for row in rows] == batch.labels.tolist()
    assert [row[1] for row in rows] == stored_stems(tiny_dataset, "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.tsv"]


def test_ranks_of_several_machines_share_no_page_of_the_array(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a network each machine writes whole pages of a memory map: zeros over the other's rows next to its own."""
    out, shown = tmp_path / "f.npy", []

    def output(*arguments: Any) -> torch.Tensor:
        shown.append(str(atomic.partial_name(out)) in Path("/proc/self/maps").read_text())
        return layer_output(*arguments)

    monkeypatch.setattr(module, "layer_output", output)
    write_features(request_for(small_run, tiny_dataset.folder, out), device="cpu", say=silent)
    assert len(shown) > 1 and not any(shown)


@pytest.mark.parametrize("layer", OBSERVED)
def test_every_layer_has_its_width(layer: str, trained: Trained) -> None:
    architecture = trained.checkpoint.architecture()
    maps, units = architecture.maps, architecture.units
    sizes = {"pool1": maps[0] * 27**2, "pool2": maps[1] * 13**2, "conv3": maps[2] * 13**2, "conv4": maps[3] * 13**2}
    sizes |= {"pool5": maps[4] * 36, "fc6": units[0], "fc7": units[1], "fc8": architecture.num_classes}
    assert layer_output(trained.predictor, torch.zeros(2, 3, 224, 224), layer).shape == (2, sizes[layer])


def test_a_stopped_command_continues(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_IMAGES", 20)
    whole, parts = tmp_path / "whole.npy", tmp_path / "parts.npy"
    write_features(request_for(small_run, tiny_dataset.folder, whole), device="cpu", say=silent)
    real = module.Target.write
    done: list[int] = []

    def write(self: module.Target, number: int, *rest: object) -> None:
        if len(done) == 1:
            done.append(-1)
            raise KeyboardInterrupt
        done.append(number)
        real(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Target, "write", write)
    request = request_for(small_run, tiny_dataset.folder, parts)
    with pytest.raises(KeyboardInterrupt):
        write_features(request, device="cpu", say=silent)
    assert not parts.exists()
    for key, value in {"layer": "fc6", "dtype": "float16", "precision": "bf16"}.items():
        with pytest.raises(
            UsageError, match="was begun with another network, layer, dtype or precision, or with other"
        ):
            other = request_for(small_run, tiny_dataset.folder, parts, **{key: value})
            write_features(other, device="cpu", say=silent)
    write_features(request, device="cpu", say=silent)
    assert done == [0, -1, 1, 2]
    assert np.array_equal(np.load(whole), np.load(parts))
    assert whole.with_suffix(".tsv").read_text() == parts.with_suffix(".tsv").read_text()


def test_two_commands_do_not_write_one_array(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would empty the file that the first has mapped."""
    monkeypatch.setattr(module, "PART_IMAGES", 20)
    request = request_for(small_run, tiny_dataset.folder, tmp_path / "f.npy")
    real, refused = module.Target.write, []

    def write(self: module.Target, *rest: object) -> None:
        with pytest.raises(InUseError, match=r"f\.npy.* is in use by process \d+") as error:
            write_features(request, device="cpu", say=silent)
        refused.append(error)
        real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Target, "write", write)
    write_features(request, device="cpu", say=silent)
    assert len(refused) == 3 and np.isfinite(np.load(request.out)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.tsv"]


def test_a_folder_of_images_needs_no_shards_and_names_what_is_none(
    small_run: Path, trained: Trained, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shades = {"a.png": 40, "c.png": 200}
    for name, shade in shades.items():
        Image.new("RGB", (256, 256), (shade, 90, 120)).save(images / name)
    (images / "b.png").write_text("text")
    out = tmp_path / "f.npy"
    (problem,) = write_features(request_for(small_run, images, out, dtype="float16"), device="cpu", say=silent)
    found = np.load(out)
    assert Path(problem.sample).name == "b.png" and "not an image" in problem.problem
    assert found.dtype == np.float16 and np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    mean = mean_to_subtract(trained.checkpoint.mean)
    pixels = torch.tensor([200.0, 90.0, 120.0]).expand(1, 224, 224, 3)
    expected = layer_output(trained.predictor, (pixels - mean).permute(0, 3, 1, 2), "fc7")
    np.testing.assert_allclose(found[2], expected[0].numpy(), rtol=2e-3, atol=1e-3)


def test_files_that_changed_after_a_stop_are_other_images(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that are done are of the images as they were."""
    monkeypatch.setattr(module, "PART_IMAGES", 1)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (256, 256), (40, 90, 120)).save(images / name)
    request = request_for(small_run, images, tmp_path / "f.npy")
    monkeypatch.setattr(feature_images, "read", lambda file: read(file) if file.name == "a.png" else stop())
    with pytest.raises(KeyboardInterrupt):
        write_features(request, device="cpu", say=silent)
    monkeypatch.setattr(feature_images, "read", read)
    Image.new("RGB", (256, 256), (200, 90, 120)).save(images / "a.png")
    with pytest.raises(UsageError, match="with other images"):
        write_features(request, device="cpu", say=silent)


def stop() -> bytes:
    raise KeyboardInterrupt


def test_a_full_disk_is_found_before_anything_is_computed(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left on device.*it takes 60\.\d kB.*Make room"):
        write_features(request_for(small_run, tiny_dataset.folder, tmp_path / "f.npy"), device="cpu", say=silent)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_later_keeps_the_finished_parts(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_IMAGES", 20)
    real = atomic.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "000001.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, text)

    monkeypatch.setattr(atomic, "write_text", full)
    request = request_for(small_run, tiny_dataset.folder, tmp_path / "f.npy")
    with pytest.raises(UserError, match="the same command continues"):
        write_features(request, device="cpu", say=silent)
    assert (tmp_path / ".f.npy.parts" / "000000.json").exists() and not request.out.exists()
    monkeypatch.setattr(atomic, "write_text", real)
    write_features(request, device="cpu", say=silent)
    assert request.out.exists()


def test_values_beyond_half_floats_are_refused(
    small_run: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "layer_output", lambda predictor, images, layer: torch.full((len(images), 4), 1e6))
    with pytest.raises(UserError, match="give --dtype float32"):
        write_features(
            request_for(small_run, tiny_dataset.folder, tmp_path / "f.npy", dtype="float16"), device="cpu", say=silent
        )


def test_wrong_use_gets_a_clear_message(small_run: Path, tiny_dataset: Dataset, tmp_path: Path) -> None:
    def write(data: Path, out: str, **changes: str) -> None:
        write_features(request_for(small_run, data, tmp_path / out, **changes), device="cpu", say=silent)

    with pytest.raises(UsageError, match="--layer fc9: did you mean 'fc6', 'fc7' or 'fc8'"):
        write(tiny_dataset.folder, "f.npy", layer="fc9")
    with pytest.raises(UsageError, match=r"must end in \.npy"):
        write(tiny_dataset.folder, "f.txt")
    with pytest.raises(UsageError, match="there is no such folder"):
        write(tmp_path / "none", "f.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no file in it"):
        write(tmp_path / "empty", "f.npy")
    (tmp_path / "there.npy").touch()
    with pytest.raises(UsageError, match="is there already"):
        write(tiny_dataset.folder, "there.npy")
