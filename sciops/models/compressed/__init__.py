"""Convolutions compressed before training: factored layers, a network's conversion, its report and its merging.

net = compress(WaveCNN(2, 1), "succession", rank=24)     # train it as any other
print(net.compression)                                   # what was replaced
print(report(net, example))                              # parameters, FLOPs, memory, ms, spectra
fast = merge_for_inference(net, example)                 # plain convolutions, whichever are fastest here
"""

from sciops.models.compressed.compress import Compression, compress, compressed_layers
from sciops.models.compressed.curve import CurvePoint, rank_curve
from sciops.models.compressed.layer import (
    SCHEMES,
    CompressedConv,
    CompressedConv1d,
    CompressedConv2d,
    CompressedConv3d,
)
from sciops.models.compressed.merge import merge_for_inference, tune_for_training
from sciops.models.compressed.network import Compressed
from sciops.models.compressed.report import Report, densified, report
from sciops.models.compressed.training import orthogonality, parameter_groups

__all__ = [
    "SCHEMES",
    "Compressed",
    "CompressedConv",
    "CompressedConv1d",
    "CompressedConv2d",
    "CompressedConv3d",
    "Compression",
    "CurvePoint",
    "Report",
    "compress",
    "compressed_layers",
    "densified",
    "merge_for_inference",
    "orthogonality",
    "parameter_groups",
    "rank_curve",
    "report",
    "tune_for_training",
]
