import pytest

from analysis import sweep
from analysis.backbones.catalogue import CARDS
from analysis.files import InputError
from analysis.study import get_fit
from analysis.sweep import BASE, DIFFUSION, FAMILIES, SIZES, different, get_fits, sized


def test_networks_of_each_size_are_known() -> None:
    for size in SIZES:
        assert sized(size) == {"recipe": "fast"} and sized(size, "check") == {"recipe": "check"}
        assert FAMILIES[size].keys() == BASE[size].keys() and DIFFUSION[size] in CARDS
        for family, names in FAMILIES[size].items():
            assert BASE[size][family] in names and set(names) <= CARDS.keys()
    with pytest.raises(InputError, match="size 'big': expected one of small, paper"):
        sized("big")


def test_seeds_are_different_whole_numbers() -> None:
    assert different((2, 0)) == [2, 0]
    for seeds, least in (([], 1), ([0], 2), ([1, 1], 1), ([0, "1"], 2), ([0, 1.0], 2), ([True], 1)):
        with pytest.raises(InputError, match=r"seeds=\[.*(one|two) or more different whole num"):
            different(seeds, least)


def test_fits_made_side_by_side_are_those_made_one_by_one(data_folder, monkeypatch) -> None:
    pools = []
    real = sweep.pool
    monkeypatch.setattr(sweep, "machine_cores", lambda: 2)
    monkeypatch.setattr(sweep, "pool", lambda n, *more: pools.append(n) or real(n, *more))
    wanted = {"first": {"seed": 5}, "second": {"seed": 6}}
    common = {"subject": "sim01-tiny", "backbone": "clip-mini", "recipe": "check"}
    fits = get_fits(wanted, **common)
    assert pools == [2] and list(fits) == ["first", "second"]
    assert [fit.record["key"]["recipe"]["seed"] for fit in fits.values()] == [5, 6]
    alone = get_fit(**common, seed=5)
    assert alone.folder == fits["first"].folder
    get_fits(wanted, **common)
    assert pools == [2]  # all were there


def test_a_wrong_name_is_told_before_anything_is_made(data_folder) -> None:
    with pytest.raises(InputError, match="recipe 'long'"):
        get_fits({"a": {"recipe": "long"}, "b": {}}, subject="sim01-tiny", backbone="clip-mini")
    with pytest.raises(InputError, match="variant 'mlp'"):
        get_fits({"a": {}, "b": {"variant": "mlp"}}, subject="sim01-tiny", backbone="clip-mini")
