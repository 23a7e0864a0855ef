"""How fast and how small the selection is, beside three other ways to the same numbers.

listing_1   the paper's Listing 1 as printed: builds [B, N, D, L]
per_layer   one `grid_sample` per layer, summed: keeps L arrays of [B, N, D] for the backward pass
kept        the same where freed memory is kept (`analysis.memory`), as for ours
ours        `analysis.selection.select`, freed memory kept, as in training
products    only the multiply-adds of ours, as plain matrix products on data at hand: the floor

Each form runs in a process of its own; they take turns on the same float32 inputs while the others
wait. A time is one forward and one backward pass to every argument. Peak memory is measured in a
process of its own per form, over what it held with the inputs in place. The error of ours is
against Listing 1 in float64. Places are spread as in a trained model, and again all at the centre,
where training starts. A value is the median over turns, and the range beside it the least and most;
ratios are of the same turn. A turn of ours or of the products is itself a median of nine passes:
they are over before whatever else the machine does evens out, as it does in a rival's ten seconds.

    OMP_WAIT_POLICY=passive python -m benchmarks.selection --json selection.json

Waiting threads that spin (the default) hold a core that another program may need to share: on a
machine that is not otherwise idle, the forms with many short steps then time the scheduler.

The default is the paper's size: 37,984 vertices, 12 layers, 128 channels, batch 8. It needs about
20 GB and, on 2 cores, 5 minutes, nearly all of it for the other forms.

    python -m benchmarks.selection --growth --json growth.json

How ours grows with each size, the others as the paper's, beside the products alone; and beside the
per-layer form where layers are more, as in the largest networks.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from analysis.memory import keep_freed
from analysis.selection import select
from benchmarks.turns import serve, take

ERROR_VERTICES = 2000  # for the float64 reference
ERROR_CHUNK = 500  # vertices of the reference at a time
PRODUCT_VERTICES = 512  # of the plain products at a time: faster than all at once
LIGHT_PASSES = 9  # of a form that takes less than a second, of which a turn has the median
MEMORY_REPEATS = 2
NAMES = ("local", "global_", "space", "layer", "scale", "weight", "bias")


@dataclass(frozen=True)
class Shape:
    """One size of the problem."""

    vertices: int
    layers: int
    channels: int
    batch: int
    height: int = 8  # the paper's grid
    width: int = 8


def inputs(shape: Shape, seed: int, centre: bool = False) -> dict[str, Float[Tensor, "..."]]:
    """Arguments of `select` that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    s = shape
    space = torch.tanh(0.7 * normal(s.vertices, 2))
    tensors = {
        "local": normal(s.batch, s.layers, s.channels, s.height, s.width),
        "global_": normal(s.batch, s.layers, s.channels),
        "space": torch.zeros_like(space) if centre else space,
        "layer": torch.softmax(normal(s.vertices, s.layers), dim=1),
        "scale": torch.sigmoid(normal(s.vertices, 1)),
        "weight": normal(s.vertices, s.channels),
        "bias": normal(s.vertices),
    }
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def listing_1(
    local: Float[Tensor, "batch layer channel height width"],
    global_: Float[Tensor, "batch layer channel"],
    space: Float[Tensor, "vertex 2"],
    layer: Float[Tensor, "vertex layer"],
    scale: Float[Tensor, "vertex 1"],
    weight: Float[Tensor, "vertex channel"],
    bias: Float[Tensor, " vertex"],
) -> Float[Tensor, "batch vertex"]:
    """The response of each vertex, by way of [B, N, D, L]."""
    batch, layers, channels = global_.shape
    grid = space.view(1, -1, 1, 2).expand(batch, -1, -1, -1)
    v_local = grid_sample(local.flatten(1, 2), grid, align_corners=False)
    v_local = v_local.view(batch, layers, channels, -1).permute(0, 3, 2, 1)
    v_global = global_.transpose(1, 2).unsqueeze(1)
    scale = scale.view(1, -1, 1, 1)
    v = v_local * (1 - scale) + v_global * scale
    v = (v * layer.view(1, -1, 1, layers)).sum(dim=-1)
    return (v * weight).mean(dim=-1) + bias


def per_layer(
    local: Float[Tensor, "batch layer channel height width"],
    global_: Float[Tensor, "batch layer channel"],
    space: Float[Tensor, "vertex 2"],
    layer: Float[Tensor, "vertex layer"],
    scale: Float[Tensor, "vertex 1"],
    weight: Float[Tensor, "vertex channel"],
    bias: Float[Tensor, " vertex"],
) -> Float[Tensor, "batch vertex"]:
    """The response of each vertex, one layer at a time."""
    batch, layers, _ = global_.shape
    grid = space.view(1, -1, 1, 2).expand(batch, -1, -1, -1)
    v_local = torch.zeros(())
    for index in range(layers):
        sampled = grid_sample(local[:, index], grid, align_corners=False)
        v_local = v_local + sampled.squeeze(3).transpose(1, 2) * layer[:, index].view(1, -1, 1)
    v_global = torch.einsum("nl,bld->bnd", layer, global_)
    v = v_local * (1 - scale) + v_global * scale
    return (v * weight).mean(dim=-1) + bias


