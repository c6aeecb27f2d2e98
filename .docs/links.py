"""Links of the finished pages: Sphinx warns of those that it resolves itself, this looks at all that were written."""

import re
from pathlib import Path
from urllib.parse import unquote

HREF = re.compile(r'<(?:a|img|link|script)\b[^>]*?\b(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'\bid="([^"]+)"')


def broken(site: Path) -> list[str]:
    """Return the links within a folder of pages that lead to no file of it, or to no place in that file."""
    texts = {path: path.read_text() for path in sorted(site.rglob("*.html"))}
    anchors = {path: set(ANCHOR.findall(text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for link in sorted(set(HREF.findall(text))):
            if re.match(r"[a-z]+:|//", link):  # of another site
                continue
            file, _, anchor = unquote(re.sub(r"[?][^#]*", "", link)).partition("#")
            target = (path.parent / file).resolve() if file else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in anchors and anchor not in anchors[target]):
                found.append(f"{path.relative_to(site)}: {link}")
    return found
