"""Lightning callback that draws where the collocation points are while the residual falls."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from sciops.core.errors import UsageError
from sciops.train.pictures import Shot, draw_points, shot


class PointsCallback(Callback):
    """points.png in the run folder: the population over log₁₀|r|, before training and every `every` epochs.

    every       epochs between two pictures
    axes        the two that are drawn; the others at the centre of the box
    resolution  nodes per axis at which |r| is evaluated
    most        points drawn per picture, the first ones

    Shots travel in the checkpoint, so a resumed run draws the whole way. `sciops.train.pictures.shot` and `draw_points`
    do the same for any points and residual.
    """

    def __init__(
        self, every: int = 10, axes: tuple[int, int] = (0, 1), resolution: int = 120, most: int = 4000
    ) -> None:
        if every < 1 or most < 1:
            raise UsageError(f"every and most must be 1 or more; got {every} and {most}.")
        self.every, self.axes, self.resolution, self.most = every, tuple(axes), resolution, most
        self.shots: list[Shot] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not hasattr(pl_module, "population"):
            raise UsageError(
                f"PointsCallback needs a physics-informed network (PINNModule); {type(pl_module).__name__} has no "
                "collocation points."
            )
        if not self.shots:
            self._take(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:
            self._take(trainer, pl_module)

    def _take(self, trainer: pl.Trainer, module: Any) -> None:
        x = module.population()[: self.most]
        lower, upper = module.box
        title = f"step {trainer.global_step}"
        self.shots.append(shot(title, x, module.residual, lower, upper, self.axes, self.resolution))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            draw_points(self.shots, Path(trainer.default_root_dir) / "points.png")

    def state_dict(self) -> dict[str, Any]:
        return {"shots": [vars(s) | {"lower": list(s.lower), "upper": list(s.upper)} for s in self.shots]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.shots = [
            Shot(s["title"], s["x"], s["residual"], tuple(s["lower"]), tuple(s["upper"])) for s in state_dict["shots"]
        ]
