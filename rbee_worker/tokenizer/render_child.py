"""The process in which chat templates run: `python -I render_child.py DIR.. CPU_S MEMORY MAX`.

A template comes with a model file and is not trusted. Here it has Jinja's immutable sandbox and
nothing else: no open files, no new processes, a limit on memory, and a timer that ends the process
if one rendering takes too much processor time. The script imports nothing of the worker and starts
in tens of milliseconds.

Frames both ways: 4 bytes of length (big endian), then a JSON object; with "attached": n in it, n
bytes follow. In: {"template"?, "context"}. Out: {} once it is ready, then {"text"} or
{"error": kind, "message"}.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO

HEADER = struct.Struct(">I")

# The encodings that a template may use; each is a module that is imported on first use.
_CODECS = ("utf-8", "utf-16", "utf-32", "ascii", "latin-1", "cp1252", "idna", "punycode")
_WORD = re.compile(r"\w+")
_LEFT_OUT = "…"
_SEVERAL = re.compile(f"{_LEFT_OUT}(?:\\s*{_LEFT_OUT})+")
_MOST_SAID = 2000  # characters of an error message that are examined
# Words and punctuation of Jinja's own messages.
_OWN_WORDS = frozenset(
    re.findall(
        r"\w+",
        "is undefined has no attribute element object of access to unsafe the a an in not callable "
        "safely dict list str int float bool tuple None NoneType sequence mapping jinja2 utils "
        "Namespace namespace begins with underscore filter test named",
    )
)
_OWN_MARKS = " '\".,:;()[]"


class _TooLong(Exception):
    pass


def main(argv: list[str]) -> None:
    """Serve frames until the input ends."""
    *paths, cpu_s, memory, most = argv
    sys.path += paths
    renderer = _Renderer(int(most))
    renderer.warm_up()
    serve(renderer.answer, float(cpu_s), int(memory))


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]], cpu_s: float, memory: int) -> None:
    """Confine this process to `memory` bytes of address space, say that it is ready, and answer
    frames until the input ends. An answer that takes more than `cpu_s` seconds of the processor
    ends the process with SIGPROF."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even inside a long C call
    _confine(memory)
    _write({})
    while (request := _read(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        told = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(told)


def _confine(memory: int) -> None:
    """Set the limits of this process. A platform that lacks one goes without it."""
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _read(source: BinaryIO) -> dict[str, Any] | None:
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    body: dict[str, Any] = json.loads(source.read(size))
    if "attached" in body:
        body["attached"] = source.read(body["attached"])
    return body


def _write(answer: dict[str, Any]) -> None:
    attached: bytes | None = answer.get("attached")
    told = answer if attached is None else {**answer, "attached": len(attached)}
    body = json.dumps(told).encode()
    sys.stdout.buffer.write(HEADER.pack(len(body)) + body)
    if attached is not None:
        sys.stdout.buffer.write(attached)
    sys.stdout.buffer.flush()


class _Renderer:
    """One template, compiled once, and the names that Hugging Face gives templates."""

    def __init__(self, most: int) -> None:
        from jinja2 import exceptions

        self.errors = exceptions
        self.most = most
        self.environment = _environment()
        self.source = ""
        self.words: frozenset[str] = frozenset()
        self.marks: set[str] = set()
        self.template: Any = None

    def warm_up(self) -> None:
        """Use everything that imports lazily, errors included, while files can still be opened."""
        for text in ("{{ [1]|tojson }}{{ strftime_now('%d') }}", "{{ x.y.z }}", "{% if %}", "{{"):
            self.answer({"template": text, "context": {}})
        context = self.environment.from_string("").new_context()
        for name in self.environment.filters:
            for value in ("a b", ["a"], {"a": 1}):
                with suppress(Exception):  # a filter that needs arguments fails here, harmlessly
                    self.environment.call_filter(name, value, context=context)
        for codec in _CODECS:
            "a".encode(codec)

    def answer(self, request: dict[str, Any]) -> dict[str, str]:
        """The frame that answers `request`. Never raises."""
        try:
            if "template" in request:
                self.source = request["template"]
                self.template = None
                self.words = _OWN_WORDS.union(_WORD.findall(self.source))
                self.marks = set(self.source).union(_OWN_MARKS)
            if self.template is None:
                self.template = self.environment.from_string(self.source)
            return {"text": self.render(request["context"])}
        except _TooLong:
            return _error("output", "")
        except self.errors.TemplateSyntaxError as e:
            return _error("syntax", f"line {e.lineno}: {e.message}")
        except self.errors.SecurityError as e:
            return self.told("security", e, request)
        except self.errors.UndefinedError as e:
            return self.told("undefined", e, request)
        except self.errors.TemplateError as e:
            return self.told("raised", e, request)
        except MemoryError:
            return _error("memory", "")
        except (Exception, RecursionError) as e:
            return _error("other", type(e).__name__)

    def told(self, kind: str, error: Exception, request: dict[str, Any]) -> dict[str, str]:
        """An error message with only the words of the template, of Jinja and of roles: other words
        may come from a user's message, which must not get into messages or logs."""
        messages = request["context"].get("messages") or ()
        roles = " ".join(str(m.get("role")) for m in messages if isinstance(m, dict))
        known = self.words.union(_WORD.findall(roles))

        def kept(piece: re.Match[str]) -> str:
            text = piece[0]
            return text if text in (known if _WORD.fullmatch(text) else self.marks) else _LEFT_OUT

        said = re.sub(r"\w+|\W", kept, str(error)[:_MOST_SAID])
        return _error(kind, _SEVERAL.sub(_LEFT_OUT, said))

    def render(self, context: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self.template.generate(**context):
            size += len(part)
            if size > self.most:
                raise _TooLong
            parts.append(part)
        return "".join(parts)


def _error(kind: str, message: str) -> dict[str, str]:
    return {"error": kind, "message": " ".join(message.split())[:300]}


def _environment() -> Any:
    """Jinja's sandbox with the settings and names that Hugging Face uses."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation_tag(), "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    del environment.globals["lipsum"]
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        namespace=_public_namespace(),
        dict=_PublicDict(),
    )
    return environment


def _generation_tag() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012 - the name Jinja reads

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation


def _public_namespace() -> Any:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError("a namespace attribute begins with an underscore")

    class PublicNamespace(Namespace):
        """Jinja's namespace without names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *values = args  # so that an attribute may be named `self`
            attributes = dict(*values, **kwargs)
            for name in attributes:
                check(name)
            Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    return PublicNamespace


class _PublicDict:
    """`dict` as a function, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _raise_exception(message: Any) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without escapes: Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
