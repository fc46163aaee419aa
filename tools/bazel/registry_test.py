import pytest

from tools.bazel.registry import pip_files, pip_settings, uv_environment


@pytest.fixture
def files(tmp_path):
    system, user = tmp_path / "system.conf", tmp_path / "user.conf"
    system.write_text("[global]\nindex-url = file:///system\ncert = /ca.pem\n")
    user.write_text("[global]\nindex_url = file:///user\n[install]\nfind-links =\n  /a\n  /b\n")
    return [system, user, tmp_path / "absent.conf"]


def test_later_files_and_environment_win(files):
    assert pip_settings({}, files) == {"index-url": "file:///user", "cert": "/ca.pem", "find-links": "\n/a\n/b"}
    assert pip_settings({"PIP_INDEX_URL": "file:///env", "PIP_CERT": ""}, files)["index-url"] == "file:///env"


def test_uv_is_told_what_pip_knows(files):
    settings = pip_settings({"PIP_EXTRA_INDEX_URL": "file:///x  file:///y"}, files)
    assert uv_environment({}, settings) == {
        "UV_DEFAULT_INDEX": "file:///user",
        "UV_INDEX": "file:///x file:///y",
        "UV_FIND_LINKS": "/a,/b",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_uv_variables_of_the_user_win(files):
    values = uv_environment({"UV_DEFAULT_INDEX": "file:///mine", "UV_INDEX": ""}, pip_settings({}, files))
    assert values["UV_DEFAULT_INDEX"] == "file:///mine"
    assert "UV_INDEX" not in values


def test_config_file_of_the_environment_is_read_last(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = pip_files({"PIP_CONFIG_FILE": "/mine.conf"})
    assert [str(path) for path in found[-3:]] == [
        f"{tmp_path}/.pip/pip.conf",
        f"{tmp_path}/.config/pip/pip.conf",
        "/mine.conf",
    ]
