"""Texts that tell pre-tokenizers apart, and a small corpus to train tiny vocabularies on."""

from __future__ import annotations

TEXTS = (
    "Hello, world! It's 12:30; we'll meet they'RE I'D don't DON'T ſ's.",
    "Prices: 1234567890, 3.14159, 007, ١٢٣٤ ४५६ ²³ ½ Ⅷ 12½34 1,234,567.",
    "Der schnelle braune Fuchs springt über den faulen Hund; naïve café, Ærøskøbing.",
    "Быстрая коричневая лиса — «кавычки» и ёжик. Ο Καλύτερος Ὅμηρος ὦ ᾳ.",
    "人工智能是计算机科学的一个分支。日本語のテキスト、カタカナ。한국어 문장입니다.",
    "हिन्दी में लिखा पाठ। ภาษาไทยไม่มีช่องว่าง עברית العربية مرحبا ١٢",
    "emoji 😀😀 👩‍👩‍👧‍👦 🇫🇷 ❤️ é e\u0301 \u212b Å ﬁ ｆｕｌｌ　ｗｉｄｔｈ",
    "def f(x):\n    if x >= 10:\n\t\treturn {'a': [1, 2]}\n\n\nclass HTTPServer2:  # camelCase\r\n",
    "  leading\n \n  \t mixed   runs     of      blanks\n\n\n\nend  ",
    'a\u00a0b\u2003c\u3000d\u200be \x00\x01\x7f $x^2 + y_1 = `z`|~ <tag attr="v"/> & %d @me #1',
    "<|im_start|>user\nHi<|im_end|>\n <|im_start|> x<|im_end|>",
    "",
    " ",
    "\n",
)

# Repetition makes merges happen: without merges every pre-tokenizer gives the same bytes.
CORPUS = [*TEXTS] * 3 + [
    "the quick brown fox jumps over the lazy dog and then the other dog",
    "don't you'll we're I've he'd she's I'm DON'T YOU'LL WE'RE",
    "12 123 1234 12345 123456 2024 1999 10 100 1000 10000 100 200 300 12 12 12",
    " 1 2 3 10 20 30 100 200 300  1  2   3",
    "    if (x == 1) {\n        return x + 1;\n    }\n\n\n    else {\n\t\t\tpass\n}\n",
    "!!! ... ??? --- === *** !=  == <= >= -> => :: ;; // /* */ ### '' \"\"",
    "中文中文中文 日本日本 한국한국 привет привет мир мир",
    "camelCase HTTPServer HTTPServer XMLHttpRequest fooBar fooBar",
    "😀 😀 😀 👩‍👩‍👧 👩‍👩‍👧",
    "é é é naïve naïve über über e\u0301 e\u0301",
    "hello hello world world  two  two   three   three",
] * 6

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
