"""All kinds of change that the selector is judged by."""

from tools.affected.truth import build_changes, file_changes, rule_changes, setting_changes

KINDS = {**file_changes.KINDS, **build_changes.KINDS, **setting_changes.KINDS, **rule_changes.KINDS}
"""By name."""
