"""A zip archive is unpacked whole or not at all, and never over or outside what is there."""

import stat
import zipfile

import pytest

from analysis.fetch import unpack
from analysis.files import InputError


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_nothing_is_written_through_a_link_or_over_a_file(tmp_path):
    archive = zip_of(tmp_path / "z.zip", [("top/x.txt", "hello"), ("y.txt", "two")])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "top").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "y.txt").write_text("my own")
    with pytest.raises(InputError, match=r"top/x.txt: not as in .*z.zip. Move .*/top away"):
        unpack(archive)
    assert names(tmp_path / "elsewhere") == []
    assert (tmp_path / "y.txt").read_text() == "my own"


def test_an_unsafe_member_stays_inside(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    inner = tmp_path / "inner"
    inner.mkdir()
    unsafe = ["../x.txt", "/etc/x.txt", "ok/../../x.txt"]
    archive = zip_of(inner / "z.zip", [(link, "/etc/passwd"), *((n, "bad") for n in unsafe)])
    with pytest.raises(InputError, match="not as in"):
        unpack(archive)
    assert names(tmp_path) == ["inner"]
    assert not any(p.is_symlink() for p in inner.rglob("*"))


@pytest.mark.parametrize("damage", ["cut", "empty", "byte"])
def test_a_damaged_archive_leaves_nothing(tmp_path, damage):
    archive = zip_of(tmp_path / "z.zip", [("x.txt", "one"), ("y.txt", "second")])
    data = archive.read_bytes()
    changed = {"cut": data[:60], "empty": b"", "byte": data.replace(b"second", b"sEcond", 1)}
    archive.write_bytes(changed[damage])
    with pytest.raises(InputError, match=r"z\.zip: damaged .* fetch it again"):
        unpack(archive)
    assert names(tmp_path) == ["z.zip"]
