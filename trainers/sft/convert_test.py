"""States of trainings on two ranks become, on one machine, the models that the trainings themselves wrote."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from testing.distributed.launch import launch_procs
from testing.tolerances.tolerances import assert_close
from trainers.sft.command_line import app
from trainers.sft.config import CONFIG
from trainers.sft.conversion import intact_state
from trainers.sft.loop import train
from trainers.sft.sft_cases import config_of, worker_of_test, write_case

WAYS = {
    "full": {},
    "lora": {"lora_rank": 2, "lora_alpha": 8.0},
    "osft": {"osft_unfreeze": 0.5},
    "qlora": {"lora_rank": 2, "quantize": "nf4", "framework": "ddp"},
}


def train_each(folder):
    worker = worker_of_test(torch.device("cpu"))
    for way, options in WAYS.items():
        config = config_of(folder, output=folder / way, save_every_steps=2, keep_last=3, steps=4, **options)
        train(config, worker)
        if worker.rank == 0:
            (folder / way / CONFIG).write_text(config.model_dump_json())  # (JSON is YAML)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_case(folder, hidden_size=64, intermediate_size=64)  # (four bits need multiples of 64)
    launch_procs(train_each, 2, folder)
    return folder


def convert(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_the_newest_state_becomes_the_model_of_the_training(runs, tmp_path, way, monkeypatch):
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    result = convert(runs / way, "[model]")
    assert result.exit_code == 0, result.output
    assert f"step 4: model {tmp_path}/[model]" in result.stderr
    written = weights(runs / way / "models/step-0000000004")
    converted = weights(tmp_path / "[model]")
    for name, tensor in converted.items():
        assert_close(tensor, written[name], name)
    # (the ends of a tied weight are stored once or twice)
    assert written.keys() - converted.keys() <= {"lm_head.weight"} and converted.keys() <= written.keys()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "[model]")
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "[model]").eos_token_id == model.config.eos_token_id == 2


def test_a_step_that_was_saved_again(runs, tmp_path):
    """The process died before it could delete the first of them."""
    for name in ("step-0000000002", "step-0000000002.2"):
        shutil.copytree(runs / "full/states/step-0000000002", tmp_path / "states" / name)
    assert intact_state(tmp_path, 2).path == tmp_path / "states/step-0000000002.2"
    with pytest.raises(ValueError, match="has no state of step 3: there are 2$"):
        intact_state(tmp_path, 3)


def test_a_state_by_its_step_in_another_dtype(runs, tmp_path):
    result = convert(runs / "full", tmp_path / "model", "--step", 2, "--save-dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    early, late = weights(tmp_path / "model"), weights(runs / "full/models/step-0000000004")
    assert {tensor.dtype for tensor in early.values()} == {torch.bfloat16}
    assert not any(torch.equal(tensor, late[name].bfloat16()) for name, tensor in early.items() if tensor.ndim == 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}/full", "{runs}/model"], "model exists: give a folder that does not"),
        (["{runs}/full", "{tmp}/out", "--step", 3], "has no state of step 3: there are 2, 4"),
        (["{runs}/full", "{tmp}/out", "--save-dtype", "int8"], "save_dtype: Input should be 'float32' or 'bfloat16'"),
        (["{runs}/model", "{tmp}/out"], "config.yaml: [Errno 2] No such file"),
        (["{tmp}/mixed", "{tmp}/out"], "is of another model"),
        (["{tmp}/damaged", "{tmp}/out", "--step", 4], "was altered: its CRC-32 is"),
        (["{tmp}/empty", "{tmp}/out"], "empty/states has no intact state: give the output folder of a training"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(runs, tmp_path, arguments, message):
    for name, config, states in (("mixed", "osft", "full"), ("damaged", "full", "full"), ("empty", "full", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).write_text((runs / config / CONFIG).read_text())
        if states:
            shutil.copytree(runs / states / "states", tmp_path / name / "states")
    shard = next((tmp_path / "damaged/states/step-0000000004").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    result = convert(*(str(each).format(runs=runs, tmp=tmp_path) for each in arguments))
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert message in line
    assert not (tmp_path / "out").exists()
