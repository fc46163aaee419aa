import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainers.data import prepare as module
from trainers.data.prepare import app

EXAMPLE = Path(module.__file__).parent / "example"
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
LINE = {"messages": [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is so."}]}


@pytest.fixture(autouse=True)
def callers_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path))
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    (tmp_path / "messages.jsonl").write_text(json.dumps(LINE) + "\n{\n")
    return tmp_path


def run(*arguments: str):
    given = ["messages.jsonl", "--tokenizer", EXAMPLE / "tokenizer.json", "--output", "[a].jsonl", "--processes", 1]
    return CliRunner().invoke(app, [str(argument) for argument in (*given, *arguments)])


def test_files_are_relative_to_the_caller_and_the_summary_is_shown(callers_folder):
    result = run("--chat-template", "template.jinja", "--min-len", 5, "--on-bad-line", "skip")
    assert result.exit_code == 0, result.output
    (line,) = (callers_folder / "[a].jsonl").read_text().splitlines()
    assert json.loads(line)["num_loss_counted_tokens"] > 0
    assert "[a].jsonl" in result.stderr
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in result.stderr.splitlines() if "│" in line
    ]
    assert dict(cells)["kept"] == dict(cells)["bad lines"] == "1"
    assert dict(cells)["tokens"] == str(json.loads(line)["len"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chat-template", "template.jinja", "--min-len", "5"], "messages.jsonl:2: not JSON"),
        ([], "the tokenizer has no chat template"),
        (["--chat-template", "none.jinja"], "No such file or directory"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(callers_folder, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in result.output
    assert not (callers_folder / "[a].jsonl").exists()
