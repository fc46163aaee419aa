import stat

import pytest

from tools.remote.places import Places, default_home


def test_folders_are_the_users_alone(tmp_path):
    places = Places(tmp_path / "c")
    places.make()
    assert stat.S_IMODE(places.home.stat().st_mode) == 0o700
    assert places.run.is_dir()
    assert places.data.is_dir()
    assert places.log.is_dir()


def test_too_long_a_name_for_sockets(tmp_path):
    places = Places(tmp_path / ("x" * 100))
    with pytest.raises(ValueError, match="more than Linux takes; name a shorter folder"):
        places.make()
    assert not places.home.exists()


def test_default_is_below_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_home("default") == tmp_path / "trainyard/remote/default"
