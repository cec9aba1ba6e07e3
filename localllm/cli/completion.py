"""Completion in shells: the words that can stand where the cursor is.

The script of a shell runs localllm with `_LOCALLLM_COMPLETE` set at each Tab; click finds the words
(`completions SHELL` prints the script). Nothing here may print anything else, raise, or touch the
network.
"""

import os
from contextlib import suppress
from typing import ClassVar

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    shell_complete,
)

PROGRAM = "localllm"
COMPLETE_VARIABLE = "_LOCALLLM_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell")

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition -or $wordToComplete -eq '' } |
        ForEach-Object { $_.ToString() })
    $env:%(complete_var)s = 'powershell_complete'
    $env:COMP_WORDS = $words -join "`n"
    $env:COMP_WORD = $wordToComplete
    try {
        & %(prog_name)s | Where-Object { $_ } | ForEach-Object {
            $value, $help = $_ -split "`t", 2
            if (-not $help) { $help = $value }
            [System.Management.Automation.CompletionResult]::new(
                $value, $value, 'ParameterValue', $help)
        }
    } finally {
        foreach ($name in '%(complete_var)s', 'COMP_WORDS', 'COMP_WORD') {
            Remove-Item "Env:$name" -ErrorAction SilentlyContinue
        }
    }
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for Windows PowerShell 5 and PowerShell 7, which click does not have.

    COMP_WORDS holds the words before the cursor's, the program first, one a line: they may contain
    blanks. COMP_WORD is the one at the cursor.
    """

    name: ClassVar[str] = "powershell"
    source_template: ClassVar[str] = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        words = os.environ.get("COMP_WORDS", "").splitlines()
        return [_unquoted(word) for word in words[1:]], _unquoted(os.environ.get("COMP_WORD", ""))

    def format_completion(self, item: CompletionItem[str]) -> str:
        # A file or a directory is completed by PowerShell itself when there is no other word.
        if item.type != "plain":
            return ""
        return f"{item.value}\t{item.help}" if item.help else str(item.value)


def _unquoted(word: str) -> str:
    """Take a word out of PowerShell's quotes; one that is still open counts."""
    if word[:1] in ("'", '"'):
        quote = word[0]
        return word[1:].removesuffix(quote).replace(quote * 2, quote)
    return word


add_completion_class(PowerShellComplete)


def complete(command: click.Command, instruction: str) -> int:
    """Print the words for a shell's `instruction` (`bash_complete`, ...). Returns the status."""
    return shell_complete(command, {}, PROGRAM, COMPLETE_VARIABLE, instruction)


def model_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the name of an installed model; files are completed when it looks like a path."""
    if incomplete.startswith((".", "/", "~", "\\")):
        return [CompletionItem(incomplete, type="file")]
    # Only here: the library is imported for the words alone. Whatever is wrong with it, a Tab is
    # not the place to say so.
    with suppress(Exception):
        from localllm.cli.library_output import open_library

        return [
            CompletionItem(model.name)
            for model in open_library().installed()
            if model.name.startswith(incomplete)
        ]
    return []
