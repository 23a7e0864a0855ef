"""A picture trained on, beside one that only passes through the same network.

    python -m benchmarks.tuning --json tuning.json

Random weights, drawn pictures, batches of 16; all of the network is trained, by AdamW. The two take
turns in one process.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from analysis.backbones import load_backbone
from analysis.backbones.tuned import cut
from analysis.labelled import drawn_set
from analysis.learner import Learner, Tuning, prepared

BATCH = 16


def passed(learner: Learner, batches: list[np.ndarray]) -> float:
    """Seconds of the forward pass alone."""
    start = time.perf_counter()
    with torch.no_grad():
        for at in batches:
            learner.batch(at)
    return time.perf_counter() - start


def trained(learner: Learner, optimiser: torch.optim.Optimizer, batches: list[np.ndarray]) -> float:
    """Seconds of whole steps."""
    rows = learner.data.parts["train"]
    start = time.perf_counter()
    for at in batches:
        optimiser.zero_grad()
        cross_entropy(learner.batch(at), learner.labels(rows[at])).backward()
        optimiser.step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="clip-l")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    whole = load_backbone(options.backbone, "random")
    data = drawn_set("colour", 0, (options.pictures, 32, 32))
    learner, _ = prepared(cut(whole, len(whole.widths)), data, Tuning(batch=BATCH))
    weights = [*learner.head.parameters(), *learner.backbone.parameters()]
    optimiser = torch.optim.AdamW(weights, 1e-5)
    batches = np.split(np.arange(options.pictures), range(BATCH, options.pictures, BATCH))
    ratios = []
    for turn in range(options.turns + 1):  # the first warms up
        alone, ours = passed(learner, batches), trained(learner, optimiser, batches)
        if turn:
            ratios.append(ours / alone)
            print(
                f"passing {options.pictures / alone:6.2f}/s   trained on"
                f" {options.pictures / ours:6.2f}/s   ratio {ratios[-1]:.3f}",
                flush=True,
            )
    low, high = min(ratios), max(ratios)
    print(f"ratio: median {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")
    if options.json:
        found = {"ratios": ratios, "pictures": options.pictures, "device": learner.device}
        options.json.write_text(json.dumps(found | {"backbone": options.backbone}))


if __name__ == "__main__":
    main()
