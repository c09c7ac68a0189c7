"""The end of a run: the last evaluation, the figures, and result.json: what the run was, on what, what came out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from alexnet_fast.config.recipe import Recipe
from alexnet_fast.distributed.machine import describe_machine
from alexnet_fast.distributed.mesh import Mesh
from alexnet_fast.inference.evaluation import EvaluationResult
from alexnet_fast.pipelines.decoded_cache import GIB
from alexnet_fast.runs.folder import to_json
from alexnet_fast.runs.resume_command import with_command
from alexnet_fast.runs.totals import Totals, utc_now
from alexnet_fast.tools import atomic
from alexnet_fast.tools.errors import UserError
from alexnet_fast.training.job import Job

if TYPE_CHECKING:
    from alexnet_fast.training.session import Session


def finish(session: Session) -> dict[str, Any] | None:
    """The last evaluation, result.json and the figures; None where a signal asked for the end meanwhile.

    All ranks call it together.  Raises UserError where the last weights could not be saved.
    """
    recipe, evaluator, progress = session.job.recipe, session.evaluator, session.progress
    center = evaluator.center or evaluator.evaluate(1, recipe.val_split)
    evaluator.center = center
    trained = recipe.batch_size * float(progress.step)
    final = evaluator.final(recipe.final_views, recipe.final_split, trained)
    if session.stop.signal is not None:
        return None
    if session.manager.unsaved:
        session.checkpointer.save()  # space may have been freed
    if session.manager.unsaved:
        unsaved = f"the run is at its end, but {session.manager.complaint()}"
        raise UserError(with_command(f"{unsaved}. Then finish it", session.job.again))
    result = {
        **about_run(session.job, session.mesh, session.device, session.precision.name, session.loader.memory.kept),
        "convolutions": session.train_step.convolutions,
        "steps": progress.step,
        "epochs": progress.step / session.schedule.steps_per_epoch,
        **about_totals(session.meter.run_totals()),
        **about_errors(center, final, recipe, progress.best_error),
    }
    session.illustrator.draw()
    if session.mesh.is_main_rank:
        # The last of all: whoever finds it finds everything.
        atomic.write_text(session.folder.result, to_json(result, indent=2) + "\n")
    return result


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
    center: EvaluationResult | None, final: EvaluationResult | None, recipe: Recipe, best_error: float | None
) -> dict[str, Any]:
    """Errors, each with the precision of its evaluation: center view on val, and the last one; None without a split."""
    return {
        "best_top1_error": best_error,
        "center_view": None if center is None else asdict(center),
        f"{recipe.final_views}_views": None if final is None else asdict(final),
        "final_split": recipe.final_split,
    }
