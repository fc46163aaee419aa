import pytest
import yaml

from trainers.sft.config import read_config

FOLDERS = {"model": "m", "data": "d.jsonl", "output": "o"}


def written(folder, text, name="run.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_yaml_and_toml_say_the_same(tmp_path):
    as_yaml = written(tmp_path, "model: m\ndata: d.jsonl\noutput: o\nsteps: 3\noptimizer_options: {eps: 1.0e-6}\n")
    as_toml = written(
        tmp_path, 'model="m"\ndata="d.jsonl"\noutput="o"\nsteps=3\n[optimizer_options]\neps=1e-6\n', "run.toml"
    )
    config = read_config(as_yaml, {})
    assert (
        config
        == read_config(as_toml, {})
        == read_config(None, {**FOLDERS, "steps": 3, "optimizer_options": {"eps": 1e-6}})
    )
    assert config.steps == 3 and config.optimizer_options == {"eps": 1e-6} and str(config.model) == "m"


def test_numbers_without_a_point(tmp_path):
    """YAML 1.1, which most loaders still read, takes them for text."""
    path = written(tmp_path, "learning_rate: 1e-5\noptimizer_options: {eps: 1e-8, betas: [9E-1, .5], name: 1e-5th}\n")
    config = read_config(path, {**FOLDERS, "steps": 1})
    assert config.learning_rate == 1e-5
    assert config.optimizer_options == {"eps": 1e-8, "betas": [0.9, 0.5], "name": "1e-5th"}


@pytest.mark.parametrize(
    ("changes", "on_gpu", "on_cpu"),
    [
        ({}, True, False),
        ({"framework": "deepspeed"}, False, False),
        ({"quantize": "nf4"}, False, False),
        ({"quantize": "nf4", "compile": True}, True, True),
        ({"compile": False}, False, False),
    ],
)
def test_where_blocks_are_compiled(changes, on_gpu, on_cpu):
    config = read_config(None, {**FOLDERS, "steps": 1, **changes})
    assert (config.compiles_on("cuda"), config.compiles_on("cpu")) == (on_gpu, on_cpu)


def test_flags_win(tmp_path):
    path = written(tmp_path, yaml.safe_dump({**FOLDERS, "steps": 3, "batch_size": 8}))
    flags = {"batch_size": "16", "output": "elsewhere", "zero_stage": "2", "optimizer_options": '{"eps": 1e-6}'}
    config = read_config(path, flags)
    assert (config.steps, config.batch_size, str(config.output), config.zero_stage) == (3, 16, "elsewhere", 2)
    assert config.optimizer_options == {"eps": 1e-6}


def test_stored_configuration_is_read_back(tmp_path):
    config = read_config(None, {**FOLDERS, "epochs": 1, "lora_rank": 4, "lora_targets": ["q_proj", "v_proj"]})
    assert read_config(written(tmp_path, yaml.safe_dump(config.model_dump(mode="json"))), {}) == config


def test_every_wrong_value_is_named(tmp_path):
    wrong = {"steps": 0, "batch_size": "many", "packing": "tight", "validation_fraction": 1.0, "learning_rate": -1}
    path = written(tmp_path, yaml.safe_dump({**FOLDERS, **wrong}))
    with pytest.raises(ValueError) as caught:
        read_config(path, {})
    assert str(path) in str(caught.value)
    for field, value in wrong.items():
        assert f"{field}: " in str(caught.value) and f"(got {value!r})" in str(caught.value)


def test_choices_are_listed():
    with pytest.raises(ValueError, match=r"flags: .*framework: .*'fsdp', 'ddp' or 'deepspeed' \(got 'zero'\)"):
        read_config(None, {**FOLDERS, "steps": 1, "framework": "zero"})


@pytest.mark.parametrize("missing", FOLDERS)
def test_missing_field(missing):
    with pytest.raises(ValueError, match=f"{missing}: Field required"):
        read_config(None, {name: value for name, value in FOLDERS.items() if name != missing} | {"steps": 1})


def test_unknown_field(tmp_path):
    with pytest.raises(ValueError, match=r"run.yaml: step: Extra inputs are not permitted \(got 3\)"):
        read_config(written(tmp_path, yaml.safe_dump({**FOLDERS, "step": 3})), {"steps": 3})


@pytest.mark.parametrize(
    "lengths, told",
    [
        ({}, "nothing"),
        ({"infinite": False}, "nothing"),
        ({"epochs": 1, "steps": 2}, "epochs and steps"),
        ({"tokens": 5, "infinite": True}, "tokens and infinite"),
    ],
)
def test_exactly_one_length(lengths, told):
    with pytest.raises(ValueError, match=f"how long to train: got {told}; give exactly one"):
        read_config(None, {**FOLDERS, **lengths})


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("run.json", "{}", "'.json': write YAML"),
        ("run.yaml", "a: [", "while parsing"),
        ("run.toml", "a =", "Invalid value"),
        ("run.yaml", "- 1", "fields and values expected, got list"),
    ],
)
def test_files_that_are_none(tmp_path, name, text, told):
    path = written(tmp_path, text, name)
    with pytest.raises(ValueError) as caught:
        read_config(path, {})
    assert str(path) in str(caught.value) and told in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="missing.yaml"):
        read_config(tmp_path / "missing.yaml", {})
