"""The program `runctl`: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from runctl import __version__
from runctl.cli.command_table import COMMANDS
from runctl.cli.display.help_page import WIDEST, Group
from runctl.cli.display.streams import guarded_streams
from runctl.cli.exit_codes import BAD_REQUEST, DONE, INTERRUPTED, MEANINGS, exit_code_of
from runctl.cli.invocation import Invocation, Json, Local, Profile, Region, Verbose, invocation_of
from runctl.model.errors import RequestError, RunctlError

_STDOUT = 1


class Program(Group):
    """The root of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in COMMANDS:
            self.add_command(command)

    def format_epilog(self, _context: Any, formatter: Any) -> None:
        """Write the exit codes after the list of commands."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in MEANINGS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader of its output may close the pipe at any time."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _leave_stdout()
        except KeyboardInterrupt as error:
            output = invocation_of(ctx).output
            if output.as_json:
                output.fail(error)
            return INTERRUPTED

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - we always handle what is raised
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; every error becomes an exit code, never a traceback."""
        with guarded_streams():
            code = self._run(args, prog_name, complete_var, windows_expand_args, extra)
        sys.exit(code)

    def _run(
        self,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        windows_expand_args: bool,
        extra: dict[str, Any],
    ) -> int:
        words = list(sys.argv[1:] if args is None else args)
        invocation = Invocation()
        # An invalid option, --help or --version may precede --json.
        invocation.may_be_json = "--json" in words
        try:
            with _help_as_document(invocation):
                code = super().main(
                    words,
                    prog_name or "runctl",
                    complete_var,
                    standalone_mode=False,
                    windows_expand_args=windows_expand_args,
                    obj=invocation,
                    **extra,
                )
        except typer.TyperException as error:
            invocation.output.as_json |= invocation.may_be_json
            code = _fail_usage(invocation, error)
        except typer.Abort:
            code = INTERRUPTED
        except BrokenPipeError:
            code = _leave_stdout()
        except Exception as error:  # noqa: BLE001 - the outermost handler
            code = _fail(invocation, error)
        return code if isinstance(code, int) else DONE


def _leave_stdout() -> int:
    """Discard what is still buffered when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return DONE


@contextlib.contextmanager
def _help_as_document(invocation: Invocation) -> Iterator[None]:
    """Print a help page as a document when --json is given.

    The page of a usage error is dropped: the error is the document.
    """
    if not invocation.may_be_json:
        yield
        return
    with io.StringIO() as page:
        try:
            with contextlib.redirect_stdout(page):
                yield
        finally:
            if invocation.output.has_result:
                sys.stdout.write(page.getvalue())
        if page.getvalue() and not invocation.output.has_result:
            invocation.output.as_json = True
            invocation.output.result({"help": page.getvalue()})


def _fail(invocation: Invocation, error: Exception) -> int:
    if invocation.verbose:
        traceback.print_exception(error)
    hint = ""
    if not isinstance(error, RunctlError) and not invocation.verbose:
        hint = "unexpected error; -v before the command shows the traceback"
    invocation.output.fail(error, hint=hint)
    return exit_code_of(error)


def _fail_usage(invocation: Invocation, error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "runctl"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError" and invocation.output.as_json:
        message = "missing command"
    elif type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return BAD_REQUEST
    invocation.output.fail(RequestError(message), hint=f"see `{where} --help`")
    return BAD_REQUEST


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": WIDEST},
)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        invocation = invocation_of(context)
        invocation.output.as_json |= invocation.may_be_json
        invocation.output.result({"version": __version__}, f"runctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    json: Json = False,
    local: Local = False,
    profile: Profile = "",
    region: Region = "",
    verbose: Verbose = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train on EC2 Spot instances with no server to operate."""
    invocation_of(context).take(
        json=json, local=local, profile=profile, region=region, verbose=verbose
    )


def main() -> None:
    """Run the program."""
    app()


if __name__ == "__main__":
    main()
