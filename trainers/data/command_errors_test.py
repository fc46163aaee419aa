from trainers.data.command_errors import report_error


def test_one_line_as_it_is(capsys, monkeypatch):
    """However narrow the window; brackets are no markup."""
    monkeypatch.setenv("COLUMNS", "20")
    assert report_error(ValueError("ids.jsonl:3: [bold] is not JSON: quote the word")) == 1
    assert capsys.readouterr() == ("", "error: ids.jsonl:3: [bold] is not JSON: quote the word\n")
