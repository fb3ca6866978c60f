"""Residual-based adaptive refinement with distribution: new points by a power of the residual, old ones kept."""

from sciops.solvers.samplers.rad import RAD


class RARD(RAD):
    """p(x) ∝ |r(x)|^k / mean|r|^k + c like RAD, but the new points are added to the old ones.

    k     2 as published, c = 0: new points sit where the residual is largest
    pool  100,000 uniform candidates

    The population keeps growing, and a feature that was solved keeps its points. With c = 0 the density of the new
    points vanishes where r does: importance weights are finite but far apart.
    Wu, Zhu, Tan, Kartha, Lu, "A comprehensive study of non-adaptive and residual-based adaptive sampling for
    physics-informed neural networks", CMAME 403, 2023.
    """

    policy = "append"

    def __init__(self, k: float = 2.0, c: float = 0.0, pool: int = 100_000) -> None:
        super().__init__(k, c, pool)
