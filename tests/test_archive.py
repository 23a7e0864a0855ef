"""A zip archive is unpacked whole or not at all, and never outside its folder."""

import stat
import zipfile

import pytest

from analysis.archive import MOST_TIMES_LARGER, unpack
from analysis.files import InputError


def _zip(path, members, compression=zipfile.ZIP_STORED):
    """A zip archive of (name or ZipInfo, bytes) pairs."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def _tree(folder):
    """The bytes of every file under a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_unpacks_all_and_then_nothing_more(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one"), ("sub/", b""), ("sub/y.txt", b"two")])
    folder = tmp_path / "out"
    assert unpack(path, folder) == [folder / "x.txt", folder / "sub/y.txt"]
    assert _tree(folder) == {"x.txt": b"one", "sub/y.txt": b"two"}
    times = [p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))]
    unpack(path, folder)
    assert [p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))] == times


def test_goes_on_where_a_killed_process_stopped(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one"), ("y.txt", b"two")])
    folder = tmp_path / "out"
    (folder / ".a.zip.unpacking").mkdir(parents=True)
    (folder / ".a.zip.unpacking/y.txt").write_bytes(b"t")
    (folder / "x.txt").write_bytes(b"one")
    unpack(path, folder)
    assert _tree(folder) == {"x.txt": b"one", "y.txt": b"two"}


def _link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/etc/x.txt", "absolute"),
        ("C:/x.txt", "absolute"),
        ("../x.txt", r"'\.\.'"),
        ("sub/../../x.txt", r"'\.\.'"),
        ("sub\\x.txt", "backslash"),
        ("..\\x.txt", "backslash"),
        (_link("x.txt"), "symbolic link"),
        ("good.txt/x.txt", "which is a file"),
        ("./", "no name"),
    ],
)
def test_an_unsafe_member_unpacks_nothing(tmp_path, name, says):
    path = _zip(tmp_path / "a.zip", [("good.txt", b"fine"), (name, b"/etc/passwd")])
    folder = tmp_path / "deep/out"
    with pytest.raises(InputError, match=rf"a\.zip: its member .*{says}"):
        unpack(path, folder)
    assert not folder.exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["x.txt", "./x.txt", "sub//../x.txt"])
def test_a_member_twice(tmp_path, second):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one"), (second, b"two")])
    with pytest.raises(InputError, match=r"x\.txt' (is there twice|leads out)"):
        unpack(path, tmp_path / "out")


def test_an_encrypted_member(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one")])
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"'x\.txt' is encrypted"):
        unpack(path, tmp_path / "out")


def test_a_zip_bomb(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", bytes(10**7))], zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=rf"'x\.txt' to 10,000,000.*{MOST_TIMES_LARGER} times"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk(tmp_path, monkeypatch):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one")])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2}))
    with pytest.raises(InputError, match=r"unpacking a\.zip needs"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_member_keeps_what_was_there(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one"), ("y.txt", b"second")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"second", b"sEcond", 1))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a\.zip: its member 'y\.txt' is damaged .*CRC"):
        unpack(path, folder)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("n_bytes", [0, 10, 120])
def test_a_truncated_archive(tmp_path, n_bytes):
    path = _zip(tmp_path / "a.zip", [("x.txt", bytes(100))])
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=r"a\.zip: not a whole zip archive"):
        unpack(path, tmp_path / "out")


def test_a_file_of_another_size_is_not_overwritten(tmp_path):
    path = _zip(tmp_path / "a.zip", [("x.txt", b"one"), ("y.txt", b"two")])
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "y.txt").write_bytes(b"my own")
    with pytest.raises(InputError, match=r"y\.txt: 6 bytes; .*a\.zip holds it with 3"):
        unpack(path, folder)
    assert _tree(folder) == {"y.txt": b"my own"}
