"""What models write: once well-meant, once hostile."""

MARKDOWN = """# A heading

A paragraph with **bold**, *italic*, `code` and [a link](https://example.com/path).

1. First
   - inside
   - [x] done
2. Second

   ```python
   def add(a, b):
       return a + b
   ```
3. Third

> A quote
> with two lines

| Left | Right | Middle |
|:-----|------:|:------:|
| a | 1 | x |
| longer cell with words | 22 | `y` |

---

```bash
echo "a long line of code that goes on and on, past the edge of a small window, and on" | tee file
```
The end: https://example.com/plain.
"""

FENCE = "```"

HOSTILE = f"""<script>window.broken = 1</script><img src=x onerror="window.broken = 2">
<svg onload="window.broken = 3"></svg> <iframe src="https://evil.example/frame"></iframe>
<style>body {{ display: none }}</style> <base href="https://evil.example/">

[run](javascript:window.broken=4) [data](data:text/html,<script>window.broken=5</script>)
[vb](vbscript:x) [file](file:///etc/passwd) [rel](/v1/models) [user](https://bank.example@evil.example/)
[tab](java\tscript:window.broken=6) [entity](&#106;avascript:alert(1)) <javascript:window.broken=7>
![pixel](https://evil.example/pixel.png) ![svg](data:image/svg+xml,<svg/onload=window.broken=8>)
[![nested](https://evil.example/a.png)](javascript:window.broken=9)
[auto]: https://evil.example/ref "x"
[b" onclick="window.broken=10](https://evil.example/q"onmouseover="window.broken=11)

| <img src=x onerror=window.broken=12> | b |
|---|---|
| <script>window.broken=13</script> | [x](javascript:window.broken=14) |

{FENCE}html" onload="window.broken=15
<script>window.broken = 16</script></code></pre><script>window.broken = 17</script>
{FENCE}

\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07
access\u202elevel\u202c \u2066x\u2069
invisible\U000e0041\U000e0042 zero\x00byte bell\x07 c1\x9b31m
"""

MANY = (
    "> " * 3000 + "deep quote",
    "\n".join("  " * depth + "- item" for depth in range(300)),
    "*" * 20000,
    "**a " * 5000,
    "[" * 20000 + "](",
    "`" * 10001 + " x " + "``" * 5000,
    "![" * 10000,
    "<" * 20000 + "br" * 5000,
    "| a " * 5000 + "|\n" + "|---" * 5000 + "|\n" + "| b " * 5000 + "|",
    "| a | b |\n|---|---|\n" + "| cell | other |\n" * 3000,
    "~~~ unclosed\n" + "code\n" * 5000,
    "x" * 1_000_000,
    "word " * 20_000,
    "\n" * 20_000 + "end",
    "\\" * 20_000,
    "https://" * 5000,
    "_a_" * 10000,
    "1. " * 5000,
    "a\u0301" * 20000 + "\U0001f468\u200d\U0001f469" * 2000,
)
"""Texts whose shape costs a careless parser or layout minutes."""
