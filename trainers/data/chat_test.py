from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from trainers.data import chat
from trainers.data.chat import ChatTokenizer
from trainers.data.minibatch import IGNORE_INDEX

EXAMPLE = Path(chat.__file__).parent / "example"

CHATML = """\
{%- for m in messages -%}
<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>{{ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif -%}"""

LINES_STRIPPED = CHATML.replace("m.content", "m.content.strip('\n')")

LLAMA3 = """\
{{- bos_token }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

GRANITE = """\
{%- if messages[0].role != 'system' %}
    {{- '<|start_of_role|>system<|end_of_role|>Today is Monday.<|end_of_text|>\n' }}
{%- endif %}
{%- for m in messages %}
    {{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"""

# No system role: its text goes into the last question. No generation prompt. Only answers end in a special token.
MISTRAL = """\
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- if m.role == 'user' and loop.revindex <= 2 %}{{- '[INST] ' + system + m.content + '[/INST]' }}
    {%- elif m.role == 'user' %}{{- '[INST] ' + m.content + '[/INST]' }}
    {%- else %}{{- ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

# Reasoning only after the last question, written there even if there is none; reasoning may come inside the content.
QWEN3 = """\
{%- set ns = namespace(last_question=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last_question = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set content = m.content %}{% set reasoning = '' %}
        {%- if m.reasoning_content is string %}{% set reasoning = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last_question and (loop.last or reasoning) %}
            {{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}{{- content }}{% endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# The same, but the generation prompt begins the reasoning.
THINKING = QWEN3.replace(
    "{{- '<|im_start|>assistant\n' }}{% endif %}", "{{- '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)

# A second token after the last turn alone.
PHI3 = """\
{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% else %}{{- eos_token }}{% endif %}"""

SPECIAL = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
]

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello, who are you?"}
NAME = {"role": "assistant", "content": "A model."}
MORE = {"role": "user", "content": "And what is 2 + 2?"}
FOUR = {"role": "assistant", "content": "It is 4."}
CONVERSATION = [SYSTEM, HELLO, NAME, MORE, FOUR]


@cache
def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(["\n\n"])
    # Which a template does itself: two of them would be one too many.
    beginning = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=beginning)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template
    )


def trained(template: str, messages: list[dict], **options) -> list[str]:
    """Text of each run of tokens that carry loss; checks what holds of every sample."""
    tokenizer = tokenizer_with(template)
    sample = ChatTokenizer(tokenizer, **options)(messages)
    ids, labels = sample["input_ids"], sample["labels"]
    assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
    assert all(label in (token, IGNORE_INDEX) for token, label in zip(ids, labels, strict=True))
    assert sample["num_loss_counted_tokens"] == sum(label != IGNORE_INDEX for label in labels[1:])
    runs: list[list[int]] = []
    for before, label in zip([IGNORE_INDEX, *labels], labels, strict=False):
        if label != IGNORE_INDEX:
            runs = [*runs, []] if before == IGNORE_INDEX else runs
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs]


class TestAssistants:
    @pytest.mark.parametrize(
        ("template", "before", "closing"),
        [
            (CHATML, "", "<|im_end|>"),
            (LLAMA3, "", "<|eot_id|>"),
            (GRANITE, "", "<|end_of_text|>"),
            (MISTRAL, " ", " </s>"),
            (PHI3, "", "<|end|>"),
        ],
        ids=["chatml", "llama3", "granite", "mistral", "phi3"],
    )
    def test_answers_through_their_end_of_turn(self, template, before, closing):
        answers = [before + "A model." + closing, before + "It is 4." + closing]
        assert trained(template, CONVERSATION) == answers
        assert trained(template, CONVERSATION[1:]) == answers
        assert trained(template, CONVERSATION[:3]) == answers[:1]
        assert trained(template, CONVERSATION[:2]) == []

    @given(question=st.text("a \n<[/INST]", max_size=8), answer=st.text("ab \n</s>", max_size=8))
    def test_without_a_generation_prompt(self, question, answer):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        assert trained(MISTRAL, messages) == [f" {answer.strip()} </s>"]

    def test_a_token_that_begins_in_the_header(self):
        # "\n\n" is one token: the model is given the first line break, so it cannot be asked for both.
        assert trained(CHATML, [HELLO, {"role": "assistant", "content": "\nA model."}]) == ["A model.<|im_end|>"]
        # " Hello" is one token: it is what the model has to say after ":".
        colon = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        assert trained(colon, [HELLO, {"role": "assistant", "content": "Hello."}]) == [" Hello.</s>"]

    def test_several_in_a_row(self):
        assert trained(CHATML, [HELLO, NAME, FOUR]) == ["A model.<|im_end|>", "It is 4.<|im_end|>"]

    def test_the_first_message(self):
        assert trained(CHATML, [NAME, HELLO, FOUR]) == ["A model.<|im_end|>", "It is 4.<|im_end|>"]

    def test_what_looks_like_an_end_of_turn_does_not_end_it(self):
        said = {"role": "assistant", "content": "ChatML ends in <|im_end|>\n<|im_start|>user\n, like so."}
        assert trained(CHATML, [HELLO, said, MORE, FOUR])[0] == said["content"] + "<|im_end|>"

    def test_a_template_may_change_the_contents(self):
        upper = "{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}"
        assert trained(upper, [HELLO, NAME]) == ["A MODEL.</s>"]

    def test_the_marker_may_occur_in_a_message(self):
        assert trained(CHATML, [HELLO, {"role": "assistant", "content": "\ue000 x"}]) == ["\ue000 x<|im_end|>"]


@settings(max_examples=50)
@example(contents=["\n a\n", "\n b \n"] * 2, unmask=True)
@given(contents=st.lists(st.text("ab \n<|>é_日", max_size=8), min_size=4, max_size=4), unmask=st.booleans())
@pytest.mark.parametrize(
    ("template", "form"),
    [
        (CHATML, "{}<|im_end|>"),
        (LINES_STRIPPED, "{lines_stripped}<|im_end|>"),
        (LLAMA3, "{stripped}<|eot_id|>"),
        (GRANITE, "{}<|end_of_text|>"),
    ],
    ids=["chatml", "lines_stripped", "llama3", "granite"],
)
def test_whatever_is_said(template, form, contents, unmask):
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    expected = [
        form.format(text, stripped=text.strip(), lines_stripped=text.strip("\n"))
        for text, role in zip(contents, roles, strict=True)
        if unmask or role == "assistant"
    ]
    for found, text in zip(trained(template, messages, unmask=unmask), expected, strict=True):
        # White space that shares a token with the header's carries no loss.
        assert text.endswith(found)
        assert not text.removesuffix(found).strip()


class TestReasoning:
    THOUGHT = NAME | {"reasoning_content": "Let me think."}
    SUM = FOUR | {"reasoning_content": "\n2 + 2 = 4\n"}

    @pytest.mark.parametrize("template", [QWEN3, THINKING], ids=["qwen3", "thinking"])
    def test_is_trained_where_the_template_writes_it(self, template):
        # After a generation prompt that begins the reasoning, only what comes after it is to be generated.
        begin = "<think>\n" if template == QWEN3 else ""
        last = begin + "2 + 2 = 4\n</think>\n\nIt is 4.<|im_end|>"
        assert trained(template, [HELLO, self.SUM]) == [last]
        # The first turn's reasoning is not in the text, as it is not when the model answers the second question.
        assert trained(template, [SYSTEM, HELLO, self.THOUGHT, MORE, self.SUM]) == ["A model.<|im_end|>", last]

    def test_inside_the_content(self):
        said = {"role": "assistant", "content": "<think>\n2 + 2 = 4\n</think>\n\nIt is 4."}
        assert trained(QWEN3, [HELLO, said]) == [said["content"] + "<|im_end|>"]

    def test_a_template_that_leaves_it_out_is_refused(self):
        said = NAME | {"reasoning_content": "model"}  # which stands in the content, too
        with pytest.raises(ValueError, match=r"leaves out the reasoning_content of message 1 \(assistant\)"):
            trained(CHATML, [HELLO, said])

    def test_a_header_that_hides_it_is_refused(self):
        template = THINKING.replace("<think>\n' + reasoning", "<thought>' + reasoning")
        assert template != THINKING
        with pytest.raises(ValueError, match=r"cannot be told where the chat template begins message 1 \(assistant\)"):
            trained(template, [HELLO, self.SUM])

    def test_none_is_no_reasoning(self):
        assert trained(CHATML, [HELLO, NAME | {"reasoning_content": None}]) == ["A model.<|im_end|>"]


class TestRoles:
    def test_all_but_the_system_with_unmask(self):
        expected = [HELLO["content"], NAME["content"], MORE["content"], FOUR["content"]]
        assert trained(GRANITE, CONVERSATION, unmask=True) == [text + "<|end_of_text|>" for text in expected]
        assert trained(LLAMA3, CONVERSATION, unmask=True) == [text + "<|eot_id|>" for text in expected]
        assert trained(MISTRAL, CONVERSATION, unmask=True) == [
            " Hello, who are you?",  # the space is in the token of the first word
            " A model. </s>",
            "And what is 2 + 2?",  # after line breaks
            " It is 4. </s>",
        ]

    def test_of_one_conversation(self):
        tokenize = ChatTokenizer(tokenizer_with(GRANITE))
        alone, whole = (tokenize(CONVERSATION, unmask)["num_loss_counted_tokens"] for unmask in (None, True))
        assert 0 < alone < whole

    def test_chosen_ones(self):
        assert trained(CHATML, [SYSTEM, HELLO, NAME], trained_roles=["system", "user"]) == [
            "Be brief.<|im_end|>",
            "Hello, who are you?<|im_end|>",
        ]


class TestRefused:
    @pytest.mark.parametrize(
        ("template", "messages", "message"),
        [
            (MISTRAL, [HELLO, HELLO], "the chat template refuses the conversation: roles must alternate"),
            ("{{ messages[0].content.x.y }}", [HELLO], "the chat template refuses the conversation"),
            (
                "{% for m in messages %}{{ m.content }}\n{% endfor %}",
                [HELLO, NAME],
                r"ends message 1 \(assistant\) without a",
            ),
            (
                "{% for m in messages %}{{ m.content | length }}</s>{% endfor %}",
                [HELLO, NAME],
                "message 1 .* cannot be found",
            ),
            ("{{ messages[0].content }}</s>", [HELLO, NAME], r"message 1 \(assistant\) cannot be found"),
            (
                "{% for m in messages %}{{ m.content }}{{ '</s>' if loop.last else '<s>' }}{% endfor %}",
                [HELLO, NAME, MORE],
                r"ends message 1 \(assistant\) otherwise when more messages follow",
            ),
        ],
    )
    def test_what_a_template_makes_unclear(self, template, messages, message):
        with pytest.raises(ValueError, match=message):
            trained(template, messages)

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            (None, "'messages' must be a list of at least one message"),
            ([], "'messages' must be a list of at least one message"),
            ("hello", "'messages' must be a list"),
            ([HELLO, "x"], "message 1 must be an object with a 'role' and a 'content', both strings"),
            ([{"role": "user"}], "message 0 must be an object"),
            ([{"role": "user", "content": None}], "message 0 must be an object"),
            ([HELLO, NAME | {"reasoning_content": ["x"]}], "the reasoning_content of message 1 must be a string"),
        ],
    )
    def test_malformed_messages(self, messages, message):
        with pytest.raises(ValueError, match=message):
            ChatTokenizer(tokenizer_with(CHATML))(messages)

    def test_a_tokenizer_without_a_template(self):
        with pytest.raises(ValueError, match="the tokenizer has no chat template"):
            ChatTokenizer(tokenizer_with(""))
