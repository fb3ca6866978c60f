"""Consensus of workers on one set of weights: quantised ADMM as two state machines that exchange bytes.

    min Σ_j L_j(ζ_j)   subject to   ζ_j = θ ≥ 0,       L_j(ζ) = y_jᵀ C_j(ζ)⁻¹ y_j + log|C_j(ζ)|

One round. Worker j: ζ_j ← descent on L_j(ζ) + λ_jᵀ(ζ − θ) + (ρ/2)‖ζ − θ‖² (`majorise`), sends it quantised. Server:
θ ← max(0, mean_j(ζ_j + λ_j/ρ)), sends it quantised. Both: λ_j ← λ_j + ρ(ζ_j − θ) from the quantised values, so the
multipliers need no message. ρ is doubled where the primal residual is more than 10 times the dual one and halved in the
opposite case; that decision and the end are one byte of the server's message.

Residuals relative to what they are made of: ‖ζ_j − θ‖ over the larger of ‖ζ‖ and √J‖θ‖, and ρ√J‖θ − θ_before‖ over the
larger of ‖λ‖ and ρ√J‖θ‖ (a single worker has λ = 0).

Every number on either side depends on the messages and on the own data only: driving the machines in one process or in
many gives the same bits. Reference: arXiv 2309.08201; residual balancing: Boyd et al., 2011, §3.4.1.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.random import case_seed
from sciops.numerics.slim_kl.components import Components
from sciops.numerics.slim_kl.majorise import Penalty, minimise
from sciops.numerics.slim_kl.quantise import Quantiser, Stream
from sciops.numerics.threads import one_thread

_SAME, _DOUBLE, _HALVE, _CONVERGED, _OUT_OF_ROUNDS = range(5)


@dataclass(frozen=True)
class Settings:
    """Published numbers by default.

    rho         ρ at the start
    factor      ratio of the residuals beyond which ρ is changed, on either side
    tolerance   of both relative residuals, and of the change of the weights in a local descent
    rounds      outer iterations at most
    steps       steps of a local descent at most
    least_noise let each worker learn the noise variance of its own data, not below this; None: it is fixed
    """

    quantiser: Quantiser = field(default_factory=Quantiser)
    rho: float = 1e-10
    factor: float = 10.0
    tolerance: float = 1e-3
    rounds: int = 100
    steps: int = 100
    least_noise: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rho > 0 or not self.factor > 1 or not self.tolerance > 0 or self.rounds < 1 or self.steps < 1:
            raise UsageError("Consensus needs rho > 0, factor > 1, tolerance > 0, and at least one round and one step.")


@dataclass(frozen=True)
class Round:
    """What one round cost and where it stood. Bytes of every message, up from and down to each worker."""

    up: list[int]
    down: list[int]
    primal: float
    dual: float
    rho: float

    @property
    def bytes(self) -> int:
        return sum(self.up) + sum(self.down)


@dataclass(frozen=True)
class Consensus:
    """The common weights, the account of the messages, and whether the residuals met their tolerance."""

    theta: Float[Tensor, " A"]
    rounds: list[Round]
    converged: bool

    @property
    def bits(self) -> int:
        return 8 * sum(r.bytes for r in self.rounds)


class Worker:
    """Owner of one block of data; nothing of it but quantised weights leaves."""

    def __init__(
        self,
        components: Components,
        y: Float[Tensor, "N R"],
        noise: float,
        theta: Float[Tensor, " A"],
        settings: Settings,
        rank: int,
    ) -> None:
        if components.points != len(y) or components.count != len(theta):
            raise UsageError(
                f"Worker {rank} holds {len(y)} values and {len(theta)} weights for components on {components.points} "
                f"points with {components.count} weights."
            )
        if not bool(torch.isfinite(y).all()):
            raise UsageError(f"The data of worker {rank} contain values that are not finite; remove those points.")
        self.components, self.y, self.noise, self.settings = components, y, noise, settings
        self.zeta, self.rho, self.multiplier = theta.clone(), settings.rho, torch.zeros_like(theta)
        # Both directions start from zero, not from θ⁰: weights are sparse after the first descent, their change is not.
        zero = torch.zeros_like(theta)
        self.up = Stream(settings.quantiser, zero, case_seed(settings.seed, rank, "slim-kl up"))
        self.down = Stream(settings.quantiser, zero)
        self.penalty: Penalty | None = None
        self.converged = False

    def send(self) -> bytes:
        """Local descent, then the message."""
        s = self.settings
        found = minimise(
            self.components,
            self.y,
            self.noise,
            self.zeta,
            self.penalty,
            steps=s.steps,
            tol=s.tolerance,
            least_noise=s.least_noise,
        )
        self.zeta, self.noise = found.theta, found.noise
        return self.up.encode(self.zeta)

    def receive(self, message: bytes) -> bool:
        """Take the common weights; True while there is a further round."""
        theta = self.down.decode(message[1:])
        self.multiplier = self.multiplier + self.rho * (self.up.value - theta)
        self.rho = _changed(self.rho, message[0])
        self.penalty = Penalty(self.multiplier, theta, self.rho)
        self.converged = message[0] == _CONVERGED
        return message[0] not in (_CONVERGED, _OUT_OF_ROUNDS)


class Server:
    """Keeper of the common weights: sees messages only."""

    def __init__(self, workers: int, theta: Float[Tensor, " A"], settings: Settings) -> None:
        self.settings, self.rho, self.rounds = settings, settings.rho, 0
        zero = torch.zeros_like(theta)
        self.up = [Stream(settings.quantiser, zero) for _ in range(workers)]
        self.down = Stream(settings.quantiser, zero, case_seed(settings.seed, workers, "slim-kl down"))
        self.multipliers = [torch.zeros_like(theta) for _ in range(workers)]
        self.primal = self.dual = float("inf")
        self.converged = False

    def combine(self, messages: list[bytes]) -> bytes:
        """One message to all from one message of each, in the order of their ranks."""
        self.rounds += 1
        zetas = [stream.decode(message) for stream, message in zip(self.up, messages, strict=True)]
        J, before = len(zetas), self.down.value
        target = torch.stack([z + m / self.rho for z, m in zip(zetas, self.multipliers, strict=True)]).mean(0)
        body = self.down.encode(target.clamp_min(0.0))
        theta = self.down.value
        self.multipliers = [m + self.rho * (z - theta) for m, z in zip(self.multipliers, zetas, strict=True)]
        stacked = torch.stack(zetas)
        scale = max(float(stacked.norm()), float(theta.norm()) * J**0.5)
        self.primal = _ratio(float((stacked - theta).norm()), scale)
        change = self.rho * J**0.5 * float((theta - before).norm())
        pull = max(float(torch.stack(self.multipliers).norm()), self.rho * J**0.5 * float(theta.norm()))
        self.dual = _ratio(change, pull)
        control = self._control()
        self.rho = _changed(self.rho, control)
        return bytes([control]) + body

    @property
    def theta(self) -> Float[Tensor, " A"]:
        """The weights, without the negative ones that rounding leaves around zero."""
        return self.down.value.clamp_min(0.0)

    def _control(self) -> int:
        tol, factor = self.settings.tolerance, self.settings.factor
        self.converged = self.primal <= tol and self.dual <= tol
        if self.converged:
            return _CONVERGED
        if self.rounds >= self.settings.rounds:
            return _OUT_OF_ROUNDS
        if self.primal > factor * self.dual:
            return _DOUBLE
        return _HALVE if self.dual > factor * self.primal else _SAME


def simulate(
    components: list[Components],
    y: list[Float[Tensor, "_ R"]],
    noise: float,
    theta: Float[Tensor, " A"],
    settings: Settings,
) -> Consensus:
    """The same rounds in this process: identical bits to processes, which run on one thread each."""
    with one_thread():
        return _simulate(components, y, noise, theta, settings)


def _simulate(
    components: list[Components],
    y: list[Float[Tensor, "_ R"]],
    noise: float,
    theta: Float[Tensor, " A"],
    settings: Settings,
) -> Consensus:
    server = Server(len(y), theta, settings)
    workers = [Worker(c, v, noise, theta, settings, j) for j, (c, v) in enumerate(zip(components, y, strict=True))]
    account, going = [], True
    while going:
        rho = server.rho
        messages = [worker.send() for worker in workers]
        reply = server.combine(messages)
        answers = [worker.receive(reply) for worker in workers]
        going = all(answers)
        account.append(record(messages, reply, server, rho))
    return Consensus(server.theta, account, server.converged)


def record(messages: list[bytes], reply: bytes, server: Server, rho: float) -> Round:
    """The account of a round. A message costs its bytes and the 4 bytes that announce its length."""
    up = [4 + len(m) for m in messages]
    return Round(up, [4 + len(reply)] * len(messages), server.primal, server.dual, rho)


def _changed(rho: float, control: int) -> float:
    return 2.0 * rho if control == _DOUBLE else 0.5 * rho if control == _HALVE else rho


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else (0.0 if value == 0 else float("inf"))
