"""YAML within bounds: files that would fill the memory (aliases of aliases) or exhaust Python are refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from mlla_seg.errors import InputError

DEEPEST = 100
"""Most lists and mappings within each other."""
MOST_VALUES = 100_000
"""Most values of a YAML file, those of an alias counted each time."""


class BoundedLoader(yaml.SafeLoader):
    """Safe loader that counts depth and values before it builds anything, and refuses repeated keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.values = 0
        self.sizes: dict[str, int | None] = {}  # values below each anchor, None while it is read

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self._count(self.peek_event())
            return super().compose_node(parent, index)
        anchor, before = self.peek_event().anchor, self.values
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"has more than {DEEPEST} lists or mappings within each other.")
        self._add(1)
        if anchor is not None:
            self.sizes[anchor] = None
        node = super().compose_node(parent, index)
        self.sizes[anchor] = self.values - before
        self.depth -= 1
        return node

    def _count(self, alias: Any) -> None:
        size = self.sizes.get(alias.anchor, 1)  # PyYAML refuses unknown ones
        if size is None:
            raise InputError(f"line {alias.start_mark.line + 1}: *{alias.anchor} stands within what it names.")
        self._add(size)

    def _add(self, count: int) -> None:
        self.values += count
        if self.values > MOST_VALUES:
            raise InputError(f"has more than {MOST_VALUES:,} values, those of aliases (*name) counted each time.")

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        counts = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, name), count in counts.items():
            if count > 1:
                raise InputError(
                    f"the key {name!r} is given twice in the mapping from line {node.start_mark.line + 1}."
                )
        return node
