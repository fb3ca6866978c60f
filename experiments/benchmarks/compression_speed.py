"""Factored convolutions beside dense ones: operations, kept memory and time of forward and training step.

    OMP_NUM_THREADS=1 python experiments/benchmarks/compression_speed.py
    python experiments/benchmarks/compression_speed.py --ndim 3 --size 24 --kernel 3 --batch 2 --device cuda

One layer, C → C channels, at ranks that have the given fractions of its weights, on random fields. "factors": as 1-D
filters and pointwise maps in sequence; "tuned": the run of neighbouring factors that is fastest in training multiplied
out at each call; "merged": the fastest form for inference. Least times of interleaved repeats; with one CPU thread CPU
time. Outputs of all forms agree with the composed kernel's before anything is timed.
"""

import argparse
import copy

import torch
from torch import nn

from sciops.core.errors import UsageError
from sciops.models.compressed import SCHEMES, CompressedConv, merge_for_inference, tune_for_training
from sciops.models.compressed.measure import flops, forward, forward_backward, kept_bytes, milliseconds
from sciops.models.vcycle import CONV


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ndim", type=int, default=2)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--share", type=float, nargs="+", default=[0.3, 0.15])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    conv = CONV[args.ndim](args.channels, args.channels, args.kernel, padding=args.kernel // 2).to(device)
    x = torch.randn(args.batch, args.channels, *[args.size] * args.ndim, device=device)
    if args.channels_last and args.ndim > 1:
        x = x.contiguous(memory_format=torch.channels_last if args.ndim == 2 else torch.channels_last_3d)
    print(
        f"{args.channels} channels, k = {args.kernel}, {tuple(x.shape)}, {device}, {torch.get_num_threads()} thread(s)"
    )
    print("| layer | ranks | weights | MFLOP | kept MB | forward ms | merged ms | step ms | tuned step ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for share in [None, *args.share]:
        for scheme in ["dense"] if share is None else SCHEMES:
            layer: nn.Module = conv
            if share is not None:
                try:
                    layer = CompressedConv.like(conv, scheme, share)
                except UsageError as error:
                    print(f"| {scheme} {share:g} | {error} |")
                    continue
            merged, tuned = layer, layer
            if isinstance(layer, CompressedConv):
                merged, tuned = merge_for_inference(layer, x, args.repeats), copy.deepcopy(layer)
                tune_for_training(tuned, x, args.repeats)
                wanted = layer.to_dense()(x)
                for form in (layer, merged, tuned):
                    assert (form(x) - wanted).norm() < 1e-4 * wanted.norm()
            times = milliseconds([forward(layer, x), forward(merged, x)], args.repeats, device)
            times += milliseconds([forward_backward(layer, x), forward_backward(tuned, x)], args.repeats, device)
            name, ranks = (
                ("dense", "") if share is None else (f"{scheme} {share:g}", str(layer.ranks)[1:-1].rstrip(","))
            )
            weights = sum(p.numel() for p in layer.parameters()) - args.channels
            cells = [f"{flops(layer, x) / 1e6:.4g}", f"{kept_bytes(layer, x) / 1e6:.3g}", *(f"{t:.3g}" for t in times)]
            print(f"| {name} | {ranks} | {weights} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
