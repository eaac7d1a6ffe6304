"""What the test worker answers: a question's last word in `#` picks the text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rbee_worker.types import Request

MARKDOWN = """# Bees

A *short* text with **bold**, `code`, ~~deleted~~ words and a [link](https://example.org/a?b=1).
Fish &amp; chips cost $5, or $6 with salt.

1. first
2. second
   - inner
   - [x] done

> quoted, with a [bad link](javascript:alert(1)) and ![a picture](https://example.org/spy.png)

| name | wings | legs |
|:-----|------:|:----:|
| bee | 4 | 6 |
| fly | 2 | 6 |

```python
def hive(n: int) -> str:
    # a comment
    return "bee" * n
```

The end<br>of it.
"""
MATH = r"""The roots are \(x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}\), and $e^{i\pi} + 1 = 0$.

$$\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}$$

\[ \mathbb{R} \subset \mathbb{C} \]

This one is none: $\frac{1$ and \(\href{javascript:alert(1)}{x}\).
"""
SHORT = "Four wings."
CUT = "The first half, and"
REST = " the second half."
LONG = "".join(f"Line {n} of a very long answer that somebody will stop.\n\n" for n in range(5000))
ANSWERS = {"markdown": MARKDOWN, "math": MATH, "short": SHORT, "cut": CUT, "long": LONG}


def script(request: Request, answers: dict[str, str] = ANSWERS) -> Sequence[int]:
    """The bytes of the answer to a request; of the rest of it, if it goes on with one."""
    assert request.messages is not None
    if request.continue_final_message:
        return list(REST.encode())
    asked = [m["content"] for m in request.messages if m["role"] == "user"][-1]
    found = re.findall(r"#(\w+)", asked)
    said = answers.get(found[-1]) if found else None
    return list((f"You said: {asked}" if said is None else said).encode())
