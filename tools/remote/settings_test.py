import pytest

from tools.remote import settings
from tools.remote.settings import Settings


def names(wanted):
    return [worker.name for worker in wanted.all_workers()]


def test_workers_are_numbered_by_pool():
    wanted = Settings().with_worker("gpu").with_worker("cpu").with_worker("gpu", (1,))
    assert names(wanted) == ["cpu-1", "gpu-1", "gpu-2"]
    assert wanted.all_workers()[-1].devices == (1,)


def test_number_of_a_worker_that_is_gone_is_not_given_to_a_lower_one():
    wanted = Settings().with_worker("gpu").with_worker("gpu").without_worker("gpu-1").with_worker("gpu")
    assert names(wanted) == ["gpu-2", "gpu-3"]


def test_a_device_has_one_owner():
    wanted = Settings().with_worker("gpu", (0, 1))
    with pytest.raises(ValueError, match="device 1 belongs to worker gpu-1: drain that one first"):
        wanted.with_worker("multi-gpu", (1, 2))
    assert names(wanted.with_worker("trainium", (1,))) == ["gpu-1", "trainium-1"]  # (of another kind)


def test_unknown_worker():
    with pytest.raises(ValueError, match="no worker 'gpu-2': there are gpu-1"):
        Settings().with_worker("gpu").without_worker("gpu-2")


def test_unknown_pool():
    with pytest.raises(ValueError, match="pool 'tpu'"):
        Settings().with_worker("tpu")


def test_kept(tmp_path):
    wanted = Settings(port=50099, secure=True, queue_seconds=5).with_worker("trainium", (0, 1))
    file = tmp_path / "cluster.json"
    assert settings.load(file) is None
    file.write_text(wanted.model_dump_json())
    assert settings.load(file) == wanted


@pytest.mark.parametrize("text", ["", "{}x", '{"port": 1}', '{"unknown": 1}', '{"quota": "much"}'])
def test_settings_of_another_kind(tmp_path, text):
    file = tmp_path / "cluster.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="remove it and bring the cluster up anew"):
        settings.load(file)


def test_url():
    assert Settings(port=5000).url == "grpc://127.0.0.1:5000"
    assert Settings(host="example", secure=True).url == "grpcs://example:50051"
