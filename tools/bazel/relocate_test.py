import sys

from tools.bazel import relocate, wheels


class Apt:
    """Unpacks what was asked for, empty."""

    def unpack(self, packages, folder):
        assert packages == ["python3-pip-whl"]
        wheel = folder / "usr/share/python-wheels/pip-1-py3-none-any.whl"
        wheel.parent.mkdir(parents=True)
        wheel.touch()


def test_a_python_without_pip_takes_debians(monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "host_pip", lambda: None)
    command = relocate.find_pip(Apt(), tmp_path)
    assert command == [sys.executable, f"{tmp_path}/usr/share/python-wheels/pip-1-py3-none-any.whl/pip"]


def test_a_python_with_pip_uses_it(monkeypatch, tmp_path):
    monkeypatch.setattr(wheels, "host_pip", lambda: ["python", "-m", "pip"])
    assert relocate.find_pip(Apt(), tmp_path) == ["python", "-m", "pip"]
