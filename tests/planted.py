"""What fits would say whose lines are planted."""

import numpy as np

from analysis.alignment import LEVELS
from analysis.attribution import LayerMaps
from analysis.metrics import brain_score
from analysis.readings import Reading
from analysis.subject import Subject


def planted(person: Subject, slope: float, start: float, backbone="other", noise=0.02, share=0.6):
    """A Reading whose depth rises along the hierarchy by a slope, and that predicts."""
    n, layers, rng = len(person.vertices), np.linspace(0, 1, 12), np.random.default_rng(0)
    level = np.full(n, 0.5)
    for roi, value in LEVELS["all areas"].items():
        level[person.rois.get(roi, np.zeros(n, bool))] = value
    depth = start + slope * level + rng.normal(0, noise, n)
    weights = np.exp(-np.square((layers - depth[:, None]) / 0.12) / 2)
    weights /= weights.sum(1, keepdims=True)
    signal, shown = rng.normal(size=(40, n)), np.repeat(np.arange(40), 3)
    y = signal[shown] + rng.normal(size=(120, n))
    scores = brain_score(share * signal, y, shown, np.ones(n), "test", samples=100)
    maps = LayerMaps(weights, weights, "test", 40)
    return Reading(
        person, backbone, scores, maps, np.ones((n, 4)), np.zeros((n, 2)), np.full(n, 0.5)
    )
