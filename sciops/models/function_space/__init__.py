"""Layers between functions: what a network needs to mean the same on every grid.

Every layer is called as `layer(x, domain)`: values (n, c, *s) and the `Grid` or `PointSet` where they are sampled; no
layer keeps a size. Parameters do not depend on the grid, and outputs tend to one limit as the grid is refined.
Berner et al., "Principled approaches for extending neural architectures to function spaces", 2025, arXiv:2506.10973.
"""

from sciops.models.function_space.attention import LinearAttention, QuadAttention
from sciops.models.function_space.coordinates import CoordinateEmbedding
from sciops.models.function_space.differential import DifferentialConv
from sciops.models.function_space.functional_head import FunctionalHead
from sciops.models.function_space.hat_conv import HatConv
from sciops.models.function_space.local_fno import LocalFNO
from sciops.models.function_space.norms import WeightedGroupNorm, WeightedInstanceNorm
from sciops.models.function_space.oformer import OFormer
from sciops.models.function_space.pooling import PhysicalPool
from sciops.models.function_space.quadrature import WeightedMean
from sciops.models.function_space.radius import RadiusIntegral
from sciops.models.function_space.rotary import Rotary
from sciops.models.function_space.spectral import SpectralConv
from sciops.models.function_space.synthesis import SharpTranspose
from sciops.models.function_space.unet import UNetOperator
from sciops.models.function_space.vit import ViTOperator

__all__ = [
    "CoordinateEmbedding",
    "DifferentialConv",
    "FunctionalHead",
    "HatConv",
    "LinearAttention",
    "LocalFNO",
    "OFormer",
    "PhysicalPool",
    "QuadAttention",
    "RadiusIntegral",
    "Rotary",
    "SharpTranspose",
    "SpectralConv",
    "UNetOperator",
    "ViTOperator",
    "WeightedGroupNorm",
    "WeightedInstanceNorm",
    "WeightedMean",
]
