"""Supervised training of one operator network, as a LightningModule that knows its data and its normalisers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.data.normalise import Normaliser
from sciops.metrics.pointwise import relative_l2
from sciops.metrics.sobolev import relative_h1
from sciops.models.boundary import enforce_dirichlet
from sciops.solvers.checkpoint import KEY, describe_net, read_model, require_match
from sciops.solvers.operator_facts import accepts, build_net, check_net, complete, data_facts, dtype_of, grid_of

SCHEDULES = ("onecycle_epoch", "onecycle_step", "step", "constant")
Batch = Mapping[str, Tensor]


class OperatorModule(pl.LightningModule):
    """min_θ Σ_i loss(D(G_θ(E(a_i))), u_i): G_θ the network, E and D the normalisers of inputs and outputs.

    The network is built when the data is known: its channels, dimension, boundary condition and layout come from the
    problem unless `net` gives them. Normalisers come fitted from the data module and travel in the checkpoint; loss
    and metrics are in physical units. Decoding, loss and metrics run in float32 or better under any `precision`.
    The Dirichlet condition of a network with `enforce_boundary` is imposed after decoding, on physical values.

    net                  {class_path, init_args}, or a module (then a checkpoint cannot rebuild it by itself)
    loss                 {class_path, init_args} of `sciops.train.losses`
    lr, weight_decay, betas   Adam with coupled L2 decay, as published (not AdamW)
    schedule             "onecycle_epoch" (as published) | "onecycle_step" | "step" | "constant"; start = lr/div_factor,
                         end = start/final_div_factor, peak after the share pct_start; OneCycle also moves β₁
                         0.95→0.85→0.95; "step" halves lr every `halve_every` epochs
    compile              torch.compile the network
    init_from            checkpoint whose network weights start the training; normalisers and schedule are new
    seed                 of the initial weights and, with the epoch, of anything random during training

    Batches are {"x": (n, c, *s) the kept inputs, "y": (n, c_out, *s)}. Logs train_loss, and in validation and
    test rel_l2 and rel_h1. Defaults: MgNO's released Darcy training. Reference: He, Liu, Xu, ICLR 2024.
    """

    task: ClassVar[str] = "map"

    def __init__(
        self,
        net: dict[str, Any] | nn.Module,
        loss: dict[str, Any] | str = "sciops.train.losses.RelativeL2",
        lr: float = 5e-4,
        weight_decay: float = 1e-4,
        betas: tuple[float, float] | list[float] = (0.9, 0.999),
        schedule: str = "onecycle_epoch",
        pct_start: float = 0.2,
        div_factor: float = 2.0,
        final_div_factor: float = 100.0,
        halve_every: int = 100,
        compile: bool = False,
        init_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise UsageError(f"schedule must be one of {', '.join(SCHEDULES)}; got '{schedule}'.")
        self.save_hyperparameters(ignore=["net"] if isinstance(net, nn.Module) else [])
        self.hparams["betas"] = [float(beta) for beta in betas]  # checkpoints hold plain lists
        if not isinstance(net, nn.Module):
            check_net(net)
        self._given = net if isinstance(net, nn.Module) else None
        self.loss = build_net({"class_path": loss} if isinstance(loss, str) else loss)
        self.net: nn.Module | None = None
        self.facts: dict[str, Any] = {}

    # ---- building

    def prepare(self, train: Dataset, kept: list[str], encoder: Normaliser, decoder: Normaliser) -> None:
        """Build the network for a training set; `kept` inputs and normalisers fitted on it. Does nothing twice."""
        if self.net is not None:
            return
        facts = data_facts(train, kept)
        facts["normalise"] = [encoder.kind, decoder.kind]
        self._build(facts, self._spec(facts))
        self._check_wall(train)
        # Copies: the same data module may serve another model.
        self.encoder.load_state_dict(encoder.state_dict())
        self.decoder.load_state_dict(decoder.state_dict())
        if self.hparams["init_from"]:
            self._start_from(self.hparams["init_from"])

    def restore(self, content: Mapping[str, Any], where: str = "The checkpoint") -> None:
        """Weights and facts of a checkpoint that `read_model` or Lightning read; another model raises UsageError."""
        facts = content[KEY]
        if facts.get("task", "map") != self.task:
            kinds = {"map": "a steady map a ↦ u (OperatorSolver)", "step": "a one-step operator (Rollout)"}
            raise UsageError(f"{where} holds {kinds[facts.get('task', 'map')]}, this is {kinds[self.task]}.")
        if self.net is None:
            self._build({k: v for k, v in facts.items() if k != "net"}, self._spec(facts))
        if list(facts["normalise"]) != list(self.facts["normalise"]):
            raise UsageError(
                f"{where} was trained with the normalisers {' and '.join(facts['normalise'])} (input, output), this "
                f"run has {' and '.join(self.facts['normalise'])}; use the settings it was trained with."
            )
        models = (describe_net(self.facts["net"]), describe_net(facts["net"]))
        own, theirs = (
            {k: v for k, v in table.items() if k.startswith("net.")}
            for table in (self.state_dict(), content["state_dict"])
        )
        require_match(own, theirs, models, where)
        self.load_state_dict(content["state_dict"])

    def seen(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The channels, axes and boundary as the network sees them."""
        return facts

    def _spec(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """Class path and completed arguments of the network; None for a module object."""
        return None if self._given is not None else complete(self.hparams["net"], self.seen(facts))

    def _build(self, facts: dict[str, Any], spec: dict[str, Any] | None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(self.hparams["seed"])
            net = self._given if spec is None else build_net(spec)
        assert net is not None
        seen = self.seen(facts)
        reason = accepts(net, seen, tuple(seen["grid"]["shape"]), dry=spec is not None)
        if reason:
            raise UsageError(f"The data does not fit the network: {reason.rstrip('.')}.")
        self.facts = facts | {"net": spec}
        self.grid = grid_of(facts)
        # The condition holds for physical values, so it is imposed after the decoder and not before it.
        self._wall: tuple[Any, str, float] | None = None
        if getattr(net, "enforce_boundary", False):
            self._wall = (net.bc, net.layout, net.boundary_value)  # type: ignore[assignment]
            net.enforce_boundary = False  # type: ignore[assignment]
        self.net = net
        self.encoder, self.decoder = (Normaliser(kind) for kind in facts["normalise"])
        if self.hparams["compile"]:
            net.compile()

    def _check_wall(self, train: Dataset) -> None:
        if self._wall is None:
            return
        cases, value = train.cases(), self._wall[2]
        faces = [name for name, _, _, kind in cases.problem.boundary.faces() if kind == "dirichlet"]
        stated = [cases.boundary[name] for name in faces if name in cases.boundary] or [torch.zeros(1)]
        if any(bool((v != value).any()) for v in stated):
            raise UsageError(
                f"{type(self.net).__name__} holds u = {value:g} on the Dirichlet boundary, but the data has other "
                "values there; set boundary_value, or enforce_boundary to false, in the init_args of net."
            )

    def _start_from(self, path: str) -> None:
        content = read_model(path)
        weights = {k.removeprefix("net."): v for k, v in content["state_dict"].items() if k.startswith("net.")}
        models = (describe_net(self.facts["net"]), describe_net(content[KEY]["net"]))
        assert self.net is not None
        require_match(self.net.state_dict(), weights, models, f"init_from {path}")
        self.net.load_state_dict(weights)

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and self.net is None:
            if data is None:
                raise UsageError("OperatorModule needs a data module such as sciops.data.datamodule.OperatorData.")
            self.prepare(data.splits["train"], data.inputs, data.input_normaliser, data.output_normaliser)

    # ---- the map

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n k *s"]:
        """Physical outputs from the physical `kept` inputs, on the grid of the inputs."""
        if self.net is None:
            raise UsageError("This model has no weights yet: give a checkpoint (--ckpt_path best) or train it first.")
        if x.shape[1] != len(self.facts["kept"]):
            raise UsageError(
                f"The model was trained on the input(s) {', '.join(self.facts['kept'])}, but the data brings "
                f"{x.shape[1]} channel(s); use a checkpoint of the same problem."
            )
        x = self.encoder.encode(x.to(dtype_of(self.net)))
        u = self.evaluate(x)
        with torch.autocast(u.device.type, enabled=False):
            u = self.decoder.decode(u.to(x.dtype))
            return enforce_dirichlet(u, *self._wall) if self._wall else u

    def evaluate(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n k *s"]:
        """The network on encoded inputs."""
        assert self.net is not None
        return self.net(x)

    def _grid(self, u: Float[Tensor, "n c *s"]) -> Grid:
        return self.grid.resized(tuple(u.shape[2:]))

    def objective(self, batch: Batch, training: bool = True) -> Tensor:
        """The loss of a batch as its reduction makes it; `training` False costs what a validation batch costs."""
        u = self(batch["x"])
        return self.loss(u, batch["y"].to(u.dtype), self._grid(u))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss, n = self.objective(batch), len(batch["index"])
        summed = getattr(self.loss, "reduction", "mean") == "sum"
        value = (loss / n if summed else loss).detach()
        self.log("train_loss", value, on_epoch=True, on_step=False, batch_size=n, sync_dist=True)
        # Strategies average gradients over the processes; a sum over the global batch is that mean times their number.
        return loss * self.trainer.world_size if summed else loss

    def _score(self, batch: Batch, name: str) -> None:
        u = self(batch["x"])
        grid, channels = self._grid(u), self.facts["outputs"]
        pred, true = Field.steady(u, grid, channels), Field.steady(batch["y"].to(u.dtype), grid, channels)
        for metric, function in (("rel_l2", relative_l2), ("rel_h1", relative_h1)):
            self.log(
                f"{name}_{metric}", function(pred, true).mean(), on_epoch=True, on_step=False, batch_size=len(u),
                sync_dist=True, add_dataloader_idx=False,
            )  # fmt: skip

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        self._score(batch, "val")

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        self._score(batch, self._test_split(dataloader_idx))

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return {"split": self._test_split(dataloader_idx), "index": batch["index"].cpu(), "u": self(batch["x"]).cpu()}

    def _test_split(self, position: int) -> str:
        """Name of a test loader: the data may hold the test cases at several resolutions."""
        splits = getattr(getattr(self.trainer, "datamodule", None), "splits", {})
        names = [name for name in splits if name.startswith("test")]
        return names[position] if position < len(names) else "test"

    # ---- training

    def _cycle_length(self) -> int:
        """Steps, or epochs, of the whole OneCycle schedule."""
        per_step = self.hparams["schedule"] == "onecycle_step"
        total = int(self.trainer.estimated_stepping_batches) if per_step else int(self.trainer.max_epochs or 0)
        if total < 1:
            raise UsageError("A OneCycle schedule needs a known length; give trainer.max_epochs, or schedule constant.")
        return total

    def on_train_start(self) -> None:
        cycle = self.lr_schedulers()
        if isinstance(cycle, torch.optim.lr_scheduler.OneCycleLR) and cycle.total_steps != self._cycle_length():
            unit = "steps" if self.hparams["schedule"] == "onecycle_step" else "epochs"
            raise UsageError(
                f"The checkpoint's OneCycle schedule ends after {cycle.total_steps} {unit}, this run has "
                f"{self._cycle_length()}; resume with the same trainer.max_epochs and data, or start a new run from "
                "the weights with init_from."
            )

    def on_train_epoch_start(self) -> None:
        # Everything random in an epoch follows from (seed, epoch, rank), so that a resumed run repeats it exactly.
        torch.manual_seed(hash((self.hparams["seed"], self.current_epoch, self.global_rank)) & (2**62 - 1))

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.Adam(self.parameters(), h["lr"], tuple(h["betas"]), weight_decay=h["weight_decay"])
        if h["schedule"] == "constant":
            return adam
        if h["schedule"] == "step":
            halving = torch.optim.lr_scheduler.StepLR(adam, h["halve_every"], 0.5)
            return {"optimizer": adam, "lr_scheduler": {"scheduler": halving, "interval": "epoch"}}
        per_step, total = h["schedule"] == "onecycle_step", self._cycle_length()
        # PyTorch divides by zero where the rise takes exactly one step.
        rise = h["pct_start"] + (1e-6 if abs(h["pct_start"] * total - 1) < 1e-9 else 0)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            adam, h["lr"], total, None, None, rise, div_factor=h["div_factor"],
            final_div_factor=h["final_div_factor"],
        )  # fmt: skip
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step" if per_step else "epoch"}}

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not isinstance(checkpoint.get(KEY), dict):
            raise UsageError(
                f"This checkpoint does not say which model it holds (no '{KEY}'); make it with sciops fit."
            )
        # Before Lightning loads the weights itself: a mismatch becomes one sentence instead of a list of keys.
        self.restore(checkpoint)
