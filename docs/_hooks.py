"""Pages that are files outside docs/: ``{{ FILE }}``."""

import re
from pathlib import Path

INCLUDE = re.compile(r"\{\{ (\S+\.md) \}\}")
ROLE = re.compile(r":(?:func|mod|class|data|meth|attr):<code>~?([\w.]+)</code>")


def on_page_markdown(markdown, page, config, files):
    """Puts the text in place, with links as they are from docs/."""
    root = Path(config.config_file_path).parent

    def text(match):
        return (root / match[1]).read_text().replace("](docs/", "](")

    return INCLUDE.sub(text, markdown)


def on_page_content(html, page, config, files):
    """Shows the names that docstrings refer to in Sphinx's way as plain code."""
    return ROLE.sub(lambda match: f"<code>{match[1].removeprefix('mlla_seg.')}</code>", html)
