"""How long a whole step of training takes, beside the per-layer form written out in PyTorch.

    python -m benchmarks.training --json training.json

A step: the selectors of all vertices, the bottleneck, the selection, the loss with Eq. 3's term,
the backward pass and AdamW, on one batch that lies in memory. Each form runs in a process of its
own, as `python -m analysis fit` does; they take turns, of some seconds or a step, while the
others wait.

per_layer    networks and bottleneck as `nn.Linear`s, one `grid_sample` per layer
kept         the same where freed memory is kept (`analysis.memory`), as for ours
ours         `FactorTopy` as `analysis.trainer` trains it
bfloat16     the same with the recipe's `precision="bfloat16"`

The trainer's overhead is what it does between one step and the next (Lightning, reading a batch
from a token cache, progress), as a share of the whole; validation is not counted. A value is the
median over turns, the range the least and most; ratios are of the same turn.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from analysis import trainer
from analysis.batches import Part
from analysis.memory import keep_freed
from analysis.model import FactorTopy, ModelConfig, Selectors, entropy, scale_penalty
from analysis.recipe import Recipe
from benchmarks import reading
from benchmarks.selection import Shape, machine, per_layer, ratio, spread, write_whole
from benchmarks.turns import serve, take

FORMS = ("per_layer", "kept", "ours", "bfloat16")
WIDTH = 768  # channels of a layer
PICTURES = 64  # in the cache
WARM, TURN = 2, 3.0  # turns before those that count; seconds of one


def made(shape: Shape) -> FactorTopy:
    """A model whose vertices have chosen, on a cortex of 60 x 100 x 60 mm."""
    torch.manual_seed(0)
    places = torch.rand(shape.vertices, 3) * torch.tensor([60.0, 100.0, 60.0])
    model = FactorTopy(ModelConfig(channels=shape.channels), [WIDTH] * shape.layers, places)
    with torch.no_grad():
        for name in ("space", "layer", "scale"):
            getattr(model, name)[-1].weight.normal_(std=0.3)
    return model


def plain_step(
    model: FactorTopy, encoded: Tensor, local: Tensor, global_: Tensor
) -> tuple[Tensor, Selectors]:
    """Predicted responses and selectors as one would write them out."""
    space, layer, scale = (
        torch.nn.Sequential.forward(net, encoded) for net in (model.space, model.layer, model.scale)
    )
    chosen = Selectors(torch.tanh(space), torch.softmax(layer, -1), torch.sigmoid(scale))
    maps = [
        torch.einsum("bchw,dc->bdhw", part, weight)
        for part, weight in zip(local.split(WIDTH, 1), model.bottleneck.weights, strict=True)
    ]
    vectors = [
        part @ weight.T
        for part, weight in zip(global_.split(WIDTH, 1), model.bottleneck.weights, strict=True)
    ]
    tokens = torch.stack(maps, 1), torch.stack(vectors, 1)
    return per_layer(*tokens, *chosen[:3], model.weight, model.bias), chosen


def stepper(form: str, shape: Shape) -> Callable[[], tuple[float, float]]:
    """Something that takes a step, and says how many seconds it took and the loss."""
    model, recipe = made(shape), Recipe(scale_penalty=0.1)
    if form != "per_layer":
        keep_freed()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)
    encoded = model.encoding(model.coordinates)
    generator = torch.Generator().manual_seed(1)
    local = torch.randn(shape.batch, WIDTH * shape.layers, 8, 8, generator=generator)
    global_ = torch.randn(shape.batch, WIDTH * shape.layers, generator=generator)
    responses = torch.randn(shape.batch, shape.vertices, generator=generator)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        optimiser.zero_grad()
        if form in ("per_layer", "kept"):
            predicted, chosen = plain_step(model, encoded, local, global_)
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=form == "bfloat16"):
                chosen = model.selectors()
                predicted = model(local, global_, chosen)
        loss = smooth_l1_loss(predicted.float(), responses, beta=recipe.loss_beta)
        loss = loss - recipe.regularisation * entropy(chosen.layer).mean()
        loss = loss + recipe.scale_penalty * scale_penalty(chosen)
        loss.backward()
        optimiser.step()
        return time.perf_counter() - start, loss.item()

    return step


def turn_of(form: str, shape: Shape) -> Callable[[], tuple[float, list[float], int]]:
    """Something that takes steps for `TURN` seconds, at least one, and returns the mean seconds of
    a step, the losses and the peak memory.
    """
    step = stepper(form, shape)

    def turn() -> tuple[float, list[float], int]:
        taken = [step()]
        while sum(seconds for seconds, _ in taken) < TURN:
            taken.append(step())
        seconds, losses = zip(*taken, strict=True)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return sum(seconds) / len(seconds), list(losses), peak

    return turn


def turns(shape: Shape, repeats: int) -> dict[str, list[tuple[float, list[float], int]]]:
    """Seconds of a step, losses and peak memory of each form, turn by turn; not to be counted: the
    first `WARM`.
    """
    sizes = [f"--{name}={getattr(shape, name)}" for name in ("vertices", "layers", "batch")]
    return take("benchmarks.training", sizes, FORMS, WARM + repeats)


class Timed(trainer.Encoder):
    """Notes when each step begins and ends."""

    times: ClassVar[list[tuple[float, float]]] = []

    def training_step(self, batch: list[Tensor], number: int) -> dict[str, Tensor]:
        start = time.perf_counter()
        loss = super().training_step(batch, number)
        self.times.append((start, time.perf_counter()))
        return loss


def overheads(shape: Shape, steps: int) -> list[float]:
    """Of each step but the first three, the share that is not forward, backward or optimiser."""
    trainer.Encoder = Timed
    generator = np.random.default_rng(0)
    recipe = Recipe(steps_per_epoch=steps, max_steps=steps, batch=shape.batch)
    rows = np.arange(PICTURES)
    with tempfile.TemporaryDirectory() as folder:
        tokens, _ = reading.write(Path(folder), PICTURES)
        responses = generator.standard_normal((PICTURES, shape.vertices), np.float32)
        part, few = Part(rows, rows, responses), Part(rows[:8], rows[:8], responses[:8])
        trainer.train(made(shape), recipe, tokens, part, few, Path(folder) / "training")
    each = zip(Timed.times[3:], Timed.times[4:], strict=False)
    return [1 - (end - start) / (following - start) for (start, end), (following, _) in each]


def measurements(shape: Shape, repeats: int) -> dict[str, Any]:
    """Everything the program reports."""
    taken = turns(shape, repeats)
    seconds = {form: [turn[0] for turn in some[WARM:]] for form, some in taken.items()}
    losses = {form: [loss for turn in some for loss in turn[1]] for form, some in taken.items()}
    report = {
        "speedup_vs_per_layer": ratio(seconds["per_layer"], seconds["ours"]),
        "speedup_vs_per_layer_kept": ratio(seconds["kept"], seconds["ours"]),
        "bfloat16_speedup_vs_per_layer": ratio(seconds["per_layer"], seconds["bfloat16"]),
        "bfloat16_speedup_vs_per_layer_kept": ratio(seconds["kept"], seconds["bfloat16"]),
        "trainer_overhead": spread(overheads(shape, steps=4 * repeats + 4)),
        "seconds": {form: spread(values) for form, values in seconds.items()},
        "peak_bytes": {form: spread([turn[2] for turn in s[WARM:]]) for form, s in taken.items()},
        "relative_difference_of_loss": {
            form: spread(
                [abs(a - b) / b for a, b in zip(losses[form], losses["per_layer"], strict=False)]
            )
            for form in FORMS[1:]
        },
    }
    return report | {"repeats": repeats, "shape": asdict(shape), "machine": machine()}


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""

    def row(label: str, values: dict[str, float], unit: float = 1.0, digits: str = ".3f") -> str:
        median, least, most = (format(values[k] / unit, digits) for k in ("median", "min", "max"))
        return f"{label:40}{median:>12}   {least} to {most}"

    lines = [" ".join(f"{key}={value}" for key, value in report["machine"].items())]
    lines.append(" ".join(f"{key}={value}" for key, value in report["shape"].items()))
    lines += [row(f"seconds, {form}", taken) for form, taken in report["seconds"].items()]
    lines += [row(f"peak GB, {form}", b, unit=1e9) for form, b in report["peak_bytes"].items()]
    lines += [row(key, report[key]) for key in report if "speedup" in key or "overhead" in key]
    for form, values in report["relative_difference_of_loss"].items():
        lines.append(row(f"difference of loss, {form}", values, digits=".1e"))
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--vertices", type=int, default=37984)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", choices=FORMS, help="only take a step for every line read")
    given = parser.parse_args()
    shape = Shape(given.vertices, given.layers, 128, given.batch)
    if given.serve:
        serve(turn_of(given.serve, shape))
        return
    report = measurements(shape, given.repeats)
    print(table(report))
    if given.json:
        write_whole(given.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
