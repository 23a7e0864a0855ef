"""Notebooks run two at a time before pages are read: once each, and before those that wait."""

import subprocess
import sys
from pathlib import Path

from analysis.cores import machine_cores

EXTENSIONS = Path(__file__).resolve().parents[1] / "book/_ext"
PAGE = """---
file_format: mystnb
kernelspec:
  name: python3
{more}---

# {name}

```{{code-cell}} ipython3
{code}
```
"""
APPEND = "with open('runs.txt', 'a') as file:\n    print({name!r}, file=file)\n"
MEET = """import time
from pathlib import Path
Path('{name}').touch()
end = time.monotonic() + 60
while not Path('{other}').exists() and time.monotonic() < end:
    time.sleep(0.05)
assert Path('{other}').exists()
"""
CONF = f"""import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "ahead"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
"""
FORCED = "mystnb:\n  execution_mode: force\n"


def build(folder: Path, **pages: tuple[str, str]) -> subprocess.CompletedProcess:
    """Build the book of these pages, by name: code and more of the top matter."""
    for name, (code, more) in pages.items():
        text = PAGE.format(name=name, code=APPEND.format(name=name) + code, more=more)
        (folder / f"{name}.md").write_text(text, "utf8")
    (folder / "index.md").write_text("# Index\n\n```{toctree}\n:glob:\n*\n```\n", "utf8")
    (folder / "conf.py").write_text(CONF, "utf8")
    command = [sys.executable, "-m", "sphinx", str(folder), str(folder / "_build")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def ran(folder: Path) -> list[str]:
    return (folder / "runs.txt").read_text().split()


def test_two_run_at_once_each_once_and_a_forced_one_last(tmp_path):
    pages = {
        "b": (MEET.format(name="one", other="two"), ""),
        "c": (MEET.format(name="two", other="one"), ""),
        "a": ("print('forced')", FORCED),
    }
    first = build(tmp_path, **pages)
    assert first.returncode == 0, first.stderr
    assert sorted(ran(tmp_path)[:2]) == ["b", "c"] and ran(tmp_path)[2:] == ["a"]
    (tmp_path / "_build/.doctrees/environment.pickle").unlink()  # every page is read again
    again = build(tmp_path, **pages)
    assert again.returncode == 0, again.stderr
    assert ran(tmp_path)[3:] == ["a"]


def test_two_share_the_cores_and_one_has_them_all(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = "import os\nprint(os.environ.get('OMP_NUM_THREADS'), file=open('{}', 'w'))\n"
    pages = {name: (threads.format(name), "") for name in ("one", "two")}
    pages["last"] = (threads.format("last"), FORCED)
    assert build(tmp_path, **pages).returncode == 0
    share = str(max(1, machine_cores() // 2))
    found = [(tmp_path / name).read_text().strip() for name in (*pages,)]
    assert found == [share, share, "None"]


def test_a_page_that_fails_is_named_with_its_error(tmp_path):
    done = build(tmp_path, bad=("1 / 0", ""))
    assert done.returncode != 0
    assert "bad.md failed" in done.stderr and "ZeroDivisionError" in done.stderr
