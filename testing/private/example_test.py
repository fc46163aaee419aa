import os


def test_environment_of_the_declaration() -> None:
    assert os.environ["A"] == "b"
