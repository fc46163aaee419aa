import hashlib

from tools.remote import blobs
from tools.remote.places import Places


def put(places, content, name):
    file = places.data / "casd/cas/objects" / name[:2] / name[2:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_blob_that_is_not_what_its_name_says_is_found(tmp_path):
    places = Places(tmp_path)
    good = put(places, b"content", hashlib.sha256(b"content").hexdigest())
    cut = put(places, b"", hashlib.sha256(b"whole").hexdigest())
    (places.data / "casd/cas/staging").mkdir()
    found = list(blobs.files(places))
    assert sorted(found) == sorted([good, cut])
    assert list(blobs.remove_damaged(found)) == [cut]
    assert list(blobs.files(places)) == [good]


def test_a_blob_that_goes_is_not_damaged(tmp_path):
    assert not blobs.is_damaged(tmp_path / "ab" / "cdef")


def test_none_where_nothing_was_kept(tmp_path):
    assert list(blobs.files(Places(tmp_path))) == []


def test_disk(tmp_path):
    places = Places(tmp_path)
    assert blobs.disk_free(places) is None
    put(places, b"x" * 10_000, "00ff")
    assert 10_000 <= blobs.disk_usage(places) < 30_000
    assert blobs.disk_free(places) > 0
