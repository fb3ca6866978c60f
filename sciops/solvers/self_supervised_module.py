"""What self-supervised trainings share: the network, its one-cycle schedule, and checkpoints that name it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import nn

from sciops.core.errors import UsageError
from sciops.solvers.checkpoint import KEY, SCHEMA, describe_net, require_match
from sciops.solvers.operator_facts import build_net, check_net


class SelfSupervisedModule(pl.LightningModule):
    """A network trained on systems alone, with Adam; subclasses say on which loss.

    A subclass calls `save_hyperparameters` in its own __init__ (Lightning reads the arguments from the calling frame),
    with `net` left out where that is a module, then `adopt`. Hyperparameters read: lr, schedule, pct_start and, where
    there are any, div_factor, final_div_factor, cycle_momentum (25, 1e4 and true otherwise).

    kind      of the checkpoints; those of another kind are refused
    purpose   what the network is for, as in "does not hold a network for …"
    """

    kind: ClassVar[str]
    purpose: ClassVar[str]
    monitor = "val_loss"

    def adopt(self, net: dict[str, Any] | nn.Module, schedule: str, seed: int) -> None:
        """Take or build the network, its weights from `seed`, and note what it is."""
        if schedule not in ("onecycle_step", "constant"):
            raise UsageError(f"schedule must be onecycle_step or constant; got '{schedule}'.")
        if not isinstance(net, nn.Module):
            check_net(net)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net: nn.Module = net if isinstance(net, nn.Module) else build_net(net)
        named = None if isinstance(net, nn.Module) else dict(net)
        self.facts = {"schema": SCHEMA, "kind": self.kind, "net": named}

    # ---- training

    def _cycle_length(self) -> int:
        total = int(self.trainer.estimated_stepping_batches)
        if total < 1:
            raise UsageError("A OneCycle schedule needs a known length; give trainer.max_epochs, or schedule constant.")
        return total

    def configure_optimizers(self) -> Any:
        h = self.hparams
        adam = torch.optim.Adam(self.net.parameters(), h["lr"])
        if h["schedule"] == "constant":
            return adam
        total = self._cycle_length()
        # PyTorch divides by zero where the rise takes exactly one step.
        rise = h["pct_start"] + (1e-6 if abs(h["pct_start"] * total - 1) < 1e-9 else 0)
        factors = {name: h[name] for name in ("div_factor", "final_div_factor", "cycle_momentum") if name in h}
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, h["lr"], total, pct_start=rise, **factors)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_train_start(self) -> None:
        cycle = self.lr_schedulers()
        if isinstance(cycle, torch.optim.lr_scheduler.OneCycleLR) and cycle.total_steps != self._cycle_length():
            raise UsageError(
                f"The checkpoint's OneCycle schedule ends after {cycle.total_steps} steps, this run has "
                f"{self._cycle_length()}; resume with the same trainer.max_epochs and data.steps."
            )

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.facts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.require_own(checkpoint, "The checkpoint")

    def require_own(self, content: Mapping[str, Any], where: str) -> None:
        """Raise UsageError, in one sentence, unless the content is of a network like this one."""
        facts = content.get(KEY)
        if not isinstance(facts, dict) or facts.get("kind") != self.kind:
            raise UsageError(f"{where} does not hold a network for {self.purpose}; train one with sciops fit.")
        models = (describe_net(self.facts["net"]), describe_net(facts.get("net")))  # type: ignore[arg-type]
        require_match(self.state_dict(), content["state_dict"], models, where)
