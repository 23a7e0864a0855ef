"""How long the package takes to start, beside importing torch.

    python -m benchmarks.startup

Each line is a process of its own, in turn; prints the median and range of seconds.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import torch, analysis": ["-c", "import torch, analysis"],
    "python -m analysis --help": ["-m", "analysis", "--help"],
    "python -m analysis backbones": ["-m", "analysis", "backbones"],
}
TURNS = 7


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(TURNS + 1):  # the first brings the files into the page cache
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(
            f"{name:<30}{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"
        )


if __name__ == "__main__":
    main()
