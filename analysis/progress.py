"""What is said to the person who runs this, on stderr."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """A message to the person who runs this, whether or not a bar is drawn."""
    tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """12 s, 3 min or 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
