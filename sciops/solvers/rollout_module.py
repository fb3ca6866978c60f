"""Training of one-step operators on windows of trajectories, as a LightningModule that rolls them out."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.data.normalise import Normaliser
from sciops.data.trajectories import WindowRows
from sciops.metrics.pointwise import relative_l2
from sciops.metrics.sobolev import relative_h1
from sciops.solvers.checkpoint import KEY
from sciops.solvers.operator_module import Batch, OperatorModule
from sciops.solvers.rollout_facts import as_the_network_sees, step_facts

STRATEGIES = ("one_step", "unrolled", "noise", "pushforward")


class RolloutModule(OperatorModule):
    """û_{t+1} = D(G_θ(E(u_{t−h+1}, …, u_t, a))) or u_t + the same; fed with its own answers it makes a trajectory.

    Batches are windows {"frames": (n, h + k, c, *s), "fixed": (n, e, *s), "time": (n,)} in physical units. The network
    sees h·c frame channels, oldest first, then coefficients, scalar parameters and the time of the present, if asked.

    history        h frames in; by default those that the training data gives as history, else 1
    strategy       one_step: the next frame from true ones · unrolled: `steps` calls fed with their own answers,
                   gradient through all, losses summed over calls (published for Navier–Stokes: all of the horizon) ·
                   noise: true frames plus Gaussian noise of std `noise` × std of the data, clean target · pushforward:
                   `steps` calls, gradient and loss through the last one alone
    steps          calls of unrolled (default: the horizon) and pushforward (default 2)
    residual       the network answers increments
    block          frames per call
    time_axis      the network is convolutional over (t, *s): c channels of h frames → c channels of the next h frames
    coefficients   inputs that the network sees; by default those that vary and are no initial state
    parameters     scalar parameters that it sees; by default those that vary
    time           whether it sees the time of the present
    recompute      recompute each call in the backward pass: memory of one call, a third more time
    Further options as in `OperatorModule`. BatchNorm takes batch statistics in training alone, also where a published
    script left it in training mode for the test.

    Validation rolls out freely over the protocol's horizon: val_rel_l2 (all frames as one block), val_rel_h1, and
    val_teacher_forced, the mean relative L² error of single calls on true frames.
    References: Li et al., ICLR 2021; Brandstetter, Worrall & Welling, ICLR 2022 (pushforward); Sanchez-Gonzalez et al.,
    ICML 2020 (noise).
    """

    task: ClassVar[str] = "step"

    def __init__(
        self,
        net: dict[str, Any] | nn.Module,
        history: int | None = None,
        strategy: str = "one_step",
        steps: int | None = None,
        noise: float = 0.01,
        residual: bool = False,
        block: int | None = None,
        time_axis: bool = False,
        coefficients: list[str] | None = None,
        parameters: list[str] | None = None,
        time: bool = False,
        recompute: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(net, **options)
        own: dict[str, Any] = {
            "history": history,
            "strategy": strategy,
            "steps": steps,
            "noise": noise,
            "residual": residual,
        }
        own |= {"block": block, "time_axis": time_axis, "coefficients": coefficients, "parameters": parameters}
        self.save_hyperparameters(own | {"time": time, "recompute": recompute})
        if strategy not in STRATEGIES:
            raise UsageError(f"strategy must be one of {', '.join(STRATEGIES)}; got '{strategy}'.")
        for name, value in (("history", history), ("steps", steps), ("block", block)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be 1 or more; got {value}.")
        if noise < 0:
            raise UsageError(f"noise is a share of the standard deviation of the data, 0 or more; got {noise}.")
        if time_axis and block is not None:
            raise UsageError("With time_axis a call answers as many frames as it is given; leave block out.")

    # ---- building

    def prepare(self, train: Dataset, kept: list[str] | None, encoder: Normaliser, decoder: Normaliser) -> None:
        """Build the network for trajectories and fit both normalisers on all single calls in them. Nothing twice."""
        if self.net is not None:
            return
        facts = step_facts(train, self.hparams) | {"normalise": [encoder.kind, decoder.kind]}
        self.facts = facts
        self.rows(train, training=True)  # refuse what is too short before anything is built
        self._build(facts, self._spec(facts))
        if not facts["residual"]:
            self._check_wall(train)
        elif self._wall is not None:
            self._wall = (*self._wall[:2], 0.0)  # increments leave the boundary as it is
        single = WindowRows(train, facts["history"], facts["block"], facts["coefficients"], facts["parameters"])
        batches = [list(range(i, min(i + 64, len(single)))) for i in range(0, len(single), 64)]
        calls = (self._inputs(single.__getitems__(b)) for b in batches)
        self.facts["ranges"] = _extremes(calls, facts["kept"])
        self.encoder.load_state_dict(encoder.fit(self._inputs(single.__getitems__(b)) for b in batches).state_dict())
        self.decoder.load_state_dict(decoder.fit(self._answers(single.__getitems__(b)) for b in batches).state_dict())
        if self.hparams["init_from"]:
            self._start_from(self.hparams["init_from"])

    def seen(self, facts: dict[str, Any]) -> dict[str, Any]:
        return as_the_network_sees(facts)

    def restore(self, content: Mapping[str, Any], where: str = "The checkpoint") -> None:
        facts = content[KEY]
        asked = self.facts.get("history", self.hparams["history"])
        if facts.get("task") == self.task and asked not in (None, facts["history"]):
            raise UsageError(
                f"{where} was trained on {facts['history']} frame(s) of history, this run has {asked}; use history: "
                f"{facts['history']}, or train again."
            )
        super().restore(content, where)

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        super().setup(stage)
        if data is not None and hasattr(data, "serve"):
            data.serve(self)

    def rows(self, dataset: Dataset, training: bool, in_memory: bool | None = None) -> WindowRows:
        """The windows that training or validation needs of a dataset."""
        facts = self.facts
        targets = facts["block"] * facts["steps"] if training else None
        return WindowRows(
            dataset, facts["history"], targets, facts["coefficients"], facts["parameters"], facts["stride"], in_memory
        )

    # ---- the map

    def _inputs(self, batch: Batch) -> Tensor:
        return self.stack(batch["frames"][:, : self.facts["history"]], batch["fixed"], batch["time"])

    def _answers(self, batch: Batch) -> Tensor:
        """What the network should say for a window: the next frames, or their increments."""
        frames, h, b = batch["frames"], self.facts["history"], self.facts["block"]
        y = frames[:, h : h + b]
        y = y - frames[:, h - 1 : h] if self.facts["residual"] else y
        return y.transpose(1, 2) if self.facts["time_axis"] else y.flatten(1, 2)

    def stack(
        self, frames: Float[Tensor, "n h c *s"], fixed: Float[Tensor, "n e *s"], time: Float[Tensor, " n"]
    ) -> Float[Tensor, "n m *q"]:
        """The input channels of one call, in physical units."""
        n, h, _, *space = frames.shape
        if not self.facts["time_axis"]:
            clock = [time.to(frames).reshape(n, *(1,) * (1 + len(space))).expand(n, 1, *space)]
            return torch.cat([frames.flatten(1, 2), fixed.to(frames), *(clock if self.facts["time"] else [])], 1)
        parts = [frames.transpose(1, 2), fixed.to(frames).unsqueeze(2).expand(n, fixed.shape[1], h, *space)]
        if self.facts["time"]:
            moments = time[:, None] + self.facts["every"] * torch.arange(1 - h, 1, device=time.device)
            parts.append(moments.to(frames).reshape(n, 1, h, *(1,) * len(space)).expand(n, 1, h, *space))
        return torch.cat(parts, 1)

    def advance(
        self, frames: Float[Tensor, "n h c *s"], fixed: Float[Tensor, "n e *s"], time: Float[Tensor, " n"]
    ) -> Float[Tensor, "n b c *s"]:
        """One call: the next `block` frames from h frames that end at `time`."""
        channels = len(self.facts["outputs"])
        if frames.shape[2] != channels:
            raise UsageError(
                f"The model was trained on {channels} output channel(s) ({', '.join(self.facts['outputs'])}), but the "
                f"frames bring {frames.shape[2]}; use a checkpoint of the same problem."
            )
        x = self.stack(frames, fixed, time)
        z = checkpoint(self, x, use_reentrant=False) if self.hparams["recompute"] and self.training else self(x)
        u = z.transpose(1, 2) if self.facts["time_axis"] else z.unflatten(1, (-1, channels))
        return frames[:, -1:].to(u.dtype) + u if self.facts["residual"] else u

    def calls(
        self, frames: Float[Tensor, "n h c *s"], fixed: Float[Tensor, "n e *s"], time: Float[Tensor, " n"], count: int
    ) -> list[Float[Tensor, "n b c *s"]]:
        """`count` calls, each fed with the answers of those before."""
        facts, found = self.facts, []
        for k in range(count):
            u = self.advance(frames, fixed, time + k * facts["block"] * facts["every"])
            frames = torch.cat([frames.to(u.dtype), u], 1)[:, -facts["history"] :]
            found.append(u)
        return found

    def roll(
        self, frames: Float[Tensor, "n h c *s"], fixed: Float[Tensor, "n e *s"], time: Float[Tensor, " n"], count: int
    ) -> Float[Tensor, "n t c *s"]:
        """The next `count` frames."""
        return torch.cat(self.calls(frames, fixed, time, -(-count // self.facts["block"])), 1)[:, :count]

    # ---- training

    def objective(self, batch: Batch, training: bool = True) -> Tensor:
        frames, fixed, time = batch["frames"], batch["fixed"], batch["time"]
        facts, strategy = self.facts, self.hparams["strategy"]
        h, b = facts["history"], facts["block"]
        past, future = frames[:, :h], frames[:, h:]
        if not training:
            u = self.roll(past, fixed, time, future.shape[1])
            return self._loss(u, future)
        if strategy == "unrolled":
            answers = self.calls(past, fixed, time, facts["steps"])
            return torch.stack([self._loss(u, y) for u, y in zip(answers, future.split(b, 1), strict=True)]).sum()
        if strategy == "noise":
            spread = torch.tensor(facts["spread"], dtype=past.dtype, device=past.device)
            spread = spread.reshape(-1, *(1,) * (past.dim() - 3))
            past = past + self.hparams["noise"] * spread * torch.randn_like(past)
        elif strategy == "pushforward" and facts["steps"] > 1:
            with torch.no_grad():
                made = torch.cat(self.calls(past, fixed, time, facts["steps"] - 1), 1)
            past = torch.cat([past.to(made.dtype), made], 1)[:, -h:]
            time = time + (facts["steps"] - 1) * b * facts["every"]
        return self._loss(self.advance(past, fixed, time), future[:, -b:])

    def _loss(self, u: Float[Tensor, "n b c *s"], y: Float[Tensor, "n b c *s"]) -> Tensor:
        u, y = u.flatten(1, 2), y.flatten(1, 2).to(u.dtype)
        return self.loss(u, y, self.grid.resized(tuple(u.shape[2:])))

    def _score(self, batch: Batch, name: str) -> None:
        frames, fixed, time, h = batch["frames"], batch["fixed"], batch["time"], self.facts["history"]
        count = frames.shape[1] - h
        u = self.roll(frames[:, :h], fixed, time, count)
        grid = self.grid.resized(tuple(u.shape[3:]))
        times = tuple(self.facts["every"] * k for k in range(count))
        channels = tuple(self.facts["outputs"])
        pred, true = Field(u, grid, channels, times), Field(frames[:, h:].to(u.dtype), grid, channels, times)
        forced = torch.cat(
            [self.advance(frames[:, j : j + h], fixed, time + j * self.facts["every"])[:, :1] for j in range(count)], 1
        )
        single = [
            relative_l2(Field.steady(forced[:, j], grid, channels), Field.steady(true.values[:, j], grid, channels))
            for j in range(count)
        ]
        found = {
            "rel_l2": relative_l2(pred, true),
            "rel_h1": relative_h1(pred, true),
            "teacher_forced": torch.stack(single, 1).mean(1),
        }
        for metric, values in found.items():
            self.log(
                f"{name}_{metric}", values.mean(), on_epoch=True, on_step=False, batch_size=len(u), sync_dist=True,
                add_dataloader_idx=False,
            )  # fmt: skip

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> dict[str, Any]:
        h = self.facts["history"]
        u = self.roll(batch["frames"][:, :h], batch["fixed"], batch["time"], batch["frames"].shape[1] - h)
        return {"split": self._test_split(dataloader_idx), "index": batch["index"].cpu(), "u": u.cpu()}


def _extremes(batches: Iterable[Tensor], names: list[str]) -> dict[str, list[float]]:
    """Least and largest value of every input channel over all calls."""
    found = [torch.stack([x.transpose(0, 1).flatten(1).amin(1), x.transpose(0, 1).flatten(1).amax(1)]) for x in batches]
    low, high = torch.stack(found)[:, 0].amin(0), torch.stack(found)[:, 1].amax(0)
    return {name: [float(a), float(b)] for name, a, b in zip(names, low, high, strict=True)}
