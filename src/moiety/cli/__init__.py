"""The command line: every verb parses its words, calls one function of a lower floor and prints.

This package imports typer and nothing heavier; a verb imports what it needs when it runs, so that ``moiety --help``
answers at once. How errors and Ctrl-C leave the program is decided in one place, :mod:`moiety.cli.door`.
"""

from __future__ import annotations

from moiety.cli import data, intent, recipes
from moiety.cli.app import demo_app
from moiety.cli.assemble import assemble, fetch_demo_weights
from moiety.cli.benchmarks import score
from moiety.cli.door import new_app
from moiety.cli.environment import env
from moiety.cli.evaluate import evaluate
from moiety.cli.inspect import inspect
from moiety.cli.look import chat, ground
from moiety.cli.models import params, upcycle
from moiety.cli.runs import compare, demo, train
from moiety.cli.serve import serve

app = new_app()
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(intent.app, name="intent")
for verb in (
    env,
    assemble,
    fetch_demo_weights,
    upcycle,
    params,
    train,
    compare,
    evaluate,
    score,
    inspect,
    ground,
    chat,
    serve,
    demo,
    demo_app,
):
    app.command(verb.__name__.replace("_", "-"))(verb)


def main() -> None:
    """Entry point of the ``moiety`` command."""
    app(prog_name="moiety")


__all__ = ["app", "main"]
