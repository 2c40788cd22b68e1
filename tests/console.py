"""Documents as tests: runs the commands of ```console blocks in one shell and compares what they print.

In a block, a line that starts with `$ ` is a command, one that starts with `NAME# ` a command for root on that machine; the lines below it are
its output. In output, `…` stands for any text within a
line, and a line that is only `…` for any number of lines. `(status 1)` as an output's last line says how the command ends (0 otherwise).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROMPT = re.compile(r"(?:([a-z][a-z0-9]*(?:-[a-z0-9]+)*)#|\$) ")


@dataclass(frozen=True)
class Command:
    line: int
    text: str
    output: tuple[str, ...]
    status: int
    where: str = ""  # the machine, "" for where the document is read
    section: str = ""  # the heading of level 2 above it


def commands(document: Path) -> Iterator[Command]:
    """The commands of a document's console blocks, in order."""
    lines = document.read_text().splitlines()
    inside, current, output, start, where, section = False, "", [], 0, "", ""
    for number, line in enumerate([*lines, "```"], 1):
        if not inside:
            inside = line.strip() == "```console"
            section = line[3:].strip() if line.startswith("## ") else section
            continue
        prompt = _PROMPT.match(line)
        if prompt or line.strip() == "```":
            if current:
                yield _command(start, current, output, where, section)
            current, output, start = line[prompt.end() :] if prompt else "", [], number
            where = (prompt[1] or "") if prompt else ""
            inside = line.strip() != "```"
        elif current.endswith("\\") and not output:
            current = current[:-1] + line.removeprefix("> ").strip()
        else:
            output.append(line)


def _command(line: int, text: str, output: list[str], where: str, section: str) -> Command:
    status = 0
    if output and (match := re.fullmatch(r"\(status (\d+)\)", output[-1])):
        status, output = int(match[1]), output[:-1]
    return Command(line, text, tuple(output), status, where, section)


def matches(expected: tuple[str, ...], printed: list[str]) -> bool:
    """True when the printed lines are the expected ones, `…` aside; blanks are folded."""
    parts = []
    for line in expected:
        if line.strip() == "…":
            parts.append(r"(?:[^\n]*\n)*")
        else:
            folded = " ".join(line.split())
            parts.append(
                "".join(".*?" if piece == "…" else re.escape(piece) for piece in re.split("(…)", folded)) + r"\n"
            )
    text = "".join(" ".join(line.split()) + "\n" for line in printed)
    return re.fullmatch("".join(parts), text) is not None


class Shell:
    """One bash for a whole document, so that variables live on from command to command."""

    def __init__(self, env: Mapping[str, str], cwd: Path, within: Sequence[str] = ()) -> None:
        self._bash = subprocess.Popen(
            [*within, "bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            cwd=cwd,
            text=True,
        )

    def run(self, command: str) -> tuple[int, list[str]]:
        """Run one command; its status and the lines it printed."""
        assert self._bash.stdin and self._bash.stdout
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n@@end %d\\n' $?\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        for line in self._bash.stdout:
            if match := re.fullmatch(r"@@end (\d+)\n", line):
                if lines and lines[-1] == "":
                    lines.pop()
                return int(match[1]), lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the shell ended in: {command}\n" + "\n".join(lines))

    def close(self) -> None:
        assert self._bash.stdin
        self._bash.stdin.close()
        self._bash.wait(10)


def fault(command: Command, shell: Shell, name: str) -> str:
    """Run a command; what differs from the document `name`, in words ("" when all is as written)."""
    status, printed = shell.run(command.text)
    if status == command.status and matches(command.output, printed):
        return ""
    want, got = "\n    ".join(command.output), "\n    ".join(printed)
    return (
        f"{name}:{command.line}: {command.where}$ {command.text}\n  status {status}, want {command.status}\n"
        f"  printed:\n    {got}\n  expected:\n    {want}"
    )


def check(document: Path, env: Mapping[str, str], cwd: Path) -> list[str]:
    """Run a whole document; what differs, in words ([] when all is as written)."""
    shell = Shell(env, cwd)
    try:
        return [text for command in commands(document) if (text := fault(command, shell, document.name))]
    finally:
        shell.close()
