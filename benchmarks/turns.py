"""Forms of one thing, each in a process of its own, that take turns while the others wait."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


def serve(turn: Callable[[], Any]) -> None:
    """Take a turn for every line read, and answer with what it returns, as a line of JSON."""
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def take(module: str, sizes: Sequence[str], forms: Sequence[str], n: int) -> dict[str, list[Any]]:
    """What each form returned, turn by turn, of `python -m module ... --serve=form`."""
    command = [sys.executable, "-m", module, *sizes]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = {form: subprocess.Popen([*command, f"--serve={form}"], **pipes) for form in forms}
    taken: dict[str, list[Any]] = {form: [] for form in forms}
    for _ in range(n):
        for form, child in children.items():
            child.stdin.write("turn\n")
            child.stdin.flush()
            taken[form].append(json.loads(child.stdout.readline()))
    for child in children.values():
        child.stdin.close()
        child.wait()
    return taken
