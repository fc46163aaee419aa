import json

import pytest

from trainers.data.json_line import parse_line


@pytest.mark.parametrize("escaped", [True, False])
def test_any_text_is_read(escaped):
    value = {"a": ["é", "\U0001f600", "\ud7ff\ue000", "\\ud800", "\x00"], "b": {"a": None}}
    assert parse_line(json.dumps(value, ensure_ascii=escaped).encode() + b"\r\n") == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rb'{"a": "x\ud83d"}', r"'utf-8' codec can't encode character '\\ud83d' in position 8: surrogates not allowed"),
        (rb'{"a": "\uDe00\uD83d"}', "surrogates not allowed"),
        (rb'{"\udfff": 1}', "surrogates not allowed"),
        (b'{"b": {"x": 1, "a": 1, "a": 1}}', "the key 'a' stands twice in an object"),
        (b'{"b": 1', "Expecting ',' delimiter"),
        (b'"\xff"', "'utf-8' codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"1" * 5000, "Exceeds the limit"),
    ],
)
def test_what_would_be_lost_is_refused(line, message):
    with pytest.raises(ValueError, match=f"^not JSON: .*{message}"):
        parse_line(line)
