"""nginx.conf as values: whatever the text, NGINX reads it as one argument."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.ingress.syntax import LONGEST, Unwritable, block, directive, dollar, render, value, word

TEXT = st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=("Cs",)), max_size=40)


@pytest.mark.parametrize("text", ["a\nb", "\x00", "a\x7f", "x" * (LONGEST + 1)])
def test_what_cannot_be_an_argument_is_refused(text: str) -> None:
    with pytest.raises(Unwritable):
        word(text)


def test_a_comment_stays_on_its_line() -> None:
    assert render([directive("a", comment="one\rdaemon on;\x00 two")]) == "# one\n# daemon on;? two\na;\n"


@settings(max_examples=15, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=30))
def test_nginx_reads_every_text_as_one_argument(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """`nginx -T` accepts it; were a text read as syntax, a directive would have the wrong number of arguments or an unknown name."""
    place: Path = tmp_path_factory.mktemp("nginx")
    servers = [block("server", of=[directive("listen", f"unix:{place}/{i}"), directive("set", "$text", value(text))]) for i, text in enumerate(texts)]  # fmt: skip
    conf = [directive("pid", place / "pid"), directive("error_log", "stderr"), block("events", of=[])]
    conf.append(block("http", of=[dollar(), directive("access_log", "off"), *servers]))
    (place / "nginx.conf").write_text(render(conf))
    done = subprocess.run(["nginx", "-t", "-e", "stderr", "-c", str(place / "nginx.conf")], check=False, capture_output=True, text=True, timeout=20)  # fmt: skip
    assert done.returncode == 0, done.stderr
