"""The jobs of a study: what each makes, what it needs and what it takes; kept in a file.

    plan = read_plan(path)
    [job.name for job in plan.jobs.values() if not job.there()]

Reading this loads no torch, so that a workflow of thousands of jobs starts at once.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from analysis.files import data_root, digest, read_json, write_json
from analysis.receipts import stands
from analysis.study_file import NOTEBOOKS, package_digest

Stage = Literal["simulate", "fetch", "prepare", "finetune", "extract", "fit", "page", "book"]
STAGES: tuple[Stage, ...] = get_args(Stage)
MEND = "Delete it: it is drawn up again when asked for."


@dataclass(frozen=True)
class Job:
    """A piece of a study that one process makes."""

    name: str
    stage: Stage
    makes: list[str]  # receipts, inside the data folder
    needs: list[str] = field(default_factory=list)  # names of jobs
    about: dict[str, Any] = field(default_factory=dict)  # what to make
    seconds: float = 0.0  # expected: of one core; of a GPU, where it has one
    gpu: bool = False
    whole: bool = False  # takes all cores of a machine
    memory: float = 2.0  # GB
    n_bytes: float = 0.0  # that it writes
    n_read: float = 0.0  # bytes of tokens that it reads, the first time

    def there(self) -> bool:
        """Whether all that it makes is there."""
        return all(stands(data_root() / path) for path in self.makes)

    @property
    def stamp(self) -> Path:
        """The file by which an engine sees that the job is done; it only mirrors the receipts."""
        return data_root() / "receipts" / "jobs" / self.stage / self.name

    def mirror(self) -> bool:
        """Bring the stamp in line with what is there, and say whether the job is done."""
        done = self.there()
        if done and not self.stamp.exists():
            self.stamp.parent.mkdir(parents=True, exist_ok=True)
            self.stamp.touch()
        elif not done:
            self.stamp.unlink(missing_ok=True)
        return done


@dataclass(frozen=True)
class Plan:
    """All jobs of a study by name, each after those that it needs."""

    study: str
    jobs: Mapping[str, Job]

    def of(self, stage: Stage) -> list[Job]:
        return [job for job in self.jobs.values() if job.stage == stage]


def write_plan(path: Path, plan: Plan) -> None:
    jobs = [dataclasses.asdict(job) for job in plan.jobs.values()]
    write_json(path, {"study": plan.study, "jobs": jobs})


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        InputError: if it is not there or not JSON.
    """
    made = read_json(path, "the jobs of a study", MEND)
    return Plan(made["study"], {job["name"]: Job(**job) for job in made["jobs"]})


def plan_file(study: Path) -> Path:
    """Where the plan of a study lies: another text of study, package or notebooks, another file."""
    texts = {p.name: digest(p.read_text("utf8")) for p in [study, *sorted(NOTEBOOKS.glob("*.md"))]}
    key = digest({"texts": texts, "package": package_digest()})
    return data_root() / "receipts" / "plans" / f"{study.stem}-{key[:16]}.json"


def get_plan(study: Path) -> Plan:
    """The plan of a study, drawn up by another process if it is not there; or of a plan's file.

    Raises:
        CalledProcessError: if that fails; it has said why.
    """
    path = study if study.suffix == ".json" else plan_file(study)
    if not path.exists():
        command = [sys.executable, "-m", "analysis", "study", str(study), "--quiet"]
        subprocess.run(command, check=True)
    return read_plan(path)
