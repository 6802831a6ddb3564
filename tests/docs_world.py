"""Does the commands of the pages in a tiny world: with its names in place of theirs, and servers on free ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest
from docs_pages import DIGEST, commands

from flows import cli

SECONDS = 180.0


@dataclass(frozen=True)
class Step:
    """A command of a page.

    Attributes:
        documented: as the page has it.
        told: what it must tell, in the page's names.
        before: what a person would have done before it.
        more: arguments that the test has to add.
    """

    documented: str
    told: str
    before: Callable[[Shell], object] = lambda _: None
    more: Sequence[str] = ()

    @property
    def words(self) -> tuple[str, ...]:
        (found,) = commands(self.documented)
        return tuple(found)


class Shell:
    """A person's shell in a folder; programs written in Python run in this process, which is quicker.

    Attributes:
        root: the folder.
        home: what `~` is.
        names: what a page's words are called here, its server's address too; a step's ``before`` may change it.
    """

    def __init__(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], **names: str
    ) -> None:
        self.root, self.home = root, root.parent / "home"
        self.names = {f"1-{DIGEST}": "no version yet", "flights": "tiny", "~": str(self.home), **names}
        self._capfd, self._monkeypatch = capfd, monkeypatch
        self._server: Server | None = None
        for name in os.environ.keys() - (environment := fake_pipeline.environment(root)).keys():
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if not (root / "tasks").exists():  # no stages of its own
            monkeypatch.delenv("PYTHONPATH")
        monkeypatch.chdir(root)

    def follow(self, steps: Sequence[Step]) -> None:
        """Do what a page says, step by step; each must succeed, and tell what it should."""
        try:
            for step in steps:
                step.before(self)
                told = self.do([*map(self.here, step.words), *step.more])
                assert self.here(step.told.replace("<digest>", DIGEST)) in told, f"{step.documented}:\n{told}"
        finally:
            self.stop()

    def here(self, said: str) -> str:
        """In the names of this world."""
        for name, own in self.names.items():
            said = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", own.replace("\\", r"\\"), said)
        return said

    def do(self, words: list[str]) -> str:
        """Run one command; what it told."""
        self._capfd.readouterr()
        if words[:2] == ["assay", "serve"] or words[0] == "optuna-dashboard":
            return self._serve(words)
        if words[0] in ("assay", "dvc"):
            code = self._assay(words) if words[0] == "assay" else self._dvc(words)
        else:
            code = subprocess.run(words, cwd=self.root, check=False).returncode
        told = "".join(self._capfd.readouterr())
        assert code == 0, f"{' '.join(words)}: exit code {code}\n{told}"
        return told

    def _assay(self, words: list[str]) -> int:
        self._monkeypatch.setattr(sys, "argv", words)
        with signals_kept(), pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    @staticmethod
    def _dvc(words: list[str]) -> int:
        from dvc.cli import main

        with signals_kept():
            return int(main(words[1:]))

    def _serve(self, words: list[str]) -> str:
        """Start it on a free port, ask it once, and leave it running for the next step, in place of the one before."""
        self.stop()
        server = Server(words, self.root)
        told = server.ask("/v2/health/ready" if words[0] == "assay" else "/dashboard")
        self._server, self.names["http://127.0.0.1:8080"] = server, server.url
        return told

    def stop(self) -> None:
        """End the server, if one runs."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()


class Server:
    """A process that serves on a free port (its own is 8080, which may be taken)."""

    def __init__(self, words: list[str], root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self._words = f"http://127.0.0.1:{port}", words
        program = [str(fake_pipeline.BIN / words[0]), *words[1:], "--port", str(port)]
        self._log = root.parent / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(program, cwd=root, stdout=log, stderr=log)

    def ask(self, path: str) -> str:
        """A page, as soon as there is one; with the status before it."""
        deadline = time.monotonic() + SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
                    return f"{answer.status} {answer.read().decode()}"
            except urllib.error.URLError:
                time.sleep(0.1)
        self._process.kill()
        raise AssertionError(f"{' '.join(self._words)}: no answer\n{self._log.read_text()}")

    def stop(self) -> None:
        """SIGTERM, as whoever runs it would; a server of ours says by its exit code that all is well."""
        self._process.terminate()
        code = self._process.wait(60)
        assert code == 0 or (self._words[0] != "assay" and code == -signal.SIGTERM), self._log.read_text()


@contextmanager
def signals_kept() -> Iterator[None]:
    """Commands set handlers for their own process, which here is pytest's."""
    before: dict[signal.Signals, Any] = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
