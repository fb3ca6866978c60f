"""Sparse weights of many fixed kernels, learned by workers that exchange a few quantised numbers (SLIM-KL).

`components` evaluates Σ_a θ_a K_a, `majorise` lowers the objective, `surrogate` solves the convex sub-problem exactly,
`quantise` and `packing` make messages, `protocol` is the consensus as pure functions, `processes` runs it over gloo,
`support` reads the lines off θ, `noise` estimates σ² before.

Reference: Suwandi, Lin, Yin, Wang, Theodoridis, "Sparsity-aware distributed learning for Gaussian processes with
linear multiple kernel", 2023 (arXiv 2309.08201).
"""
