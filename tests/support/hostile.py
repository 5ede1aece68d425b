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
