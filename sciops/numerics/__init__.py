"""Classical building blocks: transforms, random fields, multigrid, Krylov methods."""
