"""Lightning callback that watches the tangent kernel of a physics-informed network while it trains."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.tangent_kernel import RunningWeights, TangentKernel
from sciops.train.pictures import draw_spectra

WEIGHTS = ("none", "trace")
LOGGED = ("trace", "lambda_max", "participation", "drift", "ratio", "used_weight")
"""What is logged beside the other metrics; the file has all."""


class TangentKernelCallback(Callback):
    """K = J Jᵀ of the rows of equation and boundary at fixed points, before training and every `every` epochs.

    every            epochs between two looks
    points           probe points in the box, uniform, the same ones throughout
    boundary_points  probe points on the faces, for networks that meet boundary data by penalty
    weights          "trace": after each look the loss weights become mean_i(tr K_ii/N_i)/(tr K_jj/N_j), a moving
                     average with `momentum`, so that every part of the loss converges at the same mean rate; needs a
                     loss of two parts or more. "none": it only looks
    picture          also draw tangent_kernel.png
    seed             of the probe points

    Writes tangent_kernel.csv into the run folder, all of `numerics.tangent_kernel.Diagnostics` in float64 (traces and
    their ratios, λ₁, λ_k/λ₁, participation ratio, effective ranks, decay slope, share of the residual on the leading
    modes, modes that the whole training can learn, alignment, drift), tangent_kernel.png, and logs some of them as
    ntk/…. Resuming repeats every bit.
    Cost of a look: O(N P min(N, P)), N = points + boundary_points.
    References: Wang, Yu, Perdikaris, J. Comput. Phys. 449 (2022); Wang, Sankaran, Wang, Perdikaris, arXiv 2308.08468.
    """

    def __init__(
        self,
        every: int = 10,
        points: int = 400,
        boundary_points: int = 100,
        weights: str = "none",
        momentum: float = 0.9,
        picture: bool = True,
        seed: int = 0,
    ) -> None:
        if every < 1 or points < 2 or boundary_points < 1:
            raise UsageError(
                f"every and boundary_points must be 1 or more, points 2 or more; got {every}, {boundary_points} and "
                f"{points}."
            )
        if weights not in WEIGHTS:
            raise UsageError(f"weights must be one of {', '.join(WEIGHTS)}; got '{weights}'.")
        self.every, self.points, self.boundary_points = every, points, boundary_points
        self.weights, self.picture, self.seed = weights, picture, seed
        self.running = RunningWeights(momentum)
        self.reference: Tensor | None = None
        self.steps: list[int] = []
        self.spectra: list[Tensor] = []
        self.records: list[dict[str, float]] = []

    # ---- the looks

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not hasattr(pl_module, "probe"):
            raise UsageError(
                f"TangentKernelCallback needs a PINNModule; {type(pl_module).__name__} has no rows at probe points."
            )
        if self.weights == "trace" and len(pl_module.probe(2, 2, self.seed)) < 2:
            raise UsageError(
                "weights: trace balances equation against boundary, but this loss has one part: boundary data are met "
                "exactly; use weights: none, or boundary: soft."
            )
        if not self.steps:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            record = self._look(trainer, pl_module)
            shown = {k: v for k, v in record.items() if k.partition("/")[0] in LOGGED}
            pl_module.log_dict({f"ntk/{k}": v for k, v in shown.items()}, batch_size=1)

    def kernel(self, module: Any) -> TangentKernel:
        """That of the module now, at the probe points."""
        blocks = {}
        for name, rows in module.probe(self.points, self.boundary_points, self.seed).items():
            blocks[name] = rows.jacobian(module.theta())
        return TangentKernel(blocks)

    def _look(self, trainer: pl.Trainer, module: Any) -> dict[str, float]:
        kernel = self.kernel(module)
        if self.reference is None:
            self.reference = kernel.matrix
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        steps = max(int(trainer.num_training_batches) * (trainer.max_epochs or 1), 1)
        diagnosis = kernel.diagnose(lr, steps, self.reference)
        record = diagnosis.as_dict("")
        names = list(diagnosis.trace)
        record |= {f"ratio/{name}": diagnosis.ratio(names[0], name) for name in names[1:]}
        if self.weights == "trace":
            chosen = self.running.update(diagnosis.trace)
            module.reweigh(chosen)
            record |= {f"used_weight/{name}": value for name, value in chosen.items()}
        self.steps.append(int(trainer.global_step))
        self.spectra.append(kernel.eigenvalues.cpu())
        self.records.append(record)
        if trainer.is_global_zero:
            self._write(Path(trainer.default_root_dir))
        return record

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(name for record in self.records for name in record))
        with (folder / "tangent_kernel.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, ["step", *names])
            writer.writeheader()
            writer.writerows({"step": s, **r} for s, r in zip(self.steps, self.records, strict=True))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.picture and trainer.is_global_zero:
            facts = {name: [r[name] for r in self.records] for name in self.records[0]}
            draw_spectra(self.steps, self.spectra, facts, Path(trainer.default_root_dir) / "tangent_kernel.png")

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "running": self.running.state_dict(),
            "steps": list(self.steps),
            "spectra": list(self.spectra),
            "records": [dict(record) for record in self.records],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reference = state_dict["reference"]
        self.running.load_state_dict(state_dict["running"])
        self.steps, self.spectra = list(state_dict["steps"]), list(state_dict["spectra"])
        self.records = [dict(record) for record in state_dict["records"]]
