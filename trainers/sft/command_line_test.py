"""The command as people run it: its output folder, its exit statuses, its ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from trainers.sft import command_line
from trainers.sft.config import CONFIG
from trainers.sft.forked_runs import start as start_ranks
from trainers.sft.forked_runs import statuses
from trainers.sft.metrics import METRICS
from trainers.sft.sft_cases import config_of, write_case

EXAMPLE = Path(command_line.__file__).parents[1] / "data/example"
TINY_LLAMA = Path(command_line.__file__).parent / "example" / "tiny_llama"
PYTHON = [sys.executable, "-W", "ignore"]


@pytest.fixture(scope="module")
def environment():
    return {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "BUILD_WORKING_DIRECTORY")},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


def start(environment, *arguments, python=()):
    return subprocess.Popen(
        [*PYTHON, *(python or ("-m",)), "trainers.sft.command_line", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(environment, *arguments, python=()):
    process = start(environment, *arguments, python=python)
    told = process.communicate()[1]
    return process.returncode, told


def flags(output, **changes):
    values = {
        "model": TINY_LLAMA,
        "tokenizer": EXAMPLE,
        "data": EXAMPLE / "conversations.jsonl",
        "output": output,
        "steps": 2,
        "batch_size": 8,
        "max_tokens_per_rank": 1024,
        **changes,
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]


def steps_of(output):
    return [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def has_transformers(pid):
    """Whether the process has loaded what transformers imports: the library of safetensors."""
    return "_safetensors_rust" in Path(f"/proc/{pid}/maps").read_text()


def test_train_stop_resume(tmp_path, environment):
    """Two ranks, stopped by a signal to the command; resumed under torchrun's launcher to the end."""
    output = tmp_path / "run"
    process = start(environment, "train", *flags(output, steps=1000, ranks=2))
    while not (output / "metrics.jsonl").exists() or len(steps_of(output)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    with_transformers = [pid for pid in (process.pid, *children) if has_transformers(pid)]
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[1]
    assert process.returncode == 75 and "stopped by SIGTERM" in told
    assert len(with_transformers) == 2 and process.pid not in with_transformers
    stopped = steps_of(output)[-1]

    text = (output / "config.yaml").read_text()
    assert "steps: 1000" in text and f"model: {TINY_LLAMA}" in text
    assert f"data: {EXAMPLE / 'conversations.jsonl'}" in text
    (output / "config.yaml").write_text(text.replace("steps: 1000", f"steps: {stopped + 1}"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2", "-m")
    status, told = run(environment, "resume", output, python=torchrun)
    assert status == 0, told
    assert f"resumed at step {stopped}" in told and "Writing model" not in told
    assert steps_of(output) == list(range(1, stopped + 2))
    assert {"config.yaml", "data", "loss.png", "metrics.jsonl", "models", "states"} == {
        path.name for path in output.iterdir() if path.name != "best"
    }

    saved = output / f"models/step-{stopped + 1:010d}"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Capital of Iceland?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    answer = model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > asked.shape[1]


def test_options_that_are_refused(tmp_path):
    result = CliRunner().invoke(command_line.app, ["train", *flags(tmp_path / "run", lora_rank=2, osft_unfreeze=0.5)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: options that do not go together: lora_rank=2 and osft_unfreeze=0.5")
    assert not (tmp_path / "run").exists()


def test_resume_goes_on_in_the_folder_that_is_given(tmp_path, monkeypatch):
    """Although it was copied, and the training had begun anew by --no-resume: both are in the stored configuration."""
    config = config_of(tmp_path, resume=False)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / CONFIG).write_text(config.model_dump_json())  # (JSON is YAML)
    started = []
    monkeypatch.setattr(command_line, "launch", lambda count, run, config: started.append(config) or 0)
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    assert CliRunner().invoke(command_line.app, ["resume", "copy"]).exit_code == 0
    assert started == [config.model_copy(update={"output": tmp_path / "copy", "resume": True})]


def test_bad_data(tmp_path, capfd):
    write_case(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2], "labels": [1]}\n')
    assert statuses(start_ranks(config_of(tmp_path), 1)) == [1]
    told = capfd.readouterr().err
    assert "error: " in told and "data.jsonl:1: " in told and "Traceback" not in told


def test_a_refused_training_leaves_the_configuration_of_the_one_that_is_there(tmp_path, capfd):
    write_case(tmp_path)
    assert statuses(start_ranks(config_of(tmp_path, steps=1), 1)) == [0]
    stored = (tmp_path / "output" / CONFIG).read_text()
    assert statuses(start_ranks(config_of(tmp_path, steps=1, lora_rank=2), 1)) == [1]
    assert "cannot go on with lora_rank=2 (was 0)" in capfd.readouterr().err
    assert (tmp_path / "output" / CONFIG).read_text() == stored


def test_what_is_printed_is_no_markup(tmp_path, capfd):
    """Paths with brackets and colons in them, on lines of any length, and defaults in the help."""
    write_case(tmp_path)
    output = tmp_path / "[bold]" / "[a]:smile:" / "run"
    config = config_of(tmp_path, output=output, steps=1)
    assert statuses(start_ranks(config, 1)) == statuses(start_ranks(config, 1)) == [0]
    told = capfd.readouterr().err.splitlines()
    state, model = (f"{output}/{kind}/step-0000000001" for kind in ("states", "models"))
    for line in (
        *(f"output: {output}", f"step 1: state {state}", f"step 1: model {model}"),
        f"resumed at step 1 from {state}",
    ):
        assert line in told
    assert "[adamw]" in CliRunner().invoke(command_line.app, ["train", "--help"]).output


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    write_case(tmp_path)
    (tmp_path / "output").write_text("a file")
    assert statuses(start_ranks(config_of(tmp_path), 2)) == [1, 1]
    told = capfd.readouterr().err
    assert told.count("error: rank 0: FileExistsError: ") == 1 and "Traceback" not in told


def test_metrics_that_cannot_be_written(tmp_path, capfd):
    write_case(tmp_path)
    (tmp_path / "output" / METRICS).mkdir(parents=True)
    assert statuses(start_ranks(config_of(tmp_path), 1)) == [1]
    told = capfd.readouterr().err
    assert "error: [Errno 21] Is a directory: " in told and "Traceback" not in told
