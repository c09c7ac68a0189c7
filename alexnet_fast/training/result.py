"""result.json: what a run was, on what, and what came out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.inference.evaluation import EvaluationResult
from alexnet_fast.pipelines.decoded_cache import GIB
from alexnet_fast.runs.totals import Totals, utc_now
from alexnet_fast.training.job import Job


def about_run(job: Job, mesh: Mesh, device: torch.device, precision: str, decoded_kept: int) -> dict[str, Any]:
    """Recipe, data set, machine: everything that was there before the first step.

    decoded_kept: bytes of decoded images that this process keeps on its GPU.
    """
    dataset = job.dataset
    return {
        "recipe": asdict(job.recipe),
        "dataset": {
            "folder": str(dataset.folder),
            "fingerprint": dataset.fingerprint,
            "classes": len(dataset.classes),
            "samples": {name: split.samples for name, split in dataset.splits.items()},
        },
        "machine": describe_machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": mesh.world_size,
        "towers_split": mesh.split,
        "precision": precision,
        "decoded_images_gib": round(decoded_kept / GIB, 2),
    }


def about_totals(totals: Totals) -> dict[str, Any]:
    """When, how long, how fast, and the energy where the GPUs tell; over all sessions."""
    return {
        "started": totals.started,
        "finished": utc_now(),
        "seconds": round(totals.seconds, 2),
        "images_per_s": totals.images_per_s,
        "data_wait": totals.data_wait,
        "energy_kwh": totals.energy_kwh,
    }


def about_errors(
    center: EvaluationResult | None, final: EvaluationResult | None, final_views: int, best_error: float | None
) -> dict[str, Any]:
    """Errors on the validation split, None where the data set has none."""
    return {
        "best_top1_error": best_error,
        "center_view": None if center is None else asdict(center),
        f"{final_views}_views": None if final is None else asdict(final),
    }
