"""Let papermill read text notebooks, and make the folder of what it writes.

    papermill notebooks/brain_score.md runs/sim02/brain_score.ipynb -p subject sim02

Registered in pyproject.toml as papermill's handler of paths that start with notebooks/ or runs/.
"""

from pathlib import Path


class TextNotebooks:
    """The four calls that papermill makes of a handler; notebooks pass through as JSON text."""

    @staticmethod
    def read(path: str) -> str:
        if Path(path).suffix == ".ipynb":
            return Path(path).read_text("utf8")
        # Only papermill imports these: the analysis runs without the book's libraries.
        import jupytext
        import nbformat

        return nbformat.writes(jupytext.read(path))

    @staticmethod
    def write(notebook: str, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(notebook, "utf8")

    @staticmethod
    def listdir(path: str) -> list[str]:
        return [str(p) for p in Path(path).iterdir()]

    @staticmethod
    def pretty_path(path: str) -> str:
        return path
