"""Turns conversations into token ids and labels with a tokenizer's chat template.

The conversation is rendered once as a whole, and its ids are those of that text. Which parts of it carry loss is found
by rendering it again with a character that occurs nowhere in it, the *marker*, at the end of each message: where the
marker stands, the message ends, provided that the text without markers is the same as before. What follows the message
when the conversation stops there is its end of turn; what a generation prompt adds there is the header of the answer.

So a template may trim contents, leave out the reasoning of earlier turns, move a system message into a later one, or
have no ``{% generation %}`` marks. One in which a message cannot be found in this way is refused.
"""

import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainers.data.minibatch import IGNORE_INDEX, Sample

Message = dict[str, Any]
"""``role`` and ``content``, both str; an assistant's may have ``reasoning_content``. Other keys are the template's."""

_ASSISTANT = "assistant"
_SYSTEM = "system"


class ChatTokenizer:
    """Turns the messages of a conversation into a sample.

    A trained message carries loss from its first token to its end of turn. For an assistant that is all that the model
    has to generate after a generation prompt, reasoning included; for other roles it is the content. A token that
    begins before a message and reaches into it carries loss if it is the first word with the space before it; other
    ones, such as the line breaks of header and message in one token, do not.

    Args:
        tokenizer: with a chat template, and of the fast kind.
        trained_roles: roles whose messages carry loss.
        unmask: every role but the system's carries loss, whatever ``trained_roles`` says.

    Raises:
        ValueError: if the tokenizer has no chat template or cannot say where its tokens are.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, trained_roles: Collection[str] = (_ASSISTANT,), unmask: bool = False
    ) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: give one beside it")
        if not tokenizer.is_fast:
            raise ValueError("the tokenizer does not say where its tokens are in the text: load its fast version")
        self._tokenizer = tokenizer
        self._trained_roles = frozenset(trained_roles)
        self._unmask = unmask
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special.update(tokenizer.all_special_tokens)
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __call__(self, messages: Sequence[Message], unmask: bool | None = None) -> Sample:
        """Tokenise a conversation.

        Args:
            messages: the conversation.
            unmask: if given, in place of the one of the constructor.

        Returns:
            Ids and labels as lists, and how many of ``labels[1:]`` carry loss.

        Raises:
            ValueError: if the messages are malformed, the template refuses them, or a trained message cannot be found
                in what it renders.
        """
        _check(messages)
        conversation = _Conversation(messages, self._tokenizer, self._special)
        encoding = self._tokenizer(conversation.text, add_special_tokens=False, return_offsets_mapping=True)
        starts, ends = np.array(encoding["offset_mapping"]).reshape(-1, 2).T
        ids = np.array(encoding["input_ids"])
        labels = np.full_like(ids, IGNORE_INDEX)
        for index, message in enumerate(messages):
            if self._is_trained(message["role"], self._unmask if unmask is None else unmask):
                start, end = conversation.span(index)
                trained = (starts >= start) & (starts < end)
                for at in np.flatnonzero((starts < start) & (start < ends)):
                    before, within = conversation.text[starts[at] : start], conversation.text[start : ends[at]]
                    trained[at] = before.isspace() and not within.isspace()
                labels[trained] = ids[trained]
        return {
            "input_ids": ids.tolist(),
            "labels": labels.tolist(),
            "num_loss_counted_tokens": int(np.count_nonzero(labels[1:] != IGNORE_INDEX)),
        }

    def _is_trained(self, role: str, unmask: bool) -> bool:
        return role != _SYSTEM if unmask else role in self._trained_roles


class _Conversation:
    """A rendered conversation, and where in its text the messages are."""

    def __init__(
        self, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, special: re.Pattern[str]
    ) -> None:
        self._messages = messages
        self._tokenizer = tokenizer
        self._special = special
        self.text = self._render(messages)
        private_use = map(chr, range(0xE000, 0xF900))
        self._marker = next(character for character in private_use if character not in self.text)
        self._ends = self._find_all_ends() or [self._find_end(index) for index in range(len(messages))]

    def span(self, index: int) -> tuple[int, int]:
        """Return where the loss of a message begins and ends in the text."""
        message, end = self._messages[index], self._ends[index]
        if end is None:
            raise ValueError(f"{self._name(index)} cannot be found in what the chat template makes of the conversation")
        closing = self._after(index)
        special = self._special.search(closing)
        if special:
            closing = closing[: special.end()]
            if not self.text.startswith(closing, end):
                raise ValueError(f"the chat template ends {self._name(index)} otherwise when more messages follow")
            end += len(closing)
        elif message["role"] == _ASSISTANT:
            raise ValueError(
                f"the chat template ends {self._name(index)} without a special token, from which a model would "
                "learn to stop: add the EOS token to the template, or make its end of turn a special token"
            )
        return self._start(index), end

    def _start(self, index: int) -> int:
        message = self._messages[index]
        previous_end = self._ends[index - 1] if index else None
        reasoning = (message.get("reasoning_content") or "").strip()
        if reasoning:
            marked = self._render([*self._messages[:index], {**message, "reasoning_content": self._marker}])
            if self._marker not in marked:
                raise ValueError(
                    f"the chat template leaves out the reasoning_content of {self._name(index)}: use a template that "
                    "renders it, move it into the content, or remove it"
                )
        if message["role"] == _ASSISTANT and previous_end is not None:
            header = self._after(index - 1, add_generation_prompt=True)
            if self.text.startswith(header, previous_end):
                return previous_end + len(header)
        start = self._find_start(index)
        if start is None or (reasoning and reasoning in self.text[previous_end or 0 : start]):
            raise ValueError(
                f"it cannot be told where the chat template begins {self._name(index)}: its generation prompt does not "
                "stand before the message"
            )
        return start

    def _after(self, index: int, add_generation_prompt: bool = False) -> str:
        """Return what the template adds after the content of a message with which the conversation stops."""
        stopped = [*self._messages[:index], self._ended(self._messages[index])]
        return self._render(stopped, add_generation_prompt).partition(self._marker)[2]

    def _find_all_ends(self) -> list[int | None] | None:
        """Mark all messages at once, each by its number; None if that changes the text."""
        contents = [
            f"{message['content']}{self._marker}{at}{self._marker}" for at, message in enumerate(self._messages)
        ]
        marked = self._render(
            [{**message, "content": content} for message, content in zip(self._messages, contents, strict=True)]
        )
        # Text, number, text, number, ..., text: the template may move messages.
        pieces = re.split(f"{self._marker}(\\d+){self._marker}", marked)
        numbers = [int(number) for number in pieces[1::2]]
        if "".join(pieces[::2]) != self.text or sorted(numbers) != list(range(len(contents))):
            return None
        ends: list[int | None] = [None] * len(contents)
        for number, end in zip(numbers, itertools.accumulate(map(len, pieces[::2])), strict=False):
            ends[number] = end
        return ends

    def _find_end(self, index: int) -> int | None:
        content = self._messages[index]["content"]
        return self._find(index, [kept + self._marker for kept in (content, content.rstrip("\n"), content.rstrip())])

    def _find_start(self, index: int) -> int | None:
        content = self._messages[index]["content"]
        return self._find(index, [self._marker + kept for kept in (content, content.lstrip("\n"), content.lstrip())])

    def _find(self, index: int, marked: list[str]) -> int | None:
        """Return where the marker stands in the first of these contents that leaves the text as it is."""
        for content in marked:
            message = {**self._messages[index], "content": content}
            text = self._render([*self._messages[:index], message, *self._messages[index + 1 :]])
            before, marker, after = text.partition(self._marker)
            if marker and before + after == self.text:
                return len(before)
        return None

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except Exception as error:  # a template raises what it likes
            raise ValueError(f"the chat template refuses the conversation: {error}") from error

    def _name(self, index: int) -> str:
        return f"message {index} ({self._messages[index]['role']})"

    def _ended(self, message: Message) -> Message:
        return {**message, "content": message["content"] + self._marker}


def _check(messages: object) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError("'messages' must be a list of at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(f"message {index} must be an object with a 'role' and a 'content', both strings")
        if not isinstance(message.get("reasoning_content") or "", str):
            raise ValueError(f"the reasoning_content of message {index} must be a string")
