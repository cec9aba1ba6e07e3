"""`localllm completions`: what a shell needs to complete verbs, options and model names."""

import click
from click.shell_completion import get_completion_class

from localllm.cli.completion import COMPLETE_VARIABLE, PROGRAM, SHELLS

_USE = {
    "bash": 'add to ~/.bashrc:  eval "$(localllm completions bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(localllm completions zsh)"',
    "fish": "save as ~/.config/fish/completions/localllm.fish",
    "powershell": "add to $PROFILE:  "
    "localllm completions powershell | Out-String | Invoke-Expression",
}


@click.command(
    name="completions",
    epilog="\b\n" + "\n".join(f"{shell}: {use}" for shell, use in _USE.items()),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes verbs, options and models in a shell."""
    completion = get_completion_class(shell)
    assert completion is not None, shell
    root = ctx.find_root().command
    script = completion(root, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not `source()`: for bash it starts one to ask for its version, on Windows too.
    click.echo(script.source_template % script.source_vars())
