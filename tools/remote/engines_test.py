from pathlib import Path

from tools.remote import engines

ROOT = Path(__file__).parents[2]


def test_bazelrc_is_what_the_table_says():
    assert (ROOT / engines.BAZELRC).read_text() == engines.bazelrc(), "./bazelw run //tools/remote:engines writes it"


def test_document_has_the_table():
    text = (ROOT / engines.DOCUMENT).read_text()
    assert engines.table() in text
    assert engines.with_table(text) == text, "./bazelw run //tools/remote:engines writes it"


def test_table_is_found_again():
    old = "# Title\n\n| engine | x |\n|---|---|\n| a | b |\n\nAfter | it.\n"
    assert engines.with_table(old) == f"# Title\n\n{engines.table()}\nAfter | it.\n"


def test_configurations_are_built_on_remote_and_named_once():
    lines = engines.bazelrc().splitlines()
    for engine in engines.ENGINES[1:]:
        own = [line for line in lines if line.startswith(f"build:{engine.config} ")]
        assert own[0].endswith("--config=remote")
        assert ("--remote_executor" in "".join(own)) != ("--remote_executor" in "".join(engine.own))
    assert lines.count("build:remote --config=fleet") == 1
    configs = [engine.config for engine in engines.ENGINES]
    assert len(set(configs)) == len(configs)


def test_what_is_not_known_is_not_set():
    for line in engines.bazelrc().splitlines():
        if not line.startswith("#"):
            assert not {"KEY", "HOST", "IMAGE", "INSTANCE"} & set(line.replace("//", " ").replace(":", " ").split())
            assert "=KEY" not in line
