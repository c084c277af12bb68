"""What all commands have in common: where the key store is, ``--json``, exit codes, and what becomes of an error."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from pymongo.errors import PyMongoError
from typer.core import TyperGroup

from mongo_envelope.errors import KMSError, MongoEnvelopeError

from .place import MissingOptionError, Place
from .saying import Answer, NotConfirmedError, redacted, say, show

__all__ = ["EXIT_CODES", "Commands", "command"]

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 refused, or failed; 2 wrong usage, or not confirmed; 3 the key service or the database could not be "
    "asked, try again later; 130 interrupted."
)
#: The class of click, or of Typer's own copy of it: neither has a name that all versions of Typer know.
_UsageError: Final[type[Any]] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """A group of commands that ends with our exit codes, and never with a traceback of what is known to go wrong."""

    def main(self, args: Sequence[str] | None = None, *arguments: Any, **options: Any) -> Any:
        """Run, and leave with `SystemExit`."""
        given = sys.argv[1:] if args is None else list(args)
        code, problem = self._ran(given, *arguments, **options)
        if problem is not None:
            self._tell(problem, code, as_json="--json" in given)
        sys.exit(code)

    def _ran(self, *arguments: Any, **options: Any) -> tuple[int, Exception | None]:
        problem: Exception
        try:
            code = super().main(*arguments, **{**options, "standalone_mode": False})
        except KMSError as error:
            code, problem = 3, error
        except (MongoEnvelopeError, OSError) as error:
            code, problem = 1, error
        except PyMongoError as error:
            code, problem = 3, error
        except (MissingOptionError, NotConfirmedError, _UsageError) as error:
            code, problem = 2, error
        except (typer.Abort, KeyboardInterrupt):
            return 130, None
        else:
            return code if isinstance(code, int) else 0, None
        return code, problem

    def _tell(self, problem: Exception, code: int, *, as_json: bool) -> None:
        message = redacted(_words(problem))
        if as_json:
            error = {"error": type(problem).__name__, "message": message, "exit": code}
            if isinstance(problem, KMSError):
                error["temporary"] = problem.temporary
            sys.stdout.write(json.dumps(error) + "\n")
        if message:
            say(message)


def _words(problem: Any) -> str:
    """Of an error, without what it may quote: a URI's parts, a document."""
    if isinstance(problem, PyMongoError):
        code = getattr(problem, "code", None)
        return f"the database could not be asked: {type(problem).__name__}" + (f", code {code}" if code is not None else "")
    if isinstance(problem, OSError):
        return f"{problem.strerror or type(problem).__name__}: {problem.filename}"
    if isinstance(problem, _UsageError):
        return str(problem.format_message())
    return str(problem)


Store = Annotated[
    str | None,
    typer.Option(
        envvar="MONGO_ENVELOPE_STORE",
        help="The key store: a file, or database.collection with --uri, or a URI that ends with /database.collection.",
    ),
]
Uri = Annotated[
    str | None,
    typer.Option(
        envvar="MONGO_ENVELOPE_URI",
        help="Of MongoDB. Everybody on this machine sees arguments: one with a password belongs into the environment.",
    ),
]
Kms = Annotated[
    str | None,
    typer.Option(
        envvar="MONGO_ENVELOPE_KMS",
        help="The key-encryption key: file:kek.json, env:NAME, keyring:service/name, or a JSON or TOML file that describes it.",
    ),
]
Fingerprint = Annotated[
    str | None,
    typer.Option(envvar="MONGO_ENVELOPE_FINGERPRINT", help="Of the store, as it was shown when it was made."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object to stdout; what is for people goes to stderr.")]


def _common(store: Store = None, uri: Uri = None, kms: Kms = None, fingerprint: Fingerprint = None) -> Place:
    return Place(store, uri, kms, fingerprint)


def _output(as_json: AsJson = False) -> bool:  # noqa: FBT002 - what Typer wants of a flag
    return as_json


_COMMON: Final = inspect.signature(_common, eval_str=True).parameters
_OUTPUT: Final = inspect.signature(_output, eval_str=True).parameters


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Make a command of a function, which takes a `Place`, then its own options, and gives an `Answer`."""

    def register(body: Callable[..., Answer]) -> Callable[..., Answer]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *_COMMON.values(), *_OUTPUT.values())]

        def run(**given: Any) -> None:
            as_json = _output(given.pop("as_json"))
            with _common(*(given.pop(each) for each in _COMMON)) as place:
                show(body(place, **given), as_json=as_json)

        run.__doc__ = body.__doc__
        run.__annotations__ = {each.name: each.annotation for each in options}
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # inspect.signature looks for it
        app.command(name, epilog=EXIT_CODES)(run)
        return body

    return register
