"""Maps written for other tools come back as the fit's values, on its mesh, NaN elsewhere."""

import dataclasses
import json

import nibabel
import numpy as np
import pytest
import torch

from analysis import mgh, surface
from analysis.files import HEMIS, InputError
from analysis.maps import export, maps_of
from analysis.rivals import ClassToken
from analysis.saved import load_fit


@pytest.fixture
def fit(fit_copy):
    return load_fit(fit_copy)


def of_vertex(fit, name, i):
    """A map's value at one vertex, by its definition."""
    chosen, signal = fit.selectors(), float(fit.ncsnr[i]) ** 2
    a = chosen.layer[i].double().numpy()
    if name == "r2_of_ceiling":
        return fit.r2[i] * (signal + 1) / signal if signal else np.nan
    if name == "depth":
        return sum(weight * layer / (len(a) - 1) for layer, weight in enumerate(a))
    if name == "layer":
        return 1 + max(range(len(a)), key=lambda layer: a[layer])
    if name == "confidence":
        return 1 + sum(weight * np.log(weight) for weight in a) / np.log(len(a))
    return {
        "r2": fit.r2[i],
        "noise_ceiling": signal / (signal + 1),
        "scale": chosen.scale[i, 0],
        "x": chosen.space[i, 0],
        "y": chosen.space[i, 1],
        "size": chosen.size[i, 0],
        "layer_weights": a,
    }[name]


def expected(fit, name, hemi):
    """A map of one hemisphere, a vertex at a time."""
    n_layers = len(fit.record["tokens"]["layer_names"])
    out = np.full((fit.n_surface, *([n_layers] if name == "layer_weights" else [])), np.nan)
    for i, vertex in enumerate(fit.vertices):
        side, place = divmod(int(vertex), fit.n_surface)
        if HEMIS[side] == hemi:
            out[place] = of_vertex(fit, name, i)
    return out


NAMES = ["r2", "noise_ceiling", "r2_of_ceiling", "depth", "layer", "confidence", "scale"]
NAMES += ["x", "y", "size", "layer_weights"]


def test_each_map_comes_back_from_gifti_and_mgh(fit, tmp_path):
    written = export(fit, tmp_path)
    files = {f"{h}.{n}{s}" for h in HEMIS for n in NAMES for s in (".func.gii", ".mgh")}
    assert {p.name for p in written} == files | {"maps.json"}
    assert {p.name for p in tmp_path.glob("*.*")} == {p.name for p in written}
    for hemi in HEMIS:
        for name in NAMES:
            values = expected(fit, name, hemi)
            assert np.isfinite(values).any() and np.isnan(values).any()
            image = nibabel.load(tmp_path / f"{hemi}.{name}.func.gii")
            found = np.stack([array.data for array in image.darrays], -1)
            np.testing.assert_allclose(
                found, values.reshape(len(values), -1), rtol=1e-4, atol=1e-5, err_msg=name
            )
            assert found.dtype == np.float32
            with (tmp_path / f"{hemi}.{name}.mgh").open("rb") as f:  # which load leaves open
                cube = nibabel.MGHImage.from_stream(f).get_fdata()
            assert cube.shape[:3] == (fit.n_surface, 1, 1)
            np.testing.assert_array_equal(cube.reshape(found.shape), found)
            if values.ndim == 1:
                own = mgh.read(tmp_path / f"{hemi}.{name}.mgh", "a map", fit.n_surface)
                np.testing.assert_array_equal(own, found[:, 0])


def test_gifti_says_which_hemisphere_and_names_its_arrays(fit, tmp_path):
    export(fit, tmp_path)
    for hemi, structure in (("lh", "CortexLeft"), ("rh", "CortexRight")):
        image = nibabel.load(tmp_path / f"{hemi}.layer_weights.func.gii")
        assert image.meta["AnatomicalStructurePrimary"] == structure
        assert "SIMULATED subject" in image.meta["Description"]
        layers = fit.record["tokens"]["layer_names"]
        assert [a.meta["Name"] for a in image.darrays] == [f"layer {name}" for name in layers]
        (one,) = nibabel.load(tmp_path / f"{hemi}.depth.func.gii").darrays
        assert one.meta["Name"] == "depth" and one.intent == 0


def test_the_index_says_what_each_file_is(fit, tmp_path):
    written = export(fit, tmp_path)
    index = json.loads((tmp_path / "maps.json").read_text("utf8"))
    assert [row["file"] for row in index["files"]] == [p.name for p in written[:-1]]
    assert (index["subject"], index["simulated"]) == ("sim01-tiny", True)
    assert index["fit"] == fit.folder.name and index["backbone"] == "mae-mini-s"
    assert "642 vertices" in index["mesh"]
    for row in index["files"]:
        assert row["unit"] and row["meaning"]
        values = expected(fit, row["map"], row["hemisphere"])
        ends = [np.nanmin(values), np.nanmax(values)]
        np.testing.assert_allclose(row["found"], ends, rtol=1e-4, atol=1e-5)
        low, high = row["possible"]
        assert (low is None or low <= ends[0]) and (high is None or ends[1] <= high)


def test_full_gives_each_vertex_of_fsaverage_the_nearest_of_the_fits_mesh(fit, tmp_path):
    export(fit, tmp_path, full=True)
    for hemi in HEMIS:
        found = nibabel.load(tmp_path / f"{hemi}.depth.func.gii").agg_data()
        values = expected(fit, "depth", hemi)
        assert found.shape == (surface.FULL,)
        np.testing.assert_allclose(found[: fit.n_surface], values, rtol=1e-4)
        points, _ = surface.sphere(hemi, surface.FULL)
        own, _ = surface.sphere(hemi, fit.n_surface)
        for vertex in np.random.default_rng(0).integers(0, surface.FULL, 200):
            distance = np.linalg.norm(own - points[vertex], axis=1)
            nearest = np.flatnonzero(distance < distance.min() + 1e-6)
            assert any(
                np.isclose(found[vertex], values[i], rtol=1e-4, equal_nan=True) for i in nearest
            )


def test_a_rival_has_maps_of_its_score_alone(fit):
    rival = ClassToken(fit.model.config, [4], torch.from_numpy(fit.coordinates))
    assert [m.name for m in maps_of(dataclasses.replace(fit, model=rival))] == NAMES[:3]


def test_a_fit_on_no_mesh_is_refused_before_anything_is_written(fit, tmp_path):
    nowhere = dataclasses.replace(fit, record=fit.record | {"n_surface": 0})
    with pytest.raises(InputError, match="on no fsaverage mesh"):
        export(nowhere, tmp_path / "out")
    assert not (tmp_path / "out").exists()