def pass_of(
    function: Callable[..., Float[Tensor, "batch vertex"]],
) -> Callable[[dict[str, Tensor]], None]:
    """A forward and a backward pass to every argument, gradients left on the arguments."""

    def run(tensors: dict[str, Tensor]) -> None:
        response = function(**tensors)
        response.backward(torch.ones_like(response))

    return run


def products(tensors: dict[str, Tensor]) -> None:
    """The three products of a pass: the reading and, in the backward pass, two gradients."""
    batch, layers, channels = tensors["global_"].shape
    near = torch.ones(batch * 5 * layers, channels)
    d_near = torch.empty_like(near)
    reading = torch.empty(PRODUCT_VERTICES, len(near))
    d_weight = torch.empty(PRODUCT_VERTICES, channels)
    for weight in tensors["weight"].detach().split(PRODUCT_VERTICES):
        part = reading[: len(weight)]
        torch.mm(weight, near.T, out=part)
        torch.mm(part, near, out=d_weight[: len(weight)])
        torch.mm(part.T, weight, out=d_near)


FORMS = {
    "listing_1": pass_of(listing_1),
    "per_layer": pass_of(per_layer),
    "kept": pass_of(per_layer),
    "ours": pass_of(select),
    "products": products,
}
KEEP_FREED = ("kept", "ours", "products")
LIGHT = ("ours", "products")


def seconds(form: str, tensors: dict[str, Tensor]) -> float:
    """Wall time of one pass, without that of freeing old gradients."""
    for tensor in tensors.values():
        tensor.grad = None
    start = time.perf_counter()
    FORMS[form](tensors)
    return time.perf_counter() - start


def turn_of(form: str, shape: Shape, centre: bool) -> Callable[[], float]:
    """Something that returns the seconds of a pass."""
    if form in KEEP_FREED:
        keep_freed()
    tensors = inputs(shape, seed=0, centre=centre)
    passes = LIGHT_PASSES if form in LIGHT else 1
    return lambda: statistics.median(seconds(form, tensors) for _ in range(passes))


def sizes_of(shape: Shape) -> list[str]:
    """The arguments that say which size a child is to work on."""
    return [f"--{n}={getattr(shape, n)}" for n in ("vertices", "layers", "channels", "batch")]


def taken(
    shape: Shape, forms: Sequence[str], repeats: int, centre: bool = False
) -> dict[str, list[float]]:
    """Seconds of a pass of each form, turn by turn; the first turn is slower and not counted."""
    sizes = sizes_of(shape) + (["--centre"] if centre else [])
    each = take("benchmarks.selection", sizes, forms, 1 + repeats)
    return {form: values[1:] for form, values in each.items()}


def peak_bytes(form: str, shape: Shape) -> int:
    """Memory that one pass adds to the inputs; for a process that has done nothing else yet."""
    seconds(form, inputs(Shape(100, 2, 4, 2), seed=0))  # threads and libraries are not the form's
    tensors = inputs(shape, seed=0)
    # Held now, not the most held so far, which may hide the first bytes of the pass.
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    FORMS[form](tensors)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held


def peak_bytes_alone(form: str, shape: Shape) -> int:
    """`peak_bytes` in a new process."""
    command = [sys.executable, "-m", "benchmarks.selection", *sizes_of(shape)]
    done = subprocess.run([*command, f"--peak={form}"], check=True, capture_output=True, text=True)
    return int(done.stdout)


