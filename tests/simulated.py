"""What tests of simulated subjects share: checksums of their files, and the three at fsaverage5."""

import hashlib
from functools import cache

import numpy as np

from analysis import truth


def digests(folder, size="tiny"):
    """The sha256 of every file of a simulated size, by its path there."""
    found = [p for p in (folder / "simulated" / size).rglob("*") if p.is_file()]
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in found
        if not p.name.endswith(".lock")
    }


def of(digests, name, without="\0"):
    """Those of one subject, or of all but one."""
    return {path: d for path, d in digests.items() if name in path and without not in path}


@cache
def subjects():
    """Cortex and truth of the three at fsaverage5; all categories have one direction."""
    directions = dict.fromkeys(truth.CATEGORY, np.eye(128)[0])
    subjects = {}
    for name, subject in truth.SIMULATED_SUBJECTS.items():
        cortex = truth.visual_cortex(10242, subject.shape)
        drawn = truth.draw_truth(cortex, 8, directions, subject, truth.TruthParameters())
        subjects[name] = (cortex, drawn)
    return subjects
