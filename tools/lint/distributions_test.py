from pathlib import Path

from tools.lint.distributions import Distributions, normalize, site_folders
from tools.lint.fixture_repo import install, usual_wheels


def test_the_name_of_a_distribution_as_its_label_spells_it() -> None:
    assert normalize("typing-extensions") == "typing_extensions"
    assert normalize("ruamel.yaml--X") == "ruamel_yaml_x"


def test_an_import_finds_the_wheel_of_another_name(tmp_path: Path) -> None:
    wheels = usual_wheels(tmp_path)
    assert wheels.providers("yaml") == {"pyyaml"}
    assert wheels.providers("numpy.linalg", "norm") == {"numpy"}
    assert wheels.providers("bin") == wheels.providers("absent") == set()
    assert wheels.names == {"numpy", "pytest", "pyyaml", "torch"}


def test_a_namespace_belongs_to_the_wheel_that_has_the_module(tmp_path: Path) -> None:
    wheels = install(
        tmp_path,
        {
            "protobuf-6": ["google/protobuf/__init__.py", "google/_upb/_message.abi3.so"],
            "google_auth-2": ["google/auth/__init__.py"],
        },
    )
    assert wheels.providers("google.protobuf.message") == {"protobuf"}
    assert wheels.providers("google", "auth") == {"google_auth"}
    assert wheels.providers("google._upb._message") == {"protobuf"}
    assert wheels.providers("google") == {"google_auth", "protobuf"}


def test_the_wheels_of_this_process_are_found() -> None:
    assert Distributions(site_folders()).providers("_pytest.config") == {"pytest"}
