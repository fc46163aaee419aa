"""The tables of options in docs/sft.md are those of the configuration."""

from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainers.sft.config import TrainConfig

DOCUMENT = Path(__file__).parents[2] / "docs/sft.md"


def row(name: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        default = "required"
    else:
        default = "" if field.default in (None, {}) else f"`{field.default}`"
    return f"| `--{name.replace('_', '-')}` | {default} | {field.description} |"


def test_every_option_stands_there_with_its_default():
    documented = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `--")]
    expected = [row(name, field) for name, field in TrainConfig.model_fields.items()]
    assert documented == expected, "put these lines into docs/sft.md:\n" + "\n".join(expected)
