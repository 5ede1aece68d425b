"""Lines that workers, buckets and clusters really say, or could: each must be shown, obeyed by nobody."""

GLOO = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.1]:53372"
)
LINES = {
    "gloo": GLOO,
    "enforce": "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
    "closing tag": "[/x]",
    "style": "[red]alarm[/red]",
    "link": "[link=https://example.org]click[/link]",
    "emoji": ":warning: :smile:",
    "clear screen": "before\x1b[2Jafter",
    "hyperlink (OSC 8)": "\x1b]8;;https://example.org\x1b\\click\x1b]8;;\x1b\\",
    "clipboard (OSC 52)": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "C1 control": "\x9b2J\x9d52;c;eA==\x9c",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "carriage return": "an error\rall is well",
    "bidirectional override": "abc\u202edef",
    "surrogate": "invalid \udcff UTF-8",
    "not ASCII": "Größe – 90 % ✓ 日本",
    "a backslash": "C:\\runs\\[r1]",
}
# What must not reach a terminal as it is.
FORBIDDEN = set(map(chr, [*range(0x20), *range(0x7F, 0xA0)])) - {"\n"} | set("\u202a\u202b\u202c\u202d\u202e\udcff")


def words(line: str) -> list[str]:
    """The plain words of a line: each must still be there when it is shown."""
    return [word for word in line.split() if word.isprintable()]


# What a file of JSON in a bucket may hold instead of what a run writes there.
DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = {
    "deep list": DEEP,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "cut": b'{"manifest": {"files": ',
    "a number": b"7",
    "null": b"null",
    "a list": b"[[], {}, null, 1e999]",
    "not finite": b'{"manifest": NaN, "time": Infinity, "step": -Infinity, "status": NaN}',
    "5000 digits": b'{"time": ' + b"9" * 5000 + b"}",
    "huge exponent": b'{"time": 1e308, "started_at": 1e308, "status": "finished", "epochs": 1e308, "step": 1e308}',
    "a key twice": b'{"status": "finished", "status": ["failed"], "event": "run_started", "event": {}}',
    "lone surrogates": b'{"status": "\\ud800", "\\udfff": "\\ud800", "event": "\\ud800", "time": 1}',
    "wrong types": b'{"manifest": [], "status": {}, "time": "x", "event": 7, "host": [], "pid": {}, "cost": 1}',
    "not UTF-8": b'\xff\xfe{"\x80": 1}',
    "terminal": b'{"status": "\\u001b]52;c;eA==\\u0007[red]", "event": "\\u001b[2J", "time": 1.0}',
}
# Text that a browser would obey if it were not escaped.
HTML = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% include 'run.html' %}",
    "</title></style><svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>click</a>",
    "<!--",
]


def put_instead(content: object, text: object, number: object) -> object:
    """Return JSON content of the same shape, with this text for each text, and this number for each number."""
    if isinstance(content, dict):
        return {key: put_instead(value, text, number) for key, value in content.items()}
    if isinstance(content, list):
        return [put_instead(value, text, number) for value in content]
    if isinstance(content, str):
        return text
    return number if isinstance(content, int | float) and not isinstance(content, bool) else content
