"""``service``: what the page starts for everything but training; see `trainer.commands.worker`."""

import os
import signal

from trainer.commands.command import command


@command("service", "answer the page's requests", hidden=True)
def service() -> None:
    """Answers requests of the standard input on the standard output, until the input ends."""
    from trainer.commands.worker import Worker, verb_table
    from trainer.generation.studio import Studio

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, whose end ends this
    # The answers get the real standard output for themselves: what a library prints must not
    # come between them.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="replace")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    studio = Studio()
    Worker(answers, studio, verb_table(studio)).serve(requests)