def relative_errors(shape: Shape, seed: int) -> dict[str, float]:
    """Largest difference of ours from float64, over the largest value, by gradient."""
    ours = inputs(shape, seed)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in ours.items()}
    response = select(**ours)
    slope = torch.randn(response.shape, generator=torch.Generator().manual_seed(seed))
    response.backward(slope)

    expected = torch.empty_like(response, dtype=torch.float64)
    for start in range(0, shape.vertices, ERROR_CHUNK):
        chunk = slice(start, start + ERROR_CHUNK)
        of_vertices = {name: exact[name][chunk] for name in NAMES[2:]}
        part = listing_1(exact["local"], exact["global_"], **of_vertices)
        part.backward(slope[:, chunk].double())
        expected[:, chunk] = part.detach()

    def error(value: Tensor, truth: Tensor) -> float:
        return float((value.double() - truth).abs().max() / truth.abs().max())

    gradients = {name: error(ours[name].grad, exact[name].grad) for name in NAMES}
    return {"value": error(response.detach(), expected), **gradients}


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Spread of the ratios of measurements taken in the same repeat."""
    return spread([a / b for a, b in zip(over, under, strict=False)])


def machine() -> dict[str, str | int]:
    """What the numbers depend on beside the code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def measurements(shape: Shape, repeats: int) -> dict[str, Any]:
    """Everything the program reports."""
    # Memory first: a child's peak counts from its parent's size when it was started.
    memory = {
        form: [float(peak_bytes_alone(form, shape)) for _ in range(MEMORY_REPEATS)]
        for form in ("listing_1", "per_layer", "ours")
    }
    small = Shape(min(shape.vertices, ERROR_VERTICES), shape.layers, shape.channels, shape.batch)
    errors = [relative_errors(small, seed) for seed in range(3)]

    times = {
        "spread": taken(shape, list(FORMS), repeats),
        "centre": taken(shape, ("per_layer", "ours"), repeats, centre=True),
    }
    spread_times = times["spread"]
    return {
        "speedup_vs_per_layer": ratio(spread_times["per_layer"], spread_times["ours"]),
        "speedup_vs_per_layer_kept": ratio(spread_times["kept"], spread_times["ours"]),
        "speedup_vs_listing1": ratio(spread_times["listing_1"], spread_times["ours"]),
        "speedup_vs_per_layer_at_centre": ratio(
            times["centre"]["per_layer"], times["centre"]["ours"]
        ),
        "peak_memory_ratio": ratio(memory["ours"], memory["per_layer"]),
        "gemm_ratio": ratio(spread_times["ours"], spread_times["products"]),
        "max_relative_error": spread([max(error.values()) for error in errors]),
        "relative_error": {name: spread([e[name] for e in errors]) for name in errors[0]},
        "seconds": {
            place: {form: spread(taken) for form, taken in of_form.items()}
            for place, of_form in times.items()
        },
        "peak_bytes": {form: spread(taken) for form, taken in memory.items()},
        "repeats": repeats,
        "shape": asdict(shape),
        "error_vertices": small.vertices,
        "machine": machine(),
    }


def growth(shape: Shape, repeats: int) -> list[dict[str, Any]]:
    """Seconds of ours and of the products at other sizes, one size changed at a time."""
    sizes = {
        "vertices": (2374, 9496, 37984, 75968),
        "layers": (4, 12, 24, 40),
        "channels": (32, 64, 128, 256),
        "batch": (1, 8, 32),
    }
    rows = []
    for name, values in sizes.items():
        for value in values:
            forms = list(LIGHT)
            if name == "layers" and value > shape.layers:
                forms.append("per_layer")
            each = taken(replace(shape, **{name: value}), forms, repeats)
            row = {name: value, "seconds": {form: spread(t) for form, t in each.items()}}
            row["gemm_ratio"] = ratio(each["ours"], each["products"])
            if "per_layer" in each:
                row["speedup_vs_per_layer"] = ratio(each["per_layer"], each["ours"])
            rows.append(row)
    return rows


def growth_table(rows: list[dict[str, Any]]) -> str:
    """A line per size: median milliseconds of ours, times the products', times the per-layer."""
    lines = []
    for row in rows:
        (name, value), *_ = row.items()
        line = f"{name:10}{value:>8,}   ours {1e3 * row['seconds']['ours']['median']:8.1f} ms"
        line += f"   {row['gemm_ratio']['median']:.2f} of the products"
        if "speedup_vs_per_layer" in row:
            line += f"   {row['speedup_vs_per_layer']['median']:.0f} times faster than per layer"
        lines.append(line)
    return "\n".join(lines)


def table(report: dict[str, Any]) -> str:
    """The report as lines of text."""

    def row(label: str, values: dict[str, float], unit: float = 1.0, digits: str = ".3f") -> str:
        median, least, most = (format(values[k] / unit, digits) for k in ("median", "min", "max"))
        return f"{label:34}{median:>12}   {least} to {most}"

    where = " ".join(f"{key}={value}" for key, value in report["machine"].items())
    sizes = " ".join(f"{key}={value}" for key, value in report["shape"].items())
    lines = [where, sizes, f"{'':34}{'median':>12}   range"]
    for place, of_form in report["seconds"].items():
        lines += [row(f"seconds, {place}, {form}", taken) for form, taken in of_form.items()]
    for form, taken in report["peak_bytes"].items():
        lines.append(row(f"peak GB, {form}", taken, unit=1e9))
    for key in report:
        if key.startswith("speedup") or key.endswith("ratio"):
            lines.append(row(key, report[key]))
    lines.append(row("max_relative_error", report["max_relative_error"], digits=".1e"))
    return "\n".join(lines)


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    scratch = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
    with scratch.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--vertices", type=int, default=37984)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--centre", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=FORMS, help="only take a pass for every line read")
    parser.add_argument("--growth", action="store_true", help="how ours grows with each size")
    parser.add_argument("--peak", choices=FORMS, help="only print the bytes one form adds")
    given = parser.parse_args()
    shape = Shape(given.vertices, given.layers, given.channels, given.batch)
    if given.peak:
        print(peak_bytes(given.peak, shape))
        return
    if given.serve:
        serve(turn_of(given.serve, shape, given.centre))
        return
    if given.growth:
        rows = growth(shape, given.repeats)
        report = {"growth": rows, "shape": asdict(shape), "machine": machine()}
        print(growth_table(rows))
    else:
        report = measurements(shape, given.repeats)
        print(table(report))
    if given.json:
        write_whole(given.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
