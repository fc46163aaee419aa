import pytest
from typer.testing import CliRunner

from trainers.data.pack_stats import app

IDS = '{"input_ids": [1, 2, 3]}\n{"input_ids": [4, 5]}\n'


@pytest.fixture(autouse=True)
def callers_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(stdout: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in stdout.splitlines() if "│" in line]
    return {first: rest for first, *rest in cells}


def test_shipped_conversations_by_default(callers_folder):
    result = run("--output", "[picture].png")
    assert result.exit_code == 0, result.output
    table = rows(result.stdout)
    assert list(table) == ["best_fit", "lpt", "greedy", "padded"]
    steps = {strategy: int(row[0]) for strategy, row in table.items()}
    assert steps["best_fit"] < min(steps["lpt"], steps["greedy"], steps["padded"])
    assert f"no packing has fewer than {steps['best_fit']} steps" in result.stdout
    assert table["best_fit"][1] == "+0.0%"
    assert (callers_folder / "[picture].png").read_bytes().startswith(b"\x89PNG")
    assert f"picture: {callers_folder}/[picture].png" in result.stderr


def test_exact_table_of_a_given_file_relative_to_the_caller(callers_folder):
    (callers_folder / "[ids].jsonl").write_text(IDS)
    result = run("[ids].jsonl", "--max-tokens-per-rank", 4, "--num-ranks", 1, "--strategy", "lpt")
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["lpt"][:-1] == ["2", "+0.0%", "62.5%", "50.0%", "0.0%", "0.0%", "0"]
    assert "[ids].jsonl: 1 ranks, 4 tokens each" in result.stdout


def test_samples_above_the_limit_are_counted(callers_folder):
    (callers_folder / "ids.jsonl").write_text(IDS)
    result = run("ids.jsonl", "--max-tokens-per-rank", 2)
    assert "1 samples above the limit left out" in result.stdout


def test_the_table_does_not_depend_on_the_window(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stdout = run("--strategy", "lpt").stdout
    assert "┃ strategy ┃ steps ┃ over bound ┃" in stdout
    assert "┃ ms per batch ┃" in stdout


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (IDS + "{]\n", [], "ids.jsonl:3: not JSON"),
        (IDS, ["--strategy", "best"], "packing strategy 'best' is unknown: choose one of best_fit, lpt"),
        (IDS, ["--max-tokens-per-rank", "1"], "no sample has at most max_tokens_per_rank=1 tokens"),
        (IDS, ["--tokenizer", "none.json"], "none.json is not a file: give a tokenizer.json"),
        (IDS, ["--tokenizer", "ids.jsonl"], "ids.jsonl cannot be loaded"),
        (IDS, ["--output", "no/such/folder.png"], "No such file or directory"),
        (None, [], "No such file or directory"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(callers_folder, content, arguments, message):
    if content is not None:
        (callers_folder / "ids.jsonl").write_text(content)
    result = run("ids.jsonl", *arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--num-ranks", "--batch-size", "--max-tokens-per-rank"])
def test_zero_is_refused(option):
    result = run(option, 0)
    assert result.exit_code == 2
    assert option in result.stderr
