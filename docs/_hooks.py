"""Pages that are parts of files outside docs/: ``{{ FILE }}``, or ``{{ section "TITLE" of FILE }}``."""

import re
from pathlib import Path

INCLUDE = re.compile(r'\{\{ (?:section "(?P<title>.+?)" of )?(?P<file>\S+\.md) \}\}')
ROLE = re.compile(r":(?:func|mod|class|data|meth|attr):<code>~?([\w.]+)</code>")


def on_page_markdown(markdown, page, config, files):
    """Puts the text in place, with links as they are from docs/."""
    root = Path(config.config_file_path).parent

    def text(match):
        content = (root / match["file"]).read_text()
        if match["title"]:
            found = re.search(rf"^## {match['title']}\n(.*?)(?=^## |\Z)", content, flags=re.DOTALL | re.MULTILINE)
            content = found[1]
        return content.replace("](docs/", "](")

    return INCLUDE.sub(text, markdown)


def on_page_content(html, page, config, files):
    """Shows the names that docstrings refer to in Sphinx's way as plain code."""
    return ROLE.sub(lambda match: f"<code>{match[1].removeprefix('mlla_seg.')}</code>", html)
