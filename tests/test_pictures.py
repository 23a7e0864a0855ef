"""Pictures of every kind that readers have: grey, transparent, 16 bits, turned, thin, damaged."""

import numpy as np
import PIL.Image
import pytest

from analysis.backbones import load_backbone
from analysis.extraction import extract
from analysis.files import InputError
from analysis.pictures import FilePictures, picture_digests, picture_files, read_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_colours_come_back_as_they_were(tmp_path):
    path = saved(tmp_path / "a.png", PIL.Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_picture(path), PIXELS)


def test_grey_is_three_equal_channels(tmp_path):
    path = saved(tmp_path / "a.png", PIL.Image.fromarray(PIXELS[..., 0]))
    np.testing.assert_array_equal(read_picture(path), PIXELS[..., :1].repeat(3, 2))


def test_16_bits_keep_their_upper_8(tmp_path):
    deep = (PIXELS[..., 0].astype(np.uint16) << 8) + 37
    path = saved(tmp_path / "a.png", PIL.Image.fromarray(deep))
    np.testing.assert_array_equal(read_picture(path), PIXELS[..., :1].repeat(3, 2))


def test_what_is_transparent_is_white(tmp_path):
    alpha = np.full((6, 9, 1), 255, np.uint8)
    alpha[0] = 0
    path = saved(tmp_path / "a.png", PIL.Image.fromarray(np.concatenate([PIXELS, alpha], 2)))
    found = read_picture(path)
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], PIXELS[1:])


def test_a_palette_gives_its_colours(tmp_path):
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 30, 90])
    assert (read_picture(saved(tmp_path / "a.png", image)) == (200, 30, 90)).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    path = saved(tmp_path / "a.jpg", PIL.Image.fromarray(PIXELS), exif=exif, quality=100)
    turned = read_picture(path)
    assert turned.shape == (9, 6, 3)
    plain = read_picture(saved(tmp_path / "b.jpg", PIL.Image.fromarray(PIXELS), quality=100))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


def test_a_picture_of_no_known_range_is_refused(tmp_path):
    path = saved(tmp_path / "a.tif", PIL.Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(InputError, match=r"a\.tif: not a readable picture \(mode F"):
        read_picture(path)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no picture")
    with pytest.raises(InputError, match=r"a\.png: not a readable picture .*Put the picture there"):
        FilePictures([path]).read(np.array([0]))


def test_a_picture_larger_than_any_stimulus_is_read_at_reduced_size(tmp_path):
    path = saved(tmp_path / "a.png", PIL.Image.new("L", (12000, 2000), 90))
    assert read_picture(path).shape == (1365, 8192, 3)


def test_an_error_of_the_operating_system_is_passed_on(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError):
        read_picture(tmp_path / "a.png")


def test_hidden_files_are_no_pictures(tmp_path):
    for name in ("b/c.jpg", "a.png", "._a.png", ".ipynb_checkpoints/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert picture_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b/c.jpg"]


def test_pictures_of_two_sizes_are_refused(tmp_path):
    paths = [
        saved(tmp_path / f"{i}.png", PIL.Image.fromarray(PIXELS[:, : 9 - i])) for i in range(2)
    ]
    with pytest.raises(InputError, match=r"1\.png: \(6, 8\) px; .*0\.png has \(6, 9\)"):
        FilePictures(paths).read(np.arange(2))


@pytest.mark.parametrize("shape", [(40, 1), (1, 40), (1, 1)])
def test_a_picture_one_pixel_wide_has_tokens(tmp_path, monkeypatch, shape):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    pictures = np.random.default_rng(1).integers(0, 256, (2, *shape, 3), np.uint8)
    backbone = load_backbone("mae-mini-s")
    (tokens,) = extract(backbone, lambda rows: pictures[rows], picture_digests(pictures))
    local, global_ = tokens[np.arange(2)]
    assert local.isfinite().all() and not np.allclose(global_[0], global_[1])
