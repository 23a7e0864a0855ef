"""Noiseless responses are the equation's, and the betas carry them."""

import itertools

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from analysis import explained, responses, simulate, truth
from analysis.backbones import load_backbone
from analysis.subject import average_repeats


def by_loops(found, local, global_, i):
    """The equation of `noiseless`, one vertex: a number per picture, before compression."""
    n_pictures, n_layers = len(local), len(local[0])
    z_of_picture = []
    for p in range(n_pictures):
        z = 0.0
        for layer in range(n_layers):
            channels, height, width = local[p][layer].shape
            weights = np.empty((height, width))
            for row in range(height):
                for column in range(width):
                    x, y = (column + 0.5) / width * 2 - 1, (row + 0.5) / height * 2 - 1
                    away = (x - found.space[i, 0]) ** 2 + (y - found.space[i, 1]) ** 2
                    weights[row, column] = np.exp(-away / (2 * found.field[i] ** 2))
            weights /= weights.sum()
            pooled = [(weights * local[p][layer][c]).sum() for c in range(channels)]
            k = found.scale[i]
            read = (1 - k) * np.array(pooled) + k * global_[p][layer]
            z += found.layer[i, layer] * (found.channel[i] @ read)
        z_of_picture.append(z)
    return np.array(z_of_picture)


def test_noiseless_responses_are_the_equations(tree, whole_truth):
    """By loops in float64, from tokens standardised by hand."""
    ids = np.sort(scipy.io.loadmat(tree.design)["subjectim"][0, :12]) - 1
    with h5py.File(tree.stimuli) as f:
        pictures = torch.from_numpy(f["imgBrick"][ids])
    teacher = load_backbone(responses.TEACHER)
    tokens = list(responses.teacher_tokens(teacher, pictures, batch=5))
    standard = responses.token_standard(tokens)
    rows = np.flatnonzero(whole_truth.early)[:1].tolist() + [80, 140]
    some = truth.Truth(**{k: v[rows] for k, v in vars(whole_truth).items()})
    got = responses.noiseless(some, standard, tokens)
    raw = responses.noiseless(some, responses.token_standard(tokens, by_channel=False), tokens)

    with torch.inference_mode():
        local, global_ = teacher(pictures)
    local = np.stack([x.numpy() for x in local], 1).astype(float)  # [picture, layer, channel, h, w]
    global_ = np.stack([x.numpy() for x in global_], 1).astype(float)
    sizes = np.sqrt(local.var(0).mean((1, 2, 3)))
    unchanged = [x / sizes.reshape(-1, *[1] * (x.ndim - 2)) for x in (local, global_)]
    local -= local.mean(0)
    local /= np.sqrt(np.square(local).mean((0, 3, 4)))[:, :, None, None]
    global_ = (global_ - global_.mean(0)) / global_.std(0, ddof=1)
    for i, (found, tokens) in itertools.product(
        range(len(rows)), ((got, (local, global_)), (raw, unchanged))
    ):
        z = by_loops(some, *tokens, i)
        compressed = np.arcsinh((z - z.mean()) / z.std())
        expected = (compressed - compressed.mean()) / compressed.std()
        np.testing.assert_allclose(found[:, i], expected, atol=2e-3)


def test_responses_carry_the_truths_signal(subject, tree, whole_truth):
    """Means over three trials correlate with the noiseless response as the noise ceiling says."""
    with h5py.File(tree.stimuli) as f:
        pictures = torch.from_numpy(f["imgBrick"][:][subject.picture_ids])
    row = scipy.io.loadmat(tree.design)["subjectim"][0].astype(int) - 1
    teacher = load_backbone(responses.TEACHER)
    with h5py.File(tree.stimuli) as f:
        in_order = torch.from_numpy(f["imgBrick"][:][row])
    standard = responses.token_standard(responses.teacher_tokens(teacher, in_order))
    found = simulate.load_truth("sim01-tiny", subject.vertices)
    signal = responses.noiseless(found, standard, responses.teacher_tokens(teacher, pictures))
    means = average_repeats(subject).responses
    got = [np.corrcoef(a, b)[0, 1] for a, b in zip(signal.T, means.T, strict=True)]
    expected = np.sqrt(explained.noise_ceiling(subject.ncsnr, 3))
    assert np.median(got) == pytest.approx(np.median(expected), abs=0.06)
