"""One line of the doctor: what was checked where, how it is, and the fix where it is not good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from trainer.errors import ExitCode, TrainerError


class State(str, Enum):
    """How a check came out."""

    GOOD = "ok"
    WARNING = "warning"
    BAD = "wrong"


@dataclass(frozen=True)
class Check:
    """A check and how it came out: `where` is a machine, pod or object, `what` the subject, `code` the exit code."""

    where: str
    what: str
    state: State
    found: str
    fix: str = ""
    code: ExitCode = ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "state": self.state.value, "code": int(self.code)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Check:
        """Return the check of which `as_dict` gave this.

        Raises:
            ValueError: it is not the content of a check: it comes from a pod's log.
        """
        try:
            return cls(
                where=str(content["where"]),
                what=str(content["what"]),
                state=State(content["state"]),
                found=str(content["found"]),
                fix=str(content["fix"]),
                code=ExitCode(content["code"]),
            )
        except KeyError as error:
            raise ValueError(f"a check without {error}") from None


def good(where: str, what: str, found: str) -> Check:
    """Return a check that came out well."""
    return Check(where, what, State.GOOD, found)


def failed(where: str, what: str, error: TrainerError) -> Check:
    """Return a check that failed with an error: its problem, its fix and its exit code."""
    return Check(where, what, State.BAD, error.problem, error.fix, error.exit_code)


def worst(checks: Iterable[Check]) -> ExitCode:
    """Return the exit code of the doctor: that of the first check that is wrong."""
    return next((check.code for check in checks if check.state is State.BAD), ExitCode.OK)
