import itertools
import json
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trainers.data.example import generate_conversations
from trainers.data.example.generate_conversations import TOPICS, conversation, generate
from trainers.data.example.train_tokenizer import SPECIAL_TOKENS, train

HERE = Path(generate_conversations.__file__).parent
CONVERSATIONS = HERE / "conversations.jsonl"
TOKENIZER = HERE / "tokenizer.json"


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER))


def contents() -> list[str]:
    lines = CONVERSATIONS.read_text(encoding="utf-8").splitlines()
    return [message["content"] for line in lines for message in json.loads(line)["messages"]]


class TestConversations:
    def test_file_is_what_the_generator_gives(self):
        assert CONVERSATIONS.read_text(encoding="utf-8") == "".join(generate()), (
            "run: python -m trainers.data.example.generate_conversations (then train_tokenizer)"
        )

    def test_file_is_small_enough_to_ship(self):
        assert CONVERSATIONS.stat().st_size < 490_000

    @given(seed=st.integers(0, 10_000))
    def test_user_and_assistant_take_turns_and_say_something(self, seed):
        messages = conversation(Random(seed))
        roles = [message["role"] for message in messages]
        if roles[0] == "system":
            del roles[0]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert roles
        assert all(message["content"].strip() for message in messages)

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.__name__)
    def test_every_topic_asks_many_things(self, topic):
        rng = Random(0)
        assert len({topic(rng)[0] for _ in range(100)}) > 45

    def test_programs_print_what_the_answer_says(self, capsys):
        rng = Random(0)
        for _ in range(100):
            ask, answer = generate_conversations.program(rng)
            exec(ask.split("```python\n")[1].removesuffix("\n```"), {})
            assert answer.startswith(f"It prints `{capsys.readouterr().out.rstrip()}`:")

    def test_other_seeds_give_other_conversations(self):
        assert not set(itertools.islice(generate(seed=1), 20)) & set(itertools.islice(generate(seed=2), 20))


class TestTokenizer:
    def test_file_is_what_training_gives(self):
        assert json.loads(train(CONVERSATIONS).to_str()) == json.loads(TOKENIZER.read_text(encoding="utf-8")), (
            "run: python -m trainers.data.example.train_tokenizer"
        )

    def test_file_is_small_enough_to_ship(self):
        assert TOKENIZER.stat().st_size < 200_000

    def test_round_trip_of_the_conversations(self):
        texts = contents()
        encodings = tokenizer().encode_batch(texts)
        assert [tokenizer().decode(encoding.ids) for encoding in encodings] == texts
        # What makes it a tokenizer of this data: a token stands for more than two characters.
        assert sum(map(len, texts)) > 2 * sum(len(encoding.ids) for encoding in encodings)

    @given(text=st.text())
    def test_round_trip_of_any_text(self, text):
        assert tokenizer().decode(tokenizer().encode(text).ids, skip_special_tokens=False) == text

    def test_special_tokens_come_first_and_are_one_token_each(self):
        assert tokenizer().encode("".join(SPECIAL_TOKENS)).ids == list(range(len(SPECIAL_TOKENS)))
