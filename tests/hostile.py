"""Names that files, cases and classes of strangers have, and what they would do to a careless program."""

NAMES = [
    "$_{",
    r"a%b\frac",
    "-rf",
    "=cmd|'/C calc'!A0",
    "+1",
    "@x",
    "'=1",
    "<script>alert(1)</script>",
    'a"b,c;d',
    "_hidden",
    "größe 肝 👩‍⚕️",
    "x" * 255,
]
"""Names that hold nothing but visible signs, so that they are taken, also as classes."""
UNSEEN = [
    "caf\udce9",  # a byte of a Latin-1 file name
    "two\nlines",
    "a\rb\tc",
    "\x1b[2J\x1b]52;c;aGk=\x07",
    "\u202etxt.exe",
]
"""Names that files may have, but classes may not."""
ORDERS = {"\x1b", "\r", "\x07", "\u202e", "\udce9"}
"""Signs that must not reach a terminal or a page."""
